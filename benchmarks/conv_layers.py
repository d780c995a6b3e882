"""A network's convolutions one by one, in every layout and precision, on whatever device there is.

The part of `benchmarks.image_step --layers`: which layout XLA should be given is a question of the
device.
"""

from __future__ import annotations

import statistics
import time
from functools import partial
from typing import Any

import jax
from jax import lax

from fer_jax import config, models
from fer_jax.models.cost import batch_shapes
from fer_jax.training.inputs import inputs_of

#: Input, kernel and output, by how many spatial axes there are.
LAYOUTS = {
    2: (("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW")),
    3: (("NDHWC", "DHWIO", "NDHWC"), ("NCDHW", "OIDHW", "NCDHW")),
}


def _convolutions(settings: config.Experiment, classes: int) -> list[Any]:
    """The distinct convolutions of the forward pass as an accelerator runs it: equations."""
    inputs = inputs_of(settings.data)
    model = models.build(settings.model, inputs, classes)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    batch = batch_shapes(inputs, settings.train.batch)

    def forward(variables: Any, batch: Any) -> jax.Array:
        return model.apply(variables, batch, train=False, key=jax.random.key(0))[0].logits

    found: dict[str, Any] = {}

    def walk(program: Any) -> None:
        for equation in program.eqns:
            if equation.primitive.name == "conv_general_dilated":
                found.setdefault(str(equation.params) + str(equation.invars), equation)
            branches = equation.params.get("branches")
            if branches:  # of platforms; the last is any accelerator's
                walk(branches[-1].jaxpr)
            elif inner := equation.params.get("jaxpr"):
                walk(getattr(inner, "jaxpr", inner))

    walk(jax.make_jaxpr(forward)(variables, batch).jaxpr)
    return list(found.values())


def _milliseconds(equation: Any, layout: tuple[str, ...], precision: str, times: int) -> float:
    """Of one convolution, forward and backward."""
    given = []
    for part, variable in enumerate(equation.invars):
        shape, usual = variable.aval.shape, LAYOUTS[variable.aval.ndim - 2][0][part]
        sizes = [shape[usual.index(axis)] for axis in layout[part]]
        given.append(jax.random.normal(jax.random.key(part), sizes, precision))

    @jax.jit
    def step(x: jax.Array, kernel: jax.Array) -> Any:
        names = ("window_strides", "padding", "feature_group_count")
        same = {name: equation.params[name] for name in names}
        convolve = partial(lax.conv_general_dilated, dimension_numbers=layout, **same)
        y, back = jax.vjp(convolve, x, kernel)
        return y, *back(y)

    taken = []
    for _ in range(times + 1):
        begun = time.perf_counter()
        jax.block_until_ready(step(*given))
        taken.append((time.perf_counter() - begun) * 1e3)
    return round(statistics.median(taken[1:]), 3)


def layers(settings: config.Experiment, classes: int, times: int = 10) -> dict[str, Any]:
    """Median milliseconds of every convolution, forward and backward, by layout and precision."""
    answer: dict[str, Any] = {}
    for equation in _convolutions(settings, classes):
        x, kernel = (variable.aval.shape for variable in equation.invars)
        answer[f"{'x'.join(map(str, x))} * {'x'.join(map(str, kernel))}"] = {
            f"{layout[0]} {precision}": _milliseconds(equation, layout, precision, times)
            for layout in LAYOUTS[len(x) - 2]
            for precision in ("float32", "bfloat16")
        }
    return answer
