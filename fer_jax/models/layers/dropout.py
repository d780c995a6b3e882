"""Dropout from explicit keys, one an example."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax


def dropout(
    x: jax.Array,
    rate: float,
    *,
    train: bool,
    key: jax.Array,
    layer: int = 0,
    example_axis: int = 0,
) -> jax.Array:
    """Zeroes each element with probability `rate` and scales the rest by 1 / (1 - rate).

    The probability is met to 16 bits: each 32-bit random word serves two elements, which halves
    the cost of threefry.

    Args:
      x: any shape with B examples along `example_axis`.
      train: without it, or at rate 0, x comes back as it is.
      key: one key an example, [B]: an example's mask then depends on nothing else, so a batch may
        lie on any number of devices; or one key, which is folded with each example's place.
      layer: sets a network's layers apart that share a key.
    """
    if not train or rate == 0:
        return x
    count = x.shape[example_axis]
    keys = key if key.ndim else jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))
    shape = x.shape[:example_axis] + x.shape[example_axis + 1 :]
    size = math.prod(shape)

    def draw(key: jax.Array) -> jax.Array:
        words = jax.random.bits(jax.random.fold_in(key, layer), ((size + 1) // 2,), jnp.uint32)
        return lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[:size].reshape(shape)

    halves = jnp.moveaxis(jax.vmap(draw)(keys), 0, example_axis)
    kept = halves >= jnp.uint16(min(math.floor(rate * 65536 + 0.5), 65535))
    return jnp.where(kept, x * (1 / (1 - rate)), jnp.zeros_like(x))
