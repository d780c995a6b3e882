"""Pooling against Keras, in both formulations: the CPU's and the accelerators'."""

from functools import partial

import numpy as np
import pytest

CASES = [
    ((6, 8), (2, 2), (2, 2), "valid"),
    ((7, 9), (2, 2), (2, 2), "valid"),  # the last row and column are in no window
    ((7, 6), (2, 2), (2, 2), "same"),
    ((7, 6), (3, 3), (2, 2), "same"),
    ((8, 8), (3, 3), (2, 2), "valid"),
    ((5, 6), (3, 3), (1, 1), "same"),
    ((7, 5), (3, 2), (1, 3), "same"),
    ((7, 7), (1, 1), (2, 2), "same"),
    ((4, 6, 7), (2, 2, 2), (2, 2, 2), "same"),
    ((5, 6, 6), (1, 2, 2), (2, 2, 2), "valid"),
]


@pytest.fixture(scope="module")
def pooling():
    from fer_jax.models.layers import pooling

    return pooling


@pytest.fixture(scope="module")
def windows():
    from fer_jax.models.layers.windows import windows

    return windows


def _keras_pool(kind, over):
    import jax
    import keras

    pool = {"max": keras.ops.max_pool, "average": keras.ops.average_pool}[kind]

    def run(x):
        with jax.numpy_rank_promotion("allow"):
            return pool(x, *over)

    return run


def _x(sizes, dtype="float32"):
    """Distinct values and, since a ReLU and rounding made them, many equal ones."""
    import jax.numpy as jnp

    x = np.random.default_rng(0).standard_normal((3, *sizes, 5)).astype(np.float32)
    x[..., 1:] = np.maximum(np.round(2 * x[..., 1:]) / 2, 0)
    return jnp.asarray(x, dtype)


def _value_and_gradient(pool, x):
    """The pooled values, and the gradient of their sum weighted by place."""
    import jax
    import jax.numpy as jnp

    @jax.jit
    def run(x):
        y, back = jax.vjp(pool, x)
        # Sums of whole numbers, which bfloat16 can hold.
        weights = np.random.default_rng(1).integers(1, 9, y.shape)
        return y, back(jnp.asarray(weights, y.dtype))[0]

    return run(x)


@pytest.mark.parametrize(
    ("over", "dtype"), [*[(case, "float32") for case in CASES], (CASES[3], "bfloat16")]
)
def test_max_pool_equals_keras(pooling, windows, over, dtype):
    """To the bit, with equal maxima too: of those the first takes the gradient."""
    sizes, *over = over
    x = _x(sizes, dtype)
    expected, gradient = _value_and_gradient(_keras_pool("max", over), x)
    of_windows = partial(pooling._max_of_windows, windows(sizes, *over))
    for pool in (lambda x: pooling.max_pool(x, *over), of_windows):
        y, dx = _value_and_gradient(pool, x)
        assert y.dtype == dx.dtype == dtype
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_array_equal(dx, gradient)


@pytest.mark.parametrize(
    ("over", "dtype"), [*[(case, "float32") for case in CASES], (CASES[5], "bfloat16")]
)
def test_average_pool_equals_keras(pooling, windows, over, dtype):
    import jax.numpy as jnp

    sizes, *over = over
    x = _x(sizes, dtype)
    expected = _value_and_gradient(_keras_pool("average", over), x.astype(jnp.float32))
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == "float32" else {"rtol": 0.03, "atol": 0.05}
    found = _value_and_gradient(lambda x: pooling.average_pool(x, *over), x)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype
        np.testing.assert_allclose(np.float32(one), other, **tolerance)
    of_slices, of_windows = (
        _value_and_gradient(partial(total, windows(sizes, *over)), x.astype(jnp.float32))
        for total in (pooling._sum_of_slices, pooling._sum_of_windows)
    )
    for one, other in zip(of_slices, of_windows, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sizes", [(3, 4), (2, 3, 4)])
def test_global_pools_reduce_every_place(pooling, sizes):
    x = _x(sizes)
    axes = tuple(range(1, 1 + len(sizes)))
    np.testing.assert_allclose(pooling.global_average_pool(x), np.mean(x, axes), rtol=1e-6)
    np.testing.assert_array_equal(pooling.global_max_pool(x), np.max(x, axes))


def test_window_stands_for_all_axes_and_for_the_strides(pooling):
    x = _x((6, 6))
    np.testing.assert_array_equal(pooling.max_pool(x, 2), pooling.max_pool(x, (2, 2), (2, 2)))
    np.testing.assert_array_equal(
        pooling.average_pool(x, 3, 1, "same"), pooling.average_pool(x, (3, 3), (1, 1), "same")
    )


@pytest.mark.parametrize("name", ["max_pool", "average_pool"])
def test_platforms_get_their_own_formulation(pooling, name):
    import jax

    pool = getattr(pooling, name)
    traced = jax.jit(jax.grad(lambda x: (pool(x, 3, 2, "same") ** 2).sum())).trace(_x((7, 7)))
    assert "reduce_window" not in traced.lower(lowering_platforms=("cpu",)).as_text()
    for platform in ("cuda", "tpu"):
        assert "reduce_window" in traced.lower(lowering_platforms=(platform,)).as_text()


def test_max_pool_of_a_population_and_of_shards(pooling):
    import jax
    from jax.sharding import AxisType, PartitionSpec

    x = _x((7, 7))[:2]
    gradient = jax.grad(lambda x: (pooling.max_pool(x, 3, 2, "same") ** 2).sum())
    expected = gradient(x)
    np.testing.assert_allclose(jax.vmap(gradient)(x[None])[0], expected, rtol=1e-6)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("data")
    sharded = jax.jit(jax.shard_map(gradient, mesh=mesh, in_specs=spec, out_specs=spec))
    np.testing.assert_allclose(sharded(x), expected, rtol=1e-6)


def test_window_that_does_not_fit_is_refused(pooling):
    with pytest.raises(ValueError, match="a window of 3 does not fit in 2"):
        pooling.max_pool(_x((2, 5)), 3)
