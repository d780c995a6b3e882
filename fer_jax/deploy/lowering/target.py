"""What a library's graph is made of: the operations that a function of JAX is written in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

#: A dimension: a number, or JAX's expression of the batch.
Dim = Any
Dims = tuple[Dim, ...]
#: A target's own tensor.
Tensor = Any
Pads = Sequence[tuple[int, int]]
#: (carries, one step of each sequence) -> (next carries, what to stack)
Step = Callable[[list[Tensor], list[Tensor]], tuple[list[Tensor], list[Tensor]]]

#: Operations on each element, which targets know by JAX's name, and `relu`.
UNARY = {
    "abs", "atan", "ceil", "erf", "exp", "floor", "is_finite", "log", "logistic", "neg", "not",
    "relu", "round", "rsqrt", "sign", "sqrt", "tanh",
}  # fmt: skip
BINARY = {
    "add", "and", "div", "eq", "ge", "gt", "le", "lt", "max", "min", "mul", "ne", "or", "pow",
    "sub",
}  # fmt: skip


class Target(Protocol):
    """What a graph is made of. Pictures are N, H, W, C (volumes N, D, H, W, C), kernels H, W, I, O;
    a dimension of -1 is the rest."""

    def constant(self, value: Any) -> Tensor: ...
    def unary(self, name: str, x: Tensor) -> Tensor: ...
    def binary(self, name: str, x: Tensor, y: Tensor) -> Tensor:
        """Shapes broadcast as NumPy's do."""
        ...

    def where(self, condition: Tensor, x: Tensor, y: Tensor) -> Tensor: ...
    def cast(self, x: Tensor, dtype: np.dtype) -> Tensor: ...
    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor: ...
    def broadcast(self, x: Tensor, shape: Sequence[tuple[int, bool]]) -> Tensor:
        """To so much a dimension, times the batch where True."""
        ...

    def transpose(self, x: Tensor, axes: Sequence[int]) -> Tensor: ...
    def slice(self, x: Tensor, parts: Mapping[int, tuple[int, int, int]]) -> Tensor:
        """The start, stop and step of some axes."""
        ...

    def concatenate(self, xs: Sequence[Tensor], axis: int) -> Tensor: ...
    def pad(self, x: Tensor, pads: Pads, value: np.ndarray) -> Tensor: ...
    def take(self, x: Tensor, index: Tensor, axis: int) -> Tensor: ...
    def take_each(self, x: Tensor, index: Tensor) -> Tensor:
        """Of each example: [B, N, ...] at i32[B, M] is [B, M, ...]."""
        ...

    def reduce(self, kind: str, x: Tensor, axes: Sequence[int]) -> Tensor: ...
    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """As NumPy's, of two or more dimensions."""
        ...

    def convolve(
        self,
        x: Tensor,
        kernel: np.ndarray | Tensor,
        strides: Sequence[int],
        pads: Pads,
        dilation: Sequence[int],
        groups: int,
    ) -> Tensor: ...
    def pool(
        self, kind: str, x: Tensor, window: Sequence[int], strides: Sequence[int], pads: Pads
    ) -> Tensor:
        """The "max" or "sum" of windows of H and W."""
        ...

    def scan(
        self,
        step: Step,
        length: int,
        carries: list[Tensor],
        xs: list[Tensor],
        blank: Callable[[], list[Tensor]],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As `lax.scan`: (last carries, stacked results). `blank` makes zeros of the latter."""
        ...


class CannotLowerError(Exception):
    """The function has an operation that no target is given."""
