"""Frontal pictures of a rendered face whose pose is known."""

from collections import Counter
from functools import cache

import numpy as np
import pytest

from preprocessing.crops import aligned_crop, crop_matrix, eye_centres
from preprocessing.face_model import read_face_model
from preprocessing.frontalize import VERTICES_68, Frontalizer, fit_camera, reference_view

SIDE = 112
#: Yaw, pitch, roll in degrees; pixels a centimetre; the pixel of the head's middle.
AHEAD = ((0, 0, 0), 14.0, (140, 150))
POSES = [
    ((25, 0, 0), 14.0, (140, 150)),
    ((-20, 10, 0), 11.0, (120, 160)),
    ((0, 20, 15), 9.0, (150, 120)),
    ((10, -20, -30), 12.0, (140, 140)),
]


@pytest.fixture(scope="module")
def model(landmarker_model):
    return read_face_model(landmarker_model)


@pytest.fixture(scope="module")
def make(landmarker_model):
    def frontalizer(size=SIDE, symmetry="none"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FER_JAX_MODELS", str(landmarker_model.parent))
            return Frontalizer(size, symmetry)

    return frontalizer


@pytest.fixture(scope="module")
def plain(make):
    return make()


def rotation(angles):
    """Yaw to the right of the picture, pitch down, roll clockwise, in degrees."""
    yaw, pitch, roll = np.radians(angles)
    c, s = np.cos, np.sin
    about_y = np.array([[c(yaw), 0, s(yaw)], [0, 1, 0], [-s(yaw), 0, c(yaw)]])
    about_x = np.array([[1, 0, 0], [0, c(pitch), -s(pitch)], [0, s(pitch), c(pitch)]])
    about_z = np.array([[c(roll), s(roll), 0], [-s(roll), c(roll), 0], [0, 0, 1]])
    return about_z @ about_x @ about_y


def look(points, pose, distance=60.0):
    """A pinhole camera: pixels [N, 2] and depths [N]; `pose` as in POSES."""
    angles, scale, middle = pose
    x, y, z = (points @ rotation(angles).T).T
    depth = distance - z
    return np.stack([x, -y], 1) * scale * distance / depth[:, None] + middle, depth


def points478(model, pose, **options):
    return np.vstack([look(model.vertices, pose, **options)[0], np.zeros((10, 2))])


def points68(model, pose, **options):
    return look(model.vertices[list(VERTICES_68)], pose, **options)[0]


def waves(points):
    """A smooth pattern on the face, the same on both sides."""
    x, y = np.abs(points[:, 0]), points[:, 1]
    parts = np.sin(1.1 * x + 0.4 * y), np.cos(0.8 * y), np.sin(0.7 * y - 0.6 * x)
    return 128 + 90 * np.stack(parts, 1)


@cache
def render(model, pose, paint=waves, shape=(300, 280), background=(40, 90, 60), distance=60.0):
    """The painted face: picture u8[H, W, 3], depths [H, W], infinite beside the face."""
    places, depths = look(model.vertices, pose, distance)
    picture = np.tile(np.float64(background), (*shape, 1))
    front = np.full(shape, np.inf)
    for triangle in model.triangles:
        corners, solid = places[triangle], model.vertices[triangle]
        low = np.maximum(np.floor(corners.min(0)).astype(int), 0)
        high = np.minimum(np.ceil(corners.max(0)).astype(int), (shape[1] - 1, shape[0] - 1))
        if (low > high).any():
            continue
        columns, rows = (g.ravel() for g in np.meshgrid(*map(np.arange, low, high + 1)))
        shares = np.linalg.solve(
            np.vstack([corners.T, np.ones(3)]), np.stack([columns, rows, np.ones(len(rows))])
        )
        shares = shares / depths[triangle][:, None]  # true to perspective
        depth = 1 / shares.sum(0)
        shown = (shares > -1e-9).all(0) & (depth < front[rows, columns])
        rows, columns, shares = rows[shown], columns[shown], (shares * depth).T[shown]
        front[rows, columns] = depth[shown]
        picture[rows, columns] = paint(shares @ solid)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8), front


