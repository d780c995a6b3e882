"""A DAN's connection layers against closed forms, NumPy loops and finite differences."""

import math

import numpy as np
import pytest


@pytest.fixture(scope="module")
def warp():
    from fer_jax.models.layers import warp

    return warp


@pytest.fixture(scope="module")
def warp_image(warp):
    import jax

    return jax.jit(warp.warp_image)


def _turn(degrees, scale, shift):
    """A and t of a rotation, row vectors: (x, y) A + t."""
    a, b = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    return np.array([[a, b], [-b, a]], np.float32), np.array(shift, np.float32)


def _transforms(warp, *each):
    """The transform of each image of a batch, from (degrees, scale, shift)."""
    import jax.numpy as jnp

    matrices, offsets = zip(*(_turn(*one) for one in each), strict=True)
    return warp.Similarity(jnp.array(matrices), jnp.array(offsets))


def _image(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def _points(*shape, low=10, high=38, seed=1):
    return np.random.default_rng(seed).uniform(low, high, (*shape, 2)).astype(np.float32)


@pytest.mark.parametrize("turn", [(0, 1, (0, 0)), (30, 1.4, (7, -3)), (-170, 0.3, (100, 40))])
def test_similarity_recovers_rotation_scale_and_shift(warp, turn):
    points = _points(3, 68)
    matrix, offset = _turn(*turn)
    moved = points @ matrix + offset
    found = warp.similarity(points, moved)
    np.testing.assert_allclose(found.matrix, np.broadcast_to(matrix, (3, 2, 2)), atol=1e-5)
    np.testing.assert_allclose(found.offset, np.broadcast_to(offset, (3, 2)), atol=3e-4)
    np.testing.assert_allclose(found.apply(points), moved, rtol=1e-5, atol=1e-4)
    back = found.inverse()
    np.testing.assert_allclose(back.apply(found.apply(points)), points, rtol=1e-5, atol=1e-4)
    twice = found.matrix @ back.matrix
    np.testing.assert_allclose(twice, np.broadcast_to(np.eye(2), (3, 2, 2)), atol=1e-6)


def test_similarity_is_the_least_squares_fit(warp):
    points, target = _points(68), _points(68, seed=5)
    (x, y), one, zero = points.T.astype(np.float64), np.ones(68), np.zeros(68)
    columns = np.concatenate(  # a, b, t_x, t_y of (a x - b y + t_x, b x + a y + t_y)
        [np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)]
    )
    a, b, *offset = np.linalg.lstsq(columns, target.T.reshape(-1), rcond=None)[0]
    found = warp.similarity(points, target)
    np.testing.assert_allclose(found.matrix, [[a, b], [-b, a]], atol=1e-5)
    np.testing.assert_allclose(found.offset, offset, rtol=1e-5)


def test_points_that_coincide_give_finite_transforms(warp):
    import jax

    same, target = np.full((68, 2), 20, np.float32), _points(68)
    found = warp.similarity(same, target)
    np.testing.assert_allclose(found.apply(same), np.tile(target.mean(0), (68, 1)), rtol=1e-5)
    assert all(np.isfinite(part).all() for part in found.inverse())
    slope = jax.jit(jax.grad(lambda points: warp.similarity(points, target).matrix.sum()))
    gradient = slope(same)
    assert np.isfinite(gradient).all()


def test_identity_leaves_the_image(warp, warp_image):
    image = _image(2, 12, 17, 3)
    same = warp_image(image, _transforms(warp, *[(0, 1, (0, 0))] * 2))
    np.testing.assert_array_equal(same[:, :-1, :-1], image[:, :-1, :-1])
    # the sources' clipping: the last row and column repeat the ones before
    np.testing.assert_array_equal(same[:, -1, :-1], image[:, -2, :-1])
    np.testing.assert_array_equal(same[:, :-1, -1], image[:, :-1, -2])


@pytest.mark.parametrize("shift", [(3, 0), (0, -4), (-2, 5)])
def test_whole_shifts_roll_the_image(warp, warp_image, shift):
    image = _image(1, 20, 20, 1)
    moved = warp_image(image, _transforms(warp, (0, 1, shift)))
    rolled = np.roll(image, (shift[1], shift[0]), axis=(1, 2))
    inside = (slice(None), slice(5, -6), slice(5, -6))
    np.testing.assert_allclose(moved[inside], rolled[inside], atol=1e-6)


