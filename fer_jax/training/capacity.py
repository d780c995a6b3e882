"""How many members of a population a device holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from fer_jax import models
from fer_jax.models.cost import cost

#: Of a device's memory, what is planned with: the rest is the compiler's and fragmentation.
_SHARE = 0.8
#: Copies of a member's state: itself, its successor and the best so far.
_STATES = 3
#: What the backward pass holds beside what the forward pass keeps.
_ACTIVATIONS = 2


def bytes_of(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def bytes_of_a_member(
    model: models.Model, inputs: models.Inputs, state: Any, batch: int, freeze: Sequence[str] = ()
) -> int:
    """Estimated from shapes: states and activations of one member in training.

    Args:
      state: its first state, as shapes.
      batch: samples of a step.
    """
    kept = cost(model, inputs, freeze=freeze).activation_bytes_per_clip
    return _STATES * bytes_of(state) + _ACTIVATIONS * batch * kept


def lanes_that_fit(device: Any, resident: int, member: int, wanted: int) -> int:
    """How many members a device trains at once, at least 1.

    A CPU trains one: its cores are busy with that, and more would only take memory.

    Args:
      device: JAX's.
      resident: bytes of the corpus.
      member: bytes of one member.
      wanted: members that there are for it.
    """
    if device.platform == "cpu":
        return 1
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit is None:
        return wanted
    return max(1, min(wanted, int(_SHARE * limit - resident) // member))
