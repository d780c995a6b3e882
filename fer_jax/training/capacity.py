"""What fits: members of a population on a device, samples of a step in a CPU's cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from fer_jax import models
from fer_jax.config import Experiment
from fer_jax.models.cost import cost

#: Of a device's memory, what is planned with: the rest is the compiler's and fragmentation.
_SHARE = 0.8
#: Copies of a member's state: itself, its successor and the best so far.
_STATES = 3
#: What the backward pass holds beside what the forward pass keeps.
_ACTIVATIONS = 2
#: What a CPU computes at once keeps at most so many bytes for the backward pass: more leaves the
#: cache, and a step of paper 1's LSTM takes 8 % longer. A constant: every CPU adds up alike.
_PART_BYTES = 32 << 20
#: Larger networks gain nothing: each part would read all of their weights again.
_SMALL_BYTES = 4 << 20


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


def sample_bytes(
    model: models.Model, inputs: models.Inputs, experiment: Experiment, mesh: Mesh
) -> int:
    """What a training step keeps of a sample, where a device should compute its samples in parts.

    That is a CPU with a small network of features; 0 elsewhere. A network of images has BatchNorm,
    and convolutions that are slow inside a loop.
    """
    if mesh.devices.flat[0].platform != "cpu" or inputs.images:
        return 0
    spent = cost(model, inputs, freeze=experiment.train.freeze)
    return spent.activation_bytes_per_clip if 4 * spent.parameters <= _SMALL_BYTES else 0


def parts_of(samples: int, accumulate: int, each: int) -> int:
    """In how many parts a device computes the samples of a step.

    Args:
      accumulate: at least so many.
      each: `sample_bytes`; with 0 they are `accumulate`.
    """
    parts = accumulate
    while samples % (2 * parts) == 0 and samples // parts * each > _PART_BYTES:
        parts *= 2
    return parts
