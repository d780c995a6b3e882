import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from scipy import ndimage, stats

from fer_jax.config import Augment
from fer_jax.data import augment, geometry

STEP_KEY = jax.random.key(99)
ALL = Augment(flip=True, rotation_degrees=25, shear=0.2, zoom=0.2, shift=0.1, brightness=0.3,
              contrast=0.8, erase=0.5)  # fmt: skip
MOVES = {
    "flip": Augment(flip=True),
    "rotation": Augment(rotation_degrees=40),
    "shear": Augment(shear=0.4),
    "zoom": Augment(zoom=0.3),
    "shift": Augment(shift=0.1),
    "paper 3": Augment(flip=True, shear=0.2, zoom=0.2),
    "all": Augment(flip=True, rotation_degrees=25, shear=0.2, zoom=0.2, shift=0.05),
    "all, per frame": Augment(flip=True, rotation_degrees=25, shift=0.05, per="frame"),
    "all, per batch": Augment(flip=True, rotation_degrees=25, shift=0.05, per="batch"),
}


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def draw(settings, count=64, seed=0):
    """Of samples of 2 frames; few shapes, since each compiles."""
    drawn = augment.draw(keys(max(64, count), seed), settings, 2, STEP_KEY)
    return jax.tree.map(lambda value: np.asarray(value)[:count], drawn)


change = jax.jit(augment.augment_images, static_argnums=2)
move = jax.jit(augment.augment_points, static_argnums=(1, 3))


def pictures(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def dots(points, side):
    """f32[B, T, side, side, 1]: a blob of two pixels' deviation at each of points [B, T, 2]."""
    grid = np.arange(side)
    x, y = (points[..., None, None, i] for i in (0, 1))
    squared = (grid[None, :] - x) ** 2 + (grid[:, None] - y) ** 2
    return np.exp(-squared / 8)[..., None].astype(np.float32)


def centroids(images):
    weight = np.asarray(images, np.float64)[..., 0]
    grid = np.arange(weight.shape[-1])
    total = weight.sum((-2, -1))
    x, y = (np.sum(weight * grid, axis=(-2, -1)) / total, np.sum(weight * grid[:, None], (-2, -1)))
    return np.stack([x, y / total], axis=-1)


@pytest.mark.parametrize("name", list(MOVES))
def test_a_dot_follows_its_landmark(name):
    settings, side, frames = MOVES[name], 65, 2
    drawn = draw(settings, 24)
    rng = np.random.default_rng(0)
    points = rng.uniform(24, side - 25, (24, frames, 68, 2)).astype(np.float32)
    moved = np.asarray(move(points, side, drawn, settings))
    flip = np.broadcast_to(drawn.flip, (24, frames))
    for landmark in (0, 27, 41, 60):
        found = centroids(change(dots(points[:, :, landmark], side), drawn, settings))
        twin = augment.MIRROR_68[landmark]
        wanted = np.where(flip[..., None], moved[:, :, twin], moved[:, :, landmark])
        np.testing.assert_allclose(found, wanted, atol=0.1)
    assert np.abs(moved - points).max() > 2


@pytest.mark.parametrize("platform", ["default", "tpu"])
@pytest.mark.parametrize(("height", "width"), [(21, 21), (14, 23)])
def test_one_warp_is_kerass(height, width, platform, monkeypatch):
    """Rotation @ shift @ shear @ zoom of rows and columns, edges repeated, then the flip; as a TPU
    computes it too, done here."""
    rng = np.random.default_rng(0)
    turn, shear = rng.uniform(-0.6, 0.6, (2, 2, 3)).astype(np.float32)
    zoom_y, zoom_x = rng.uniform(0.7, 1.3, (2, 2, 3)).astype(np.float32)
    shift_y, shift_x = rng.uniform(-0.2, 0.2, (2, 2, 3)).astype(np.float32)
    if height != width:  # A share of unlike sides has no place to turn to.
        turn = np.zeros_like(turn)
    flip = rng.uniform(size=(2, 3)) < 0.5
    linear, shift = augment._affine(flip, turn, shear, zoom_y, zoom_x, shift_y, shift_x)
    drawn = augment.Draw(flip, linear, shift, *[jnp.zeros((2, 3))] * 3)
    images = pictures(2, 3, height, width, 2)
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *a, **by: by[platform](*a))
    settings = Augment(rotation_degrees=1) if turn.any() else Augment(shear=1)
    found = jax.jit(lambda *given: augment.augment_images(*given, settings))(images, drawn)
    middle = np.array([(height - 1) / 2, (width - 1) / 2])
    for at in np.ndindex(2, 3):
        cos, sin = np.cos(turn[at]), np.sin(turn[at])
        rotation = np.array([[cos, -sin], [sin, cos]])
        sheared = np.array([[1, -np.sin(shear[at])], [0, np.cos(shear[at])]])
        matrix = rotation @ sheared @ np.diag([zoom_y[at], zoom_x[at]])
        moved = rotation @ [shift_y[at] * height, shift_x[at] * width]
        for channel in range(2):
            wanted = ndimage.affine_transform(
                images[at][..., channel], matrix, middle + moved - matrix @ middle, order=1,
                mode="nearest",
            )  # fmt: skip
            wanted = wanted[:, ::-1] if flip[at] else wanted
            np.testing.assert_allclose(found[at][..., channel], wanted, atol=3e-5)


