"""First values: distributions by their moments, and the same on every call."""

import jax
import numpy as np
import pytest

from fer_jax.models.layers.initializers import Dense, glorot_uniform, variance_scaling


def test_glorot_uniform_fills_keras_range():
    values = np.asarray(glorot_uniform(jax.random.key(1), (3, 3, 64, 128)))
    limit = np.sqrt(6 / (9 * (64 + 128)))
    assert np.abs(values).max() < limit
    assert values.min() < -0.999 * limit and values.max() > 0.999 * limit
    assert values.std() == pytest.approx(limit / np.sqrt(3), rel=0.01)
    assert abs(values.mean()) < 0.02 * limit
    # Each of 50 equal bins holds its share, neighbours are independent.
    counts, _ = np.histogram(values, 50, (-limit, limit))
    assert np.abs(counts / counts.mean() - 1).max() < 0.12
    assert abs(np.corrcoef(values.ravel()[:-1], values.ravel()[1:])[0, 1]) < 0.02


def test_he_normal_is_normal():
    from scipy import stats

    initialize = variance_scaling(2.0, "fan_out", "normal")
    values = np.asarray(initialize(jax.random.key(2), (3, 3, 32, 64)))
    scaled = values.ravel() / np.sqrt(2 / (9 * 64))
    assert stats.kstest(scaled, "norm").pvalue > 1e-3


def test_keys_decide():
    def draw(seed):
        return np.asarray(glorot_uniform(jax.random.key(seed), (5, 7)))

    np.testing.assert_array_equal(draw(3), draw(3))
    assert (draw(3) != draw(4)).all()
    keys = jax.random.split(jax.random.key(0), 3)
    mapped = jax.lax.map(lambda key: glorot_uniform(key, (5, 7)), keys)
    for key, row in zip(keys, np.asarray(mapped), strict=True):
        np.testing.assert_allclose(row, glorot_uniform(key, (5, 7)), rtol=1e-6)


def test_values_are_pinned():
    """A seed means the same network tomorrow."""
    from flax import nnx

    kernel = Dense(2, 2, rngs=nnx.Rngs(0)).kernel[...]
    assert kernel.shape == (2, 2)
    np.testing.assert_array_equal(kernel, Dense(2, 2, rngs=nnx.Rngs(0)).kernel[...])
    limit = np.sqrt(6 / 4)
    assert (np.abs(np.asarray(kernel)) < limit).all()
