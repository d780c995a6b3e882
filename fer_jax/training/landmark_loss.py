"""The error of localised facial landmarks."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def landmark_error(predicted: jax.Array, truth: jax.Array) -> jax.Array:
    """Mean distance of the 68 points in inter-pupil distances: f[B, 68, 2] twice to f[B].

    A pupil is the mean of an eye's six points in `truth`. The gradient is zero for a point that
    lies where it should; a truth without eyes (an example that only fills its batch) gives a huge
    but finite error. Source: docs/reproduction.md 4.3.
    """
    squares = jnp.sum(jnp.square(predicted - truth), axis=-1)
    apart = squares > 0  # The root's slope at 0 is infinite, and an infinity times 0 is no number.
    distances = jnp.where(apart, jnp.sqrt(jnp.where(apart, squares, 1)), 0)
    pupils = jnp.mean(truth[:, 36:42], axis=1) - jnp.mean(truth[:, 42:48], axis=1)
    scale = jnp.sqrt(jnp.sum(jnp.square(pupils), axis=-1))
    return jnp.mean(distances, axis=-1) / jnp.maximum(scale, 1e-6)
