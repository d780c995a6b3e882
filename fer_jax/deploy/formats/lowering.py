"""A function of JAX as calls of another library's operations: what ONNX and TensorFlow are given.

JAX's own way to TensorFlow is no more, and no converter reads all of our networks. So the traced
function (jaxpr) is walked here, once for every target: calls are inlined, what does not depend on
the inputs is computed by JAX, and the rest becomes calls of a `Target`, which has about twenty
operations. Where a layer has a form of its own for one platform, the general one is taken.

The batch stays free: JAX traces with a symbolic size, and every dimension is a number or so many
times the batch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any, Protocol

import jax
import numpy as np
from jax import export
from jax.extend import core
from jax.lax import GatherScatterMode

#: A dimension: a number, or JAX's expression of the batch.
Dim = Any
Dims = tuple[Dim, ...]
#: A target's own tensor.
Tensor = Any
Pads = Sequence[tuple[int, int]]
#: (carries, one step of each sequence) -> (next carries, what to stack)
Step = Callable[[list[Tensor], list[Tensor]], tuple[list[Tensor], list[Tensor]]]

#: Operations on each element, which targets know by JAX's name, and `relu`.
UNARY = frozenset(
    "abs atan ceil erf exp floor is_finite log logistic neg not relu round rsqrt sign sqrt "
    "tanh".split()
)
BINARY = frozenset("add and div eq ge gt le lt max min mul ne or pow sub".split())
REDUCTIONS = {f"reduce_{kind}": kind for kind in ("sum", "max", "min", "and", "or")}
#: The most that LiteRT's fast kernels (XNNPACK) take.
_AXES = 6
_SAME = frozenset("copy copy_p name optimization_barrier reduce_precision stop_gradient".split())
_CALLS = {
    "jit": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}


class Target(Protocol):
    """What a graph is made of. Pictures are N, H, W, C (volumes N, D, H, W, C), kernels H, W, I, O;
    a dimension of -1 is the rest."""

    def constant(self, value: np.ndarray) -> Tensor: ...
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


@dataclasses.dataclass(frozen=True)
class _Value:
    """An array of a traced function. Its own shape has 1 where it is yet to be repeated: a bias is
    not written out for every example before it is added."""

    data: np.ndarray | Tensor
    shape: Dims

    @property
    def known(self) -> bool:
        return isinstance(self.data, np.ndarray)


def lower(
    function: Callable[..., Mapping[str, jax.Array]],
    variables: Any,
    inputs: Mapping[str, jax.ShapeDtypeStruct],
    tensors: Mapping[str, Tensor],
    target: Target,
) -> dict[str, tuple[Tensor, jax.ShapeDtypeStruct]]:
    """What `function(variables, inputs)` gives, as tensors of `target`, and what they are like
    without the batch axis.

    Args:
      variables: nested dicts of arrays, which become constants.
      inputs: shape and dtype by name, without the batch axis.
      tensors: the target's, of the same names, [B, ...].

    Raises:
      CannotLowerError: the function has an operation that is not here.
    """
    (batch,) = export.symbolic_shape("batch")
    likes = {k: jax.ShapeDtypeStruct((batch, *v.shape), v.dtype) for k, v in inputs.items()}
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(variables, likes)
    known = [_known(leaf) for leaf in jax.tree.leaves(variables)]
    # A dict's leaves come sorted by name.
    given = [_Value(tensors[name], likes[name].shape) for name in sorted(likes)]
    walk = _Walk(target, batch)
    results = walk.closed(closed, [*known, *given])
    found = zip(sorted(shapes), results, strict=True)
    return {
        name: (
            walk.whole(value, shapes[name].shape),
            jax.ShapeDtypeStruct(shapes[name].shape[1:], shapes[name].dtype),
        )
        for name, value in found
    }


def _known(value: Any) -> _Value:
    array = np.asarray(value)
    return _Value(array, array.shape)


class _Walk:
    """The equations of a traced function, one after another."""

    def __init__(self, target: Target, batch: Dim) -> None:
        self.to, self.batch = target, batch

    def closed(self, closed: Any, values: Sequence[_Value]) -> list[_Value]:
        return self.jaxpr(closed.jaxpr, closed.consts, values)

    def jaxpr(self, jaxpr: Any, consts: Sequence[Any], values: Sequence[_Value]) -> list[_Value]:
        used = _used(jaxpr)
        # Unused ones may be random keys, which are no arrays.
        have = {v: _known(c) for v, c in zip(jaxpr.constvars, consts, strict=True) if v in used}
        have.update(zip(jaxpr.invars, values, strict=True))

        def read(var: Any) -> _Value:
            return _known(var.val) if isinstance(var, core.Literal) else have[var]

        for eqn in jaxpr.eqns:
            if any(var in used for var in eqn.outvars):
                found = self.equation(eqn, [read(var) for var in eqn.invars])
                have.update(zip(eqn.outvars, found, strict=True))
        return [read(var) for var in jaxpr.outvars]

    def equation(self, eqn: Any, values: list[_Value]) -> list[_Value]:
        name, params = eqn.primitive.name, eqn.params
        if name in _SAME:
            return values
        if name in _CALLS:
            inner = params[_CALLS[name]]
            consts = inner.consts if hasattr(inner, "consts") else ()
            return self.jaxpr(getattr(inner, "jaxpr", inner), consts, values)
        if name == "platform_index":
            general = params["platforms"].index(None)
            return [_known(np.int32(general))]
        if name == "cond" and values[0].known:
            return self.closed(params["branches"][int(values[0].data)], values[1:])
        if name in UNARY or name in BINARY or name in _ELEMENTS:
            return [self.elements(eqn, values)]
        if all(value.known for value in values) and self.static(eqn.outvars):
            return self.computed(eqn, [self.repeated(*pair) for pair in _pairs(eqn, values)])
        if name not in _RULES:
            raise CannotLowerError(f"{name} {[str(var.aval) for var in eqn.invars]}")
        found = _RULES[name](self, eqn, *values)
        return found if isinstance(found, list) else [found]

    # Shapes

    def static(self, variables: Sequence[Any]) -> bool:
        return all(isinstance(dim, int) for var in variables for dim in var.aval.shape)

    def dim(self, dim: Dim) -> tuple[int, bool]:
        """A dimension as a number and whether it is times the batch."""
        if isinstance(dim, int | np.integer):
            return int(dim), False
        times = dim // self.batch
        if not isinstance(times, int) or times * self.batch != dim:
            raise CannotLowerError(f"a dimension of {dim}")
        return times, True

    def size(self, dims: Dims) -> list[int]:
        """Dimensions for a reshape."""
        pairs = [self.dim(dim) for dim in dims]
        if sum(free for _, free in pairs) > 1:
            raise CannotLowerError(f"a shape of {dims}")
        return [-1 if free else number for number, free in pairs]

    def repeated(self, value: _Value, shape: Dims) -> np.ndarray:
        return np.broadcast_to(value.data, shape)

    def tensor(self, value: _Value) -> Tensor:
        return self.to.constant(value.data) if value.known else value.data

    def whole(self, value: _Value, shape: Dims) -> Tensor:
        """The target's tensor, written out to its full shape."""
        tensor = self.tensor(value)
        if value.shape == tuple(shape):
            return tensor
        return self.to.broadcast(tensor, [self.dim(dim) for dim in shape])

    def reshaped(self, value: _Value, shape: Dims) -> _Value:
        """The same numbers, of which `shape` has as many as the value's own shape."""
        if value.shape == tuple(shape):
            return value
        if value.known:
            return _Value(value.data.reshape(shape), tuple(shape))
        return _Value(self.to.reshape(value.data, self.size(shape)), tuple(shape))

    def transposed(self, value: _Value, axes: Sequence[int]) -> _Value:
        if list(axes) == list(range(len(value.shape))):
            return value
        shape = tuple(value.shape[axis] for axis in axes)
        if value.known:
            return _Value(value.data.transpose(axes), shape)
        return _Value(self.to.transpose(value.data, axes), shape)

    def sliced(self, value: _Value, parts: Mapping[int, tuple[int, int, int]]) -> _Value:
        """Parts of axes; one that is yet to be repeated stays so."""
        parts = {
            axis: part
            for axis, part in parts.items()
            if isinstance(value.shape[axis], int)
            and part != (0, value.shape[axis], 1)
            and value.shape[axis] != 1
        }
        if not parts:
            return value
        shape = list(value.shape)
        for axis, part in parts.items():
            shape[axis] = len(range(*part))
        if value.known:
            where = [slice(None)] * len(shape)
            for axis, part in parts.items():
                where[axis] = slice(*part)
            return _Value(value.data[tuple(where)], tuple(shape))
        return _Value(self.to.slice(value.data, parts), tuple(shape))

    # Elements

    def computed(self, eqn: Any, arrays: Sequence[np.ndarray]) -> list[_Value]:
        """An equation of constants, by JAX."""
        found = eqn.primitive.bind(*map(jax.numpy.asarray, arrays), **eqn.params)
        return [_known(x) for x in (found if eqn.primitive.multiple_results else [found])]

    def elements(self, eqn: Any, values: list[_Value]) -> _Value:
        name, params = eqn.primitive.name, eqn.params
        if all(value.known for value in values):
            # As few numbers as there are; the batch may be among the axes yet to be repeated.
            return self.computed(eqn, np.broadcast_arrays(*(value.data for value in values)))[0]
        shape = _joint([value.shape for value in values])
        dtype = eqn.outvars[0].aval.dtype
        if name == "max" and any(v.known and not v.data.any() for v in values):
            name, values = "relu", [next(v for v in values if not v.known)]
            if values[0].shape != shape or not np.issubdtype(dtype, np.floating):
                name, values = "max", [*values, _known(np.zeros((1,) * len(shape), dtype))]
        tensors = [self.tensor(value) for value in values]
        if name in UNARY:
            return _Value(self.to.unary(name, *tensors), shape)
        if name in BINARY:
            return _Value(self.to.binary(name, *tensors), shape)
        return _Value(_ELEMENTS[name](self.to, params, dtype, *tensors), shape)


