"""Where a data set lies while a run trains on it, and how the steps get at it.

* resident: its streams lie whole on every device; a step gathers its batch by index.
* sharded: they are dealt to the devices, which collect each batch from one another.
* stream: they stay in the records; each step's are read, decoded and sent ahead of it.

All three show the same batches in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from jax.sharding import Mesh

from fer_jax import config, machine
from fer_jax.data.samples import Samples
from fer_jax.data.statistics import Statistics
from fer_jax.data.stream import Stream, read_ahead
from fer_jax.errors import UserError
from fer_jax.training import distributed, parallel
from fer_jax.training.resident import Rows, make_resident

#: Of the memory, what data may take: a device's, whose rest is the network's, and the host's.
_DEVICE_SHARE, _HOST_SHARE = 0.5, 0.5


class Placement(NamedTuple):
    """Where data lies.

    Attributes:
      name: "resident", "sharded" or "stream".
      why: a line for the user.
    """

    name: str
    why: str


RESIDENT = Placement("resident", "")


def place(size: int, settings: config.Parallel, mesh: Mesh) -> Placement:
    """Where data of `size` bytes lies: where the config wants it, else the first place that it fits
    in, on the host that has least."""
    found = distributed.gather(_place_here(size, settings, mesh))
    order = ("resident", "sharded", "stream")
    return Placement(*max(found, key=lambda one: order.index(one[0])))


def _place_here(size: int, settings: config.Parallel, mesh: Mesh) -> Placement:
    own = parallel.own_rows(mesh)
    device, count, here = mesh.devices.flat[own[0]], mesh.size, len(own)
    many = f"{count} {device.platform.upper()} device{'s' if count > 1 else ''}"
    limit = (device.memory_stats() or {}).get("bytes_limit")
    host = int(_HOST_SHARE * machine.available_memory())
    if settings.input_gb:
        each, of_host = int(settings.input_gb * 1e9), host
    elif device.platform != "cpu" and limit:
        each, of_host = int(_DEVICE_SHARE * limit), host
    else:  # The devices are this memory, which holds what they are given too.
        each, of_host = max(0, host - size) // here, host
    if settings.input != "auto":
        return Placement(settings.input, f"{_gb(size)} of data, {settings.input} as told")
    if size <= min(each, of_host):
        return Placement("resident", f"{_gb(size)} of data lie on each of {many}")
    budget = f"{_gb(each)} a device"
    if count > 1 and size <= count * min(each, of_host // here):
        why = f"{_gb(size)} of data, more than {budget}, are dealt to {many}"
        return Placement("sharded", why)
    what = (
        f"{_gb(size)} of data, more than {budget} or than {_gb(of_host)} of this machine's memory"
    )
    return Placement("stream", f"{what}, are read from the records while training")


def need_resident(size: int, settings: config.Parallel, mesh: Mesh) -> None:
    """For the members of a population, who share their data.

    Raises:
      UserError: it does not fit, or is told to lie elsewhere.
    """
    placement = place(size, settings, mesh)
    if placement.name != "resident":
        raise UserError(
            f"a population's data lies whole on each device, but here: {placement.why}; train the "
            "members one by one with `fer-jax train`, or say --parallel.input resident"
        )


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


@dataclass(frozen=True)
class Source:
    """A data set as the steps read it.

    Attributes:
      size: samples.
      resident: arrays whole on every device: rows, frame_mask, label, weight, statistics, and the
        streams where they are resident.
      dealt: arrays with row d on device d: shares, the streams where they are sharded.
      stream: what each step shows where nothing else holds it; else None.
    """

    size: int
    resident: dict[str, Any]
    dealt: dict[str, Any]
    stream: Stream | None
    mesh: Mesh
    processes: int = 0

    @contextmanager
    def feed(self, start: int, stop: int) -> Iterator[Feed]:
        """What comes with the calls of steps `start` to `stop`, counted over all epochs."""
        if self.stream is None:
            yield Feed(lambda: self.dealt, False)
            return
        put = partial(parallel.spread_own, mesh=self.mesh)
        with read_ahead(self.stream, start, stop, processes=self.processes, put=put) as iterator:
            yield Feed(lambda: {"fed": next(iterator)}, True)


class Feed(NamedTuple):
    """The dealt arrays, call by call."""

    take: Callable[[], dict[str, Any]]
    """Of the next call, as soon as they are there."""
    single: bool
    """Each is of one step alone."""


def make_source(
    samples: Samples,
    statistics: Statistics,
    placement: str,
    mesh: Mesh,
    experiment: config.Experiment,
    seed: int | None = None,
) -> Source:
    """Puts a data set where it shall lie.

    Args:
      samples: `loaded`, if they are to be resident.
      placement: of `Placement.name`.
      seed: of the order of training; None is the samples' own order, in whole batches.

    Raises:
      UserError: a stream cannot give what the config draws.
    """
    settings = experiment.train
    streams, dealt, stream = {}, {}, None
    if placement == "stream":
        if experiment.data.augment.mixup:
            raise UserError(
                "--data.augment.mixup draws from the whole training set: give it to the devices "
                "with --parallel.input resident, or sharded"
            )
        parts = 1 if seed is None else settings.accumulate
        own = parallel.own_rows(mesh)
        stream = Stream(samples, settings.batch, mesh.size, parts, seed, own)
    elif placement == "sharded":
        dealt = {"shares": {k: Rows.dealt(v, mesh) for k, v in samples.streams.items()}}
    else:
        streams = samples.streams
    resident = make_resident(samples, streams, mesh, statistics)
    processes = experiment.parallel.decode_processes
    return Source(len(samples), resident, dealt, stream, mesh, processes)
