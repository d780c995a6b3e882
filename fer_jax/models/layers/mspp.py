"""Multi-dimensional spatial pyramid pooling: maps of any size become vectors of one size."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def adaptive_max_pool(x: jax.Array, bins: int) -> jax.Array:
    """The maximum of each of bins x bins regions of a map, whatever its size.

    Bin i of `bins` spans floor(i * size / bins) to ceil((i + 1) * size / bins): bins are equal
    where `bins` divides the size, and otherwise share edges, also where there are more of them
    than pixels. The gradient is shared among equal maxima.

    Args:
      x: [..., H, W, C].

    Returns:
      [..., bins, bins, C].
    """
    *outer, height, width, channels = x.shape
    if height % bins == 0 and width % bins == 0:
        inner = (bins, height // bins, bins, width // bins, channels)
        return jnp.max(x.reshape(*outer, *inner), axis=(-4, -2))
    return _pool_axis(_pool_axis(x, x.ndim - 3, bins), x.ndim - 2, bins)


def _pool_axis(x: jax.Array, axis: int, bins: int) -> jax.Array:
    size = x.shape[axis]
    edges = [(i * size // bins, -(-(i + 1) * size // bins)) for i in range(bins)]
    before = (slice(None),) * axis
    return jnp.stack([jnp.max(x[(*before, slice(*edge))], axis) for edge in edges], axis)


def mspp(x: jax.Array, bins: int, *, channel_max: bool = False) -> jax.Array:
    """The feature vector of each map, whose length does not depend on the map's size.

    Args:
      x: [..., H, W, C].
      channel_max: take the maximum over channels too.

    Returns:
      [..., bins * bins * C], or [..., bins * bins] with `channel_max`.

    Source: zennou2023, section 3 (MSPP-stand); docs/reproduction.md 3.5.
    """
    if channel_max:
        x = jnp.max(x, axis=-1, keepdims=True)
    pooled = adaptive_max_pool(x, bins)
    return pooled.reshape(*pooled.shape[:-3], -1)