def _used(jaxpr: Any) -> set[Any]:
    """The variables that a result depends on."""
    used = {var for var in jaxpr.outvars if not isinstance(var, core.Literal)}
    for eqn in reversed(jaxpr.eqns):
        if any(var in used for var in eqn.outvars):
            used.update(var for var in eqn.invars if not isinstance(var, core.Literal))
    return used


def _pairs(eqn: Any, values: Sequence[_Value]) -> list[tuple[_Value, Dims]]:
    return [(value, var.aval.shape) for value, var in zip(values, eqn.invars, strict=True)]


def _joint(shapes: Sequence[Dims]) -> Dims:
    """The shape that NumPy's broadcasting gives; scalars of any rank are among them."""
    rank = max(map(len, shapes))
    filled = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(
        next((dim for dim in dims if not (isinstance(dim, int) and dim == 1)), 1)
        for dims in zip(*filled, strict=True)
    )


def _power(to: Target, params: Any, dtype: Any, x: Tensor) -> Tensor:
    if params["y"] < 1:
        raise CannotLowerError(f"integer_pow {params['y']}")
    found = x
    for _ in range(params["y"] - 1):
        found = to.binary("mul", found, x)
    return found


def _select(to: Target, params: Any, dtype: Any, which: Tensor, *cases: Tensor) -> Tensor:
    if len(cases) != 2:
        raise CannotLowerError("select_n of more than two")
    return to.where(which, cases[1], cases[0])


