"""A run's directory: config, history, lock, and the trained model that lies in it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from fer_jax import config, models, storage
from fer_jax.config import Experiment
from fer_jax.data.statistics import Statistics
from fer_jax.errors import UserError
from fer_jax.labels import LabelSpace
from fer_jax.training import checkpoint, distributed

#: Keys that may change between the parts of an interrupted run: they decide where and how fast it
#: runs, not what it learns. `data.dir` may move; its content may not change.
FREE = (
    "checkpoint", "data.dir", "parallel", "protocol.allow", "protocol.strict", "reported", "track",
    "train.steps_per_call",
)  # fmt: skip


#: What a directory that we trained in holds, or one that a run was copied to.
_OURS = (".lock", "checkpoints", "population.json")


def write_text(path: Path, text: str) -> None:
    """Writes a file so that a reader sees the old text or the new, never a part."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def checkpoints_of(run: Path) -> Path:
    return run / "checkpoints"


@contextmanager
def locked(run: Path) -> Iterator[bool]:
    """Makes a directory ours while we train in it; True if it was not there.

    Raises:
      UserError: it is a file, holds something else, or another process trains in it.
    """
    if run.exists() and not run.is_dir():
        raise UserError(f"{run} is a file: give a directory for the run")
    made = not run.exists()
    if not made and any(run.iterdir()) and not any((run / name).exists() for name in _OURS):
        raise UserError(f"{run} holds files that are no run's: give a directory of its own")
    run.mkdir(parents=True, exist_ok=True)
    with open(run / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"another process is training in {run}: wait for it or stop it"
            ) from None
        yield made


@contextmanager
def claim(run: Path, experiment: Experiment) -> Iterator[None]:
    """Makes the run's directory ours while it trains, with config.json in it.

    Raises:
      UserError: it holds another experiment, or another process trains in it; or it is not the
        same directory for every process of this job.
    """
    if not distributed.is_first():
        distributed.check_shared(run)
        yield
        return
    with locked(run) as made:
        path = run / "config.json"
        # What never trained decides nothing: a command with a typo in it can be mended.
        if path.is_file() and checkpoint.sealed_steps(checkpoints_of(run)):
            compare(run, config.load_config(path), experiment)
        write_config(run, experiment)

        def undo() -> None:
            if made and not History(run).read():
                shutil.rmtree(run)  # A mistake before the first epoch leaves nothing behind.

        distributed.on_mistake(undo)
        try:
            distributed.check_shared(run)
            yield
        except UserError:
            undo()
            raise


def write_config(run: Path, experiment: Experiment) -> None:
    write_text(run / "config.json", json.dumps(experiment.to_json(), indent=1) + "\n")


def compare(run: Path, before: Experiment, now: Experiment) -> None:
    """Raises:
    UserError: the configs differ in what decides a result.
    """
    changes = ", ".join(
        f"{key} {old!r} -> {new!r}"
        for key, (old, new) in config.differences([before, now]).items()
        if not any(key == free or key.startswith(f"{free}.") for free in FREE)
    )
    if changes:
        raise UserError(
            f"{run} holds a run of another config ({changes}): undo the change, or train in "
            "another directory"
        )


class History:
    """history.jsonl: one JSON line an epoch, in order."""

    def __init__(self, run: Path):
        self.path = run / "history.jsonl"

    def read(self) -> list[dict[str, Any]]:
        """The complete lines."""
        if not self.path.is_file():
            return []
        text = self.path.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def rewind(self, epochs: int) -> None:
        """Forgets what came after `epochs`: it will be trained again.

        Raises:
          UserError: the file holds fewer epochs than the checkpoint.
        """
        lines = self.path.read_text().splitlines(keepends=True) if self.path.is_file() else []
        if len(lines) < epochs:
            raise UserError(
                f"{self.path} holds {len(lines)} epochs, the checkpoint {epochs}: put it back from "
                f"a copy, or delete {self.path.parent} and train again"
            )
        write_text(self.path, "".join(lines[:epochs]))

    def append(self, line: Mapping[str, Any]) -> None:
        with open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")
        storage.changed(self.path)


@dataclass(frozen=True)
class LoadedRun:
    """A trained model with everything that it takes to use it.

    Attributes:
      experiment: the run's config.
      inputs: what its network reads.
      label_space: what its classes mean.
      statistics: of the training set.
      variables: {"params", "stats"} for `model.apply`.
      epoch: the epoch whose parameters these are, from 1; 0 before the first evaluation.
      facts: what is known of its data: protocol, split_sha256, data_sha256, audit, samples.
    """

    experiment: Experiment
    inputs: models.Inputs
    label_space: LabelSpace
    statistics: Statistics
    variables: dict[str, Any]
    model: models.Model
    epoch: int
    facts: dict[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.label_space.classes


def load_run(run: str | Path, which: Literal["best", "last"] = "best") -> LoadedRun:
    """The model of a run directory, from its newest intact checkpoint.

    Args:
      which: "best" by the run's monitor, or "last".

    Raises:
      UserError: not a run directory, no checkpoint yet, or every checkpoint is damaged.
    """
    run = storage.local(run)
    if not (run / "config.json").is_file():
        raise UserError(f"{run} is not a run directory: make one with `fer-jax train CONFIG`")
    experiment = config.load_config(run / "config.json")
    directory = checkpoints_of(run)
    step, _ = checkpoint.find_intact(directory)
    meta = checkpoint.read(directory, step, {"meta": None})["meta"]
    label_space = LabelSpace.from_json(meta["facts"]["label_space"])
    if "inputs" not in meta["facts"]:
        raise UserError(f"{run} was trained by an earlier version of FER-JAX: train it again")
    inputs = models.Inputs.from_json(meta["facts"]["inputs"])
    model = models.build(
        experiment.model,
        inputs,
        len(label_space.classes),
        precision=experiment.train.precision,
    )
    best = checkpoint.read(directory, step, {"best": None})["best"]
    variables = {"params": best["params"], "stats": best["stats"]}
    epoch = meta["progress"]["monitor"]["best_epoch"]
    if which == "last":
        state = checkpoint.read(directory, step, {"state": None})["state"]
        params = state["params"] if state.get("ema") is None else state["ema"]
        variables = {"params": params, "stats": state["stats"]}
        epoch = meta["progress"]["epoch"]
    return LoadedRun(
        experiment=experiment,
        inputs=inputs,
        label_space=label_space,
        statistics=best["statistics"],
        variables=variables,
        model=model,
        epoch=epoch,
        facts=meta["facts"],
    )


def empty(shapes: Any) -> Any:
    """NumPy arrays of the same shapes, to read a checkpoint into."""
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
