"""A config's train step, traced and compiled for devices that are not there.

libtpu compiles for a topology on any x86-64 Linux host, without a TPU and without a network; for
GPUs there is no such compiler, so a step is lowered for them. It is what a run would run,
`steps.make_train_step` over a mesh of the topology's devices, of arrays that are only shapes.
"""

from __future__ import annotations

import importlib.util
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from fer_jax.config import Experiment, override
from fer_jax.data.batches import share_of
from fer_jax.errors import UserError
from fer_jax.labels import CANONICAL, make_label_space
from fer_jax.models.cost import count_flops
from fer_jax.training import metrics, parallel, steps
from fer_jax.training.capacity import bytes_of
from fer_jax.training.chips import parse_topology
from fer_jax.training.inputs import inputs_of
from fer_jax.training.job import make_method
from fer_jax.training.resident import Rows, resident_shapes
from fer_jax.training.state import TrainState, make_state

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


class DoesNotFit(UserError):
    """A step that a chip's memory does not hold.

    Attributes:
      reason: XLA's.
      needed: bytes, or 0 where that is not said.
    """

    def __init__(self, topology: str, reason: str):
        super().__init__(
            f"a step does not fit on a chip of {topology} ({reason}): set a smaller --train.batch "
            "or a larger --train.accumulate, or give fewer samples or more chips"
        )
        self.reason = reason
        self.needed = _first_size(reason) if "hbm" in reason.lower() else 0


@dataclass(frozen=True)
class Traced:
    """A train step of shapes.

    Attributes:
      step: JAX's traced program of the steps `start` to `stop` of an epoch.
      flops: of one step on one device, forward and backward: scans by their length, a multiply-add
        as 2.
      state: the training state, as shapes.
      data: bytes of the data set on a device, and of what else lies there besides the state.
      share: samples of a batch on a device.
    """

    step: Any
    mesh: Mesh | AbstractMesh
    flops: int
    state: TrainState
    data: int
    share: int