#: Operations on each element that are made of others: (target, params, dtype, tensors) -> tensor.
_ELEMENTS: dict[str, Callable[..., Tensor]] = {
    "square": lambda to, params, dtype, x: to.binary("mul", x, x),
    "integer_pow": _power,
    "convert_element_type": lambda to, params, dtype, x: to.cast(x, np.dtype(dtype)),
    "select_n": _select,
    "clamp": lambda to, params, dtype, low, x, high: to.binary(
        "min", to.binary("max", x, low), high
    ),
}


# Shapes and parts


def _broadcast_in_dim(walk: _Walk, eqn: Any, x: _Value, *_: Any) -> _Value:
    shape: list[Dim] = [1] * len(eqn.params["shape"])
    for dim, axis in zip(x.shape, eqn.params["broadcast_dimensions"], strict=True):
        shape[axis] = dim
    return walk.reshaped(x, tuple(shape))


def _reshape(walk: _Walk, eqn: Any, x: _Value, *_: Any) -> _Value:
    shape = eqn.invars[0].aval.shape
    return walk.reshaped(_Value(walk.whole(x, shape), shape), eqn.outvars[0].aval.shape)


def _squeeze(walk: _Walk, eqn: Any, x: _Value) -> _Value:
    gone = [axis % len(x.shape) for axis in eqn.params["dimensions"]]
    return walk.reshaped(x, tuple(d for axis, d in enumerate(x.shape) if axis not in gone))


