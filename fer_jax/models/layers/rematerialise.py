"""Networks whose gradient keeps little of the forward pass and computes the rest again.

A network marks where its blocks end; `rematerialised` cuts the program that it traces to there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

_END = "end of a block"


def end_block(x: jax.Array) -> jax.Array:
    """x, kept for the backward pass; what lies between two such arrays is not, if the network is
    rematerialised. Outside of loops and transformations."""
    return checkpoint_name(x, _END)


def rematerialised(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of arrays, whose gradient computes each block again when it gets there.

    The blocks end where `end_block` says; after the last, nothing is computed again.
    """

    def run(*arguments: Any) -> Any:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        program = closed.jaxpr
        known = dict(zip(program.constvars, closed.consts, strict=True))
        known |= zip(program.invars, jax.tree.leaves(arguments), strict=True)
        blocks = _blocks(program.eqns)
        for index, block in enumerate(blocks):
            made = {variable for equation in block for variable in equation.outvars}
            read = _variables(equation.invars for equation in block)
            later = [equation.invars for rest in blocks[index + 1 :] for equation in rest]
            wanted = [v for v in _variables([*later, program.outvars]) if v in made]
            given = [variable for variable in read if variable not in made]
            part = program.replace(constvars=[], invars=given, outvars=wanted, eqns=block)
            evaluate = jaxpr_as_fun(ClosedJaxpr(part, []))
            if index + 1 < len(blocks):
                evaluate = jax.checkpoint(evaluate)
            known |= zip(wanted, evaluate(*(known[v] for v in given)), strict=True)
        results = [v.val if isinstance(v, Literal) else known[v] for v in program.outvars]
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return run


def _blocks(equations: Sequence[Any]) -> list[list[Any]]:
    blocks: list[list[Any]] = [[]]
    for equation in equations:
        blocks[-1].append(equation)
        if equation.primitive.name == "name" and equation.params["name"] == _END:
            blocks.append([])
    return blocks


def _variables(groups: Any) -> list[Any]:
    """The variables in these groups, each once, in order."""
    return list(dict.fromkeys(v for group in groups for v in group if not isinstance(v, Literal)))
