"""First values of kernels: Keras's distributions, from a generator that compiles quickly.

JAX's own draws cost XLA a second or two of compilation for every shape (threefry), which a network
of a hundred layers pays at every start. Philox is one instruction of XLA's, the same on every
backend.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax


def _bits(key: jax.Array, shape: Sequence[int]) -> jax.Array:
    words = jax.random.key_data(key).reshape(-1)
    state = jnp.resize(words, (4,)) if words.size != 4 else words
    _, bits = lax.rng_bit_generator(
        state, shape, dtype=jnp.uint32, algorithm=lax.RandomAlgorithm.RNG_PHILOX
    )
    return bits


def variance_scaling(
    scale: float,
    mode: Literal["fan_in", "fan_avg", "fan_out"],
    distribution: Literal["uniform", "normal"],
) -> jax.nn.initializers.Initializer:
    """Variance scale / fan of a kernel [..., in, out] (He et al. 2015, Glorot & Bengio 2010)."""

    def initialize(
        key: jax.Array, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None
    ) -> jax.Array:
        del out_sharding  # Parameters are placed by the training, whole on every device.
        places = math.prod(shape[:-2])
        fan_in, fan_out = shape[-2] * places, shape[-1] * places
        fan = {"fan_in": fan_in, "fan_avg": (fan_in + fan_out) / 2, "fan_out": fan_out}[mode]
        # The middle of each of 2^23 equal steps of (-1, 1): never the ends.
        steps = (_bits(key, shape) >> 9).astype(jnp.float32)
        spread = (steps + 0.5) * 2.0**-22 - 1
        std = math.sqrt(scale / fan)
        values = (
            math.sqrt(3) * spread
            if distribution == "uniform"
            else math.sqrt(2) * lax.erf_inv(spread)
        )
        return (std * values).astype(dtype)

    return initialize


glorot_uniform = variance_scaling(1.0, "fan_avg", "uniform")
he_uniform = variance_scaling(2.0, "fan_in", "uniform")
#: By the name in a config.
INITIALIZERS = {"glorot": glorot_uniform, "he": he_uniform}


class Dense(nnx.Linear):
    """A fully connected layer with Keras's first values."""

    def __init__(
        self,
        features: int,
        units: int,
        *,
        kernel_init: jax.nn.initializers.Initializer = glorot_uniform,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(features, units, kernel_init=kernel_init, rngs=rngs)
