"""The nodes and constants of an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from fer_jax.deploy.lowering.target import Pads, Step

#: onnxruntime reads it since 1.14 (February 2023).
OPSET = 18
_UNARY = {
    "abs": "Abs", "atan": "Atan", "ceil": "Ceil", "erf": "Erf", "exp": "Exp", "floor": "Floor",
    "log": "Log", "logistic": "Sigmoid", "neg": "Neg", "not": "Not", "relu": "Relu",
    "round": "Round", "sign": "Sign", "sqrt": "Sqrt", "tanh": "Tanh",
}  # fmt: skip
_BINARY = {
    "add": "Add", "and": "And", "div": "Div", "eq": "Equal", "ge": "GreaterOrEqual",
    "gt": "Greater", "le": "LessOrEqual", "lt": "Less", "max": "Max", "min": "Min", "mul": "Mul",
    "or": "Or", "pow": "Pow", "sub": "Sub",
}  # fmt: skip


class Graph:
    """Nodes and constants of a graph; a loop's body reads those around it by their names."""

    def __init__(self, first: str) -> None:
        """Args: first: the input that tells the size of a batch."""
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._first, self._batch = first, ""
        self._known: dict[tuple[Any, ...], str] = {}
        self._count = 0

    def _name(self) -> str:
        self._count += 1
        return f"t{self._count}"

    def _add(self, operation: str, *inputs: str, **attributes: Any) -> str:
        name = self._name()
        self.nodes.append(helper.make_node(operation, list(inputs), [name], **attributes))
        return name

    def _numbers(self, numbers: Sequence[int]) -> str:
        return self.constant(np.asarray(numbers, np.int64))

    def constant(self, value: Any) -> str:
        value = np.ascontiguousarray(value).reshape(np.shape(value))
        # Layers may share one, the numbers of shapes above all.
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._known:
            self._known[key] = self._name()
            self.constants.append(numpy_helper.from_array(value, self._known[key]))
        return self._known[key]

    def unary(self, name: str, x: str) -> str:
        if name == "rsqrt":
            return self._add("Reciprocal", self._add("Sqrt", x))
        if name == "is_finite":
            return self._add("Not", self._add("Or", self._add("IsNaN", x), self._add("IsInf", x)))
        return self._add(_UNARY[name], x)

    def binary(self, name: str, x: str, y: str) -> str:
        if name == "ne":
            return self._add("Not", self._add("Equal", x, y))
        return self._add(_BINARY[name], x, y)

    def where(self, condition: str, x: str, y: str) -> str:
        return self._add("Where", condition, x, y)

    def cast(self, x: str, dtype: np.dtype) -> str:
        return self._add("Cast", x, to=helper.np_dtype_to_tensor_dtype(dtype))

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        return self._add("Reshape", x, self._numbers(shape))

    def broadcast(self, x: str, shape: Sequence[tuple[int, bool]]) -> str:
        if not any(free for _, free in shape):
            return self._add("Expand", x, self._numbers([number for number, _ in shape]))
        parts = [
            self._add("Mul", self._size(), self._numbers([number]))
            if free
            else self._numbers([number])
            for number, free in shape
        ]
        return self._add("Expand", x, self._add("Concat", *parts, axis=0))

    def _size(self) -> str:
        """The batch, i64[1], computed once."""
        if not self._batch:
            self._batch = self._add("Shape", self._first, start=0, end=1)
        return self._batch

    def transpose(self, x: str, axes: Sequence[int]) -> str:
        return self._add("Transpose", x, perm=list(axes))

    def slice(self, x: str, parts: Mapping[int, tuple[int, int, int]]) -> str:
        starts, stops, steps = zip(*parts.values(), strict=True)
        return self._add("Slice", x, *map(self._numbers, (starts, stops, list(parts), steps)))

    def concatenate(self, xs: Sequence[str], axis: int) -> str:
        return self._add("Concat", *xs, axis=axis)

    def pad(self, x: str, pads: Pads, value: np.ndarray) -> str:
        return self._add("Pad", x, self._numbers(_sides(pads)), self.constant(value))

    def take(self, x: str, index: str, axis: int) -> str:
        return self._add("Gather", x, index, axis=axis)

    def take_each(self, x: str, index: str) -> str:
        places = self._add("Unsqueeze", self.cast(index, np.dtype(np.int64)), self._numbers([2]))
        return self._add("GatherND", x, places, batch_dims=1)

    def reduce(self, kind: str, x: str, axes: Sequence[int]) -> str:
        over = self._numbers(axes)
        if kind in ("and", "or"):
            number = self.cast(x, np.dtype(np.int32))
            name = "ReduceMin" if kind == "and" else "ReduceMax"
            return self.cast(self._add(name, number, over, keepdims=0), np.dtype(bool))
        return self._add(f"Reduce{kind.title()}", x, over, keepdims=0)

    def matmul(self, x: str, y: str) -> str:
        return self._add("MatMul", x, y)

    def convolve(
        self,
        x: str,
        kernel: np.ndarray | str,
        strides: Sequence[int],
        pads: Pads,
        dilation: Sequence[int],
        groups: int,
    ) -> str:
        rank = len(strides)
        turn = [rank + 1, rank, *range(rank)]
        if isinstance(kernel, np.ndarray):
            weights = self.constant(kernel.transpose(turn))
        else:
            weights = self.transpose(kernel, turn)
        made = self._add(
            "Conv",
            self._channels_first(x, rank),
            weights,
            strides=list(strides),
            pads=_sides(pads),
            dilations=list(dilation),
            group=groups,
        )
        return self._channels_last(made, rank)

    def pool(
        self, kind: str, x: str, window: Sequence[int], strides: Sequence[int], pads: Pads
    ) -> str:
        how = {"kernel_shape": list(window), "strides": list(strides), "pads": _sides(pads)}
        x = self._channels_first(x, 2)
        if kind == "max":
            return self._channels_last(self._add("MaxPool", x, **how), 2)
        mean = self._add("AveragePool", x, count_include_pad=1, **how)
        total = self.binary("mul", mean, self.constant(np.float32(np.prod(window))))
        return self._channels_last(total, 2)

    def _channels_first(self, x: str, rank: int) -> str:
        return self.transpose(x, [0, rank + 1, *range(1, rank + 1)])

    def _channels_last(self, x: str, rank: int) -> str:
        return self.transpose(x, [0, *range(2, rank + 2), 1])

    def scan(
        self, step: Step, length: int, carries: list[str], xs: list[str], blank: Any
    ) -> tuple[list[str], list[str]]:
        self._size()  # A loop's body reads it, but cannot be where it is made.
        around, self.nodes = self.nodes, []
        given = [self._name() for _ in (*carries, *xs)]
        after, stacked = step(given[: len(carries)], given[len(carries) :])
        # A body's results are its own, each by a name of its own.
        results = [self._add("Identity", name) for name in (*after, *stacked)]
        body = helper.make_graph(
            self.nodes,
            "body",
            [helper.make_empty_tensor_value_info(name) for name in given],
            [helper.make_empty_tensor_value_info(name) for name in results],
        )
        self.nodes = around
        names = [self._name() for _ in results]
        scan = helper.make_node("Scan", [*carries, *xs], names, num_scan_inputs=len(xs), body=body)
        self.nodes.append(scan)
        return names[: len(carries)], names[len(carries) :]


def _sides(pads: Pads) -> list[int]:
    return [low for low, _ in pads] + [high for _, high in pads]
