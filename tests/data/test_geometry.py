import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.config.data import FEATURES
from fer_jax.data import geometry


@pytest.fixture(scope="module")
def faces():
    """f32[5, 68, 2]: points spread over the square, different in each face."""
    return np.random.default_rng(7).uniform(0, 224, (5, 68, 2)).astype(np.float32)


def emotii_by_hand(points):
    """docs/reproduction.md 1.2 as scalar code, in double precision."""
    mx = sum(x for x, _ in points) / 68
    my = sum(y for _, y in points) / 68
    (xa, ya), (xb, yb) = points[27], points[30]
    if xa == xb:
        phi = 0
    else:
        phi = math.trunc(math.atan((ya - yb) / (xa - xb)) * 180 / math.pi)
        phi = phi + 90 if phi < 0 else phi - 90
    features = []
    for x, y in points:
        u, v = x - mx, y - my
        theta = 90 - phi if u == 0 else math.atan(v / u) * 180 / math.pi - phi
        features += [x, y, math.sqrt(u * u + v * v), theta]
    return features


def assert_emotii_equal(found, points):
    """Angles are atan's: where |u| is tiny float32 rounds v / u, hence relative to the slope."""
    wanted = np.array([emotii_by_hand(face.tolist()) for face in points.astype(np.float64)])
    np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=2e-4)


def test_emotii_equals_the_scalar_formula(faces):
    found = jax.jit(geometry.compute, static_argnums=0)("emotii-272", faces)
    assert found.shape == (5, 272)
    assert_emotii_equal(found, faces)


@pytest.mark.parametrize("tilt", [-89, -45, -10, -1, 1, 10, 45, 89])
def test_emotii_nose_angle_has_period_180(tilt):
    """A face turned by whole degrees: phi follows, so angles from the nose stay."""
    upright = np.random.default_rng(1).uniform(-80, 80, (68, 2))
    upright[27], upright[30] = (0, -40), (0, 20)

    def angles(turn):
        a = math.radians(turn)
        rotation = np.array([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]])
        points = upright @ rotation + 112
        return np.asarray(geometry.compute("emotii-272", jnp.asarray(points, jnp.float32)))[3::4]

    # Truncated to whole degrees, phi is at most one degree off; angles are equal modulo 180.
    difference = (angles(tilt + 0.5) - angles(0) + 90) % 180 - 90
    assert np.abs(difference).max() < 1


def test_emotii_special_cases_are_finite_and_as_defined():
    points = np.random.default_rng(3).integers(0, 200, (68, 2)).astype(np.float32)
    points[30, 0] = points[27, 0]  # An exactly upright nose: phi = 0.
    points[67, 0] += 68 * 100 - points[:, 0].sum()  # The centre is at x = 100 exactly ...
    points[5, 0], points[6, 0] = 100, points[6, 0] + points[5, 0] - 100  # ... as is point 5.
    found = geometry.compute("emotii-272", points)
    assert float(found[4 * 5 + 3]) == 90
    assert_emotii_equal(np.asarray(found)[None], points[None])
    points[30] = points[27] + np.float32([20, 0])  # A level nose: phi = 0 - 90.
    assert_emotii_equal(geometry.compute("emotii-272", points)[None], points[None])
    assert np.isfinite(geometry.compute("emotii-272", np.zeros((2, 68, 2), np.float32))).all()


def test_all_distances_are_in_the_order_of_pdist(faces):
    from scipy.spatial.distance import pdist

    found = geometry.compute("distances-2278", faces)
    wanted = [pdist(face.astype(np.float64)) for face in faces]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("features", ["distances-104", "distances-259", "distances-368"])
def test_listed_distances(faces, features):
    pairs = geometry.landmark_pairs(features)
    found = np.asarray(geometry.compute(features, faces))
    assert found.shape == (5, len(pairs))
    for column, (i, j) in enumerate(pairs):
        wanted = [math.dist(face[i], face[j]) for face in faces.tolist()]
        np.testing.assert_allclose(found[:, column], wanted, rtol=1e-5)


def test_pair_lists_are_the_published_ones(shared):
    lists = {}
    for count in (104, 259, 368):
        path = shared / "papers" / f"landmark_pairs_{count}.csv"
        pairs = geometry.landmark_pairs(f"distances-{count}")
        assert pairs.tolist() == np.loadtxt(path, int, delimiter=",", skiprows=1).tolist()
        lists[count] = set(map(tuple, pairs.tolist()))
    assert lists[104] < lists[259] < lists[368]


