"""JAX's primitives, each in the operations of a target."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.lax import GatherScatterMode

from fer_jax.deploy.lowering.target import CannotLowerError, Dim, Dims, Target, Tensor

if TYPE_CHECKING:
    from fer_jax.deploy.lowering.walk import Walk

#: The most that LiteRT's fast kernels (XNNPACK) take.
_AXES = 6
_REDUCTIONS = {f"reduce_{kind}": kind for kind in ("sum", "max", "min", "and", "or")}


@dataclasses.dataclass(frozen=True)
class Value:
    """An array of a traced function. Its own shape has 1 where it is yet to be repeated: a bias is
    not written out for every example before it is added."""

    data: np.ndarray | Tensor
    shape: Dims

    @property
    def known(self) -> bool:
        return isinstance(self.data, np.ndarray)


def known(value: Any) -> Value:
    array = np.asarray(value)
    return Value(array, array.shape)


def pairs(eqn: Any, values: Sequence[Value]) -> list[tuple[Value, Dims]]:
    return [(value, var.aval.shape) for value, var in zip(values, eqn.invars, strict=True)]


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
ELEMENTS: dict[str, Callable[..., Tensor]] = {
    "square": lambda to, params, dtype, x: to.binary("mul", x, x),
    "integer_pow": _power,
    "convert_element_type": lambda to, params, dtype, x: to.cast(x, np.dtype(dtype)),
    "select_n": _select,
    "clamp": lambda to, params, dtype, low, x, high: to.binary(
        "min", to.binary("max", x, low), high
    ),
}


# Shapes and parts


def _broadcast_in_dim(walk: Walk, eqn: Any, x: Value, *_: Any) -> Value:
    shape: list[Dim] = [1] * len(eqn.params["shape"])
    for dim, axis in zip(x.shape, eqn.params["broadcast_dimensions"], strict=True):
        shape[axis] = dim
    return walk.reshaped(x, tuple(shape))


def _reshape(walk: Walk, eqn: Any, x: Value, *_: Any) -> Value:
    shape = eqn.invars[0].aval.shape
    return walk.reshaped(Value(walk.whole(x, shape), shape), eqn.outvars[0].aval.shape)


def _squeeze(walk: Walk, eqn: Any, x: Value) -> Value:
    gone = [axis % len(x.shape) for axis in eqn.params["dimensions"]]
    return walk.reshaped(x, tuple(d for axis, d in enumerate(x.shape) if axis not in gone))


def _transpose(walk: Walk, eqn: Any, x: Value) -> Value:
    return walk.transposed(x, eqn.params["permutation"])


def _slice(walk: Walk, eqn: Any, x: Value) -> Value:
    p, rank = eqn.params, len(x.shape)
    steps = p["strides"] or (1,) * rank
    parts = zip(p["start_indices"], p["limit_indices"], steps, strict=True)
    return walk.sliced(x, dict(enumerate(parts)))


def _split(walk: Walk, eqn: Any, x: Value) -> list[Value]:
    ends = np.cumsum(eqn.params["sizes"]).tolist()
    starts = [0, *ends[:-1]]
    axis = eqn.params["axis"]
    return [walk.sliced(x, {axis: (a, b, 1)}) for a, b in zip(starts, ends, strict=True)]


def _concatenate(walk: Walk, eqn: Any, *xs: Value) -> Value:
    tensors = [walk.whole(*pair) for pair in pairs(eqn, xs)]
    return Value(walk.to.concatenate(tensors, eqn.params["dimension"]), eqn.outvars[0].aval.shape)


def _stack(walk: Walk, eqn: Any, *xs: Value) -> Value:
    axis, shape = eqn.params["axis"], eqn.outvars[0].aval.shape
    thin = tuple(shape[:axis]) + (1,) + tuple(shape[axis + 1 :])
    each = [walk.reshaped(Value(walk.whole(*pair), pair[1]), thin).data for pair in pairs(eqn, xs)]
    return Value(walk.to.concatenate(each, axis), shape)


def _pad(walk: Walk, eqn: Any, x: Value, value: Value) -> Value:
    config = eqn.params["padding_config"]
    if not value.known or any(low < 0 or high < 0 or inside for low, high, inside in config):
        raise CannotLowerError(f"pad {config}")
    whole = walk.whole(x, eqn.invars[0].aval.shape)
    pads = [(low, high) for low, high, _ in config]
    return Value(walk.to.pad(whole, pads, value.data), eqn.outvars[0].aval.shape)


def _iota(walk: Walk, eqn: Any) -> Value:
    p = eqn.params
    shape = [1] * len(p["shape"])
    shape[p["dimension"]] = p["shape"][p["dimension"]]
    return known(np.arange(math.prod(shape), dtype=p["dtype"]).reshape(shape))


def _reverse(walk: Walk, eqn: Any, x: Value) -> Value:
    shape = eqn.invars[0].aval.shape
    tensor = walk.whole(x, shape)
    for axis in eqn.params["dimensions"]:
        index = np.arange(shape[axis], dtype=np.int32)[::-1].copy()
        tensor = walk.to.take(tensor, walk.to.constant(index), axis)
    return Value(tensor, shape)


def _gather(walk: Walk, eqn: Any, x: Value, index: Value) -> Value:
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
    x = Value(walk.whole(x, shape), shape)
    x = walk.transposed(x, [*each, *axes, *rest])
    kept = tuple(shape[a] for a in rest)
    among = math.prod(shape[axis] for axis in axes)
    many = tuple(eqn.invars[1].aval.shape[:-1])
    if not each:
        flat = walk.reshaped(x, (among, *kept))
        found = Value(walk.to.take(flat.data, walk.tensor(place), 0), (*many, *kept))
    elif each == [0] and list(dims.start_indices_batching_dims) == [0]:
        flat = walk.reshaped(x, (shape[0], among, *kept))
        line = walk.reshaped(Value(walk.whole(place, many), many), (many[0], math.prod(many[1:])))
        found = Value(walk.to.take_each(flat.data, line.data), (shape[0], line.shape[1], *kept))
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


def _places(walk: Walk, eqn: Any, index: Value, sizes: Sequence[int]) -> Value:
    """The last axis of indices, one an axis, as one index into all of them."""
    clips = eqn.params["mode"] == GatherScatterMode.CLIP
    if index.known:
        parts = np.moveaxis(index.data, -1, 0)
        if clips:
            parts = [np.clip(part, 0, size - 1) for part, size in zip(parts, sizes, strict=True)]
        elif any(p.min() < 0 or p.max() >= n for p, n in zip(parts, sizes, strict=True)):
            raise CannotLowerError("gather that fills")
        return known(np.ravel_multi_index(tuple(parts), tuple(sizes)).astype(np.int32))
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
    return Value(total, shape)


# Arithmetic of many


def _reduce(walk: Walk, eqn: Any, x: Value) -> Value:
    shape, out = tuple(eqn.invars[0].aval.shape), eqn.outvars[0].aval.shape
    found = Value(walk.whole(x, shape), shape)
    axes = {int(axis) for axis in eqn.params["axes"]}
    if len(shape) > _AXES:
        # Neighbours that stay, or that go, as one.
        runs = [list(run) for _, run in groupby(range(len(shape)), lambda axis: axis in axes)]
        found = walk.reshaped(found, tuple(math.prod(shape[a] for a in run) for run in runs))
        axes = {place for place, run in enumerate(runs) if run[0] in axes}
    made = walk.to.reduce(_REDUCTIONS[eqn.primitive.name], found.data, sorted(axes))
    kept = tuple(dim for axis, dim in enumerate(found.shape) if axis not in axes)
    return walk.reshaped(Value(made, kept), out)


def _dot_general(walk: Walk, eqn: Any, x: Value, y: Value) -> Value:
    sides = [*zip((x, y), *eqn.params["dimension_numbers"], eqn.invars, strict=True)]
    out, swap = eqn.outvars[0].aval.shape, x.known and not y.known
    if swap:
        # Weights come second, as every library likes it best.
        sides.reverse()
    (left, over, each, _), (right, over_right, each_right, _) = sides
    left, right = (
        Value(walk.whole(value, var.aval.shape), var.aval.shape)
        if not (value.known and walk.static([var]))
        else known(np.broadcast_to(value.data, var.aval.shape))
        for value, _, _, var in sides
    )

    def free(value: Value, over: Sequence[int], each: Sequence[int]) -> list[int]:
        return [a for a in range(len(value.shape)) if a not in (*over, *each)]

    def size(value: Value, axes: Sequence[int]) -> Dims:
        return tuple(value.shape[a] for a in axes)

    rows, columns = free(left, over, each), free(right, over_right, each_right)
    batch, many, wide = size(left, each), size(left, rows), size(right, columns)
    depth = math.prod(size(left, over))
    # Where one matrix is for all, several axes of rows are left as they are.
    tall = many if many and not each else (math.prod(many),)
    left = walk.reshaped(walk.transposed(left, [*each, *rows, *over]), (*batch, *tall, depth))
    right = walk.transposed(right, [*each_right, *over_right, *columns])
    right = walk.reshaped(right, (*batch, depth, math.prod(wide)))
    made = walk.to.matmul(walk.tensor(left), walk.tensor(right))
    found = walk.reshaped(Value(made, (*batch, *tall, math.prod(wide))), (*batch, *many, *wide))
    if swap:
        b, m, w = len(batch), len(many), len(wide)
        order = [*range(b), *range(b + m, b + m + w), *range(b, b + m)]
        found = walk.transposed(found, order)
    return walk.reshaped(found, tuple(out))


def _convolution(walk: Walk, eqn: Any, x: Value, kernel: Value) -> Value:
    p, spec = eqn.params, eqn.params["dimension_numbers"]
    if set(p["lhs_dilation"]) != {1} or p["batch_group_count"] != 1:
        raise CannotLowerError("a transposed convolution")

    def last(order: Sequence[int]) -> list[int]:
        """(first, features, *space) with the features behind."""
        return [order[0], *order[2:], order[1]]

    shape = eqn.invars[0].aval.shape
    x = walk.transposed(Value(walk.whole(x, shape), shape), last(spec.lhs_spec))
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
    made = Value(found, tuple(eqn.outvars[0].aval.shape[axis] for axis in order))
    return walk.transposed(made, np.argsort(order).tolist())


def _pool(walk: Walk, eqn: Any, x: Value) -> Value:
    """Windows over one axis after another: a largest of largest, a sum of sums."""
    p, shape = eqn.params, tuple(eqn.invars[0].aval.shape)
    if {*p["base_dilation"], *p["window_dilation"]} != {1}:
        raise CannotLowerError("windows with holes")
    sides = list(zip(p["window_dimensions"], p["window_strides"], p["padding"], strict=True))
    axes = [a for a, (w, s, pads) in enumerate(sides) if (w, s) != (1, 1) or any(pads)]
    kind = eqn.primitive.name.removeprefix("reduce_window_")
    found = Value(walk.whole(x, shape), shape)
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
        found = walk.reshaped(Value(made, (flat[0], *sizes, flat[-1])), after)
    return found


def _scan(walk: Walk, eqn: Any, *values: Value) -> list[Value]:
    p = eqn.params
    fixed, state = p["num_consts"], p["num_carry"]
    if p["reverse"]:
        raise CannotLowerError("a scan from behind")
    filled = [walk.whole(*pair) for pair in pairs(eqn, values)[fixed:]]
    inner = p["jaxpr"].jaxpr
    shapes = [var.aval.shape for var in inner.invars[fixed:]]

    def step(carries: list[Tensor], xs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        given = [Value(x, shape) for x, shape in zip([*carries, *xs], shapes, strict=True)]
        found = walk.closed(p["jaxpr"], [*values[:fixed], *given])
        made = [walk.whole(x, var.aval.shape) for x, var in zip(found, inner.outvars, strict=True)]
        return made[:state], made[state:]

    def blank() -> list[Tensor]:
        return [
            walk.whole(known(np.zeros((1,) * len(a.shape), a.dtype)), a.shape)
            for a in (var.aval for var in eqn.outvars[state:])
        ]

    last, stacked = walk.to.scan(step, p["length"], filled[:state], filled[state:], blank)
    return [Value(x, var.aval.shape) for x, var in zip([*last, *stacked], eqn.outvars, strict=True)]


#: (walk, equation, values) -> value or values; not all of the values are known.
RULES: dict[str, Callable[..., Value | list[Value]]] = {
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
    **dict.fromkeys(_REDUCTIONS, _reduce),
}
