"""The convolution of clips against XLA's own, whichever way it is computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fer_jax.models.layers import conv3d as layer


def _lax(x, kernel):
    dimensions = ("NDHWC", "DHWIO", "NDHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1, 1), "SAME", dimension_numbers=dimensions)


def _value_and_gradients(conv, x, kernel):
    def objective(x, kernel):
        y = conv(x, kernel)
        return jnp.sum(y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)), y

    (_, y), gradients = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)(x, kernel)
    return y, *gradients


@pytest.mark.parametrize("way", ["_of_taps", "_of_stacks", "conv3d"])
@pytest.mark.parametrize(
    ("frames", "depth", "channels"), [(1, 3, 3), (2, 3, 20), (5, 3, 3), (2, 5, 20)]
)
def test_values_and_gradients_equal_xlas(way, frames, depth, channels):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, frames, 6, 5, channels)).astype(np.float32)
    kernel = rng.standard_normal((depth, 3, 3, channels, 4)).astype(np.float32)
    run = jax.jit(_value_and_gradients, static_argnums=0)
    results = run(getattr(layer, way), x, kernel), run(_lax, x, kernel)
    for one, other in zip(*results, strict=True):
        # float32 sums of up to 540 products in another order
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-5)


def test_taps_that_see_only_padding_get_no_gradient():
    x, kernel = jnp.ones((1, 1, 4, 4, 2)), jnp.ones((3, 3, 3, 2, 2))
    gradient = jax.grad(lambda kernel: layer.conv3d(x, kernel).sum())(kernel)
    assert (gradient[1] != 0).all() and not gradient[0].any() and not gradient[2].any()


def test_the_lowering_follows_the_platform():
    x, kernel = jnp.ones((1, 3, 4, 4, 2)), jnp.ones((3, 3, 3, 2, 2))
    gradients = jax.jit(jax.grad(lambda *args: layer.conv3d(*args).sum(), argnums=(0, 1)))
    for platform in ("cpu", "cuda", "tpu"):
        text = gradients.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
        assert text.count("stablehlo.convolution") >= 2
        assert ("dim_numbers = [b, 0, 1, f]" in text) == (platform == "cpu")