def test_pair_lists_are_sound():
    """Paper 1: the best pair, (9, 24), is in every list; the lists are nested."""
    previous = set()
    for count in (104, 259, 368, 2278):
        pairs = set(map(tuple, geometry.landmark_pairs(f"distances-{count}").tolist()))
        assert len(pairs) == count
        assert all(0 <= i < j < 68 for i, j in pairs)
        assert (9, 24) in pairs and previous < pairs
        previous = pairs


def test_blendshapes_keep_paper_5s_list():
    scores = np.random.default_rng(0).uniform(size=(3, 52)).astype(np.float32)
    np.testing.assert_array_equal(geometry.compute("blendshapes-52", scores), scores)
    # Paper 5, cell 10 of its notebook, by MediaPipe's index.
    kept = [*range(1, 6), 9, 10, *range(11, 19), 19, 20, 25, 34, 35, 38, 44, 45, 46, 47, 48, 49]
    np.testing.assert_array_equal(geometry.compute("blendshapes-27", scores), scores[:, kept])
    names = geometry.blendshape_names()
    assert (names[0], names[25], names[51]) == ("_neutral", "jawOpen", "noseSneerRight")
    assert geometry.blendshape_names("blendshapes-27") == tuple(names[k] for k in kept)


@pytest.mark.parametrize("features", FEATURES)
def test_every_feature_has_its_dimension(features):
    assert geometry.stream_of(features) in ("landmarks68", "blendshapes")
    raw = jnp.ones((2, 3, *geometry.raw_shape(features)))
    shape = jax.eval_shape(lambda x: geometry.compute(features, x), raw).shape
    assert shape == (2, 3, geometry.dimension(features))


def test_scaling_to_224():
    landmarks = np.zeros((2, 68, 2), np.float32)
    landmarks[0, :2] = [[0, 0], [480, 360]]
    landmarks[1, :3] = [[100, 50], [300, 150], [200, 100]]
    box = np.array([[0, 0, 480, 360], [100, 50, 300, 150]], np.float32)
    full = geometry.scale_landmarks(landmarks, box, 480, 360, "full-frame")
    np.testing.assert_allclose(full[0, :2], [[0, 0], [224, 224]], rtol=1e-6)
    np.testing.assert_allclose(full[1, 1], [300 * 224 / 480, 150 * 224 / 360], rtol=1e-6)
    face = geometry.scale_landmarks(landmarks, box, 480, 360, "face-box")
    np.testing.assert_allclose(face[1, :3], [[0, 0], [224, 224], [112, 112]], rtol=1e-6)
    np.testing.assert_allclose(face[0], full[0], rtol=1e-6)
    assert face.dtype == full.dtype == np.float32


def test_geometry_of_paper_3(faces):
    """docs/reproduction.md 3.2: about (112, 135), then one range for a face's 136 numbers."""
    found = np.asarray(geometry.compute("geometry-136", faces))
    for face, row in zip(faces.astype(np.float64), found, strict=True):
        moved = (face - [112, 135]).ravel()
        wanted = (moved - moved.min()) / (moved.max() - moved.min())
        np.testing.assert_allclose(row, wanted, atol=1e-6)
    assert np.isfinite(geometry.compute("geometry-136", np.zeros((1, 68, 2), np.float32))).all()


def test_extracted_features_are_what_was_written():
    raw = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert geometry.dimension("extracted/vgg-fc7-3") == 3
    assert geometry.raw_shape("extracted/vgg-fc7-3") == (3,)
    np.testing.assert_array_equal(geometry.compute("extracted/vgg-fc7-3", raw), raw)


def test_landmarks_in_the_crop_equal_the_affine_map():
    rng = np.random.default_rng(2)
    points = rng.uniform(0, 300, (2, 68, 2)).astype(np.float32)
    matrix = rng.normal(size=(2, 2, 3)).astype(np.float32)
    found = geometry.to_crop(points, matrix, stored=112, size=224)
    for t in range(2):
        crop = points[t] @ matrix[t, :, :2].T + matrix[t, :, 2]
        np.testing.assert_allclose(found[t], crop * 2 + 0.5, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("features", ["distances-259", "distances-2278"])
def test_a_tpus_matmuls_are_the_differences(faces, features, monkeypatch):
    """What a TPU does in place of the gather, done here: to float32's precision."""
    taken = geometry.compute(features, faces)
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *a, tpu, default: tpu(*a))
    found = jax.jit(partial(geometry.compute, features))(faces)
    np.testing.assert_allclose(found, taken, rtol=2e-6, atol=2e-5)