def test_a_quarter_turn():
    linear = jnp.asarray([[0.0, 1.0], [-1.0, 0.0]])[None, None]
    zero = jnp.zeros((1, 1))
    drawn = augment.Draw(zero > 0, linear, jnp.zeros((1, 1, 2)), zero, zero, zero)
    settings = Augment(rotation_degrees=90)
    images = pictures(1, 1, 8, 8, 3)
    found = change(images, drawn, settings)
    np.testing.assert_allclose(found[0, 0], np.rot90(images[0, 0], k=-1), atol=1e-6)
    points = np.zeros((1, 1, 68, 2), np.float32)
    points[0, 0, 0] = 7, 2  # Near the right edge: a turn to the right takes it to the bottom.
    np.testing.assert_allclose(move(points, 8, drawn, settings)[0, 0, 0], [5, 7], atol=1e-5)


def test_what_is_off_changes_nothing_and_costs_nothing():
    images, points, scores = pictures(4, 2, 6, 6, 3), pictures(4, 2, 68, 2), pictures(4, 2, 52)
    settings = Augment()
    drawn = draw(settings, 4)
    assert augment.augment_images(images, drawn, settings) is images
    assert augment.augment_points(points, 6, drawn, settings) is points
    assert augment.augment_blendshapes(scores, drawn, settings) is scores


@pytest.mark.parametrize(
    ("settings", "gathers"),
    [(Augment(flip=True), 0), (Augment(brightness=1, contrast=0.5, erase=1), 0),
     (Augment(flip=True, zoom=0.1), 4)],
)  # fmt: skip
def test_only_warps_gather(settings, gathers):
    program = jax.make_jaxpr(partial(augment.augment_images, settings=settings))
    text = str(program(jnp.zeros((2, 1, 8, 8, 1)), draw(settings, 2)))
    assert text.count(" gather[") == gathers


def test_a_warp_by_nothing_is_the_identity():
    settings = Augment(rotation_degrees=1e-30)
    images, points = pictures(3, 2, 9, 9, 2), pictures(3, 2, 68, 2)
    drawn = draw(settings, 3)
    np.testing.assert_allclose(change(images, drawn, settings), images, atol=1e-6)
    np.testing.assert_allclose(move(points, 9, drawn, settings), points, atol=1e-5)
    dot = pictures(3, 2, 1, 1, 2)
    np.testing.assert_array_equal(change(dot, drawn, settings), dot)


def test_a_flip_is_an_exact_mirror_and_undoes_itself():
    settings = Augment(flip=True)
    images, points = pictures(64, 2, 7, 8, 3), pictures(64, 2, 68, 2)
    drawn = draw(settings)
    flip = np.asarray(drawn.flip)[:, 0]
    assert 16 < flip.sum() < 48
    found = np.asarray(change(images, drawn, settings))
    np.testing.assert_array_equal(found[flip], images[flip][:, :, :, ::-1])
    np.testing.assert_array_equal(found[~flip], images[~flip])
    np.testing.assert_array_equal(change(found, drawn, settings), images)
    moved = np.asarray(move(points, 8, drawn, settings))
    np.testing.assert_array_equal(moved[~flip], points[~flip])
    # The right mouth corner (48) is where the left one (54) was, as far from the other edge.
    np.testing.assert_array_equal(moved[flip, :, 48, 0], 7 - points[flip, :, 54, 0])
    np.testing.assert_array_equal(moved[flip, :, 48, 1], points[flip, :, 54, 1])
    np.testing.assert_allclose(move(moved, 8, drawn, settings), points, atol=1e-6)


def test_the_mirror_of_landmarks_is_the_published_involution(shared):
    mirror = np.asarray(augment.MIRROR_68)
    np.testing.assert_array_equal(mirror[mirror], np.arange(68))
    facts = json.loads((shared / "papers" / "landmarks68_mirror_and_groups.json").read_text())
    assert mirror.tolist() == facts["mirror_index_68"]