def test_a_quarter_turn_is_rot90(warp, warp_image):
    size = 15
    image = _image(1, size, size, 2)
    # (x, y) -> (size - 1 - y, x): clockwise on the screen, where y points down
    turned = warp_image(image, _transforms(warp, (90, 1, (size - 1, 0))))
    expected = np.rot90(image, k=-1, axes=(1, 2))
    inside = (slice(None), slice(1, -1), slice(1, -1))
    np.testing.assert_allclose(turned[inside], expected[inside], atol=1e-5)


def _loop_warp(image, matrix, offset):
    """out(p) = in(p A^-1 - t A^-1), one pixel after another, in float64."""
    height, width, channels = image.shape
    back = np.linalg.inv(matrix.astype(np.float64))
    out = np.zeros((height, width, channels))
    for y in range(height):
        for x in range(width):
            u, v = np.array([x, y]) @ back - offset @ back
            u, v = min(max(u, 0), width - 2), min(max(v, 0), height - 2)
            j, i = int(u), int(v)
            du, dv = u - j, v - i
            out[y, x] = (1 - dv) * ((1 - du) * image[i, j] + du * image[i, j + 1])
            out[y, x] += dv * ((1 - du) * image[i + 1, j] + du * image[i + 1, j + 1])
    return out


def test_warp_equals_a_loop_over_pixels(warp, warp_image):
    import jax.numpy as jnp

    image = _image(3, 14, 19, 2)
    turns = [(25, 0.8, (3, -2.5)), (-70, 1.3, (-4.2, 12)), (180, 3.0, (25, 30))]
    transform = _transforms(warp, *turns)
    expected = np.stack([_loop_warp(i, *_turn(*t)) for i, t in zip(image, turns, strict=True)])
    np.testing.assert_allclose(warp_image(image, transform), expected, atol=1e-5)
    coarse = warp_image(jnp.asarray(image, jnp.bfloat16), transform)
    assert coarse.dtype == jnp.bfloat16
    np.testing.assert_allclose(coarse.astype(jnp.float32), expected, atol=0.02)


def test_what_is_at_a_landmark_follows_it(warp, warp_image):
    size, spot = 32, (9, 21)
    image = np.zeros((1, size, size, 1), np.float32)
    image[0, spot[1], spot[0]] = 1
    transform = _transforms(warp, (20, 1.5, (6, -9)))
    x, y = transform.apply(np.array([[spot]], np.float32))[0, 0]
    moved = np.asarray(warp_image(image, transform))[0, :, :, 0]
    rows, columns = np.nonzero(moved)
    weight = moved[rows, columns]
    found = (weight @ columns / weight.sum(), weight @ rows / weight.sum())
    np.testing.assert_allclose(found, (x, y), atol=0.2)


def _slope_along(function, argument, direction, step=1e-6):
    import jax

    ahead = jax.tree.map(lambda x, d: x + step * d, argument, direction)
    behind = jax.tree.map(lambda x, d: x - step * d, argument, direction)
    return (function(ahead) - function(behind)) / (2 * step)


def _check_gradient(function, argument, rtol=1e-5):
    """The gradient along three random directions against central differences, in float64."""
    import jax

    gradient = jax.jit(jax.grad(function))(argument)
    function = jax.jit(function)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        direction = jax.tree.map(lambda x: rng.standard_normal(x.shape), argument)  # noqa: B023
        dots = jax.tree.map(lambda g, d: float(np.sum(g * d)), gradient, direction)
        expected = _slope_along(function, argument, direction)
        assert abs(expected) > 1e-3
        np.testing.assert_allclose(sum(jax.tree.leaves(dots)), expected, rtol=rtol)


def test_warp_gradients_equal_finite_differences(warp):
    import jax
    import jax.numpy as jnp

    with jax.enable_x64(True):
        image = jnp.asarray(_image(2, 13, 11, 2), jnp.float64)
        weight = jnp.asarray(_image(2, 13, 11, 2, seed=3), jnp.float64)
        points = jnp.asarray(_points(2, 68, low=1, high=10), jnp.float64)
        target = jnp.asarray(_points(68, low=1, high=10, seed=7), jnp.float64)[None] * 0.2 + points

        def value(arguments):
            image, points = arguments
            warped = warp.warp_image(image, warp.similarity(points, target))
            return jnp.sum(weight * warped**2)

        _check_gradient(value, (image, points))


