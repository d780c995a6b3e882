"""A walk over what JAX traces, which says it again in the operations of a target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from fer_jax.deploy.lowering.rules import ELEMENTS, RULES, Value, known, pairs
from fer_jax.deploy.lowering.target import (
    BINARY,
    UNARY,
    CannotLowerError,
    Dim,
    Dims,
    Target,
    Tensor,
)

_SAME = {"copy", "copy_p", "name", "optimization_barrier", "stop_gradient"}
_CALLS = {
    "jit": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}


class Walk:
    """The equations of a traced function, one after another."""

    def __init__(self, target: Target, batch: Dim) -> None:
        self.to, self.batch = target, batch

    def closed(self, closed: Any, values: Sequence[Value]) -> list[Value]:
        return self.jaxpr(closed.jaxpr, closed.consts, values)

    def jaxpr(self, jaxpr: Any, consts: Sequence[Any], values: Sequence[Value]) -> list[Value]:
        used = _used(jaxpr)
        # Unused ones may be random keys, which are no arrays.
        have = {v: known(c) for v, c in zip(jaxpr.constvars, consts, strict=True) if v in used}
        have.update(zip(jaxpr.invars, values, strict=True))

        def read(var: Any) -> Value:
            return known(var.val) if isinstance(var, core.Literal) else have[var]

        for eqn in jaxpr.eqns:
            if any(var in used for var in eqn.outvars):
                found = self.equation(eqn, [read(var) for var in eqn.invars])
                have.update(zip(eqn.outvars, found, strict=True))
        return [read(var) for var in jaxpr.outvars]

    def equation(self, eqn: Any, values: list[Value]) -> list[Value]:
        name, params = eqn.primitive.name, eqn.params
        if name in _SAME:
            return values
        if name in _CALLS:
            inner = params[_CALLS[name]]
            consts = inner.consts if hasattr(inner, "consts") else ()
            return self.jaxpr(getattr(inner, "jaxpr", inner), consts, values)
        if name == "platform_index":
            general = params["platforms"].index(None)
            return [known(np.int32(general))]
        if name == "cond" and values[0].known:
            return self.closed(params["branches"][int(values[0].data)], values[1:])
        if name in UNARY or name in BINARY or name in ELEMENTS:
            return [self.elements(eqn, values)]
        if all(value.known for value in values) and self.static(eqn.outvars):
            return self.computed(eqn, [self.repeated(*pair) for pair in pairs(eqn, values)])
        if name not in RULES:
            raise CannotLowerError(f"{name} {[str(var.aval) for var in eqn.invars]}")
        found = RULES[name](self, eqn, *values)
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

    def repeated(self, value: Value, shape: Dims) -> np.ndarray:
        return np.broadcast_to(value.data, shape)

    def tensor(self, value: Value) -> Tensor:
        return self.to.constant(value.data) if value.known else value.data

    def whole(self, value: Value, shape: Dims) -> Tensor:
        """The target's tensor, written out to its full shape."""
        tensor = self.tensor(value)
        if value.shape == tuple(shape):
            return tensor
        return self.to.broadcast(tensor, [self.dim(dim) for dim in shape])

    def reshaped(self, value: Value, shape: Dims) -> Value:
        """The same numbers, of which `shape` has as many as the value's own shape."""
        if value.shape == tuple(shape):
            return value
        if value.known:
            return Value(value.data.reshape(shape), tuple(shape))
        return Value(self.to.reshape(value.data, self.size(shape)), tuple(shape))

    def transposed(self, value: Value, axes: Sequence[int]) -> Value:
        if list(axes) == list(range(len(value.shape))):
            return value
        shape = tuple(value.shape[axis] for axis in axes)
        if value.known:
            return Value(value.data.transpose(axes), shape)
        return Value(self.to.transpose(value.data, axes), shape)

    def sliced(self, value: Value, parts: Mapping[int, tuple[int, int, int]]) -> Value:
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
            return Value(value.data[tuple(where)], tuple(shape))
        return Value(self.to.slice(value.data, parts), tuple(shape))

    # Elements

    def computed(self, eqn: Any, arrays: Sequence[np.ndarray]) -> list[Value]:
        """An equation of constants, by JAX."""
        found = eqn.primitive.bind(*map(jax.numpy.asarray, arrays), **eqn.params)
        return [known(x) for x in (found if eqn.primitive.multiple_results else [found])]

    def elements(self, eqn: Any, values: list[Value]) -> Value:
        name, params = eqn.primitive.name, eqn.params
        if all(value.known for value in values):
            # As few numbers as there are; the batch may be among the axes yet to be repeated.
            return self.computed(eqn, np.broadcast_arrays(*(value.data for value in values)))[0]
        shape = _joint([value.shape for value in values])
        dtype = eqn.outvars[0].aval.dtype
        if name == "max" and any(v.known and not v.data.any() for v in values):
            name, values = "relu", [next(v for v in values if not v.known)]
            if values[0].shape != shape or not np.issubdtype(dtype, np.floating):
                name, values = "max", [*values, known(np.zeros((1,) * len(shape), dtype))]
        tensors = [self.tensor(value) for value in values]
        if name in UNARY:
            return Value(self.to.unary(name, *tensors), shape)
        if name in BINARY:
            return Value(self.to.binary(name, *tensors), shape)
        return Value(ELEMENTS[name](self.to, params, dtype, *tensors), shape)


def _used(jaxpr: Any) -> set[Any]:
    """The variables that a result depends on."""
    used = {var for var in jaxpr.outvars if not isinstance(var, core.Literal)}
    for eqn in reversed(jaxpr.eqns):
        if any(var in used for var in eqn.outvars):
            used.update(var for var in eqn.invars if not isinstance(var, core.Literal))
    return used


def _joint(shapes: Sequence[Dims]) -> Dims:
    """The shape that NumPy's broadcasting gives; scalars of any rank are among them."""
    rank = max(map(len, shapes))
    filled = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(
        next((dim for dim in dims if not (isinstance(dim, int) and dim == 1)), 1)
        for dims in zip(*filled, strict=True)
    )
