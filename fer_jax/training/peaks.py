"""What a device can do at best: the roofline that speeds are compared with."""

from __future__ import annotations

import time
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Peak(NamedTuple):
    """Of one device."""

    flops: float
    """Operations a second of dense matrix products; a multiply-add is 2."""
    bytes: float
    """Bytes a second of its memory."""


#: By the beginning of JAX's device kind, the first that fits: bfloat16 products, float32 ones (TF32
#: on NVIDIA; a TPU makes them of bfloat16 passes), memory. Sources: NVIDIA's datasheets, without
#: sparsity; Google Cloud's TPU pages.
_DATASHEETS: tuple[tuple[str, float, float, float], ...] = (
    ("NVIDIA B200", 2250e12, 1125e12, 8.0e12),
    ("NVIDIA H200", 989e12, 494e12, 4.8e12),
    ("NVIDIA H100 PCIe", 756e12, 378e12, 2.0e12),
    ("NVIDIA H100", 989e12, 494e12, 3.35e12),
    ("NVIDIA A100-SXM4-40GB", 312e12, 156e12, 1.555e12),
    ("NVIDIA A100", 312e12, 156e12, 2.0e12),
    ("NVIDIA L40S", 362e12, 183e12, 0.864e12),
    ("NVIDIA L4", 121e12, 60e12, 0.3e12),
    ("NVIDIA A10", 125e12, 62e12, 0.6e12),
    ("Tesla V100", 125e12, 15.7e12, 0.9e12),
    ("Tesla T4", 65e12, 8.1e12, 0.32e12),
    ("TPU v6", 918e12, 918e12, 1.64e12),
    ("TPU v5 lite", 197e12, 197e12, 0.819e12),
    ("TPU v5", 459e12, 459e12, 2.765e12),
    ("TPU v4", 275e12, 275e12, 1.2e12),
)


def peak(device: Any, precision: str = "float32", devices: int = 1) -> Peak | None:
    """The peak of a JAX device: of its datasheet, or for a CPU measured, its share of the cores.

    Args:
      precision: of the products, "float32" or "bfloat16".
      devices: that work at the same time.

    Returns:
      None for a device that nobody listed.
    """
    if device.platform == "cpu":
        best = _measured()
        return Peak(best.flops / devices, best.bytes / devices)
    return datasheet(device.device_kind, precision)


def datasheet(kind: str, precision: str = "float32") -> Peak | None:
    """The peak of JAX's device kind; None of one that nobody listed."""
    for beginning, bfloat16, float32, memory in _DATASHEETS:
        if kind.startswith(beginning):
            return Peak(bfloat16 if precision == "bfloat16" else float32, memory)
    return None


@cache
def _measured() -> Peak:
    """The best of some products f32[1024, 1024], and of some sums over 64 MiB, on one device of the
    CPU, which has all cores while the others are idle."""
    side, numbers = 1024, 1 << 24
    product = _least(jax.jit(lambda x: x @ x), jnp.ones((side, side)))
    return Peak(2 * side**3 / product, 4 * numbers / _least(jax.jit(jnp.sum), jnp.ones(numbers)))


def _least(function: Any, argument: jax.Array, times: int = 8) -> float:
    jax.block_until_ready(function(argument))
    seconds = []
    for _ in range(times):
        begun = time.perf_counter()
        jax.block_until_ready(function(argument))
        seconds.append(time.perf_counter() - begun)
    return min(seconds)
