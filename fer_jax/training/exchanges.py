"""What devices exchange in a step, counted in its equations: for programs that nobody compiled."""

from __future__ import annotations

import math
from typing import Any

from jax.extend.core import Jaxpr

from fer_jax.models.cost import programs_inside
from fer_jax.training.compiled import Collective

#: XLA's names of JAX's exchanges.
_KINDS = {
    "psum": "all-reduce", "pmax": "all-reduce", "pmin": "all-reduce", "all_gather": "all-gather",
    "reduce_scatter": "reduce-scatter", "all_to_all": "all-to-all",
    "ppermute": "collective-permute",
}  # fmt: skip


def count_collectives(jaxpr: Jaxpr) -> tuple[Collective, ...]:
    """The exchanges of a step; those of a scan by its length, of a condition the dearest branch's.

    A loop whose number of turns is not known counts as one, so a program that repeats a step counts
    as one step.
    """
    found: list[Collective] = []
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if kind := _KINDS.get(name):
            # Of a gather the whole is what it makes, of all others what it reads.
            whole = equation.outvars if name == "all_gather" else equation.invars
            if size := sum(_bytes(one) for one in whole):
                found.append(Collective(kind, size))
            continue
        inside = [count_collectives(one) for one in programs_inside(params)]
        if name == "cond":
            inside = [max(inside, key=lambda one: sum(c.bytes for c in one))]
        for one in inside:
            found += one * params.get("length", 1) if name == "scan" else one
    return tuple(found)


def _bytes(variable: Any) -> int:
    return math.prod(variable.aval.shape) * variable.aval.dtype.itemsize
