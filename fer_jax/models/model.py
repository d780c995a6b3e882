"""What the rest of the project sees of a network: two pure functions on plain dicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

Params = dict[str, Any]
"""Nested plain dicts of arrays."""
Batch = Mapping[str, jax.Array]


class Outputs(NamedTuple):
    """What a network says of B samples."""

    logits: jax.Array
    """f32[B, K], before the softmax."""
    embedding: jax.Array
    """f32[B, D], what the classifier reads, before dropout."""
    landmarks: jax.Array | None = None
    """f32[B, 68, 2], of networks that localise landmarks."""


class Apply(Protocol):
    def __call__(
        self, variables: Mapping[str, Params], batch: Batch, *, train: bool, key: jax.Array
    ) -> tuple[Outputs, Params]: ...


@dataclass(frozen=True)
class Model:
    """A network as pure functions: nothing outside fer_jax.models knows its module system."""

    init: Callable[[jax.Array], dict[str, Params]]
    """key -> {"params": ..., "stats": ...}; stats is what the network updates itself
    (BatchNorm averages) and is empty for a network without."""
    apply: Apply
    """(variables, batch, *, train, key) -> (Outputs, new stats). The key only matters in training:
    one key an example, [B], or one for all, which is folded with each example's place."""
    penalty: Callable[[Params], jax.Array]
    """params -> f32[], what the network's regularisers add to the loss."""


def model_of(
    make: Callable[[nnx.Rngs], nnx.Module], kernels: Sequence[str] = (), l2: float = 0.0
) -> Model:
    """The Model of an NNX module whose call is (batch, *, train, key) -> Outputs.

    Args:
      make: builds the module.
      kernels: the layers whose `kernel` is regularised.
      l2: times the sum of their squares is the penalty.
    """
    graph = nnx.graphdef(nnx.eval_shape(lambda: make(nnx.Rngs(0))))

    def states(module: nnx.Module) -> tuple[Params, Params]:
        params, stats = nnx.state(module, nnx.Param, ...)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(stats)

    @jax.jit
    def init(key: jax.Array) -> dict[str, Params]:
        params, stats = states(make(nnx.Rngs(key)))
        return {"params": params, "stats": stats}

    def apply(
        variables: Mapping[str, Params], batch: Batch, *, train: bool, key: jax.Array
    ) -> tuple[Outputs, Params]:
        module: Any = nnx.merge(graph, variables["params"], variables["stats"])
        outputs = module(batch, train=train, key=key)
        return outputs, states(module)[1]

    def penalty(params: Params) -> jax.Array:
        squares = [jnp.sum(jnp.square(params[layer]["kernel"])) for layer in kernels]
        return l2 * sum(squares, jnp.zeros(()))

    return Model(init, apply, penalty if l2 else lambda params: jnp.zeros(()))


def parameter_count(params: Params) -> int:
    """How many numbers training fits."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
