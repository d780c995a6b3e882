"""Multi-dimensional spatial pyramid pooling against a loop over its bins."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.models.layers.mspp import adaptive_max_pool, mspp

SIZES = [(1, 1), (3, 5), (7, 7), (16, 8), (14, 9)]


def _bins(size, bins):
    return [(math.floor(i * size / bins), math.ceil((i + 1) * size / bins)) for i in range(bins)]


def _loop(x, bins):
    """The pooled maps, and the gradient of their sum weighted by `_weights`, bin by bin."""
    frames, height, width, channels = x.shape
    pooled, gradient = np.empty((frames, bins, bins, channels), x.dtype), np.zeros_like(x)
    weights = _weights(pooled.shape)
    for frame in range(frames):
        for channel in range(channels):
            for i, (top, bottom) in enumerate(_bins(height, bins)):
                for j, (left, right) in enumerate(_bins(width, bins)):
                    window = x[frame, top:bottom, left:right, channel]
                    pooled[frame, i, j, channel] = window.max()
                    row, column = np.unravel_index(window.argmax(), window.shape)
                    weight = weights[frame, i, j, channel]
                    gradient[frame, top + row, left + column, channel] += weight
    return pooled, gradient


def _weights(shape):
    return np.cos(np.arange(math.prod(shape), dtype=np.float32)).reshape(shape)


def _maps(*shape):
    # No two values of a map are equal: the gradient has one place to go.
    values = np.random.default_rng(0).permutation(math.prod(shape)).reshape(shape)
    return values.astype(np.float32) / 7


@pytest.mark.parametrize("bins", [2, 4, 8])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pooling_and_gradient_equal_a_loop_over_bins(size, bins):
    x = _maps(2, *size, 3)

    def pool(x):
        pooled = adaptive_max_pool(x, bins)
        return jnp.sum(pooled * _weights(pooled.shape)), pooled

    gradient, pooled = jax.jit(jax.grad(pool, has_aux=True))(x)
    expected, expected_gradient = _loop(x, bins)
    np.testing.assert_array_equal(pooled, expected)
    # A pixel of several bins sums their weights in some order.
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-6, atol=1e-6)


def test_bins_of_seven_pixels_overlap():
    ramp = jnp.arange(7.0).reshape(7, 1, 1) * jnp.ones((1, 7, 1))
    last, first = adaptive_max_pool(ramp, 4), -adaptive_max_pool(-ramp, 4)
    assert last[:, 0, 0].tolist() == [1, 3, 5, 6]
    assert first[:, 0, 0].tolist() == [0, 1, 3, 5]
    assert adaptive_max_pool(ramp, 8)[:, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 6]


@pytest.mark.parametrize("size", [8, 7])
def test_equal_maxima_share_the_gradient(size):
    gradient = jax.grad(lambda x: jnp.sum(adaptive_max_pool(x, 4)))(jnp.ones((size, size, 1)))
    assert (gradient > 0).all()
    np.testing.assert_allclose(gradient.sum(), 16, rtol=1e-6)


def test_vectors_have_one_length_whatever_the_map():
    for size in SIZES:
        x = jax.ShapeDtypeStruct((2, 5, *size, 3), jnp.bfloat16)
        vector = jax.eval_shape(lambda x: mspp(x, 4), x)
        assert vector.shape == (2, 5, 48) and vector.dtype == x.dtype
        vector = jax.eval_shape(lambda x: mspp(x, 4, channel_max=True), x)
        assert vector.shape == (2, 5, 16) and vector.dtype == x.dtype


def test_a_vector_lists_rows_columns_channels():
    x = _maps(5, 7, 9, 3)
    expected, _ = _loop(x, 4)
    np.testing.assert_array_equal(mspp(x, 4), expected.reshape(5, -1))
    np.testing.assert_array_equal(mspp(x, 4, channel_max=True), expected.max(-1).reshape(5, -1))
