"""Dropout from explicit keys, one an example."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

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

    least, scale = rate.value if isinstance(rate, Given) else rate_values(rate)

    def keep(keys: jax.Array) -> jax.Array:
        return jnp.moveaxis(jax.vmap(draw)(keys), 0, example_axis) >= least

    kept = lax.platform_dependent(keys, cpu=partial(_once, keep), default=keep)
    return jnp.where(kept, x * jnp.asarray(scale, x.dtype), jnp.zeros_like(x))


def _once(make: Callable[[jax.Array], jax.Array], keys: jax.Array) -> jax.Array:
    """`make(keys)`, a mask, as the result of a branch that is always taken.

    XLA's CPU compiler draws a mask again for everything that reads it, forward and backward, which
    made 40 % of paper 5's train step; past a barrier too, which it removes before it fuses. What a
    branch gives is made once. The condition is true, but only we know.
    """
    shape = jax.eval_shape(make, keys)
    taken = (jax.random.key_data(keys).reshape(-1)[0] | 1) != 0
    return lax.cond(taken, make, lambda _: jnp.zeros(shape.shape, shape.dtype), keys)