def _transpose(walk: _Walk, eqn: Any, x: _Value) -> _Value:
    return walk.transposed(x, eqn.params["permutation"])


def _slice(walk: _Walk, eqn: Any, x: _Value) -> _Value:
    p, rank = eqn.params, len(x.shape)
    steps = p["strides"] or (1,) * rank
    parts = zip(p["start_indices"], p["limit_indices"], steps, strict=True)
    return walk.sliced(x, dict(enumerate(parts)))


def _split(walk: _Walk, eqn: Any, x: _Value) -> list[_Value]:
    ends = np.cumsum(eqn.params["sizes"]).tolist()
    starts = [0, *ends[:-1]]
    axis = eqn.params["axis"]
    return [walk.sliced(x, {axis: (a, b, 1)}) for a, b in zip(starts, ends, strict=True)]


def _concatenate(walk: _Walk, eqn: Any, *xs: _Value) -> _Value:
    tensors = [walk.whole(*pair) for pair in _pairs(eqn, xs)]
    return _Value(
        walk.to.concatenate(tensors, eqn.params["dimension"]), eqn.outvars[0].aval.shape
    )


def _stack(walk: _Walk, eqn: Any, *xs: _Value) -> _Value:
    axis, shape = eqn.params["axis"], eqn.outvars[0].aval.shape
    thin = tuple(shape[:axis]) + (1,) + tuple(shape[axis + 1 :])
    each = [
        walk.reshaped(_Value(walk.whole(*pair), pair[1]), thin).data for pair in _pairs(eqn, xs)
    ]
    return _Value(walk.to.concatenate(each, axis), shape)


def _pad(walk: _Walk, eqn: Any, x: _Value, value: _Value) -> _Value:
    config = eqn.params["padding_config"]
    if not value.known or any(low < 0 or high < 0 or inside for low, high, inside in config):
        raise CannotLowerError(f"pad {config}")
    whole = walk.whole(x, eqn.invars[0].aval.shape)
    pads = [(low, high) for low, high, _ in config]
    return _Value(walk.to.pad(whole, pads, value.data), eqn.outvars[0].aval.shape)


def _iota(walk: _Walk, eqn: Any) -> _Value:
    p = eqn.params
    shape = [1] * len(p["shape"])
    shape[p["dimension"]] = p["shape"][p["dimension"]]
    return _known(np.arange(math.prod(shape), dtype=p["dtype"]).reshape(shape))


def _reverse(walk: _Walk, eqn: Any, x: _Value) -> _Value:
    shape = eqn.invars[0].aval.shape
    tensor = walk.whole(x, shape)
    for axis in eqn.params["dimensions"]:
        index = np.arange(shape[axis], dtype=np.int32)[::-1].copy()
        tensor = walk.to.take(tensor, walk.to.constant(index), axis)
    return _Value(tensor, shape)


