"""What a training step reads and replaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fer_jax.models.paths import flatten, matches, unflatten


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything that changes from step to step. No RNG: a step's key is fold_in(key, step)."""

    step: jax.Array
    """i32[], steps done."""
    params: dict[str, Any]
    stats: dict[str, Any]
    opt_state: Any
    ema: dict[str, Any] | None = None
    """Averaged parameters, of recipes that keep them."""

    @property
    def variables(self) -> dict[str, Any]:
        """What is evaluated: the averaged parameters where they are kept."""
        return {"params": self.params if self.ema is None else self.ema, "stats": self.stats}


def make_keys(seed: int) -> tuple[jax.Array, jax.Array]:
    """The key that draws the first parameters, and the key that every step's key is folded from."""
    first, steps = jax.random.split(jax.random.key(seed))
    return first, steps


def divide(params: dict[str, Any], freeze: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters that train, and the frozen ones: two trees whose `merge` is the whole."""
    if not freeze:
        return params, {}
    leaves = flatten(params)
    frozen = {path: leaf for path, leaf in leaves.items() if matches(path, freeze)}
    trained = {path: leaf for path, leaf in leaves.items() if path not in frozen}
    return unflatten(trained), unflatten(frozen)


def merge(trained: dict[str, Any], frozen: dict[str, Any]) -> dict[str, Any]:
    """The whole of two trees of `divide`."""
    return unflatten(flatten(trained) | flatten(frozen)) if frozen else trained


def make_state(
    variables: dict[str, Any],
    optimizer: optax.GradientTransformation,
    freeze: Sequence[str] = (),
    ema: float = 0.0,
) -> TrainState:
    """The state before the first step, from the first variables."""
    params, stats = variables["params"], variables["stats"]
    trained, _ = divide(params, freeze)
    average = jax.tree.map(jnp.copy, params) if ema else None
    return TrainState(jnp.zeros((), jnp.int32), params, stats, optimizer.init(trained), average)


def average(ema: Any, params: Any, decay: float, step: jax.Array) -> Any:
    """The running average after `step` updates; it follows quickly while there are few.

    The decay is min(decay, (1 + step) / (10 + step)), as TensorFlow's ExponentialMovingAverage.
    """
    time = step.astype(jnp.float32)
    keep = jnp.minimum(decay, (1 + time) / (10 + time))
    return jax.tree.map(lambda old, new: keep * old + (1 - keep) * new, ema, params)


@jax.jit
def snapshot(tree: Any) -> Any:
    """A copy on the devices, which outlives the donation of the original."""
    return jax.tree.map(jnp.copy, tree)


def to_host(tree: Any) -> Any:
    """The same tree as NumPy arrays of their own; waits for the devices."""
    # On a CPU device_get may give a view of memory that the next step takes.
    return jax.tree.map(np.array, jax.device_get(tree))
