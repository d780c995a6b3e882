"""Everything that a run needs and that does not change while it trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from fer_jax import models, storage
from fer_jax.config import Data, Experiment, load_config
from fer_jax.data import audit, corpus, importance, protocols, samples
from fer_jax.data.samples import Samples
from fer_jax.data.statistics import Statistics
from fer_jax.errors import UserError
from fer_jax.labels import LabelSpace, make_label_space
from fer_jax.models.paths import flatten, matches
from fer_jax.records import Clip
from fer_jax.training import optim, parallel, source, steps
from fer_jax.training.capacity import sample_bytes
from fer_jax.training.inputs import inputs_of
from fer_jax.training.losses import Loss, make_loss
from fer_jax.training.state import TrainState, divide, make_keys, make_state


@dataclass(frozen=True)
class Dataset:
    """The clips of an experiment, divided.

    Attributes:
      label_space: the classes.
      split: which clips train, validate and test.
      train, validation: the samples; validation is None where nothing validates.
      inputs: what the network reads of them.
      facts: JSON of what metrics must be reported with.
      placement: where a run keeps them; a population's lie on every device.
    """

    label_space: LabelSpace
    split: protocols.Split
    train: Samples
    validation: Samples | None
    inputs: models.Inputs
    facts: dict[str, Any]
    placement: source.Placement = source.RESIDENT


@dataclass(frozen=True)
class Records:
    """A record directory as an experiment reads it, before any split.

    Attributes:
      corpus: the record directory.
      clips: its clips; in memory where they are small.
      index: what splitting reads of the clips, for any number of splits.
      label_space: the classes.
      inputs: what the network reads of a sample.
      identities: of the clips, for the audit of any number of splits.
    """

    corpus: corpus.Corpus
    clips: Sequence[Clip]
    index: protocols.Index
    label_space: LabelSpace
    inputs: models.Inputs
    identities: audit.Identities


def open_corpus(data: Data, streams: Sequence[str]) -> corpus.Corpus:
    """The records that a config names, with these streams.

    Raises:
      UserError: it names none, there are no such records, or they lack a stream.
    """
    if not data.dir:
        raise UserError("no data: give a record directory with --data.dir DIR")
    return corpus.load(data.dir, streams=streams)


def read_records(experiment: Experiment) -> Records:
    """Opens the records that the experiment reads.

    Raises:
      UserError: no such records, or they lack what the config reads.
    """
    data = experiment.data
    found = open_corpus(data, samples.streams_of(data))
    inputs = inputs_of(data, found.image_shapes)
    # Splitting, auditing and sampling each look at every clip: kept, but for images.
    clips = found if data.images else list(found)
    index = protocols.Index(clips)
    label_space = make_label_space(data.labels, {entry.word for entry in index.entries})
    return Records(found, clips, index, label_space, inputs, audit.Identities(clips))


def load_dataset(experiment: Experiment) -> Dataset:
    """Reads the records and makes the training and validation samples.

    Raises:
      UserError: no such records, or they cannot be split or used as the config wants.
    """
    records = read_records(experiment)
    split = protocols.make_split(records.index, experiment.protocol)
    dataset = make_dataset(experiment, records, split)
    parts = [part for part in (dataset.train, dataset.validation) if part is not None]
    mesh = parallel.make_mesh(experiment.parallel)
    placement = source.place(sum(part.nbytes for part in parts), experiment.parallel, mesh)
    if placement.name == "resident":
        parts = [part.loaded() for part in parts]
    validation = parts[1] if len(parts) > 1 else None
    return dataclasses.replace(dataset, train=parts[0], validation=validation, placement=placement)


def make_dataset(
    experiment: Experiment, records: Records, split: protocols.Split, whole: Samples | None = None
) -> Dataset:
    """The training and validation samples of a split.

    Args:
      whole: samples of the clips of all parts, where they are made already.

    Raises:
      UserError: the split cannot be used as the config wants.
    """
    data, clips, label_space = experiment.data, records.clips, records.label_space
    notes = [*split.notes, *protocols.check_classes(records.index, split, label_space)]

    def make(chosen: np.ndarray) -> Samples:
        if whole is not None and len(found := whole.of_clips(chosen)):
            return found
        return samples.make_samples(clips, chosen, label_space, data)

    train = make(samples.apply_caps(clips, split.train, data))
    validation = None
    if len(split.validation):
        validation = make(split.validation)
    elif experiment.train.monitor.startswith("validation/"):
        raise UserError(
            f"--train.monitor {experiment.train.monitor} with nothing to validate on: set "
            "--train.monitor train/loss, or a --protocol.validation above 0"
        )
    if len(label_space.classes) < 2:
        raise UserError(
            f"{data.dir} has one emotion only ({', '.join(label_space.classes) or 'none'}): "
            "there is nothing to tell apart"
        )
    fitted = {*np.unique(train.clip).tolist(), *_selected_by(experiment, split)}
    seen = _seen(experiment, records)
    audited = audit.audit(records.identities, split, fitted, seen, data)
    if experiment.protocol.strict:
        audit.refuse(
            audited,
            experiment.protocol.allow,
            "nothing was trained; accept it with --protocol.allow {}, or divide otherwise",
        )
    counts = np.bincount(train.label, minlength=len(label_space.classes))
    parts = [train, validation] if validation else [train]
    facts = {
        "protocol": split.name,
        "split_sha256": split.sha256,
        "data_sha256": records.corpus.data_sha256,
        "audit": audited,
        "label_space": label_space.to_json(),
        "class_counts": dict(zip(label_space.classes, counts.tolist(), strict=True)),
        "samples": {"train": len(train), "validation": len(validation) if validation else 0},
        "faceless": sum(part.left_out("faceless") for part in parts),
        "short": sum(part.left_out("short") for part in parts),
        "inputs": dataclasses.asdict(records.inputs),
        "image_shapes": records.corpus.image_shapes,
        "recipe": _recipe(records.corpus.metadata),
        "extracted": records.corpus.extracted.facts if records.corpus.extracted else None,
        "notes": notes,
    }
    if data.images and (other := _other_pictures(records.corpus)):
        facts["notes"].append(f"the record directories were made with different {other}")
    if not experiment.train.loss.emotion:
        facts["notes"].append("trained for landmarks alone: what it says of emotions means nothing")
    if short := facts["short"]:
        clips_used = sum(len(np.unique(part.clip)) for part in parts)
        facts["notes"].append(
            f"{short} of {short + clips_used} training and validation clips are shorter than a "
            f"window of {data.frames} frames and are not used: a smaller --data.frames uses them"
        )
    return Dataset(label_space, split, train, validation, records.inputs, facts)


def _selected_by(experiment: Experiment, split: protocols.Split) -> list[int]:
    """Clips that a list of distances was chosen by, where that is known."""
    chosen_by = importance.looked_at(experiment.data.features) or ()
    return [index for index, clip_id in enumerate(split.clip_ids) if clip_id in chosen_by]


def _seen(experiment: Experiment, records: Records) -> set[str] | None:
    """Clips that the networks before this one learned from: those it starts from, and the one whose
    features it reads, and theirs; as far as their runs are still there."""
    extracted = records.corpus.extracted
    runs = [*experiment.train.init.run, *([extracted.facts["run"]] if extracted else [])]
    found, known = set(), set()
    while runs:
        run = storage.local(runs.pop())
        if run in known or not (run / "split.csv").is_file():
            continue
        known.add(run)
        found |= {name for part, name in protocols.read_split(run / "split.csv") if part != "test"}
        runs += load_config(run / "config.json").train.init.run
    return found if known else None


def _other_pictures(records: corpus.Corpus) -> str:
    """What decides a picture and is not the same in all record directories; "" if nothing is."""
    recipes = [_recipe(part.metadata) for part in records.parts]
    keys = ("align", "crop_format", "frontal_symmetry")
    return ", ".join(key for key in keys if len({recipe.get(key) for recipe in recipes}) > 1)


def _recipe(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """How the records were extracted, as `preprocess` noted it; {} if others wrote them."""
    noted = metadata.get("build", {})
    prefix = "recipe."
    return {k.removeprefix(prefix): v for k, v in noted.items() if k.startswith(prefix)}


@dataclass(frozen=True)
class Job:
    """A run, ready for its first step.

    Attributes:
      mesh: the devices.
      statistics: of the training set.
      schedule: the learning rate by step.
      key: what every step's key is folded from.
      train, validation: the data sets; validation may be None.
      placement: where they lie.
      steps_per_epoch: calls of the optimizer in an epoch.
      parameters: numbers of the network.
      trained: of them, those that training fits.
    """

    experiment: Experiment
    mesh: Mesh
    model: models.Model
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    statistics: Statistics
    label_space: LabelSpace
    facts: Mapping[str, Any]
    key: jax.Array
    train: source.Source
    validation: source.Source | None
    placement: str
    steps_per_epoch: int
    parameters: int
    trained: int
    train_step: steps.TrainStep
    evaluate_step: steps.EvaluateStep

    def first_variables(self) -> dict[str, Any]:
        """Random parameters, by the run's seed."""
        first, _ = make_keys(self.experiment.train.seed)
        return self.model.init(first)

    def first_state(self, variables: dict[str, Any]) -> TrainState:
        """The state before the first step, on the host's default device."""
        settings = self.experiment.train
        return make_state(variables, self.optimizer, settings.freeze, settings.ema)


