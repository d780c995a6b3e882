"""What a training step reads and replaces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fer_jax.models import Model


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
        """What `Model.apply` takes."""
        return {"params": self.params, "stats": self.stats}


def make_keys(seed: int) -> tuple[jax.Array, jax.Array]:
    """The key that draws the first parameters, and the key that every step's key is folded from."""
    first, steps = jax.random.split(jax.random.key(seed))
    return first, steps


def make_state(model: Model, optimizer: optax.GradientTransformation, key: jax.Array) -> TrainState:
    """The state before the first step."""
    variables = model.init(key)
    params, stats = variables["params"], variables["stats"]
    return TrainState(jnp.zeros((), jnp.int32), params, stats, optimizer.init(params))


@jax.jit
def snapshot(tree: Any) -> Any:
    """A copy on the devices, which outlives the donation of the original."""
    return jax.tree.map(jnp.copy, tree)


def to_host(tree: Any) -> Any:
    """The same tree as NumPy arrays of their own; waits for the devices."""
    # On a CPU device_get may give a view of memory that the next step takes.
    return jax.tree.map(np.array, jax.device_get(tree))
