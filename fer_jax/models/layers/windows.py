"""Sliding windows over images and volumes as whole-array slices.

XLA's CPU backend runs windowed reductions, their gradients and grouped convolutions many times
slower than the arithmetic takes. Here an array is padded once and the k-th element of every window
is one strided slice of it, so that pooling, depthwise convolution and what flows back through them
are elementwise expressions, which XLA fuses into vectorised loops.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

Padding = Literal["valid", "same"]


@dataclass(frozen=True)
class Windows:
    """Windows over the spatial axes of [N, *sizes, C], as TensorFlow and Keras place them.

    Attributes:
      sizes: of the input, one an axis.
      shape: of a window.
      strides: between windows.
      low: zeros (or -inf) before the input.
      counts: windows along each axis.
    """

    sizes: tuple[int, ...]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    low: tuple[int, ...]
    counts: tuple[int, ...]

    @property
    def high(self) -> tuple[int, ...]:
        """Padding after the input; negative where its end is in no window."""
        axes = zip(self.sizes, self.shape, self.strides, self.low, self.counts, strict=True)
        return tuple((count - 1) * s + w - low - size for size, w, s, low, count in axes)

    @property
    def padding(self) -> list[tuple[int, int]]:
        """Low and high of all N + 2 axes, none negative: what lax's windowed operations take."""
        inner = [(low, max(high, 0)) for low, high in zip(self.low, self.high, strict=True)]
        return [(0, 0), *inner, (0, 0)]

    @property
    def offsets(self) -> Iterable[tuple[int, ...]]:
        """Places in a window, in row-major order."""
        return itertools.product(*map(range, self.shape))

    def split(self, x: jax.Array, fill: float) -> list[jax.Array]:
        """[N, *sizes, C] -> for each offset [N, *counts, C]: that place of every window."""
        inner = [(low, high, 0) for low, high in zip(self.low, self.high, strict=True)]
        if any(map(any, inner)):
            x = lax.pad(x, jnp.asarray(fill, x.dtype), [(0, 0, 0), *inner, (0, 0, 0)])
        n, channels = x.shape[0], x.shape[-1]
        slices = []
        for offset in self.offsets:
            axes = zip(offset, self.counts, self.strides, strict=True)
            stop = [o + (count - 1) * s + 1 for o, count, s in axes]
            start, steps = (0, *offset, 0), (1, *self.strides, 1)
            slices.append(lax.slice(x, start, (n, *stop, channels), steps))
        return slices

    def join(self, part: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
        """The transpose of `split`: what every window gives its places, added up, [N, *sizes, C].

        Args:
          part: (k, *arrays) -> what the windows give their k-th place; elementwise, and zero where
            the arrays are.
          arrays: [N, *counts, C].
        """
        axes = list(zip(self.shape, self.strides, self.counts, strict=True))
        # The places that are alike modulo the stride, a phase, are dense: they get what slices of
        # the padded windows give them, and each phase is spread over the input once.
        blocks = [-(-((count - 1) * s + w) // s) for w, s, count in axes]
        room = [block - count for block, count in zip(blocks, self.counts, strict=True)]
        arrays = tuple(_pad(array, [(n, n, 0) for n in room]) for array in arrays)
        phases: dict[tuple[int, ...], jax.Array] = {}
        for k, offset in enumerate(self.offsets):
            phase = tuple(o % s for o, s in zip(offset, self.strides, strict=True))
            first = [n - o // s for n, o, s in zip(room, offset, self.strides, strict=True)]
            here = tuple(slice(at, at + block) for at, block in zip(first, blocks, strict=True))
            given = part(k, *(array[:, *here] for array in arrays))
            phases[phase] = phases[phase] + given if phase in phases else given

        def spread(phase: tuple[int, ...], x: jax.Array) -> jax.Array:
            axes = zip(phase, self.low, self.sizes, blocks, self.strides, strict=True)
            return _pad(
                x,
                [
                    (at - low, size + low - at - ((block - 1) * s + 1), s - 1)
                    for at, low, size, block, s in axes
                ],
            )

        return reduce(jnp.add, (spread(phase, x) for phase, x in phases.items()))


def _pad(x: jax.Array, inner: Sequence[tuple[int, int, int]]) -> jax.Array:
    """Zeros before, after and between the elements of the spatial axes."""
    if not any(map(any, inner)):
        return x
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *inner, (0, 0, 0)])


def windows(
    sizes: Sequence[int],
    shape: int | Sequence[int],
    strides: int | Sequence[int] | None,
    padding: Padding,
) -> Windows:
    """Windows over axes of `sizes`; an int stands for every axis, no strides for `shape`.

    Raises:
      ValueError: a window does not fit in the input.
    """
    dims = len(sizes)
    shape = (shape,) * dims if isinstance(shape, int) else tuple(shape)
    strides = shape if strides is None else strides
    strides = (strides,) * dims if isinstance(strides, int) else tuple(strides)
    low, counts = [], []
    for size, w, s in zip(sizes, shape, strides, strict=True):
        count = -(-size // s) if padding == "same" else (size - w) // s + 1
        if count < 1:
            raise ValueError(f"a window of {w} does not fit in {size} (padding valid)")
        low.append(max((count - 1) * s + w - size, 0) // 2 if padding == "same" else 0)
        counts.append(count)
    return Windows(tuple(sizes), shape, strides, tuple(low), tuple(counts))