class Method(NamedTuple):
    """What makes a step of a batch: it depends on the training set's shape and classes alone."""

    model: models.Model
    loss: Loss
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule


def make_method(
    experiment: Experiment, inputs: models.Inputs, counts: np.ndarray, steps_per_epoch: int
) -> Method:
    """The network, for a batch shared by the devices of a mesh, and how it is trained.

    Args:
      counts: [K] training examples of each class.

    Raises:
      UserError: settings that do not go together.
    """
    settings = experiment.train
    model = models.build(
        experiment.model,
        inputs,
        len(counts),
        axis=parallel.AXIS,
        freeze=settings.freeze,
        precision=settings.precision,
        remat=settings.remat,
    )
    shapes = jax.eval_shape(model.init, jax.eval_shape(lambda: jax.random.key(0)))
    check(experiment, *divide(shapes["params"], settings.freeze))
    lengths = optim.lengths(experiment.optim, steps_per_epoch, settings.epochs)
    return Method(
        model,
        make_loss(settings.loss, counts),
        optim.make_optimizer(experiment.optim, lengths),
        optim.make_schedule(experiment.optim, lengths),
    )


def make_job(experiment: Experiment, dataset: Dataset, statistics: Statistics) -> Job:
    """Builds the model, puts the data on the devices and compiles nothing yet.

    Args:
      statistics: of the training set, or of the run that this one goes on from.

    Raises:
      UserError: settings that do not go together.
    """
    settings = experiment.train
    mesh = parallel.make_mesh(experiment.parallel)
    classes = len(dataset.label_space.classes)
    counts = np.bincount(dataset.train.label, dataset.train.weight, minlength=classes)
    steps_per_epoch = -(-len(dataset.train) // settings.batch)
    method = make_method(experiment, dataset.inputs, counts, steps_per_epoch)
    model, optimizer = method.model, method.optimizer
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    trained, _ = divide(shapes["params"], settings.freeze)
    plain_loss = make_loss(settings.loss, counts, weighted=False)
    validation, where = dataset.validation, dataset.placement.name
    make = partial(
        source.make_source, statistics=statistics, placement=where, mesh=mesh, experiment=experiment
    )
    each = sample_bytes(model, dataset.inputs, experiment, mesh)
    return Job(
        experiment=experiment,
        mesh=mesh,
        model=model,
        optimizer=optimizer,
        schedule=method.schedule,
        statistics=statistics,
        label_space=dataset.label_space,
        facts=dataset.facts,
        key=parallel.replicate(make_keys(settings.seed)[1], mesh),
        train=make(dataset.train, seed=settings.seed),
        validation=None if validation is None else make(validation),
        placement=where,
        steps_per_epoch=steps_per_epoch,
        parameters=models.parameter_count(shapes["params"]),
        trained=models.parameter_count(trained),
        train_step=steps.make_train_step(model, experiment, method.loss, optimizer, mesh, each),
        evaluate_step=steps.make_evaluate_step(model, experiment, plain_loss, mesh),
    )


def check(experiment: Experiment, trained: dict[str, Any], frozen: dict[str, Any]) -> None:
    """Raises:
    UserError: settings that would train nothing of what they say.
    """
    settings, data = experiment.train, experiment.data
    paths = flatten(trained) | flatten(frozen)
    for pattern in settings.freeze:
        if not any(matches(path, [pattern]) for path in paths):
            tops = sorted({path.split("/")[0] for path in paths})
            raise UserError(
                f"--train.freeze {pattern} fits no parameter; they begin with {', '.join(tops)}"
            )
    if not trained:
        raise UserError("--train.freeze leaves no parameter to train: freeze less")
    if settings.accumulate > settings.batch:
        raise UserError(
            f"--train.accumulate {settings.accumulate} parts of a batch of {settings.batch}: give "
            "at most one a sample"
        )
    if not settings.loss.emotion and not settings.loss.landmarks:
        raise UserError(
            "--train.loss.emotion and --train.loss.landmarks are both 0: nothing would be learned"
        )
    if settings.loss.landmarks and not data.landmarks:
        raise UserError("--train.loss.landmarks needs the landmarks: set --data.landmarks true")
    if settings.monitor == "validation/landmark_error" and not data.landmarks:
        raise UserError("--train.monitor validation/landmark_error: set --data.landmarks true")
    if data.augment.mixup and data.landmarks:
        raise UserError("--data.augment.mixup mixes two faces, which have no common landmarks")