def trace_train_step(
    experiment: Experiment,
    mesh: Mesh | AbstractMesh,
    *,
    samples: int = 4096,
    frames: int | None = None,
    image_shapes: Mapping[str, tuple[int, int, int]] | None = None,
    classes: int | None = None,
    placement: str = "resident",
) -> Traced:
    """Traces a config's train step for a mesh, whose devices share a batch.

    Args:
      mesh: of `make_mesh` or `make_gpu_mesh`.
      samples: of the training set.
      frames: that the samples show together; by default each sample has its own.
      image_shapes: H, W, C of the stored images by stream; by default what the network reads.
      classes: by default those of `data.labels`, and for "auto" the canonical emotions.
      placement: where the data lies, of `source.Placement.name`.

    Raises:
      UserError: the settings do not go together.
    """
    # pmap is the same program, and wants to hold its devices.
    experiment = override(experiment, [("parallel.mapper", "shard_map")])
    if classes is None:
        classes = len(make_label_space(experiment.data.labels, CANONICAL).classes)
    data, settings = experiment.data, experiment.train
    inputs = inputs_of(data, image_shapes)
    whole = NamedSharding(mesh, PartitionSpec())
    dealt = NamedSharding(mesh, PartitionSpec(parallel.AXIS))
    steps_per_epoch = -(-samples // settings.batch)
    method = make_method(experiment, inputs, np.ones(classes), steps_per_epoch)
    step: Any = steps.make_train_step(
        method.model,
        experiment,
        method.loss,
        method.optimizer,
        mesh,  # type: ignore[arg-type]
    )
    key = jax.eval_shape(lambda: jax.random.key(0))

    def first_state(key: jax.Array) -> TrainState:
        variables = method.model.init(key)
        return make_state(variables, method.optimizer, settings.freeze, settings.ema)

    state = jax.eval_shape(first_state, key)
    frames = frames or samples * inputs.frames
    resident = resident_shapes(data, inputs, samples, frames, mesh, image_shapes)
    share = share_of(settings.batch, mesh.size, settings.accumulate)
    given = {}
    if placement != "resident":
        streams, resident["streams"] = resident["streams"], {}
        shown = (mesh.size, share, inputs.frames)
        given = _dealt(streams, mesh.size, shown if placement == "stream" else None)
    index, weight = (
        jax.ShapeDtypeStruct((mesh.size, steps_per_epoch, share), kind)
        for kind in (np.int32, np.float32)
    )
    bound = jax.ShapeDtypeStruct((), np.int32)
    traced = step.trace(
        *_on((state, metrics.no_metrics(classes), resident), whole),
        _on(given, dealt),
        *_on((key,), whole),
        *_on((index, weight), dealt),
        *_on((bound, bound), whole),
    )
    lies = bytes_of(resident) + bytes_of((given, index, weight)) // mesh.size
    flops = count_flops(traced.jaxpr.jaxpr) // mesh.size
    return Traced(traced, mesh, flops, state, lies, share)


def compile_train_step(experiment: Experiment, topology: str, **data: Any) -> Compiled:
    """Compiles a config's train step for a TPU topology.

    Args:
      topology: "v5e:2x2", "v6e:4x4", "v5p:2x2x1" and so on; all its chips share a batch, unless
        `parallel.devices` asks for fewer.
      data: samples and so on, see `trace_train_step`.

    Raises:
      UserError: libtpu is not installed, there is no such topology, the step does not fit, or the
        settings do not go together.
    """
    return compile_traced(
        trace_train_step(experiment, make_mesh(topology, experiment.parallel.devices), **data),
        topology,
    )


def compile_traced(traced: Traced, topology: str) -> Compiled:
    """Compiles a step that was traced for the mesh of a TPU topology.

    Raises:
      DoesNotFit: a chip's memory does not hold it.
    """
    begun = time.monotonic()
    try:
        executable = traced.step.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        # XLA says how much of how much, before it lists every array.
        reason = str(error).splitlines()[0].partition("RESOURCE_EXHAUSTED: ")[2]
        raise DoesNotFit(topology, reason) from error
    return Compiled(
        chips=traced.mesh.size,
        kind=traced.mesh.devices.flat[0].device_kind,  # type: ignore[union-attr]
        executable=executable,
        flops=traced.flops,
        seconds=time.monotonic() - begun,
    )


def make_mesh(topology: str, devices: int = 0) -> Mesh:
    """The chips of a TPU topology as `parallel.make_mesh` would put them, `devices` of them or all.

    Raises:
      UserError: libtpu is not installed, or there is no such topology.
    """
    known = parse_topology(topology)
    if not known.sides:
        raise UserError(f"{topology}: only TPUs have a compiler that needs no device")
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "compiling for a TPU needs libtpu, which is there for x86-64 Linux: pip install "
            "'fer-jax[plan]'"
        )
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # A chip of v4 is two cores, which "megacore" makes one device, as Cloud TPUs do.
    how: dict[str, Any] = {"chip_config_name": "megacore"} if topology.startswith("v4:") else {}
    if known.chips == 1:
        how["chips_per_host_bounds"] = (1, 1, 1)
    chips = topologies.get_topology_desc(topology, "tpu", **how).devices
    count = _count(topology, len(chips), devices)
    return jax.make_mesh(
        (count,), (parallel.AXIS,), axis_types=(AxisType.Auto,), devices=chips[:count]
    )


def make_gpu_mesh(topology: str, devices: int = 0) -> AbstractMesh:
    """The same of GPUs, of which no device is known: enough to trace and lower for them.

    Raises:
      UserError: there is no such topology.
    """
    count = _count(topology, parse_topology(topology).chips, devices)
    return AbstractMesh((count,), (parallel.AXIS,), axis_types=(AxisType.Auto,))


def _count(topology: str, chips: int, devices: int) -> int:
    if devices > chips:
        raise UserError(f"--parallel.devices {devices}: {topology} has {chips} chips")
    return devices or chips


def _dealt(
    streams: Mapping[str, Rows], devices: int, shown: tuple[int, ...] | None
) -> dict[str, Any]:
    """The shapes of `source.Source.dealt`, or of what comes with a call that shows [D, b, T]."""
    struct = jax.ShapeDtypeStruct
    if shown is not None:
        fed = {k: struct((*shown, *v.shape), v.values.dtype) for k, v in streams.items()}
        return {"fed": fed}
    shares = {}
    for name, rows in streams.items():
        count, numbers = rows.values.shape
        each = (devices, -(-count // devices), numbers)
        shares[name] = Rows(struct(each, rows.values.dtype), rows.shape)
    return {"shares": shares}


def _first_size(reason: str) -> int:
    """The first amount that XLA names, "Used 17.20G of 15.75G hbm", in bytes."""
    found = re.search(r"([\d.]+)([KMGT])", reason)
    return int(float(found[1]) * 1024 ** (" KMGT".index(found[2]))) if found else 0


def _on(tree: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype, sharding=sharding), tree
    )
