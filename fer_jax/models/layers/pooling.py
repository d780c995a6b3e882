"""Pooling of images and volumes, channels last, as Keras does it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fer_jax.models.layers.windows import Padding, Windows, windows


def max_pool(
    x: jax.Array,
    window: int | Sequence[int],
    strides: int | Sequence[int] | None = None,
    padding: Padding = "valid",
) -> jax.Array:
    """The maximum of each window.

    Its gradient goes to the maximum; among equals to the first in row-major order, on every
    platform (XLA's and Keras's choice).

    Args:
      x: [N, *sizes, C] of any number of spatial axes.
      window: its size, one an axis or one for all.
      strides: `window` by default.
      padding: "same" as TensorFlow's, where the odd one out pads the end.

    Raises:
      ValueError: a window does not fit in x.
    """
    over = windows(x.shape[1:-1], window, strides, padding)
    return lax.platform_dependent(
        x, cpu=partial(_max_of_slices, over), default=partial(_max_of_windows, over)
    )


def average_pool(
    x: jax.Array,
    window: int | Sequence[int],
    strides: int | Sequence[int] | None = None,
    padding: Padding = "valid",
) -> jax.Array:
    """The mean of each window's elements; padding is not counted. See `max_pool`."""
    over = windows(x.shape[1:-1], window, strides, padding)
    total = lax.platform_dependent(
        x, cpu=partial(_sum_of_slices, over), default=partial(_sum_of_windows, over)
    )
    counted = np.ones(())
    for axis in zip(over.sizes, over.shape, over.strides, over.low, over.counts, strict=True):
        size, w, s, low, count = axis
        start = np.arange(count) * s - low
        real = np.minimum(start + w, size) - np.maximum(start, 0)
        counted = counted[..., None] * real
    return total * jnp.asarray(1 / counted, x.dtype)[None, ..., None]


def global_average_pool(x: jax.Array) -> jax.Array:
    """[N, ..., C] -> [N, C]."""
    return jnp.mean(x, axis=tuple(range(1, x.ndim - 1)))


def global_max_pool(x: jax.Array) -> jax.Array:
    """[N, ..., C] -> [N, C]; the gradient is shared among equal maxima."""
    return jnp.max(x, axis=tuple(range(1, x.ndim - 1)))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _max_of_slices(over: Windows, x: jax.Array) -> jax.Array:
    return reduce(jnp.maximum, over.split(x, -jnp.inf))


def _max_forward(over: Windows, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    parts = over.split(x, -jnp.inf)
    y = reduce(jnp.maximum, parts)
    # Where in its window the maximum is: a byte an element to keep, rather than x and y.
    kind = np.min_scalar_type(len(parts))
    first = jnp.full(y.shape, len(parts) - 1, kind)
    for k in range(len(parts) - 2, -1, -1):
        first = jnp.where(parts[k] == y, jnp.asarray(k, kind), first)
    return y, first


def _max_backward(over: Windows, first: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    def part(k: int, first: jax.Array, dy: jax.Array) -> jax.Array:
        return jnp.where(first == k, dy, jnp.zeros_like(dy))

    return (over.join(part, first, dy),)


_max_of_slices.defvjp(_max_forward, _max_backward)


def _max_of_windows(over: Windows, x: jax.Array) -> jax.Array:
    shape, strides = (1, *over.shape, 1), (1, *over.strides, 1)
    low = np.asarray(-np.inf, x.dtype)  # concrete: of a tracer JAX knows no gradient
    return lax.reduce_window(x, low, lax.max, shape, strides, over.padding)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sum_of_slices(over: Windows, x: jax.Array) -> jax.Array:
    return sum(over.split(x, 0.0), jnp.zeros((), x.dtype))


def _sum_forward(over: Windows, x: jax.Array) -> tuple[jax.Array, None]:
    return _sum_of_slices(over, x), None


def _sum_backward(over: Windows, kept: None, dy: jax.Array) -> tuple[jax.Array]:
    del kept
    return (over.join(lambda k, dy: dy, dy),)


_sum_of_slices.defvjp(_sum_forward, _sum_backward)


def _sum_of_windows(over: Windows, x: jax.Array) -> jax.Array:
    shape, strides = (1, *over.shape, 1), (1, *over.strides, 1)
    return lax.reduce_window(x, np.zeros((), x.dtype), lax.add, shape, strides, over.padding)
