"""Dropout from an explicit key."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax


def dropout(x: jax.Array, rate: float, *, train: bool, key: jax.Array, layer: int = 0) -> jax.Array:
    """Zeroes each element with probability `rate` and scales the rest by 1 / (1 - rate).

    The probability is met to 16 bits: each 32-bit random word serves two elements, which halves
    the cost of threefry. Without `train`, or at rate 0, x comes back as it is. `layer` sets a
    network's layers apart that share a key.
    """
    if not train or rate == 0:
        return x
    words = jax.random.bits(jax.random.fold_in(key, layer), ((x.size + 1) // 2,), jnp.uint32)
    halves = lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[: x.size].reshape(x.shape)
    kept = halves >= jnp.uint16(min(math.floor(rate * 65536 + 0.5), 65535))
    return jnp.where(kept, x * (1 / (1 - rate)), jnp.zeros_like(x))
