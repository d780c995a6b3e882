"""Dropout: its mask is that of an example's own key, and the gradient's too."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax.models.layers.dropout import dropout

RATE, LAYER = 0.3, 2


def drawn(key: jax.Array, size: int) -> np.ndarray:
    """What one example keeps, from the definition: 16 bits of a random word an element."""
    words = np.asarray(jax.random.bits(jax.random.fold_in(key, LAYER), ((size + 1) // 2,)))
    return words.view(np.uint16)[:size] >= round(RATE * 65536)


def test_forward_and_backward_keep_what_each_key_draws() -> None:
    keys = jax.random.split(jax.random.key(3), 4)
    x = jnp.arange(1.0, 5 * 4 * 7 + 1).reshape(5, 4, 7)
    kept = np.stack([drawn(key, 35).reshape(5, 7) for key in keys], axis=1)

    def apply(x: jax.Array) -> jax.Array:
        return dropout(x, RATE, train=True, key=keys, layer=LAYER, example_axis=1)

    expected = np.where(kept, np.asarray(x) * np.float32(1 / (1 - RATE)), 0)
    np.testing.assert_array_equal(jax.jit(apply)(x), expected)
    np.testing.assert_array_equal(apply(x), expected)
    several = jax.vmap(apply)(jnp.stack([x, 2 * x]))
    np.testing.assert_array_equal(several, np.stack([expected, 2 * expected]))
    slope = jax.jit(jax.grad(lambda x: jnp.sum(apply(x))))(x)
    np.testing.assert_array_equal(slope, np.where(kept, np.float32(1 / (1 - RATE)), 0))