def _gather(walk: _Walk, eqn: Any, x: _Value, index: _Value) -> _Value:
    p, dims = eqn.params, eqn.params["dimension_numbers"]
    shape, sizes = eqn.invars[0].aval.shape, p["slice_sizes"]
    axes = [int(axis) for axis in dims.start_index_map]
    gone = [int(axis) for axis in dims.collapsed_slice_dims]
    out = eqn.outvars[0].aval.shape
    if index.known and index.data.ndim == 1:
        # One place: a slice.
        starts = {
            axis: int(np.clip(start, 0, shape[axis] - sizes[axis]))
            for axis, start in zip(axes, index.data, strict=True)
        }
        parts = {axis: (start, start + sizes[axis], 1) for axis, start in starts.items()}
        found = walk.sliced(x, parts)
        return walk.reshaped(found, tuple(d for a, d in enumerate(found.shape) if a not in gone))
    each = [int(axis) for axis in dims.operand_batching_dims]
    whole = [size == dim for size, dim in zip(sizes, shape, strict=True)]
    if sorted(axes) != sorted(gone) or not all(
        whole[a] for a in range(len(shape)) if a not in (*gone, *each)
    ):
        raise CannotLowerError(f"gather {dims} {sizes}")
    if p["mode"] == GatherScatterMode.FILL_OR_DROP and not index.known:
        raise CannotLowerError("gather that fills")
    place = _places(walk, eqn, index, [shape[axis] for axis in axes])
    rest = [a for a in range(len(shape)) if a not in (*gone, *each)]
    x = _Value(walk.whole(x, shape), shape)
    x = walk.transposed(x, [*each, *axes, *rest])
    kept = tuple(shape[a] for a in rest)
    among = math.prod(shape[axis] for axis in axes)
    many = tuple(eqn.invars[1].aval.shape[:-1])
    if not each:
        flat = walk.reshaped(x, (among, *kept))
        found = _Value(walk.to.take(flat.data, walk.tensor(place), 0), (*many, *kept))
    elif each == [0] and list(dims.start_indices_batching_dims) == [0]:
        flat = walk.reshaped(x, (shape[0], among, *kept))
        line = walk.reshaped(_Value(walk.whole(place, many), many), (many[0], math.prod(many[1:])))
        found = _Value(walk.to.take_each(flat.data, line.data), (shape[0], line.shape[1], *kept))
        found = walk.reshaped(found, (*many, *kept))
    else:
        raise CannotLowerError(f"gather {dims}")
    # `many` comes first, `kept` behind: to where JAX has them.
    behind = [int(axis) for axis in dims.offset_dims]
    order: list[int] = []
    front, back = iter(range(len(many))), iter(range(len(many), len(out)))
    for axis in range(len(out)):
        order.append(next(back) if axis in behind else next(front))
    return walk.transposed(found, order)


def _places(walk: _Walk, eqn: Any, index: _Value, sizes: Sequence[int]) -> _Value:
    """The last axis of indices, one an axis, as one index into all of them."""
    clips = eqn.params["mode"] == GatherScatterMode.CLIP
    if index.known:
        parts = np.moveaxis(index.data, -1, 0)
        if clips:
            parts = [np.clip(part, 0, size - 1) for part, size in zip(parts, sizes, strict=True)]
        elif any(p.min() < 0 or p.max() >= n for p, n in zip(parts, sizes, strict=True)):
            raise CannotLowerError("gather that fills")
        return _known(np.ravel_multi_index(tuple(parts), tuple(sizes)).astype(np.int32))
    to, total, rank = walk.to, None, len(index.shape)
    shape = tuple(index.shape[:-1])
    for axis, size in enumerate(sizes):
        part = walk.reshaped(walk.sliced(index, {rank - 1: (axis, axis + 1, 1)}), shape).data
        if clips:
            part = to.binary("max", part, to.constant(np.int32(0)))
            part = to.binary("min", part, to.constant(np.int32(size - 1)))
        if total is not None:
            part = to.binary("add", to.binary("mul", total, to.constant(np.int32(size))), part)
        total = part
    return _Value(total, shape)


