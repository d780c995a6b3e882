"""Everything that a run needs and that does not change while it trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from fer_jax import models
from fer_jax.config import Experiment
from fer_jax.data import audit, batches, corpus, geometry, protocols
from fer_jax.errors import UserError
from fer_jax.labels import LabelSpace, make_label_space
from fer_jax.training import optim, parallel, steps
from fer_jax.training.losses import make_loss
from fer_jax.training.run_directory import build_model
from fer_jax.training.state import TrainState, make_keys, make_state


@dataclass(frozen=True)
class Dataset:
    """The clips of an experiment, divided.

    Attributes:
      label_space: the classes.
      split: which clips train, validate and test.
      train, validation: the samples; validation is None where nothing validates.
      facts: JSON of what metrics must be reported with.
    """

    label_space: LabelSpace
    split: protocols.Split
    train: batches.Samples
    validation: batches.Samples | None
    facts: dict[str, Any]


def load_dataset(experiment: Experiment) -> Dataset:
    """Reads the records and makes the training and validation samples.

    Raises:
      UserError: no such records, or they cannot be split or used as the config wants.
    """
    data = experiment.data
    if not data.dir:
        raise UserError("no data: give a record directory with --data.dir DIR")
    records = corpus.load(data.dir, streams=(geometry.stream_of(data.features),))
    # Decoded once and kept: splitting, auditing and sampling each look at every clip.
    clips = list(records)
    label_space = make_label_space(data.labels, {clip.emotion for clip in clips})
    split = protocols.make_split(clips, experiment.protocol)
    train = batches.make_samples(
        clips, batches.apply_caps(clips, split.train, data), label_space, data
    )
    validation = None
    if len(split.validation):
        validation = batches.make_samples(clips, split.validation, label_space, data)
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
    counts = np.bincount(train.label, minlength=len(label_space.classes))
    facts = {
        "protocol": split.name,
        "split_sha256": split.sha256,
        "data_sha256": records.data_sha256,
        "audit": audit.audit(clips, split),
        "label_space": label_space.to_json(),
        "class_counts": dict(zip(label_space.classes, counts.tolist(), strict=True)),
        "samples": {"train": len(train), "validation": len(validation) if validation else 0},
        "faceless": train.faceless + (validation.faceless if validation else 0),
    }
    return Dataset(label_space, split, train, validation, facts)


@dataclass(frozen=True)
class Job:
    """A run, ready for its first step.

    Attributes:
      mesh: the devices.
      statistics: of the training set.
      schedule: the learning rate by step.
      key: what every step's key is folded from.
      train, validation: data sets on the devices; validation may be None.
      train_size, validation_size: samples in them.
      steps_per_epoch: calls of the optimizer in an epoch.
      parameters: numbers that training fits.
    """

    experiment: Experiment
    mesh: Mesh
    model: models.Model
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    statistics: batches.Statistics
    label_space: LabelSpace
    facts: Mapping[str, Any]
    key: jax.Array
    train: dict[str, Any]
    validation: dict[str, Any] | None
    train_size: int
    validation_size: int
    steps_per_epoch: int
    parameters: int
    train_step: steps.TrainStep
    evaluate_step: steps.EvaluateStep

    def first_state(self) -> TrainState:
        """The state before the first step, on the host's default device."""
        first, _ = make_keys(self.experiment.train.seed)
        return make_state(self.model, self.optimizer, first)


def make_job(
    experiment: Experiment, dataset: Dataset, statistics: batches.Statistics | None = None
) -> Job:
    """Builds the model, puts the data on the devices and compiles nothing yet.

    Args:
      statistics: of an interrupted run, instead of fitting them again.

    Raises:
      UserError: settings that do not go together.
    """
    settings, data, mapper = experiment.train, experiment.data, experiment.parallel.mapper
    mesh = parallel.make_mesh(experiment.parallel)
    classes = len(dataset.label_space.classes)
    model = build_model(experiment, classes)
    counts = np.bincount(dataset.train.label, dataset.train.weight, minlength=classes)
    loss = make_loss(settings.loss, counts)
    plain_loss = make_loss(settings.loss, counts, weighted=False)
    if statistics is None:
        statistics = batches.fit_statistics(dataset.train, data.features, data.zscore)
    steps_per_epoch = -(-len(dataset.train) // settings.batch)
    optimizer = optim.make_optimizer(experiment.optim, steps_per_epoch, settings.epochs)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    validation = dataset.validation
    return Job(
        experiment=experiment,
        mesh=mesh,
        model=model,
        optimizer=optimizer,
        schedule=optim.make_schedule(experiment.optim, steps_per_epoch, settings.epochs),
        statistics=statistics,
        label_space=dataset.label_space,
        facts=dataset.facts,
        key=parallel.replicate(make_keys(settings.seed)[1], mesh),
        train=steps.make_resident(dataset.train, statistics, mesh),
        validation=None
        if validation is None
        else steps.make_resident(validation, statistics, mesh),
        train_size=len(dataset.train),
        validation_size=len(validation) if validation else 0,
        steps_per_epoch=steps_per_epoch,
        parameters=models.parameter_count(shapes["params"]),
        train_step=steps.make_train_step(model, data, loss, optimizer, mesh, mapper),
        evaluate_step=steps.make_evaluate_step(model, data, plain_loss, mesh, mapper),
    )