def crop_of(picture, landmarks, size=SIDE):
    return aligned_crop(picture, crop_matrix(eye_centres(landmarks), size), size)


@cache
def seen_from(model, pose, size=SIDE):
    """bool[S, S], the pixels of a frontal picture whose point of the face this pose shows.

    The point of a pixel is found with the renderer, so apart from `reference_view`.
    """
    angles, scale, middle = AHEAD
    matrix = crop_matrix(eye_centres(points478(model, AHEAD)), size)
    middle = tuple(matrix[:, :2] @ middle + matrix[:, 2])
    pose_ahead = (angles, float(scale * matrix[0, 0]), middle)
    _, depths = render(model, pose_ahead, shape=(size, size))
    near = depths / 60
    face = np.isfinite(near)
    rows, columns = np.nonzero(face)
    spread = near[face] / pose_ahead[1]
    solid = np.stack(
        [
            (columns - pose_ahead[2][0]) * spread,
            (pose_ahead[2][1] - rows) * spread,
            60 * (1 - near[face]),
        ],
        1,
    )
    _, front = render(model, pose)
    places, depths = look(solid, pose)
    columns, rows = np.rint(places).astype(int).T
    inside = (rows >= 0) & (columns >= 0) & (rows < front.shape[0]) & (columns < front.shape[1])
    shown = np.zeros((size, size), bool)
    near_surface = np.zeros(len(rows), bool)
    near_surface[inside] = np.abs(front[rows[inside], columns[inside]] - depths[inside]) < 0.4
    shown[face] = near_surface
    return shown


def error(a, b, where):
    return np.abs(a[where].astype(float) - b[where]).mean()


def test_the_face_of_the_bundle(model):
    assert model.vertices.shape == (468, 3) and model.triangles.shape == (898, 3)
    # Every edge borders two triangles but the 36 of the outline: no holes for eyes or mouth.
    edges = Counter(
        frozenset(pair) for a, b, c in model.triangles for pair in ((a, b), (b, c), (c, a))
    )
    assert Counter(edges.values()) == {2: 1329, 1: 36}
    mirrored = {tuple(v) for v in model.vertices * [-1, 1, 1]}
    assert mirrored == {tuple(v) for v in model.vertices}
    # The nose is in front, the chin below, the subject's right eye on the left.
    assert model.vertices[:, 2].argmax() in (1, 4) and model.vertices[:, 1].argmin() == 152
    assert model.vertices[33, 0] < 0 < model.vertices[263, 0]
    assert (model.rigidity > 0).sum() == 33 and model.rigidity[[61, 291, 14]].max() == 0


@pytest.mark.parametrize("points", [points68, points478])
def test_the_camera_of_a_known_pose(model, points):
    rng = np.random.default_rng(0)
    for _ in range(40):
        pose = rng.uniform(-1, 1, 3) * (50, 35, 180), rng.uniform(1, 60), rng.uniform(0, 900, 2)
        camera = fit_camera(points(model, pose).astype(np.float32), model)
        want, _ = look(model.vertices, pose)
        np.testing.assert_allclose(camera.project(model.vertices), want, atol=2e-3 * pose[1])
        assert camera.scale == pytest.approx(pose[1], rel=2e-3)


def test_the_camera_of_noisy_landmarks_is_the_best(model):
    """No camera nearby fits better: the fit is the least-squares one."""
    from preprocessing.frontalize import Camera

    rng = np.random.default_rng(1)
    pose = POSES[1]
    landmarks = points478(model, pose) + rng.normal(0, 3, (478, 2))
    camera = fit_camera(landmarks, model)

    def residual(c):
        gaps = c.project(model.vertices) - landmarks[:468]
        return model.rigidity @ (gaps**2).sum(1)

    turn = camera.matrix[:, :3].copy()
    offset, scale = camera.matrix[:2, 3], camera.scale
    turn = (turn[:2] - offset[:, None] * turn[2]) / scale * [[1], [-1]]
    turn = np.vstack([turn, np.cross(*turn)])
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-9)
    best = residual(camera)
    sizes = 0.01, -0.01, 1e-5, -1e-5
    for step in (size * row for size in sizes for row in np.eye(6)):
        other = Camera.of_pose(
            rotation(np.degrees(step[:3])) @ turn, scale * np.exp(step[3]), offset + 10 * step[4:]
        )
        assert residual(other) > best


