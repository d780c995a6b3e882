"""Will a config fit on devices that are not there yet, how fast can it be, and what will it cost?

For TPUs the train step is compiled by libtpu, so memory and exchanges are read off the very program
that would run. For GPUs no compiler is at hand: the step is lowered for CUDA, its operations and
exchanges are counted in its equations, and its memory is an estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import AbstractMesh, Mesh

from fer_jax import models
from fer_jax.config import Experiment, override
from fer_jax.data import geometry, protocols, samples
from fer_jax.labels import CANONICAL, make_label_space
from fer_jax.models.cost import cost
from fer_jax.training.ahead import (
    Compiled,
    DoesNotFit,
    Traced,
    compile_traced,
    make_gpu_mesh,
    make_mesh,
    trace_train_step,
)
from fer_jax.training.capacity import bytes_of
from fer_jax.training.chips import Topology, parse_topology
from fer_jax.training.compiled import Collective, read_collectives
from fer_jax.training.exchanges import count_collectives
from fer_jax.training.inputs import inputs_of
from fer_jax.training.job import read_records
from fer_jax.training.largest import largest_share
from fer_jax.training.peaks import datasheet
from fer_jax.training.state import divide

#: Samples of a training set that nobody described.
SAMPLES = 4096
#: What the backward pass holds beside what the forward pass keeps, for GPUs.
_ACTIVATIONS = 2
#: Of a device's memory, what data may take before it is dealt or streamed (`source.place`).
_DATA_SHARE = 0.5


class Corpus(NamedTuple):
    """The size of what a run reads.

    Attributes:
      samples, frames: of the training set.
      validation: samples of the validation set, and its frames.
      bytes: of the streams of both.
      image_shapes: of the stored images; None is what the network reads.
      classes: number of them.
    """

    samples: int
    frames: int
    validation: tuple[int, int]
    bytes: int
    image_shapes: Mapping[str, tuple[int, int, int]] | None
    classes: int


@dataclass(frozen=True)
class Share:
    """What a device's share of a batch takes.

    Attributes:
      peak: bytes of a device's memory at any time, 0 where only that it is too much is known.
      temporary: of them beside state and data.
      moved: bytes a step reads and writes.
      refused: what the compiler said, where it does not fit.
    """

    traced: Traced
    peak: int
    temporary: int = 0
    moved: int = 0
    collectives: tuple[Collective, ...] = ()
    refused: str = ""


def plan(
    experiment: Experiment,
    topology: str,
    *,
    samples: int = 0,
    price: float | None = None,
    search: bool = True,
    say: Callable[[str], None] = lambda text: None,
    on_compiled: Callable[[Compiled], None] = lambda made: None,
) -> dict[str, Any]:
    """What training a config on a topology takes.

    Args:
      topology: of `chips.parse_topology`.
      samples: of the training set; by default those of `data.dir`, else 4,096.
      price: of a chip-hour.
      search: look for the largest batch that fits, too.
      say: is given a line on each thing that takes long.
      on_compiled: is given each program that fits a TPU.

    Returns:
      in JSON: fits, chips, bytes_per_chip, flops_per_step, largest_batch (None without `search`)
      and what `plan_table.render` shows beside.

    Raises:
      UserError: there is no such topology, libtpu is not installed, no such records, or the
        settings do not go together.
    """
    known = parse_topology(topology)
    devices = experiment.parallel.devices
    mesh = make_mesh(topology, devices) if known.sides else make_gpu_mesh(topology, devices)
    corpus = _corpus(experiment, samples)
    placement = _placement(experiment, known, mesh.size, corpus.bytes)
    parts = experiment.train.accumulate
    found: dict[int, Share] = {}

    def look(units: int) -> Share:
        if units not in found:
            batch = str(units * parts * mesh.size)
            given = experiment if units == start else override(experiment, [("train.batch", batch)])
            trace = partial(trace_train_step, given, mesh, placement=placement)
            traced = trace(
                samples=corpus.samples,
                frames=corpus.frames,
                image_shapes=corpus.image_shapes,
                classes=corpus.classes,
            )
            found[units] = _look(given, known, traced, corpus, say, on_compiled)
        return found[units]

    start = -(-experiment.train.batch // (mesh.size * parts))
    share = look(start)
    beside = _beside(experiment, share.traced, corpus, placement)

    def measure(units: int) -> int:
        peak = look(units).peak
        return peak and peak + beside

    largest = None
    if search:
        floor = bytes_of(share.traced.state) + share.traced.data + beside
        units, _ = largest_share(measure, start, known.chip.memory, floor)
        largest = units * parts * mesh.size
    fits = not share.refused and 0 < share.peak + beside <= known.chip.memory
    report = {
        "config": experiment.name,
        "topology": known.name,
        "chip": known.chip.kind,
        "hosts": _hosts(mesh),
        "fits": fits,
        "chips": mesh.size,
        "bytes_per_chip": share.peak + beside if share.peak else None,
        "flops_per_step": share.traced.flops * mesh.size,
        "largest_batch": largest,
        "estimated": not known.sides,
        "batch": experiment.train.batch,
        "batch_per_chip": share.traced.share,
        "precision": experiment.train.precision,
        "data": placement,
        "samples": corpus.samples,
        "classes": corpus.classes,
        "memory": {
            "chip": known.chip.memory,
            "state": bytes_of(share.traced.state),
            "data": share.traced.data,
            "temporary": share.temporary,
            "beside": beside,
        },
        "flops_per_chip": share.traced.flops,
        "bytes_moved_per_chip": share.moved,
        "collective_bytes": sum(one.bytes for one in share.collectives),
        "refused": share.refused,
        "shares": {str(one.traced.share): one.peak for one in found.values()},
    }
    return report | _speed(experiment, known, share, corpus.samples, price)


def _hosts(mesh: Mesh | AbstractMesh) -> int:
    if isinstance(mesh, AbstractMesh):
        return 1
    return len({chip.process_index for chip in mesh.devices.flat})


def _look(
    experiment: Experiment,
    topology: Topology,
    traced: Traced,
    corpus: Corpus,
    say: Callable[[str], None],
    on_compiled: Callable[[Compiled], None],
) -> Share:
    """What a share takes: compiled for a TPU, lowered and estimated for a GPU."""
    if not topology.sides:
        traced.step.lower(lowering_platforms=("cuda",))
        return _estimated(experiment, traced, corpus)
    say(f"compiling for {traced.share} samples on each of {traced.mesh.size} chips")
    try:
        made = compile_traced(traced, topology.name)
    except DoesNotFit as error:
        say(f"it does not fit: {error.reason}")
        needed = error.needed if error.needed > topology.chip.memory else 0
        return Share(traced, needed, refused=error.reason)
    on_compiled(made)
    memory, exchanged = made.memory, read_collectives(made.text, made.chips)
    say(f"it took {made.seconds:.0f} s; {memory['peak'] / 2**30:.2f} GiB a chip")
    return Share(traced, memory["peak"], memory["temporary"], made.bytes_accessed, exchanged)


def _estimated(experiment: Experiment, traced: Traced, corpus: Corpus) -> Share:
    """The gradient, and twice what the forward pass keeps, beside state and data."""
    settings = experiment.train
    inputs = inputs_of(experiment.data, corpus.image_shapes)
    model = models.build(
        experiment.model,
        inputs,
        corpus.classes,
        freeze=settings.freeze,
        precision=settings.precision,
        remat=settings.remat,
    )
    kept = cost(model, inputs, freeze=settings.freeze).activation_bytes_per_clip
    trained, _ = divide(traced.state.params, settings.freeze)
    held = _ACTIVATIONS * kept * traced.share
    temporary = bytes_of(trained) + held // settings.accumulate
    state = bytes_of(traced.state)
    moved = 2 * (state + bytes_of(trained)) + held
    exchanged = count_collectives(traced.step.jaxpr.jaxpr)
    return Share(traced, state + traced.data + temporary, temporary, moved, exchanged)


def _beside(experiment: Experiment, traced: Traced, corpus: Corpus, placement: str) -> int:
    """Bytes on a device while a step runs that it does not read: the best network so far, and the
    validation set."""
    count, frames = corpus.validation
    size = bytes_of(traced.state.variables)
    if not count or placement == "stream":
        return size
    share = frames / max(1, corpus.frames + frames)
    own = corpus.bytes * share / (traced.mesh.size if placement == "sharded" else 1)
    return size + int(own)


def _placement(experiment: Experiment, topology: Topology, devices: int, size: int) -> str:
    """Where `source.place` would put data of `size` bytes on such devices, if the host holds it."""
    settings = experiment.parallel
    if settings.input != "auto":
        return settings.input
    each = int(settings.input_gb * 1e9) or int(_DATA_SHARE * topology.chip.memory)
    if size <= each:
        return "resident"
    return "sharded" if devices > 1 and size <= devices * each else "stream"


def _corpus(experiment: Experiment, count: int) -> Corpus:
    """Of the records that the config names, or of `count` samples that each have their frames."""
    data, shapes = experiment.data, None
    found: list[Any] = []
    if data.dir:
        records = read_records(experiment)
        split = protocols.make_split(records.index, experiment.protocol)
        capped = samples.apply_caps(records.clips, split.train, data)
        make = partial(samples.make_samples, records.clips, label_space=records.label_space)
        parts = (capped, split.validation)
        found = [make(indices=part, data=data) for part in parts if len(part)]
        shapes, classes = records.corpus.image_shapes, len(records.label_space.classes)
    else:
        classes = len(make_label_space(data.labels, CANONICAL).classes)
    if found and not count:
        sizes = [(len(part), len(next(iter(part.streams.values())))) for part in found]
        return Corpus(
            *sizes[0],
            validation=sizes[1] if len(sizes) > 1 else (0, 0),
            bytes=sum(part.nbytes for part in found),
            image_shapes=shapes,
            classes=classes,
        )
    inputs = inputs_of(data, shapes)
    frames = (count or SAMPLES) * inputs.frames
    numbers = 4 * int(np.prod(geometry.raw_shape(data.features))) if data.features != "none" else 0
    for name in data.images:
        numbers += int(np.prod((shapes or {}).get(name, inputs.image_shape)))
    return Corpus(count or SAMPLES, frames, (0, 0), numbers * frames, shapes, classes)


def _speed(
    experiment: Experiment, topology: Topology, share: Share, samples: int, price: float | None
) -> dict[str, Any]:
    """The roofline: a step takes at least its operations at the peak, and its exchanges at the
    interconnect's bandwidth; about its bytes at the memory's, of which some never leave a chip."""
    peak = datasheet(topology.chip.kind, experiment.train.precision)
    assert peak is not None, topology
    devices = share.traced.mesh.size
    seconds = {
        "operations": share.traced.flops / peak.flops,
        "exchanges": sum(one.sent(devices) for one in share.collectives) / topology.chip.link,
    }
    least = max(seconds.values())
    seconds["memory"] = share.moved / peak.bytes
    about = max(seconds.values())
    batch = experiment.train.batch
    per_epoch = -(-samples // batch)
    hours = [experiment.train.epochs * per_epoch * each / 3600 for each in (least, about)]
    report: dict[str, Any] = {
        "seconds": seconds,
        "steps_per_s_at_most": 1 / least,
        "steps_per_s_about": 1 / about,
        "samples_per_s_at_most": batch / least,
        "samples_per_s_about": batch / about,
        "epochs": experiment.train.epochs,
        "steps_per_epoch": per_epoch,
        "hours_at_least": hours[0],
        "hours_about": hours[1],
    }
    if price is not None:
        costs = [topology.chips * price * each for each in hours]
        report |= {"price": price, "cost_at_least": costs[0], "cost_about": costs[1]}
    return report
