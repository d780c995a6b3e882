"""Batch normalisation whose statistics span all devices and leave padding out."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax


class BatchNorm(nnx.Module):
    """Batch normalisation (Ioffe & Szegedy 2015) with Keras's arithmetic, in float32.

    Attributes:
      axis: the mapped axis over whose devices a batch spreads; None where it lies on one.
      frozen: use the averages in training too, and leave them as they are (Keras's
        `trainable = False`).
    """

    def __init__(
        self,
        features: int,
        *,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        scale: bool = True,
        rngs: nnx.Rngs,
    ) -> None:
        del rngs  # Every layer takes one; nothing here is random.
        self.momentum, self.epsilon = momentum, epsilon
        self.axis: str | None = None
        self.frozen = False
        self.scale = nnx.Param(jnp.ones(features)) if scale else None
        self.bias = nnx.Param(jnp.zeros(features))
        self.mean = nnx.BatchStat(jnp.zeros(features))
        self.var = nnx.BatchStat(jnp.ones(features))

    def __call__(self, x: jax.Array, *, train: bool, weight: jax.Array | None = None) -> jax.Array:
        """Normalises each channel.

        Args:
          x: [N, ..., C].
          train: use the batch's own mean and variance, and move the averages towards them.
          weight: f32[N], 0 for rows that only fill the batch: they are normalised, not counted.
        """
        mean, var = self.mean[...], self.var[...]
        if train and not self.frozen:
            own = self._moments(x.astype(jnp.float32), weight)
            # A part of a batch may be nothing but padding: that says nothing of the data.
            mean, var = (jnp.where(own[2] > 0, *pair) for pair in ((own[0], mean), (own[1], var)))
            keep = self.momentum
            for average, value in ((self.mean, mean), (self.var, var)):
                # Not [...] =, which would write into the caller's array if it is NumPy's.
                average.set_value(keep * average[...] + (1 - keep) * lax.stop_gradient(value))
        factor = lax.rsqrt(var + self.epsilon)
        if self.scale is not None:
            factor = factor * self.scale[...]
        offset = self.bias[...] - mean * factor
        row = (1,) * (x.ndim - 1) + (-1,)
        return (x * factor.reshape(row) + offset.reshape(row)).astype(x.dtype)

    def _moments(self, x: jax.Array, weight: jax.Array | None) -> tuple[jax.Array, ...]:
        """Mean and variance f32[C] over every axis but the last, and over the devices; f32[], how
        many rows they are of."""
        inner = tuple(range(1, x.ndim - 1))

        def total(values: jax.Array) -> jax.Array:
            sums = jnp.sum(values, inner)
            return jnp.sum(sums if weight is None else sums * weight[:, None], 0)

        def over_devices(values: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            return values if self.axis is None else lax.psum(values, self.axis)

        rows = jnp.asarray(x.shape[0] if weight is None else jnp.sum(weight), jnp.float32)
        sums, rows = over_devices((total(x), rows))
        count = jnp.maximum(rows * math.prod(x.shape[1:-1]), 1)
        mean = sums / count
        # In two passes: E[x^2] - E[x]^2 in one loses the variance where the mean is large. What
        # the squares' gradient would send through the mean adds up to zero, so it is not asked for.
        centred = x - lax.stop_gradient(mean).reshape((1,) * (x.ndim - 1) + (-1,))
        (squares,) = over_devices((total(jnp.square(centred)),))
        return mean, squares / count, rows