def test_expressions_do_not_move_the_camera(model):
    still = points68(model, POSES[0])
    moved = still.copy()
    moved[17:27] -= 15
    moved[48:] += 20
    np.testing.assert_array_equal(fit_camera(moved, model).matrix, fit_camera(still, model).matrix)
    line = np.outer(np.arange(68), [3, 1]).astype(np.float32)
    for nothing in (np.ones((68, 2)), 300 + 1e-5 * line, line):
        with pytest.raises(ValueError, match="on one spot or line"):
            fit_camera(nothing, model)


def test_a_face_that_looks_ahead_stays_as_it_is(model, plain):
    picture, _ = render(model, AHEAD)
    landmarks = points478(model, AHEAD)
    frontal, crop = plain.frontalize(picture, landmarks), crop_of(picture, landmarks)
    view = reference_view(model, SIDE)
    face = np.isfinite(view[..., 0])
    assert 0.5 < face.mean() < 0.65 and not frontal[~face].any()
    assert error(frontal, crop, face) < 1.5
    # Every pixel of the view knows its own point of the face.
    rows, columns = np.nonzero(face)
    matrix = crop_matrix(eye_centres(landmarks), SIDE)
    places = look(view[face].astype(float), AHEAD)[0] @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(places, np.stack([columns, rows], 1), atol=1e-3)


@pytest.mark.parametrize("pose", POSES, ids=lambda pose: str(pose[0]))
@pytest.mark.parametrize("points", [points68, points478])
def test_a_turned_face_becomes_the_frontal_one(model, plain, pose, points):
    straight, _ = render(model, AHEAD)
    turned, _ = render(model, pose)
    want = crop_of(straight, points478(model, AHEAD))
    shown = seen_from(model, pose)
    assert shown.mean() > 0.4
    got = plain.frontalize(turned, points(model, pose))
    before = crop_of(turned, points478(model, pose))
    assert error(got, want, shown) < 4
    assert error(before, want, shown) > 4 * error(got, want, shown)


@pytest.mark.parametrize("distance", [35, 300])
def test_another_camera_does_little_harm(model, plain, distance):
    pose = POSES[0]
    landmarks = points478(model, pose, distance=distance)
    gaps = fit_camera(landmarks, model).project(model.vertices) - landmarks[:468]
    assert np.hypot(*gaps.T).mean() < 0.2 * 14  # two millimetres
    picture, _ = render(model, pose, distance=distance)
    want = crop_of(render(model, AHEAD)[0], points478(model, AHEAD))
    shown = seen_from(model, pose)
    before = crop_of(picture, landmarks)
    assert error(plain.frontalize(picture, landmarks), want, shown) < 0.6 * error(
        before, want, shown
    )


