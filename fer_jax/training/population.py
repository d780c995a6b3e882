"""Hundreds of runs as one program.

Folds, seeds and values of a number are members of a population. As many as the devices hold train
at once, each in a lane; all lanes do one epoch, then every member is validated and judged by
itself: one that is finished leaves its run directory behind, and its lane to the next. The corpus
lies on each device once. Lanes are saved together, so a population that was stopped anywhere goes
on with the same result to the bit.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fer_jax import models
from fer_jax.data import protocols, samples
from fer_jax.errors import UserError
from fer_jax.training import checkpoint, metrics, optim, parallel
from fer_jax.training.capacity import bytes_of, bytes_of_a_member, lanes_that_fit
from fer_jax.training.interrupts import Interrupted, Interrupts
from fer_jax.training.job import Dataset, check, make_dataset, read_records
from fer_jax.training.lanes import Lanes, Runner
from fer_jax.training.members import Member, varied
from fer_jax.training.metrics import Metrics
from fer_jax.training.monitor import judge
from fer_jax.training.pace import Pace, run_calls
from fer_jax.training.population_directory import (
    begin_run,
    claim_population,
    finish_run,
    is_over,
    outcome,
    read_lanes,
    restore_runner,
    save_lanes,
)
from fer_jax.training.population_steps import make_population_steps
from fer_jax.training.progress import first_statistics, first_variables
from fer_jax.training.resident import make_resident
from fer_jax.training.run_directory import checkpoints_of, locked
from fer_jax.training.source import need_resident
from fer_jax.training.standing import Standing
from fer_jax.training.state import TrainState, divide, make_keys, make_state

#: Called with epochs done and in all, of all members, and how the field stands.
OnProgress = Callable[[int, int, str], None]
#: Called with a member and its line of history; a word ends it with that as its reason.
OnEpoch = Callable[[Member, dict[str, Any]], str]


def train_population(
    members: Sequence[Member],
    out: str | Path,
    *,
    lanes: int = 0,
    on_progress: OnProgress | None = None,
    on_note: Callable[[str], None] | None = None,
    on_epoch: OnEpoch | None = None,
) -> dict[str, Any]:
    """Trains all members, or goes on with them where they stopped.

    Writes population.json and, of each member, the run directory `out/<member>` that `loop.train`
    would have written. Ctrl-C and SIGTERM finish the call in progress, save and raise. A member
    whose loss is not finite any more is given up; the others go on.

    Args:
      members: of `make_members`; their configs differ in what one program can vary.
      out: made if absent.
      lanes: how many train at once; 0 is one a device on a CPU, elsewhere what memory holds.

    Returns:
      JSON-ready: "members", one dict each of name, run, epochs, finished, best, best_epoch, or of
      one that was given up name, run, failed (why).

    Raises:
      UserError: members that one program cannot train, or data that they cannot train on.
      Interrupted: stopped on request; the same call goes on.
    """
    out = Path(out)
    with locked(out) as made, Interrupts() as interrupts:
        try:
            claim_population(out, members)
            if waiting := [member for member in members if not is_over(out / member.name)]:
                population = Population(members, waiting, out, lanes, on_note or (lambda _: None))
        except UserError:
            if made:
                shutil.rmtree(out)
            raise
        if waiting:
            population.train(interrupts, on_progress, on_epoch or (lambda *_: ""))
        shutil.rmtree(checkpoints_of(out), ignore_errors=True)
        return {"members": [outcome(member, out / member.name) for member in members]}


class Population:
    """Members in training: the program, its lanes and who waits for one."""

    def __init__(
        self,
        members: Sequence[Member],
        waiting: Sequence[Member],
        out: Path,
        lanes: int,
        on_note: Callable[[str], None],
    ):
        """Reads the data, builds the program and goes on from the last checkpoint, if any."""
        self._waiting, self._out = list(waiting), out
        over = [member for member in members if member not in waiting]
        self._standing = Standing(members, [outcome(one, out / one.name) for one in over])
        self._on_note, self._told = on_note, set[str]()
        self._first = first = members[0].experiment
        self._keys = varied(members)
        self._mesh = parallel.make_mesh(first.parallel)
        self._records = read_records(first)
        self._datasets, self._whole = self._divide()
        self._statistics = {
            key: first_statistics(first, dataset, on_note)
            for key, dataset in self._datasets.items()
        }
        self._classes = len(self._records.label_space.classes)
        settings, inputs = first.train, self._records.inputs
        self._model = models.build(
            first.model,
            inputs,
            self._classes,
            freeze=settings.freeze,
            precision=settings.precision,
            remat=settings.remat,
        )
        variables = jax.eval_shape(self._model.init, jax.random.key(0))
        trained, frozen = divide(variables["params"], settings.freeze)
        check(first, trained, frozen)
        self._parameters = {
            "parameters": models.parameter_count(variables["params"]),
            "trained": models.parameter_count(trained),
        }
        self._shape = jax.eval_shape(self._first_state, variables)
        mesh = self._mesh
        self._resident = make_resident(self._whole, self._whole.streams, mesh)
        self._train_step, self._evaluate_step = make_population_steps(
            first, inputs, self._classes, mesh
        )
        batch = settings.batch
        sizes = [(len(d.train), len(d.validation or ())) for d in self._datasets.values()]
        self._steps, self._validation_steps = (
            max(-(-n // batch) for n in s) for s in zip(*sizes, strict=True)
        )
        wanted = -(-min(lanes or len(waiting), len(waiting)) // mesh.size)
        if not lanes:
            member = bytes_of_a_member(self._model, inputs, self._shape, batch, settings.freeze)
            device, resident = mesh.devices.flat[0], bytes_of(self._resident)
            wanted = lanes_that_fit(device, resident, member, wanted)
        self._done = self._clock = 0
        self._paces = Pace(settings.steps_per_call), Pace(settings.steps_per_call)
        self._saved = self._since = time.monotonic()
        self._checkpoints = checkpoint.Checkpoints(checkpoints_of(out), keep=1)
        self._lanes = Lanes(mesh, wanted, self._shape, self._classes)
        self._restore()

    def _first_state(self, variables: Any) -> TrainState:
        settings, experiment = self._first.train, self._first
        optimizer = optim.make_optimizer(experiment.optim, optim.Lengths(0, 1))
        return make_state(variables, optimizer, settings.freeze, settings.ema)

    def _divide(self) -> tuple[dict[str, Dataset], samples.Samples]:
        """The data set of every protocol that waits, and the samples of all of them."""
        clips, data = self._records.clips, self._first.data
        splits = {
            _protocol(member): protocols.make_split(self._records.index, member.experiment.protocol)
            for member in self._waiting
        }
        used: set[int] = set()
        for split in splits.values():
            used.update(samples.apply_caps(clips, split.train, data).tolist())
            used.update(split.validation.tolist())
        space = self._records.label_space
        whole = samples.make_samples(clips, sorted(used), space, data)
        need_resident(whole.nbytes, self._first.parallel, self._mesh)
        whole = whole.loaded()
        return {
            key: make_dataset(self._first, self._records, split, whole)
            for key, split in splits.items()
        }, whole

    def train(
        self, interrupts: Interrupts, on_progress: OnProgress | None, on_epoch: OnEpoch
    ) -> None:
        """Until all members are over."""
        lanes = self._lanes
        tell = on_progress or (lambda *_: None)
        try:
            tell(*self._standing.tell(lanes.runners))
            while self._fill():
                if self._round(interrupts):
                    self._judge(on_epoch)
                    tell(*self._standing.tell(lanes.runners))
                if interrupts.signum or self._due():
                    self._save()
                if interrupts.signum and any(lanes.runners):
                    self._checkpoints.wait()
                    raise Interrupted("stopped; the same command goes on there", interrupts.signum)
        finally:
            self._checkpoints.close()

    def _fill(self) -> bool:
        """Gives empty lanes to members that wait; False if nobody trains any more."""
        if self._done == 0:
            for lane, runner in enumerate(self._lanes.runners):
                if runner is None and self._waiting:
                    member = self._waiting.pop(0)
                    runner = self._runner(member)
                    state = self._start(runner)
                    self._lanes.put(lane, runner, state)
        return any(self._lanes.runners)

    def _runner(self, member: Member) -> Runner:
        key = _protocol(member)
        dataset, run = self._datasets[key], self._out / member.name
        clips, data = self._records.clips, self._first.data
        chosen = samples.apply_caps(clips, dataset.split.train, data)
        return Runner(
            member,
            run,
            dataset,
            self._whole.places(chosen),
            self._whole.places(dataset.split.validation),
            self._statistics[key],
            {**dataset.facts, **self._parameters, "notes": list(dataset.facts["notes"])},
            max(len(other.train) for other in self._datasets.values()),
        )

    def _start(self, runner: Runner) -> TrainState:
        """A member's first state; its run directory begins."""
        experiment = runner.member.experiment
        random = self._model.init(make_keys(experiment.train.seed)[0])
        variables = first_variables(experiment, random, runner.facts)
        for note in runner.facts["notes"]:
            if note not in self._told:  # Members have much in common.
                self._told.add(note)
                self._on_note(f"{runner.member.name}: {note}")
        begin_run(runner)
        return self._first_state(variables)

    def _round(self, interrupts: Interrupts) -> bool:
        """The rest of an epoch of every lane; False if it was interrupted before its end."""
        lanes, batch = self._lanes, self._first.train.batch
        index, weight = lanes.training_batches(self._steps, batch)
        own = lanes.own(self._keys)

        def call(_: Any, start: Any, stop: Any) -> Metrics:
            lanes.state, lanes.counted = self._train_step(
                lanes.state, lanes.counted, self._resident, own, index, weight, start, stop
            )
            return lanes.counted

        reached = run_calls(
            self._paces[0], lanes.mesh, self._done, self._steps, call,
            lambda _: self._checkpoints.poll(), lambda: bool(interrupts.signum),
        )  # fmt: skip
        self._clock += reached - self._done
        self._done = reached % self._steps
        return reached == self._steps

    def _judge(self, on_epoch: OnEpoch) -> None:
        """Validates, writes history, and lets members go that are finished."""
        lanes, settings = self._lanes, self._first.train
        runners = [runner for runner in lanes.runners if runner is not None]
        for runner in runners:
            runner.epoch, runner.step = runner.epoch + 1, runner.step + runner.steps
        trained = self._by_lane(lanes.counted)
        lanes.counted = lanes.no_metrics()
        validated = None
        if self._validation_steps and any(self._validates(runner) for runner in runners):
            validated = self._by_lane(self._validate())
        now = time.monotonic()
        seconds, self._since = (now - self._since) / len(runners), now
        better = [False] * len(lanes.runners)
        over: dict[int, tuple[str, str]] = {}
        for lane, runner in enumerate(lanes.runners):
            if runner is None:
                continue
            try:
                line = self._line(runner, trained[lane], validated[lane] if validated else None)
                line["seconds"] = round(seconds, 4)  # Its share of the round.
                runner.monitor, finished = judge(
                    settings, runner.monitor, runner.epoch, line,
                    runner.member.experiment.optim.lr,
                )  # fmt: skip
                runner.history.append(line)
                better[lane] = runner.monitor.best_epoch == runner.epoch
            except UserError as error:
                over[lane] = "", str(error)
            else:
                stopped = on_epoch(runner.member, line)
                if finished or stopped:
                    over[lane] = finished or stopped, ""
        lanes.improve(better)
        for lane, (finished, failed) in over.items():
            done = finish_run(lanes, lane, finished, failed)
            if (runner := lanes.runners[lane]) is not None:
                self._standing.ended(runner.member.name, runner.monitor.best, failed=not done)
            lanes.empty(lane)

    def _validates(self, runner: Runner) -> bool:
        settings = self._first.train
        return runner.epoch == settings.epochs or runner.epoch % settings.evaluate_every == 0

    def _validate(self) -> Metrics:
        lanes = self._lanes
        counted, variables = lanes.no_metrics(), lanes.state.variables
        index, weight = lanes.validation_batches(self._validation_steps, self._first.train.batch)
        own = lanes.own(self._keys)

        def call(_: Any, start: Any, stop: Any) -> Metrics:
            nonlocal counted
            counted = self._evaluate_step(
                variables, counted, self._resident, own, index, weight, start, stop
            )
            return counted

        run_calls(
            self._paces[1], lanes.mesh, 0, self._validation_steps, call, lambda _: None,
            lambda: False,
        )  # fmt: skip
        return counted

    def _by_lane(self, counted: Metrics) -> list[Metrics]:
        host = jax.tree.map(np.asarray, jax.device_get(counted))
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), host)
        return [
            jax.tree.map(lambda x, lane=lane: x[lane], flat)
            for lane in range(len(self._lanes.runners))
        ]

    def _line(self, runner: Runner, trained: Metrics, validated: Metrics | None) -> dict[str, Any]:
        """An epoch's line of history.

        Raises:
          UserError: the loss is not finite.
        """
        experiment, epoch = runner.member.experiment, runner.epoch
        if not math.isfinite(float(trained.loss)):
            raise UserError(
                f"the loss is not finite in epoch {epoch}: lower --optim.lr (now "
                f"{experiment.optim.lr:g}) or set --optim.clip_norm 1"
            )
        line: dict[str, Any] = {"epoch": epoch, "step": runner.step}
        line |= metrics.figures("train", trained, experiment.data.landmarks)
        if validated is not None and self._validates(runner):
            line |= metrics.figures("validation", validated, experiment.data.landmarks)
        steps = optim.lengths(experiment.optim, runner.steps, experiment.train.epochs)
        line["lr"] = float(np.asarray(optim.make_schedule(experiment.optim, steps)(runner.step)))
        return line

    def _due(self) -> bool:
        return time.monotonic() - self._saved >= self._first.checkpoint.every_seconds

    def _save(self) -> None:
        if any(self._lanes.runners):
            save_lanes(self._lanes, self._done, self._clock, self._checkpoints)
        self._saved = time.monotonic()

    def _restore(self) -> None:
        """Goes on from the newest intact checkpoint, if there is one."""
        directory = checkpoints_of(self._out)
        if not checkpoint.sealed_steps(directory):
            return
        self._clock, problems = checkpoint.find_intact(directory)
        for problem in problems:
            self._on_note(f"{problem}: went back to the checkpoint of step {self._clock}")
        self._checkpoints.discard_after(self._clock)
        found, self._done = read_lanes(directory, self._clock, self._shape, self._classes)
        waiting = {member.name: member for member in self._waiting}
        going = [name for name in found if name in waiting]
        lanes = self._lanes
        each = max(lanes.each, -(-len(going) // lanes.mesh.size))
        self._lanes = lanes = Lanes(lanes.mesh, each, self._shape, self._classes)
        for lane, name in enumerate(going):
            said, *trees = found[name]
            runner = self._runner(waiting.pop(name))
            restore_runner(runner, said)
            lanes.put(lane, runner, *trees)
        self._waiting = list(waiting.values())
        # Those who were saved are over by now: whoever comes begins a round.
        self._done = self._done if going else 0
        if going:
            self._on_note(f"went on with {', '.join(going[:3])}{' ...' if len(going) > 3 else ''}")


def _protocol(member: Member) -> str:
    return json.dumps(member.experiment.to_json()["protocol"], sort_keys=True)
