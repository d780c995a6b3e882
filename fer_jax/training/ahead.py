"""A config's train step, compiled for TPUs that are not there.

libtpu compiles for a topology on any x86-64 Linux host, without a TPU and without a network. What
is compiled is what a run would run, `steps.make_train_step` over a mesh of the topology's devices,
of arrays that are only shapes.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fer_jax.config import Experiment, override
from fer_jax.data.batches import share_of
from fer_jax.errors import UserError
from fer_jax.labels import CANONICAL, make_label_space
from fer_jax.models.cost import count_flops
from fer_jax.training import metrics, parallel, steps
from fer_jax.training.inputs import inputs_of
from fer_jax.training.job import make_method
from fer_jax.training.resident import resident_shapes
from fer_jax.training.state import make_state

#: What libtpu would ask the cloud's metadata server for and keep for one process, as if it drove a
#: TPU. What the user has set stays.
_ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_LOG_DIR": "disabled",
}


@dataclass(frozen=True)
class Compiled:
    """A train step for a topology.

    Attributes:
      chips: how many share a batch.
      kind: JAX's name of a chip.
      executable: JAX's compiled program. It runs the steps `start` to `stop` in a loop.
      flops: of one step on one chip, forward and backward, counted from the program that was
        compiled: scans by their length, a multiply-add as 2.
      seconds: that compiling took.
    """

    chips: int
    kind: str
    executable: Any
    flops: int
    seconds: float

    @cached_property
    def text(self) -> str:
        """The optimized HLO, which `fer_jax.training.compiled` reads."""
        return self.executable.as_text()

    @property
    def memory(self) -> dict[str, int]:
        """Bytes of a chip: `arguments` (the data set and the state), `outputs`, of which `aliased`
        take the arguments' memory, `temporary`, and `peak`, the most at any time."""
        found = self.executable.memory_analysis()
        return {
            "arguments": found.argument_size_in_bytes,
            "outputs": found.output_size_in_bytes,
            "aliased": found.alias_size_in_bytes,
            "temporary": found.temp_size_in_bytes,
            "peak": found.peak_memory_in_bytes,
        }

    @property
    def bytes_accessed(self) -> int:
        """Of a chip's memory in one step, by the compiler's own count. A loop inside the step
        counts as one turn, so a recurrent network moves more."""
        return int(self.executable.cost_analysis()["bytes accessed"])


def compile_train_step(
    experiment: Experiment,
    topology: str,
    *,
    samples: int = 4096,
    frames: int | None = None,
    image_shapes: Mapping[str, tuple[int, int, int]] | None = None,
    classes: int | None = None,
) -> Compiled:
    """Compiles a config's train step for a TPU topology.

    Args:
      topology: "v5e:2x2", "v6e:4x4", "v5p:2x2x1" and so on; all its chips share a batch, unless
        `parallel.devices` asks for fewer.
      samples: of the training set, which lies on every chip.
      frames: that the samples show together; by default each sample has its own.
      image_shapes: H, W, C of the stored images by stream; by default what the network reads.
      classes: by default those of `data.labels`, and for "auto" the canonical emotions.

    Raises:
      UserError: libtpu is not installed, there is no such topology, the step does not fit, or the
        settings do not go together.
    """
    # pmap is the same program, and wants to hold its devices.
    experiment = override(experiment, [("parallel.mapper", "shard_map")])
    mesh = make_mesh(topology, experiment.parallel.devices)
    if classes is None:
        classes = len(make_label_space(experiment.data.labels, CANONICAL).classes)
    data = experiment.data
    inputs = inputs_of(data, image_shapes)
    whole = NamedSharding(mesh, PartitionSpec())
    dealt = NamedSharding(mesh, PartitionSpec(parallel.AXIS))
    steps_per_epoch = -(-samples // experiment.train.batch)
    method = make_method(experiment, inputs, np.ones(classes), steps_per_epoch)
    step = steps.make_train_step(method.model, experiment, method.loss, method.optimizer, mesh)
    settings = experiment.train
    key = jax.eval_shape(lambda: jax.random.key(0))

    def first_state(key: jax.Array) -> Any:
        variables = method.model.init(key)
        return make_state(variables, method.optimizer, settings.freeze, settings.ema)

    frames = frames or samples * inputs.frames
    resident = resident_shapes(data, inputs, samples, frames, mesh, image_shapes)
    share = share_of(settings.batch, mesh.size, settings.accumulate)
    index, weight = (
        jax.ShapeDtypeStruct((mesh.size, steps_per_epoch, share), kind)
        for kind in (np.int32, np.float32)
    )
    bound = jax.ShapeDtypeStruct((), np.int32)
    arguments = (
        *_on((jax.eval_shape(first_state, key), metrics.no_metrics(classes), resident), whole),
        {},  # Nothing is dealt: the data lies whole on each chip.
        *_on((key,), whole),
        *_on((index, weight), dealt),
        *_on((bound, bound), whole),
    )
    begun = time.monotonic()
    traced = step.trace(*arguments)
    try:
        executable = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        # XLA says how much of how much, before it lists every array.
        reason = str(error).splitlines()[0].partition("RESOURCE_EXHAUSTED: ")[2]
        raise UserError(
            f"a step does not fit on a chip of {topology} ({reason}): set a smaller --train.batch "
            "or a larger --train.accumulate, or give fewer samples or more chips"
        ) from error
    return Compiled(
        chips=mesh.size,
        kind=mesh.devices.flat[0].device_kind,
        executable=executable,
        flops=count_flops(traced.jaxpr.jaxpr) // mesh.size,
        seconds=time.monotonic() - begun,
    )


def make_mesh(topology: str, devices: int = 0) -> Mesh:
    """The chips of a topology as `parallel.make_mesh` would put them, `devices` of them or all.

    Raises:
      UserError: libtpu is not installed, or there is no such topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "compiling for a TPU needs libtpu, which is there for x86-64 Linux: pip install "
            "'fer-jax[plan]'"
        )
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        chips = topologies.get_topology_desc(topology, "tpu").devices
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"no TPU topology {topology!r} ({reason}): give one as in v5e:2x2, v6e:4x4 or v5p:2x2x1"
        ) from error
    if chips[0].core_on_chip or chips[-1].core_on_chip:
        raise UserError(f"{topology}: a chip is several devices there; give v5e, v5p or v6e")
    if devices > len(chips):
        raise UserError(f"--parallel.devices {devices}: {topology} has {len(chips)} chips")
    count = devices or len(chips)
    return jax.make_mesh(
        (count,), (parallel.AXIS,), axis_types=(AxisType.Auto,), devices=chips[:count]
    )


def _on(tree: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype, sharding=sharding), tree
    )
