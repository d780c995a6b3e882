"""A function of JAX as calls of another library's operations: what ONNX and TensorFlow are given.

JAX's own way to TensorFlow is no more, and no converter reads all of our networks. So the traced
function (jaxpr) is walked, once for every target: calls are inlined, what does not depend on the
inputs is computed by JAX, and the rest becomes calls of a `target.Target`, which has about twenty
operations. Where a layer has a form of its own for one platform, the general one is taken.

The batch stays free: JAX traces with a symbolic size, and every dimension is a number or so many
times the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import export

from fer_jax.deploy.lowering.rules import Value, known
from fer_jax.deploy.lowering.target import CannotLowerError, Target, Tensor
from fer_jax.deploy.lowering.walk import Walk

__all__ = ["CannotLowerError", "lower"]


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
    constants = [known(leaf) for leaf in jax.tree.leaves(variables)]
    # A dict's leaves come sorted by name.
    given = [Value(tensors[name], likes[name].shape) for name in sorted(likes)]
    walk = Walk(target, batch)
    results = walk.closed(closed, [*constants, *given])
    found = zip(sorted(shapes), results, strict=True)
    return {
        name: (
            walk.whole(value, shapes[name].shape),
            jax.ShapeDtypeStruct(shapes[name].shape[1:], shapes[name].dtype),
        )
        for name, value in found
    }
