"""Dropout from explicit keys, one an example."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fer_jax.config import Given, off


def rate_values(rate: float) -> tuple[np.uint16, np.float32]:
    """What `dropout` computes with: the least 16-bit word that keeps, and the scale."""
    least = min(math.floor(rate * 65536 + 0.5), 65535)
    return np.uint16(least), np.float32(1 / (1 - rate))


def dropout(
    x: jax.Array,
    rate: float | Given,
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
      rate: a number, or `Given` its `rate_values`.
      train: without it, or at rate 0, x comes back as it is.
      key: one key an example, [B]: an example's mask then depends on nothing else, so a batch may
        lie on any number of devices; or one key, which is folded with each example's place.
      layer: sets a network's layers apart that share a key.
    """
    if not train or off(rate):
        return x
    count = x.shape[example_axis]
    keys = key if key.ndim else jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))
    shape = x.shape[:example_axis] + x.shape[example_axis + 1 :]
    size = math.prod(shape)

    def draw(key: jax.Array) -> jax.Array:
        words = jax.random.bits(jax.random.fold_in(key, layer), ((size + 1) // 2,), jnp.uint32)
        return lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[:size].reshape(shape)

    halves = jnp.moveaxis(jax.vmap(draw)(keys), 0, example_axis)
    least, scale = rate.value if isinstance(rate, Given) else rate_values(rate)
    return jnp.where(halves >= least, x * jnp.asarray(scale, x.dtype), jnp.zeros_like(x))