def _loop_heat(landmarks, size, patch):
    half, heat = patch // 2, np.zeros((size, size))
    for x, y in np.clip(landmarks.astype(np.float64), half, size - 1 - half):
        for row in range(int(y) - half, int(y) + patch - half):
            for column in range(int(x) - half, int(x) + patch - half):
                value = 1 / (1 + math.hypot(column - x, row - y))
                heat[row, column] = max(heat[row, column], value)
    return heat


@pytest.mark.parametrize(("size", "patch"), [(48, 16), (33, 7), (17, 16)])
def test_heat_map_equals_a_loop_over_landmarks(warp, size, patch):
    import jax

    landmarks = _points(3, 68, low=-6, high=size + 6)
    landmarks[1, :30] = np.round(landmarks[1, :30])  # on pixels
    landmarks[2, :40] = landmarks[2, 40]  # on one another: most of the map is empty
    landmarks[2, 41:] = landmarks[2, 41]
    heat = jax.jit(warp.heat_map, static_argnums=(1, 2))(landmarks, size, patch)
    expected = np.stack([_loop_heat(points, size, patch) for points in landmarks])
    np.testing.assert_allclose(heat, expected, atol=2e-6)
    np.testing.assert_array_equal(np.asarray(heat) == 0, expected == 0)


def test_a_patch_of_16_reaches_from_8_before_to_7_after(warp):
    heat = np.asarray(warp.heat_map(np.array([[[20.7, 30.0]]], np.float32), 48))[0]
    rows, columns = np.nonzero(heat)
    assert (columns.min(), columns.max()) == (12, 27)
    assert (rows.min(), rows.max()) == (22, 37)
    np.testing.assert_allclose(heat[30, 20], 1 / 1.7, rtol=1e-5)
    np.testing.assert_allclose(heat[30, 21], 1 / 1.3, rtol=1e-5)


def test_heat_map_gradient_equals_finite_differences(warp):
    import jax
    import jax.numpy as jnp

    size = 24
    with jax.enable_x64(True):
        landmarks = jnp.asarray(_points(2, 9, low=2, high=size), jnp.float64)
        weight = jnp.asarray(_image(2, size, size), jnp.float64)
        # the truth within a choice of pixels, which so small a step does not change
        _check_gradient(lambda s: jnp.sum(weight * warp.heat_map(s, size, 8) ** 2), landmarks)


def test_heat_map_gradient_at_pixels_ties_and_borders_is_finite(warp):
    import jax
    import jax.numpy as jnp

    slopes = jax.jit(jax.grad(lambda s: jnp.sum(warp.heat_map(s, 24, 8))))
    landmarks = np.array([[[12, 12], [12, 12], [-50, 400], [16.5, 12]]], np.float32)
    slope = slopes(landmarks)[0]
    assert np.isfinite(slope).all()
    np.testing.assert_array_equal(slope[2], 0)  # held at the border
    # Two on one place move as one: the slopes add up to those of a single one there.
    one = slopes(landmarks[:, 1:])[0]
    np.testing.assert_allclose(slope[0] + slope[1], one[0], rtol=1e-5)
    np.testing.assert_allclose(slope[3], one[2], rtol=1e-5)


def test_a_population_of_maps_equals_each_alone(warp):
    import jax
    import jax.numpy as jnp

    landmarks = _points(3, 2, 10, low=3, high=20)

    def value(landmarks):
        return jnp.sum(warp.heat_map(landmarks, 24, 6) ** 2)

    gradient = jax.value_and_grad(value)
    values, slopes = jax.jit(jax.vmap(gradient))(landmarks)
    gradient = jax.jit(gradient)
    for member, (one, slope) in enumerate(zip(values, slopes, strict=True)):
        alone, expected = gradient(landmarks[member])
        np.testing.assert_allclose(one, alone, rtol=1e-6)
        np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-6)
