"""What a network costs, without compiling it: parameters, operations and memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var

from fer_jax.models.model import Inputs, Model
from fer_jax.models.paths import flatten, matches, unflatten

#: One operation an output value.
_ELEMENTWISE = frozenset((
    "abs", "acos", "add", "add_any", "asin", "atan", "atan2", "cbrt", "ceil", "clamp", "cos",
    "cosh", "div", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "integer_pow", "log",
    "log1p", "logistic", "max", "min", "mul", "neg", "pow", "rem", "round", "rsqrt", "sign", "sin",
    "sinh", "sqrt", "square", "sub", "tan", "tanh",
))  # fmt: skip
#: One operation an input value.
_REDUCTIONS = frozenset((
    "argmax", "argmin", "cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum", "reduce",
    "reduce_max", "reduce_min", "reduce_prod", "reduce_sum",
))  # fmt: skip
#: Bytes a trained parameter takes: itself, its gradient and Adam's two moments.
_COPIES = 4
#: Clips in the batch that is looked at. A prime, so that an array is of the clips, and not of the
#: parameters, if this divides one of its sides; many, so that what is done once a batch vanishes.
_CLIPS = 1009


@dataclass(frozen=True)
class Cost:
    """What one clip, and the network itself, take.

    Attributes:
      parameters: numbers that training may fit.
      flops_per_clip: of the forward pass; a multiply-add is 2.
      activation_bytes_per_clip: what training keeps of a clip from the forward pass to the
        backward one, before the compiler saves any of it; at least what the largest convolution or
        product of the forward pass reads and writes, which frozen layers need too.
      parameter_bytes: parameters and BatchNorm averages, and for those that train the gradient and
        Adam's two moments.
    """

    parameters: int
    flops_per_clip: int
    activation_bytes_per_clip: int
    parameter_bytes: int


def batch_shapes(inputs: Inputs, size: int) -> dict[str, Any]:
    """The shapes of a batch of `size` samples, as `Model.apply` reads it."""

    def shape(*dimensions: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(dimensions, dtype)

    batch: dict[str, Any] = {
        "frame_mask": shape(size, inputs.frames, dtype=jnp.bool_),
        "weight": shape(size),
    }
    if inputs.features:
        batch["features"] = shape(size, inputs.frames, inputs.features)
    if inputs.images:
        image = shape(size, inputs.frames, *inputs.image_shape)
        batch["frames"] = dict.fromkeys(inputs.images, image)
    if inputs.landmarks:
        batch["mean_shape"] = shape(68, 2)
    return batch


def cost(model: Model, inputs: Inputs, *, freeze: Sequence[str] = ()) -> Cost:
    """The cost of a network, from shapes alone.

    Args:
      model: made for `inputs`.
      freeze: paths of the parameters that do not train: they have no gradient, and what only they
        would need of a clip is not kept.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(model.init, key)
    trained, frozen = {}, {}
    for path, leaf in flatten(variables["params"]).items():
        (frozen if matches(path, freeze) else trained)[path] = leaf

    def forward(batch: Mapping[str, Any], variables: Any, key: jax.Array) -> Any:
        return model.apply(variables, batch, train=False, key=key)[0]

    def residuals(
        batch: Mapping[str, Any], trained: Any, frozen: Any, stats: Any, key: jax.Array
    ) -> list[Any]:
        def outputs(trained: Any) -> Any:
            params = unflatten({**trained, **frozen})
            every = {"params": params, "stats": stats}
            outputs, _ = model.apply(every, batch, train=True, key=key)
            return outputs.logits, outputs.landmarks

        return jax.tree.leaves(jax.vjp(outputs, trained)[1])

    clips = batch_shapes(inputs, _CLIPS)
    forward_pass = jax.make_jaxpr(forward)(clips, variables, key)
    stats = variables["stats"]
    kept = jax.make_jaxpr(residuals)(clips, trained, frozen, stats, key)
    numbers = {name: sum(leaf.size for leaf in leaves.values())
               for name, leaves in (("trained", trained), ("frozen", frozen),
                                    ("stats", flatten(variables["stats"])))}  # fmt: skip
    return Cost(
        parameters=numbers["trained"] + numbers["frozen"],
        flops_per_clip=round(count_flops(forward_pass.jaxpr) / _CLIPS),
        activation_bytes_per_clip=max(_kept_bytes(kept.jaxpr), _widest(forward_pass.jaxpr))
        // _CLIPS,
        parameter_bytes=4 * (_COPIES * numbers["trained"] + numbers["frozen"] + numbers["stats"]),
    )