# Arithmetic of many


def _reduce(walk: _Walk, eqn: Any, x: _Value) -> _Value:
    shape, out = tuple(eqn.invars[0].aval.shape), eqn.outvars[0].aval.shape
    found = _Value(walk.whole(x, shape), shape)
    axes = {int(axis) for axis in eqn.params["axes"]}
    if len(shape) > _AXES:
        # Neighbours that stay, or that go, as one.
        runs = [list(run) for _, run in groupby(range(len(shape)), lambda axis: axis in axes)]
        found = walk.reshaped(found, tuple(math.prod(shape[a] for a in run) for run in runs))
        axes = {place for place, run in enumerate(runs) if run[0] in axes}
    made = walk.to.reduce(REDUCTIONS[eqn.primitive.name], found.data, sorted(axes))
    kept = tuple(dim for axis, dim in enumerate(found.shape) if axis not in axes)
    return walk.reshaped(_Value(made, kept), out)


def _dot_general(walk: _Walk, eqn: Any, x: _Value, y: _Value) -> _Value:
    (over_x, over_y), (each_x, each_y) = eqn.params["dimension_numbers"]
    out = eqn.outvars[0].aval.shape

    def matrix(value: _Value, var: Any, rows: Sequence[int], columns: Sequence[int]) -> _Value:
        """[*each, rows, columns]."""
        shape = var.aval.shape
        if value.known:
            value = _known(np.broadcast_to(value.data, shape)) if walk.static([var]) else value
        if value.shape != tuple(shape):
            value = _Value(walk.whole(value, shape), shape)
        each = [a for a in range(len(shape)) if a not in (*rows, *columns)]
        value = walk.transposed(value, [*each, *rows, *columns])
        sides = [math.prod(shape[a] for a in axes) for axes in (rows, columns)]
        return walk.reshaped(value, (*(shape[a] for a in each), *sides))

    def free(var: Any, over: Sequence[int], each: Sequence[int]) -> list[int]:
        return [a for a in range(len(var.aval.shape)) if a not in (*over, *each)]

    rows, columns = free(eqn.invars[0], over_x, each_x), free(eqn.invars[1], over_y, each_y)
    right = matrix(y, eqn.invars[1], over_y, columns)
    shape = eqn.invars[0].aval.shape
    if not each_x and len(rows) > 1:
        # Several axes of rows are left as they are: matmul takes them.
        x = _Value(walk.whole(x, shape), shape)
        x = walk.transposed(x, [*rows, *over_x])
        depth = math.prod(shape[a] for a in over_x)
        left = walk.reshaped(x, (*(shape[a] for a in rows), depth))
    else:
        left = matrix(x, eqn.invars[0], rows, over_x)
    found = walk.to.matmul(walk.tensor(left), walk.tensor(right))
    product = (*left.shape[:-1], right.shape[-1])
    return walk.reshaped(_Value(found, product), out)


def _convolution(walk: _Walk, eqn: Any, x: _Value, kernel: _Value) -> _Value:
    p, spec = eqn.params, eqn.params["dimension_numbers"]
    if set(p["lhs_dilation"]) != {1} or p["batch_group_count"] != 1:
        raise CannotLowerError("a transposed convolution")

    def last(order: Sequence[int]) -> list[int]:
        """(first, features, *space) with the features behind."""
        return [order[0], *order[2:], order[1]]

    shape = eqn.invars[0].aval.shape
    x = walk.transposed(_Value(walk.whole(x, shape), shape), last(spec.lhs_spec))
    out, inside, *space = spec.rhs_spec
    kernel = walk.transposed(kernel, [*space, inside, out])
    weights = kernel.data if kernel.known else walk.whole(kernel, kernel.shape)
    found = walk.to.convolve(
        x.data,
        weights,
        p["window_strides"],
        p["padding"],
        p["rhs_dilation"],
        p["feature_group_count"],
    )
    order = last(spec.out_spec)
    made = _Value(found, tuple(eqn.outvars[0].aval.shape[axis] for axis in order))
    return walk.transposed(made, np.argsort(order).tolist())


