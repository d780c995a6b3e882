"""Depthwise and separable convolutions against Keras, in both formulations."""

from functools import partial

import numpy as np
import pytest

CASES = [
    ((6, 7), 3, 1, "same"),
    ((6, 7), 3, 1, "valid"),
    ((6, 7), 3, 2, "same"),
    ((7, 8), 3, 2, "valid"),
    ((1, 2), 3, 1, "same"),
    ((9, 9), 5, 3, "same"),
]


@pytest.fixture(scope="module")
def depthwise():
    from fer_jax.models.layers import depthwise

    return depthwise


def _arrays(sizes, window, dtype="float32", channels=5, rows=6):
    import jax.numpy as jnp

    rng = np.random.default_rng(0)
    shapes = (rows, *sizes, channels), (window, window, channels, 1)
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


def _values_and_gradients(convolve, x, kernel):
    import jax
    import jax.numpy as jnp

    @jax.jit
    def run(x, kernel):
        y, back = jax.vjp(convolve, x, kernel)
        dy = np.random.default_rng(1).standard_normal(y.shape)
        return y, *back(jnp.asarray(dy, y.dtype))

    return run(x, kernel)


def _keras(x, kernel, strides, padding):
    import jax
    import keras

    with jax.numpy_rank_promotion("allow"):
        return keras.ops.depthwise_conv(x, kernel, strides, padding)


@pytest.mark.parametrize(("sizes", "window", "strides", "padding"), CASES)
def test_depthwise_conv_equals_keras(depthwise, monkeypatch, sizes, window, strides, padding):
    from fer_jax.models.layers.windows import windows

    x, kernel = _arrays(sizes, window)
    # The backward pass in two parts of three images.
    monkeypatch.setattr(depthwise, "_CHUNK_BYTES", 5 * x[0].nbytes)
    assert depthwise._rows_at_once(x) == 3
    reference = lambda x, kernel: _keras(x, kernel, strides, padding)  # noqa: E731
    expected = _values_and_gradients(reference, x, kernel)
    over = windows(sizes, window, strides, padding)
    for convolve in (
        partial(depthwise.depthwise_conv, strides=strides, padding=padding),
        partial(depthwise._grouped, over),
    ):
        for one, other in zip(_values_and_gradients(convolve, x, kernel), expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("strides", "padding"), [(1, "same"), (2, "valid")])
def test_bfloat16_is_rounded_once(depthwise, strides, padding):
    """Sums are made in float32: what is left is bfloat16's rounding, half of 2^-8."""
    import jax.numpy as jnp

    x, kernel = _arrays((7, 8), 3, "bfloat16")
    convolve = partial(depthwise.depthwise_conv, strides=strides, padding=padding)
    wide = _values_and_gradients(convolve, x.astype(jnp.float32), kernel.astype(jnp.float32))
    narrow = _values_and_gradients(convolve, x, kernel)
    assert {array.dtype for array in narrow} == {jnp.dtype("bfloat16")}
    np.testing.assert_allclose(np.float32(narrow[0]), wide[0], rtol=2**-8, atol=1e-6)
    for one, other in zip(narrow[1:], wide[1:], strict=True):
        # The cotangent was rounded as well.
        np.testing.assert_allclose(np.float32(one), other, rtol=2**-6, atol=0.1)


def test_platforms_get_their_own_formulation(depthwise):
    import jax

    loss = lambda x, kernel: (depthwise.depthwise_conv(x, kernel) ** 2).sum()  # noqa: E731
    traced = jax.jit(jax.grad(loss, (0, 1))).trace(*_arrays((6, 7), 3))
    assert "convolution" not in traced.lower(lowering_platforms=("cpu",)).as_text()
    for platform in ("cuda", "tpu"):
        assert "feature_group_count = 5" in traced.lower(lowering_platforms=(platform,)).as_text()
    x, kernel = _arrays((6, 7), 1)
    traced = jax.jit(depthwise.pointwise_conv).trace(x, kernel)
    for platform, product in (("cpu", "dot"), ("cuda", "dot"), ("tpu", "convolution")):
        lowered = traced.lower(lowering_platforms=(platform,)).as_text()
        assert f"stablehlo.{product}" in lowered, platform


def test_gradients_of_a_population_and_of_shards(depthwise):
    """Under shard_map x varies over the devices and the kernel does not."""
    import jax
    from jax.sharding import AxisType, PartitionSpec

    x, kernel = _arrays((6, 7), 3, rows=4)
    loss = lambda x, kernel: (depthwise.depthwise_conv(x, kernel) ** 2).sum()  # noqa: E731
    gradients = jax.grad(loss, (0, 1))
    expected = gradients(x, kernel)
    population = jax.vmap(gradients)(x[None], kernel[None])
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    rows, whole = PartitionSpec("data"), PartitionSpec()
    sharded = jax.shard_map(gradients, mesh=mesh, in_specs=(rows, whole), out_specs=(rows, whole))
    for one, other, third in zip(expected, population, jax.jit(sharded)(x, kernel), strict=True):
        np.testing.assert_allclose(other[0], one, rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(third, one, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("strides", [1, 2])
def test_pointwise_conv_equals_keras(depthwise, strides):
    import jax
    import keras

    x = _arrays((5, 6), 1)[0]
    kernel = np.random.default_rng(2).standard_normal((1, 1, 5, 4)).astype(np.float32)

    def reference(x, kernel):
        with jax.numpy_rank_promotion("allow"):
            return keras.ops.conv(x, kernel, strides, "same")

    expected = _values_and_gradients(reference, x, kernel)
    skipping = lambda convolve: lambda x, kernel: convolve(x[:, ::strides, ::strides], kernel)  # noqa: E731
    for convolve in (
        partial(depthwise.pointwise_conv, strides=strides),
        skipping(depthwise._of_pixels),
        skipping(depthwise._of_rows),
    ):
        for one, other in zip(_values_and_gradients(convolve, x, kernel), expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_separable_conv_equals_keras_with_the_same_weights(depthwise):
    import jax
    import keras
    from flax import nnx

    layer = depthwise.SeparableConv(5, 4, rngs=nnx.Rngs(0))
    params = nnx.to_pure_dict(nnx.state(layer, nnx.Param))
    assert {name: leaf.shape for name, leaf in params.items()} == {
        "depthwise_kernel": (3, 3, 5, 1),
        "pointwise_kernel": (1, 1, 5, 4),
    }
    x = _arrays((6, 7), 3)[0]
    with jax.numpy_rank_promotion("allow"):
        twin = keras.layers.SeparableConv2D(4, 3, padding="same", use_bias=False)
        twin.build(x.shape)
        twin.set_weights([params["depthwise_kernel"], params["pointwise_kernel"]])
        expected = twin(x)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-6)


def test_initial_weights_are_keras_glorot_uniform(depthwise):
    import keras
    from flax import nnx

    layer = depthwise.SeparableConv(60, 80, rngs=nnx.Rngs(0))
    twin = keras.layers.SeparableConv2D(80, 3, use_bias=False)
    twin.build((None, 6, 6, 60))
    for name in ("depthwise_kernel", "pointwise_kernel"):
        ours, theirs = np.asarray(getattr(layer, name)[...]), np.asarray(getattr(twin, name))
        assert abs(ours).max() == pytest.approx(abs(theirs).max(), rel=0.02)
        assert ours.std() == pytest.approx(theirs.std(), rel=0.1)