def test_the_mirror_keeps_the_parts_of_a_face():
    mirror = np.asarray(augment.MIRROR_68)
    np.testing.assert_array_equal(mirror[mirror], np.arange(68))
    same = [range(17), range(17, 27), range(27, 31), range(31, 36), range(36, 48), range(48, 60)]
    for part in [*same, range(60, 68)]:
        assert set(mirror[list(part)]) == set(part)
    assert set(mirror[36:42]) == set(range(42, 48))
    assert [k for k in range(68) if mirror[k] == k] == [8, 27, 28, 29, 30, 33, 51, 57, 62, 66]


def test_flipped_blendshapes_change_sides():
    names = geometry.blendshape_names()
    scores = np.random.default_rng(0).uniform(size=(32, 2, 52)).astype(np.float32)
    settings = Augment(flip=True, rotation_degrees=20, per="frame")
    drawn = draw(settings, 32)
    found = np.asarray(augment.augment_blendshapes(scores, drawn, settings))
    flip = np.asarray(drawn.flip)
    assert flip.shape == (32, 2) and 16 < flip.sum() < 48
    np.testing.assert_array_equal(found[~flip], scores[~flip])
    for name, other in (
        ("mouthSmileLeft", "mouthSmileRight"), ("jawLeft", "jawRight"), ("jawOpen", "jawOpen"),
        ("eyeLookInRight", "eyeLookInLeft"), ("_neutral", "_neutral"), ("mouthRight", "mouthLeft"),
    ):  # fmt: skip
        now, before = found[..., names.index(name)], scores[..., names.index(other)]
        np.testing.assert_array_equal(now[flip], before[flip])
    mirror = augment.mirrored_blendshapes()
    np.testing.assert_array_equal(mirror[mirror], np.arange(52))
    assert (mirror != np.arange(52)).sum() == sum(n.endswith(("Left", "Right")) for n in names)


def uniform(values, low, high):
    """p of the Kolmogorov-Smirnov test."""
    return stats.kstest(np.asarray(values).ravel(), stats.uniform(low, high - low).cdf).pvalue


def test_draws_are_uniform():
    count = 4000
    drawn = draw(Augment(brightness=0.3, contrast=0.8, shift=0.25, flip=True, erase=0.3), count)
    assert abs(np.asarray(drawn.flip).mean() - 0.5) < 4 * 0.5 / count**0.5
    assert abs((np.asarray(drawn.erase)[..., 2] > 0).mean() - 0.3) < 4 * 0.46 / count**0.5
    assert uniform(drawn.brightness, -0.3, 0.3) > 1e-3
    assert uniform(drawn.contrast, 0.2, 1.8) > 1e-3
    assert uniform(drawn.shift, -0.25, 0.25) > 1e-3
    turned = np.asarray(draw(Augment(rotation_degrees=30), count).linear)[:, 0]
    angle = np.rad2deg(np.arctan2(turned[:, 0, 1], turned[:, 0, 0]))
    assert uniform(angle, -30, 30) > 1e-3
    zoomed = np.asarray(draw(Augment(zoom=0.2), count).linear)[:, 0]
    for axis in (0, 1):
        assert uniform(zoomed[:, axis, axis], 0.8, 1.2) > 1e-3
    assert abs(np.corrcoef(zoomed[:, 0, 0], zoomed[:, 1, 1])[0, 1]) < 4 / count**0.5
    sheared = np.asarray(draw(Augment(shear=0.2), count).linear)[:, 0]
    assert uniform(np.arcsin(-sheared[:, 1, 0]), -0.2, 0.2) > 1e-3


def test_what_one_draw_serves():
    clip = draw(ALL, 5)
    assert clip.flip.shape == (5, 1) and clip.linear.shape == (5, 1, 2, 2)
    assert len(np.unique(clip.brightness)) == 5
    frame = draw(Augment(brightness=0.3, per="frame"), 5)
    assert frame.brightness.shape == (5, 2) and len(np.unique(frame.brightness)) == 10
    batch = draw(Augment(brightness=0.3, per="batch"), 5)
    assert batch.brightness.shape == (5, 1) and len(np.unique(batch.brightness)) == 1
    other = draw(Augment(brightness=0.3, per="batch"), 2, seed=8)
    np.testing.assert_array_equal(other.brightness, batch.brightness[:2])
    images = pictures(5, 2, 4, 4, 1)
    shifts = np.asarray(change(images, clip, Augment(brightness=0.3))) - images
    np.testing.assert_allclose(shifts, np.broadcast_to(shifts[:, :1, :1, :1], shifts.shape),
                               atol=1e-6)  # fmt: skip


