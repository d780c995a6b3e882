"""A population's directory: what it is, how far its lanes are, and what finished members leave."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fer_jax.config import from_json
from fer_jax.data import protocols
from fer_jax.errors import UserError
from fer_jax.training import checkpoint, metrics
from fer_jax.training.lanes import Lanes, Runner
from fer_jax.training.members import Member
from fer_jax.training.metrics import Metrics
from fer_jax.training.monitor import Monitor
from fer_jax.training.progress import check_finite, fields_of, make_meta
from fer_jax.training.run_directory import (
    checkpoints_of,
    compare,
    empty,
    write_config,
    write_text,
)
from fer_jax.training.state import TrainState


def claim_population(out: Path, members: Sequence[Member]) -> None:
    """Writes population.json.

    Raises:
      UserError: `out` holds another population, or a single run.
    """
    path = out / "population.json"
    if (out / "config.json").is_file():
        raise UserError(f"{out} holds a single run: give a directory of its own with --out")
    document = {"members": {member.name: member.experiment.to_json() for member in members}}
    if path.is_file():
        before = json.loads(path.read_text())["members"]
        for member in members:
            if member.name in before:
                compare(out / member.name, from_json(before[member.name]), member.experiment)
        document["members"] = before | document["members"]
    write_text(path, json.dumps(document, indent=1) + "\n")


def is_over(run: Path) -> bool:
    """A member's run directory is complete, or says why it was given up."""
    return (run / "failed.json").is_file() or bool(
        checkpoint.sealed_steps(checkpoints_of(run)) and (run / "config.json").is_file()
    )


def outcome(member: Member, run: Path) -> dict[str, Any]:
    found = {"name": member.name, "run": str(run)}
    if (run / "failed.json").is_file():
        return found | json.loads((run / "failed.json").read_text())
    step, _ = checkpoint.find_intact(checkpoints_of(run))
    said = checkpoint.read(checkpoints_of(run), step, {"meta": None})["meta"]["progress"]
    best = {name: said["monitor"][name] for name in ("best", "best_epoch")}
    return found | {"epochs": said["epoch"], "finished": said["finished"]} | best


def begin_run(runner: Runner) -> None:
    """A member's run directory, before its first step."""
    run = runner.run
    if run.is_dir():  # Begun after the last checkpoint of the lanes: it begins again.
        shutil.rmtree(run)
    run.mkdir(parents=True)
    write_config(run, runner.member.experiment)
    protocols.save_split(run / "split.csv", runner.dataset.split)


def finish_run(lanes: Lanes, lane: int, finished: str, failed: str = "") -> bool:
    """The member's run directory becomes that of a whole run, or says why there is no model (and
    False is returned)."""
    runner = lanes.runners[lane]
    assert runner is not None
    state = lanes.take(lanes.state, lane)
    try:
        if failed:
            raise UserError(failed)
        check_finite(state.params, runner.epoch, runner.member.experiment)
    except UserError as error:
        document = {"epochs": runner.epoch, "failed": str(error)}
        write_text(runner.run / "failed.json", json.dumps(document) + "\n")
        return False
    counted = tuple(metrics.no_metrics(lanes.classes))
    best = {**lanes.take(lanes.best, lane), "statistics": dict(runner.statistics)}
    meta = make_meta(runner.epoch, runner.monitor, finished, runner.facts)
    saved = checkpoint.Checkpoints(checkpoints_of(runner.run), keep=1)
    saved.save(runner.step, {**fields_of(state), "counted": counted}, best, meta)
    saved.close()
    return True


def save_lanes(lanes: Lanes, done: int, clock: int, checkpoints: checkpoint.Checkpoints) -> None:
    """Starts to save all lanes.

    Args:
      done: steps of this round.
      clock: steps of all rounds, which names the checkpoint.
    """

    def flat(tree: Any) -> Any:
        host = jax.tree.map(np.array, jax.device_get(tree))
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), host)

    state = {**fields_of(flat(lanes.state)), "counted": tuple(flat(lanes.counted))}
    said = [None if runner is None else _said(runner) for runner in lanes.runners]
    checkpoints.save(clock, state, flat(lanes.best), {"lanes": said, "done": done})


def _said(runner: Runner) -> dict[str, Any]:
    return {
        "member": runner.member.name,
        "epoch": runner.epoch,
        "step": runner.step,
        "monitor": asdict(runner.monitor),
        "facts": runner.facts,
    }


def read_lanes(
    directory: Path, step: int, shape: Any, classes: int
) -> tuple[dict[str, tuple[dict[str, Any], Any, Any, Any]], int]:
    """What `save_lanes` saved.

    Args:
      shape: a member's state, as shapes.

    Returns:
      by member's name: what is said of it, its state, its best variables and its metrics so far,
      on the host; and `done`.
    """
    meta = checkpoint.read(directory, step, {"meta": None})["meta"]
    count = len(meta["lanes"])

    def many(tree: Any) -> Any:
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), tree)
        return empty(shapes)

    none = metrics.no_metrics(classes)
    template = {**fields_of(many(shape)), "counted": tuple(many(none))}
    read = checkpoint.read(directory, step, {"state": template, "best": many(shape.variables)})
    counted = Metrics(*read["state"].pop("counted"))
    trees = TrainState(**read["state"]), read["best"], counted
    found = {}
    for lane, said in enumerate(meta["lanes"]):
        if said is not None:
            one = jax.tree.map(lambda x, lane=lane: x[lane], trees)
            found[said["member"]] = (said, *one)
    return found, meta["done"]


def restore_runner(runner: Runner, said: Mapping[str, Any]) -> None:
    """Sets a member to where its lane was saved."""
    runner.epoch, runner.step, runner.facts = said["epoch"], said["step"], said["facts"]
    runner.monitor = Monitor(**said["monitor"])
    runner.history.rewind(runner.epoch)