@pytest.mark.parametrize("yaw", [35, -35])
def test_soft_symmetry_fills_the_hidden_half(model, plain, make, yaw):
    pose = ((yaw, 0, 0), 14.0, (140, 150))
    straight, _ = render(model, AHEAD)
    turned, _ = render(model, pose, background=(0, 255, 0))
    want = crop_of(straight, points478(model, AHEAD))
    landmarks = points478(model, pose)
    none, soft = (f.frontalize(turned, landmarks) for f in (plain, make(symmetry="soft")))
    face = np.isfinite(reference_view(model, SIDE)[..., 0])
    hidden = face & ~seen_from(model, pose)
    half = np.zeros_like(face)
    # Who turns to the right of the picture hides the half on the right.
    half[:, SIDE // 2 :] = yaw > 0
    half[:, : SIDE // 2] = yaw < 0
    assert hidden[half].sum() > 0.05 * face.sum() > 20 * hidden[~half].sum()
    assert error(soft, want, hidden & half) < 0.7 * error(none, want, hidden & half)
    assert error(soft, want, face & half) < error(none, want, face & half)
    # Away from the seam the half that is seen stays.
    away = np.abs(np.arange(SIDE) - SIDE / 2) > SIDE / 16
    kept = face & ~half & away
    assert error(soft, none, kept) < 0.1


def test_soft_symmetry_leaves_a_frontal_face_and_the_eyes(model, plain, make):
    soft = make(symmetry="soft")
    straight, _ = render(model, AHEAD)
    landmarks = points478(model, AHEAD)
    np.testing.assert_array_equal(
        soft.frontalize(straight, landmarks), plain.frontalize(straight, landmarks)
    )

    def glance(points):
        """Dark to the left of each eye's middle, so not the same on both sides."""
        colours = np.full((len(points), 3), 200.0)
        for middle in (-3.1, 3.1):
            x, y = points[:, 0] - middle, points[:, 1] - 2.5
            colours[(np.abs(y) < 0.8) & (x > -1.2) & (x < -0.2)] = 20
        return colours

    pose = ((-25, 0, 0), 14.0, (140, 150))
    turned, _ = render(model, pose, glance)
    got = [f.frontalize(turned, points478(model, pose)) for f in (plain, soft)]
    eyes = np.rint(eye_centres(points478(model, AHEAD)) @ np.eye(2))  # in the big picture
    matrix = crop_matrix(eyes, SIDE)
    for x, y in np.rint(eyes @ matrix[:, :2].T + matrix[:, 2]).astype(int):
        there = np.s_[y - 2 : y + 3, x - 6 : x + 7]
        assert np.ptp(got[0][there]) > 120
        assert np.abs(got[1][there].astype(int) - got[0][there]).max() <= 10


def test_what_the_frame_does_not_show_is_black(model, plain, make):
    """The picture's edge cuts the cheek on the left, the side that is turned away."""
    pose = ((-30, 0, 0), 14.0, (70, 150))
    picture, _ = render(model, pose)
    landmarks = points478(model, pose)
    wide, _ = render(model, (*pose[:2], (170, 150)), shape=(300, 380))
    whole = plain.frontalize(wide, landmarks + [100, 0])
    cut = plain.frontalize(picture, landmarks)
    black = ~cut.any(-1)
    face = whole.any(-1)
    lost = black & face
    assert 0.02 < lost.mean() < 0.2 and not lost[:, SIDE // 2 :].any()
    assert error(cut, whole, ~black) < 1.5
    # Softly mirrored, the other cheek takes its place, undimmed: black has no share.
    soft = make(symmetry="soft").frontalize(picture, landmarks)
    assert error(soft, cut[:, ::-1], lost) < 1
    for frontalizer in (plain, make(symmetry="soft")):
        assert not frontalizer.frontalize(picture, landmarks - [1000, 0]).any()


def test_large_frames_do_not_alias_and_small_ones_are_enlarged(model, plain, make):
    """One face in three resolutions; the stripes of the finest are finer than the picture."""
    want = plain.frontalize(render(model, AHEAD)[0], points478(model, AHEAD))

    def at(factor, paint=waves):
        pose = ((0, 0, 0), 14.0 * factor, (140 * factor, 150 * factor))
        shape = round(300 * factor), round(280 * factor)
        return render(model, pose, paint, shape)[0], points478(model, pose)

    inner = np.isfinite(reference_view(model, SIDE)[..., 0])
    inner[:12] = inner[-12:] = inner[:, :24] = inner[:, -24:] = False
    assert error(plain.frontalize(*at(4)), want, inner) < 1.5
    assert error(plain.frontalize(*at(0.25)), want, inner) < 8

    def stripes(points):
        return np.repeat(255.0 * (np.floor(points[:, :1] / 0.06) % 2), 3, 1)

    grey = plain.frontalize(*at(4, stripes))
    assert grey[inner].std() < 35 and abs(grey[inner].mean() - 127) < 8


@pytest.mark.parametrize("symmetry", ["none", "soft"])
@pytest.mark.parametrize("size", [48, 113])
def test_every_size_and_the_same_bytes_again(model, make, symmetry, size):
    picture, _ = render(model, POSES[1])
    landmarks = points478(model, POSES[1]).astype(np.float32)
    one, two = (make(size, symmetry).frontalize(picture, landmarks) for _ in range(2))
    assert one.shape == (size, size, 3) and one.dtype == np.uint8
    np.testing.assert_array_equal(one, two)