def training_flops(
    model: Model, inputs: Inputs, *, freeze: Sequence[str] = (), axis: str = ""
) -> int:
    """Floating-point operations of a clip in training: the forward pass and its gradient, without
    loss and optimizer.

    Args:
      axis: that the model was built for.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(model.init, key)
    trained, frozen = {}, {}
    for path, leaf in flatten(variables["params"]).items():
        (frozen if matches(path, freeze) else trained)[path] = leaf

    def gradient(trained: Any, frozen: Any, stats: Any, batch: Any, key: jax.Array) -> Any:
        def total(trained: Any) -> jax.Array:
            every = {"params": unflatten({**trained, **frozen}), "stats": stats}
            outputs, _ = model.apply(every, batch, train=True, key=key)
            found = jnp.sum(outputs.logits, dtype=jnp.float32)
            return found if outputs.landmarks is None else found + jnp.sum(outputs.landmarks)

        return jax.grad(total)(trained)

    axes = [(axis, 1)] if axis else []
    traced = jax.make_jaxpr(gradient, axis_env=axes)(
        trained, frozen, variables["stats"], batch_shapes(inputs, _CLIPS), key
    )
    return round(count_flops(traced.jaxpr) / _CLIPS)


def count_flops(jaxpr: Jaxpr) -> int:
    """Floating-point operations of a program; a multiply-add is 2, any function of one value 1.

    Reading, comparing, selecting and moving values count nothing. Of a condition the dearest branch
    counts, and a loop whose number of steps is not known counts as one step.
    """
    return sum(_flops(equation) for equation in jaxpr.eqns)


def _flops(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    inputs = [variable.aval for variable in equation.invars]
    out = equation.outvars[0].aval if equation.outvars else None
    match name:
        case "scan":
            return params["length"] * count_flops(params["jaxpr"].jaxpr)
        case "while":
            return count_flops(params["body_jaxpr"].jaxpr)
        case "cond":
            if called := _called(equation):
                return count_flops(called[0])
            return max(count_flops(branch.jaxpr) for branch in params["branches"])
        case "shard_map":
            devices = math.prod(params["mesh"].shape.values())
            return devices * sum(map(count_flops, programs_inside(params)))
    # Reductions, scatters and windows hold the program of one addition.
    single = name in _REDUCTIONS or name.startswith(("scatter", "reduce_window"))
    if not single and (inside := list(programs_inside(params))):
        return sum(map(count_flops, inside))
    if out is None or not jnp.issubdtype(out.dtype, jnp.inexact):
        real = name in ("argmax", "argmin") and jnp.issubdtype(inputs[0].dtype, jnp.inexact)
        return inputs[0].size if real else 0
    match name:
        case "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            return 2 * out.size * math.prod(inputs[0].shape[axis] for axis in contracted)
        case "conv_general_dilated":
            kernel = inputs[1]
            width = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
            return 2 * out.size * (kernel.size // width)
    if name in _ELEMENTWISE:
        return out.size
    if name in _REDUCTIONS:
        return inputs[0].size
    if name.startswith("reduce_window"):
        return out.size * math.prod(params["window_dimensions"])
    if name.startswith("scatter") and name != "scatter":
        return inputs[2].size
    return 0


def programs_inside(params: Mapping[str, Any]) -> Iterator[Jaxpr]:
    """The programs among an equation's parameters."""
    for value in params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(part, ClosedJaxpr):
                yield part.jaxpr
            elif isinstance(part, Jaxpr):
                yield part


def _called(equation: Any) -> tuple[Jaxpr, list[Any]] | None:
    """The program that an equation runs once, if it does nothing else, and what it is given."""
    params, given = equation.params, list(equation.invars)
    if equation.primitive.name in ("jit", "pjit"):
        return params["jaxpr"].jaxpr, given
    if equation.primitive.name == "cond" and params.get("branches_platforms"):
        return params["branches"][-1].jaxpr, given[1:]  # what any accelerator runs
    return None


def _kept_bytes(jaxpr: Jaxpr) -> int:
    """Bytes of a program's distinct outputs that grow with `_CLIPS`."""
    makers: _Makers = {}
    kept = {_origin(jaxpr, variable, makers) for variable in jaxpr.outvars}
    return _bytes(variable for variable in kept if variable is not None)


def _bytes(variables: Iterable[Any]) -> int:
    """Of the arrays among them that grow with `_CLIPS`."""
    arrays = [variable.aval for variable in variables if hasattr(variable.aval, "shape")]
    return sum(
        array.size * array.dtype.itemsize
        for array in arrays
        if any(side and side % _CLIPS == 0 for side in array.shape)
    )


def _widest(jaxpr: Jaxpr) -> int:
    """Bytes that grow with `_CLIPS` of what the largest convolution or product reads and writes."""
    found = 0
    for equation in jaxpr.eqns:
        found = max([found, *map(_widest, programs_inside(equation.params))])
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            found = max(found, _bytes({*equation.invars, *equation.outvars}))
    return found


_Makers = dict[int, dict[Any, Any]]
"""By the identity of a program, the equation that makes each of its variables."""


def _origin(jaxpr: Jaxpr, variable: Any, makers: _Makers) -> Var | None:
    """The variable whose memory this one shares; None of a constant that is only repeated."""
    if isinstance(variable, Literal):
        return None
    if id(jaxpr) not in makers:
        makers[id(jaxpr)] = {out: made for made in jaxpr.eqns for out in made.outvars}
    equation = makers[id(jaxpr)].get(variable)
    if equation is None:
        return variable
    name, called = equation.primitive.name, _called(equation)
    if called is not None:
        program, given = called
        inner = _origin(program, program.outvars[equation.outvars.index(variable)], makers)
        if inner is None:
            return None
        if inner not in program.invars:
            return variable
        return _origin(jaxpr, given[program.invars.index(inner)], makers)
    if name.startswith("empty"):
        return None
    if name in ("reshape", "squeeze", "broadcast_in_dim"):
        source = equation.invars[0]
        origin = _origin(jaxpr, source, makers)
        if origin is None or source.aval.size == variable.aval.size:
            return origin
    return variable