@pytest.mark.parametrize("per", ["clip", "frame"])
def test_a_draw_depends_on_its_key_alone(per):
    settings = Augment(flip=True, rotation_degrees=25, erase=0.5, per=per)
    make = jax.jit(augment.draw, static_argnums=(1, 2))
    whole = make(keys(8), settings, 3, STEP_KEY)
    part = make(keys(8)[3:5], settings, 3, jax.random.key(1))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[3:5], b), whole, part)
    over_devices = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))
    spread = make(jax.device_put(keys(8), over_devices), settings, 3, STEP_KEY)
    assert len(spread.flip.sharding.device_set) == 8
    jax.tree.map(np.testing.assert_array_equal, whole, spread)


def test_one_change_leaves_the_draws_of_others():
    one, other = draw(Augment(brightness=0.3)), draw(ALL)
    np.testing.assert_array_equal(one.brightness, other.brightness)


def test_brightness_and_contrast():
    settings = Augment(brightness=0.3, contrast=0.8)
    images = pictures(6, 2, 5, 5, 3) + 2
    drawn = draw(settings, 6)
    found = change(images, drawn, settings)
    mean = images.mean((2, 3), keepdims=True, dtype=np.float64)
    offset, factor = (
        np.asarray(value, np.float64)[:, :, None, None, None]
        for value in (drawn.brightness, drawn.contrast)
    )
    np.testing.assert_allclose(found, (images - mean) * factor + mean + offset, atol=2e-6)
    for only in (Augment(brightness=0.3), Augment(contrast=0.8)):
        found = change(images, draw(only, 6), only)
        wanted = images + offset if only.brightness else (images - mean) * factor + mean
        np.testing.assert_allclose(found, wanted, atol=2e-6)


def test_erasing_fills_a_rectangle_with_the_mean():
    settings, side, count = Augment(erase=1), 40, 4000
    drawn = draw(settings, count)
    left, top, width, height = np.moveaxis(np.asarray(drawn.erase, np.float64)[:, 0], -1, 0)
    area, aspect = width * height, height / width
    assert uniform(area, 0.02, 0.4) > 1e-3
    assert aspect.min() > 0.299 and aspect.max() < 3.34 and aspect.max() > 3
    assert (left >= 0).all() and (left + width < 1 + 1e-6).all()
    assert (top >= 0).all() and (top + height < 1 + 1e-6).all()
    images = pictures(200, 1, side, side, 1)
    first = jax.tree.map(lambda value: value[:200], drawn)
    found = np.asarray(change(images, first, settings))
    erased = (found != images).any(-1)[:, 0]
    mean = images.mean((1, 2, 3))
    for k in range(20):
        np.testing.assert_allclose(found[k, 0][erased[k]], [mean[k]] * erased[k].sum(), atol=1e-6)
    rows, columns = erased.any(2).sum(1), erased.any(1).sum(1)
    np.testing.assert_array_equal(erased.sum((1, 2)), rows * columns)
    assert np.abs(rows - height[:200] * side).max() <= 1
    assert np.abs(columns - width[:200] * side).max() <= 1


def test_nothing_is_erased_where_the_draw_says_so():
    settings = Augment(erase=0.5)
    drawn = draw(settings)
    images = pictures(64, 2, 12, 12, 1)
    changed = (np.asarray(change(images, drawn, settings)) != images).any((1, 2, 3, 4))
    np.testing.assert_array_equal(changed, np.asarray(drawn.erase)[:, 0, 2] > 0)
    assert 16 < changed.sum() < 48


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_of_mixup_are_beta(alpha):
    shares = np.asarray(augment.mixup_share(keys(2000), alpha))
    assert shares.dtype == np.float32 and (shares >= 0).all() and (shares <= 1).all()
    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    np.testing.assert_array_equal(augment.mixup_share(keys(2000)[7:9], alpha), shares[7:9])


def test_mixing():
    a, b = pictures(3, 2, 4), pictures(3, 2, 4, seed=2)
    share = np.float32([0, 0.25, 1])
    found = np.asarray(augment.mix(a, b, share))
    np.testing.assert_array_equal(found[0], b[0])
    np.testing.assert_allclose(found[1], 0.25 * a[1] + 0.75 * b[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found[2], a[2])


def test_bfloat16_stays():
    images = jnp.asarray(pictures(4, 2, 8, 8, 3), jnp.bfloat16)
    assert change(images, draw(ALL, 4), ALL).dtype == jnp.bfloat16
