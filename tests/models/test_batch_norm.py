"""Batch normalisation against Keras, NumPy in float64, and over devices."""

import numpy as np
import pytest

N, C = 16, 3
SHAPES = ((N, C), (N, 5, 4, C), (N, 2, 3, 4, C))


@pytest.fixture(scope="module")
def jax():
    return pytest.importorskip("jax")


def _arrays(shape, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    x = draw(*shape) * np.float32([0.5, 2, 1]) + np.float32([-1, 3, 0])
    return x, draw(*shape), 1 + 0.3 * draw(C), draw(C), draw(C), np.float32([0.5, 1.5, 2.0])


def _norm(scale, bias, mean, var, **settings):
    """A layer with these values; scale None has none."""
    import jax.numpy as jnp
    from flax import nnx

    from fer_jax.models.layers.batch_norm import BatchNorm

    norm = BatchNorm(len(bias), scale=scale is not None, rngs=nnx.Rngs(0), **settings)
    for variable, value in ((norm.scale, scale), (norm.bias, bias), (norm.mean, mean),
                            (norm.var, var)):  # fmt: skip
        if variable is not None:
            variable.set_value(jnp.asarray(value))
    return norm


def _run(norm, x, scale, bias, *, train=True, weight=None, axis=None):
    """y, mean and var of `norm` with these parameters; as a function that JAX can transform."""
    from flax import nnx

    norm = nnx.clone(norm)
    if scale is not None:
        norm.scale.set_value(scale)
    norm.bias.set_value(bias)
    norm.axis = axis
    y = norm(x, train=train, weight=weight)
    return y, norm.mean[...], norm.var[...]


def _close(ours, theirs, rtol=2e-5, atol=2e-5):
    import jax

    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("train", [True, False])
def test_outputs_gradients_and_averages_equal_keras(jax, shape, train):
    import keras

    x, dy, scale, bias, mean, var = _arrays(shape)
    scaled, settings = len(shape) != 4, {"momentum": 0.9, "epsilon": 1e-2}
    scale = scale if scaled else None
    layer = keras.layers.BatchNormalization(scale=scaled, **settings)
    with jax.numpy_rank_promotion("allow"):
        layer.build(shape)
    norm = _norm(scale, bias, mean, var, **settings)

    def ours(x, scale, bias):
        y, mean, var = _run(norm, x, scale, bias, train=train)
        return (y * dy).sum(), (y, mean, var)

    def theirs(x, scale, bias):
        trainable = [bias] if scale is None else [scale, bias]
        with jax.numpy_rank_promotion("allow"):
            y, (new_mean, new_var) = layer.stateless_call(trainable, [mean, var], x, training=train)
        return (y * dy).sum(), (y, new_mean, new_var)

    arguments = (0, 2) if scale is None else (0, 1, 2)
    results = [
        jax.jit(jax.value_and_grad(f, arguments, has_aux=True))(x, scale, bias)
        for f in (ours, theirs)
    ]
    _close(*results)
    moved = results[0][0][1][1] - mean
    assert (np.abs(moved).max() > 1e-2) == train


def test_defaults_are_keras(jax):
    import keras
    from flax import nnx

    from fer_jax.models.layers.batch_norm import BatchNorm

    norm, layer = BatchNorm(C, rngs=nnx.Rngs(0)), keras.layers.BatchNormalization()
    layer.build((N, C))
    assert (norm.momentum, norm.epsilon) == (layer.momentum, layer.epsilon)
    theirs = layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance
    for one, other in zip((norm.scale, norm.bias, norm.mean, norm.var), theirs, strict=True):
        np.testing.assert_array_equal(one[...], other.value)


def test_rows_of_weight_zero_change_nothing(jax):
    x, dy, scale, bias, mean, var = _arrays(SHAPES[1])
    weight = np.ones(N, np.float32)
    weight[[0, 7, 15]] = 0
    real = weight > 0
    norm = _norm(scale, bias, mean, var)

    def run(x, dy, weight):
        def objective(x, scale, bias):
            y, mean, var = _run(norm, x, scale, bias, weight=weight)
            return (y * dy).sum(), (y, mean, var)

        gradient = jax.grad(objective, (0, 1, 2), has_aux=True)
        (dx, *dparams), (y, *stats) = jax.jit(gradient)(x, scale, bias)
        return dx, dparams, y, stats

    dy[~real] = 0  # as the loss has it
    _, dparams, y, stats = run(x[real], dy[real], None)
    others = x.copy()
    others[~real] = 100 * others[::-1][~real] - 500
    for filled in (x, others):
        dx, filled_dparams, filled_y, filled_stats = run(filled, dy, weight)
        _close((filled_y[real], filled_stats), (y, stats), 1e-6, 1e-6)
        _close(filled_dparams, dparams, 1e-5, 1e-5)
        assert np.all(dx[~real] == 0)
    assert not np.allclose(run(x, dy, None)[2][real], y, atol=1e-3)


def test_a_batch_of_filler_alone_stays_finite(jax):
    x, _, scale, bias, mean, var = _arrays(SHAPES[1])
    norm = _norm(scale, bias, mean, var)
    for leaf in _run(norm, x, scale, bias, weight=np.zeros(N, np.float32)):
        assert np.isfinite(leaf).all()


@pytest.mark.parametrize("mapper", ["shard_map", "unchecked shard_map", "pmap"])
def test_eight_devices_are_as_one(jax, mapper):
    """Statistics span the devices, in the outputs and in what flows back through them."""
    from jax.sharding import PartitionSpec

    x, dy, scale, bias, mean, var = _arrays(SHAPES[1])
    weight = np.ones(N, np.float32)
    weight[[3, 14, 15]] = 0  # the last device has only filler
    dy = dy * weight[:, None, None, None]
    norm = _norm(scale, bias, mean, var)

    def step(x, dy, weight, scale, bias, axis=None):
        def objective(x, scale, bias):
            y, mean, var = _run(norm, x, scale, bias, weight=weight, axis=axis)
            return (y * dy).sum(), (y, mean, var)

        gradient = jax.grad(objective, (0, 1, 2), has_aux=True)
        (dx, *dparams), (y, *stats) = gradient(x, scale, bias)
        if axis and mapper != "shard_map":  # there JAX sums gradients of replicated weights
            dparams = jax.lax.psum(dparams, axis)
        return dx, y, dparams, stats

    whole = jax.jit(step)(x, dy, weight, scale, bias)
    if mapper == "pmap":
        mapped = jax.pmap(
            lambda *arguments: step(*arguments, axis="data"),
            axis_name="data",
            in_axes=(0, 0, 0, None, None),
            out_axes=(0, 0, None, None),
        )
        cut = [a.reshape(8, 2, *a.shape[1:]) for a in (x, dy, weight)]
        dx, y, *others = mapped(*cut, scale, bias)
        parts = (dx.reshape(x.shape), y.reshape(x.shape), *others)
    else:
        mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        data, same = PartitionSpec("data"), PartitionSpec()
        mapped = jax.shard_map(
            lambda *arguments: step(*arguments, axis="data"),
            mesh=mesh,
            in_specs=(data, data, data, same, same),
            out_specs=(data, data, same, same),
            check_vma=mapper == "shard_map",
        )
        parts = jax.jit(mapped)(x, dy, weight, scale, bias)
    _close(parts, whole, 1e-5, 1e-5)
    alone = jax.jit(step)(x[:2], dy[:2], weight[:2], scale, bias)
    assert not np.allclose(alone[1], whole[1][:2], atol=1e-3)


def test_frozen_uses_its_averages_and_leaves_them(jax):
    x, _, scale, bias, mean, var = _arrays(SHAPES[1])
    norm = _norm(scale, bias, mean, var)
    expected, *_ = _run(norm, x, scale, bias, train=False)
    norm.frozen = True
    y, *stats = _run(norm, x, scale, bias, train=True)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(stats, [mean, var])


def test_the_callers_averages_are_not_written_to(jax):
    x, _, scale, bias, mean, var = _arrays(SHAPES[1])
    norm = _norm(scale, bias, mean, var)
    norm.mean.set_value(mean)  # NumPy arrays, as a weight file gives them
    norm.var.set_value(var)
    before = mean.copy(), var.copy()
    norm(x, train=True)
    np.testing.assert_array_equal((mean, var), before)
    assert not np.array_equal(norm.mean[...], mean)


def test_bfloat16_keeps_float32_statistics(jax):
    import jax.numpy as jnp

    x, _, scale, bias, mean, var = _arrays((N, 8, 8, C))
    # 256 values near 300, where bfloat16 is 2 apart: sums in bfloat16 would be far off.
    x = jnp.asarray(x + 300, jnp.bfloat16)
    exact = np.asarray(x, np.float64)
    norm = _norm(scale, bias, mean, var, momentum=0.0)
    y, new_mean, new_var = jax.jit(lambda x: _run(norm, x, scale, bias))(x)
    assert y.dtype == jnp.bfloat16
    assert new_mean.dtype == new_var.dtype == jnp.float32
    np.testing.assert_allclose(new_mean, exact.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(new_var, exact.var((0, 1, 2)), rtol=1e-5)
    expected = (exact - exact.mean((0, 1, 2))) / np.sqrt(exact.var((0, 1, 2)) + 1e-3)
    # One rounding to 8 bits at the end, and what float32 loses of 300.
    np.testing.assert_allclose(
        np.asarray(y, np.float64), expected * scale + bias, rtol=2**-8, atol=1e-3
    )


@pytest.mark.parametrize(("mean", "tolerance"), [(0, 2e-6), (30, 2e-5), (1000, 5e-4)])
def test_a_large_mean_costs_no_more_than_its_rounding(jax, mean, tolerance):
    """Against float64. The tolerance grows with the mean, as x's own rounding does (at 1000 a
    float32 is 6e-5 apart), not with its square, as E[x^2] - E[x]^2 would lose."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((N, 14, 14, C)) + mean).astype(np.float32)
    dy = rng.standard_normal(x.shape).astype(np.float32)
    one, zero = np.ones(C, np.float32), np.zeros(C, np.float32)
    norm = _norm(one, zero, zero, one, momentum=0.0)

    def objective(x, scale):
        y, _, var = _run(norm, x, scale, zero)
        return (y * dy).sum(), (y, var)

    (dx, dscale), (y, var) = jax.jit(jax.grad(objective, (0, 1), has_aux=True))(x, one)
    x, dy, axes = x.astype(np.float64), dy.astype(np.float64), (0, 1, 2)
    deviation = np.sqrt(x.var(axes) + 1e-3)
    unit = (x - x.mean(axes)) / deviation
    np.testing.assert_allclose(var, x.var(axes), rtol=2e-6)
    np.testing.assert_allclose(y, unit, atol=tolerance)
    expected = (dy - dy.mean(axes) - unit * (dy * unit).mean(axes)) / deviation
    np.testing.assert_allclose(dx, expected, atol=tolerance)
    np.testing.assert_allclose(dscale, (dy * unit).sum(axes), atol=100 * tolerance)


def test_a_part_of_filler_alone_moves_no_average(jax):
    x, _, scale, bias, mean, var = _arrays((N, C))
    norm = _norm(scale, bias, mean, var)
    y, *after = _run(norm, x, scale, bias, weight=np.zeros(N, np.float32))
    _close(after, (mean, var), rtol=1e-6, atol=0)
    # Nor does it blow up what flows through, layer by layer.
    _close(y, _run(norm, x, scale, bias, train=False)[0], rtol=1e-6, atol=1e-6)