def _pool(walk: _Walk, eqn: Any, x: _Value) -> _Value:
    """Windows over one axis after another: a largest of largest, a sum of sums."""
    p, shape = eqn.params, tuple(eqn.invars[0].aval.shape)
    if {*p["base_dilation"], *p["window_dilation"]} != {1}:
        raise CannotLowerError("windows with holes")
    sides = list(zip(p["window_dimensions"], p["window_strides"], p["padding"], strict=True))
    axes = [a for a, (w, s, pads) in enumerate(sides) if (w, s) != (1, 1) or any(pads)]
    kind = eqn.primitive.name.removeprefix("reduce_window_")
    found = _Value(walk.whole(x, shape), shape)
    while axes:
        # Two neighbours go together, as pictures of what is before and behind them.
        take = axes[:2] if len(axes) > 1 and axes[1] == axes[0] + 1 else axes[:1]
        # Volumes: the pictures last, when there are fewer frames left of them.
        if len(axes) == 3:
            take = axes[:1]
        axes = axes[len(take) :]
        first, behind = take[0], take[-1] + 1
        middle = [found.shape[axis] for axis in take] + [1] * (2 - len(take))
        flat = (math.prod(found.shape[:first]), *middle, math.prod(found.shape[behind:]))
        window, strides, pads = zip(
            *[sides[axis] for axis in take], *[(1, 1, (0, 0))] * (2 - len(take)), strict=True
        )
        made = walk.to.pool(kind, walk.reshaped(found, flat).data, window, strides, pads)
        sizes = [
            (n + sum(pad) - w) // s + 1
            for n, w, s, pad in zip(middle, window, strides, pads, strict=True)
        ]
        after = (*found.shape[:first], *sizes[: len(take)], *found.shape[behind:])
        found = walk.reshaped(_Value(made, (flat[0], *sizes, flat[-1])), after)
    return found


def _scan(walk: _Walk, eqn: Any, *values: _Value) -> list[_Value]:
    p = eqn.params
    fixed, state = p["num_consts"], p["num_carry"]
    if p["reverse"]:
        raise CannotLowerError("a scan from behind")
    pairs = _pairs(eqn, values)
    inner = p["jaxpr"].jaxpr
    shapes = [var.aval.shape for var in inner.invars[fixed:]]

    def step(carries: list[Tensor], xs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        given = [_Value(x, shape) for x, shape in zip([*carries, *xs], shapes, strict=True)]
        found = walk.closed(p["jaxpr"], [*values[:fixed], *given])
        made = [
            walk.whole(x, var.aval.shape) for x, var in zip(found, inner.outvars, strict=True)
        ]
        return made[:state], made[state:]

    carries = [walk.whole(*pair) for pair in pairs[fixed : fixed + state]]
    xs = [walk.whole(*pair) for pair in pairs[fixed + state :]]

    def blank() -> list[Tensor]:
        return [
            walk.whole(_known(np.zeros((1,) * len(a.shape), a.dtype)), a.shape)
            for a in (var.aval for var in eqn.outvars[state:])
        ]

    last, stacked = walk.to.scan(step, p["length"], carries, xs, blank)
    return [
        _Value(x, var.aval.shape) for x, var in zip([*last, *stacked], eqn.outvars, strict=True)
    ]


#: (walk, equation, values) -> value or values; not all of the values are known.
_RULES: dict[str, Callable[..., _Value | list[_Value]]] = {
    "broadcast_in_dim": _broadcast_in_dim,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "dot_general": _dot_general,
    "gather": _gather,
    "iota": _iota,
    "pad": _pad,
    "reduce_window_max": _pool,
    "reduce_window_sum": _pool,
    "reshape": _reshape,
    "rev": _reverse,
    "scan": _scan,
    "slice": _slice,
    "split": _split,
    "squeeze": _squeeze,
    "stack": _stack,
    "transpose": _transpose,
    **dict.fromkeys(REDUCTIONS, _reduce),
}
