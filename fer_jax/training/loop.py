"""The training loop.

The order within an epoch is fixed: train, validate, monitor, history, save. A run that was stopped
anywhere, even with kill -9, gives the same result to the bit when it is started again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fer_jax.config import Experiment
from fer_jax.data import batches
from fer_jax.errors import UserError
from fer_jax.training import checkpoint, distributed, metrics, parallel
from fer_jax.training.interrupts import Interrupted, Interrupts
from fer_jax.training.job import Job
from fer_jax.training.metrics import Metrics
from fer_jax.training.monitor import judge
from fer_jax.training.pace import Pace, run_calls
from fer_jax.training.profile import NO_WINDOW, Window
from fer_jax.training.progress import Progress, begin, due, no_metrics, restore_point, save, to_meta
from fer_jax.training.run_directory import History, LoadedRun, checkpoints_of, claim, load_run
from fer_jax.training.source import Feed
from fer_jax.training.speed import Speed, described
from fer_jax.training.state import snapshot, to_host
from fer_jax.training.tracking import Tracker

__all__ = ["Interrupted", "LoadedRun", "load_run", "train"]

#: Called with epochs done, epochs in all and the figures of the last one.
OnProgress = Callable[[int, int, str], None]


def train(
    experiment: Experiment,
    run_dir: str | Path,
    on_progress: OnProgress | None = None,
    on_note: Callable[[str], None] | None = None,
    on_step: OnProgress | None = None,
) -> dict[str, Any]:
    """Trains an experiment, or goes on with it where it stopped, or says that it is finished.

    Writes config.json, split.csv, history.jsonl, checkpoints/ and TensorBoard events into the run
    directory. Ctrl-C and SIGTERM finish the call in progress, save and raise `Interrupted`. Of a
    job of several processes (`distributed.start`) each makes the same call; the first one writes.

    Args:
      experiment: what to train, with `data.dir` set.
      run_dir: made if absent.
      on_progress: called after every epoch.
      on_step: called whenever steps are known to be done, with which of the epoch's.
      on_note: called before the first with each line for the user that there is by then.

    Returns:
      JSON-ready: epochs, finished, monitor, best (its value), best_epoch, train and validation
      figures of the best epoch, parameters, notes (lines for the user), the facts of the data, and
      of what was trained now its speed (`Speed.summary`, and where the data lay: input).

    Raises:
      UserError: the config, the data or the directory cannot be trained in, or the loss is not
        finite any more.
      Interrupted: stopped on request; the same call goes on.
    """
    run = Path(run_dir)
    notes: list[str] = []
    say = on_note or (lambda _: None)
    speed = Speed(say)
    distributed.agree(
        distributed.setup_facts(experiment), "start every process with the same config and packages"
    )
    with claim(run, experiment), Interrupts() as wish, ExitStack() as stack:
        found = restore_point(run, notes)
        if found is not None and found[1]["progress"]["finished"]:
            notes.append(f"{run} is finished: nothing to train")
            return _summary(run, experiment, found[1], notes)
        first = distributed.is_first()
        job, progress = begin(experiment, run, found, notes, say)
        for note in notes:
            say(note)
        settings, history = experiment.train, History(run)
        tracked = experiment.track.tensorboard and first
        tracker = Tracker(run / "tensorboard", progress.epoch + 1, tracked)
        stack.callback(tracker.close)
        notes += [tracker.note] if tracker.note else []
        checkpoints = checkpoint.NoCheckpoints()
        if first:
            checkpoints = checkpoint.Checkpoints(checkpoints_of(run), experiment.checkpoint.keep)
        stack.callback(checkpoints.close)
        if found is not None:
            checkpoints.discard_after(found[0])
        if on_step is not None:
            on_step(progress.epoch, settings.epochs, "")
        votes = None
        if distributed.processes() > 1:
            votes = distributed.Votes(job.mesh, lambda: wish.signum)
        interrupts = votes or wish
        going = _begin(job, progress, checkpoints, interrupts, speed, on_step, run, stack)
        while not progress.finished:
            began = time.monotonic()
            if _train_epoch(job, progress, going):
                line = _finish_epoch(job, progress, going, began)
                if first:
                    history.append(line)
                tracker.write(progress.epoch, line)
                if on_progress is not None:
                    on_progress(progress.epoch, settings.epochs, _figures(line))
            if due(experiment, progress) or interrupts.signum:
                save(job, progress, checkpoints)
            if interrupts.signum and not progress.finished:
                checkpoints.wait()
                distributed.meet()
                where = f"epoch {progress.epoch + 1} of {settings.epochs}"
                raise Interrupted(
                    f"stopped in {where}; the same command goes on there", interrupts.signum
                )
        checkpoints.wait()
        said = {**speed.summary(), "input": job.placement}
        return {**_summary(run, experiment, to_meta(job, progress), notes), "speed": said}


@dataclass
class _Going:
    """What a run has beside its job and its progress while it goes on."""

    checkpoints: checkpoint.NoCheckpoints
    interrupts: Interrupts | distributed.Votes
    speed: Speed
    on_step: OnProgress | None
    window: Window
    feed: Feed
    pace: Pace
    validation_feed: Feed | None
    validation_pace: Pace

    @property
    def votes(self) -> distributed.Votes | None:
        """Of several processes."""
        return self.interrupts if isinstance(self.interrupts, distributed.Votes) else None


def _begin(
    job: Job,
    progress: Progress,
    checkpoints: checkpoint.NoCheckpoints,
    interrupts: Interrupts | distributed.Votes,
    speed: Speed,
    on_step: OnProgress | None,
    run: Path,
    stack: ExitStack,
) -> _Going:
    settings, profile = job.experiment.train, job.experiment.track.profile
    # Where it begins and ends, calls end in every process; each writes beside the others.
    window = Window(run / "profile", *profile) if profile else NO_WINDOW
    stack.callback(window.close)
    feed = stack.enter_context(job.train.feed(progress.step, settings.epochs * job.steps_per_epoch))
    validation, passes = None, settings.epochs
    if job.validation is not None:
        steps = passes * -(-job.validation.size // settings.batch)
        validation = stack.enter_context(job.validation.feed(0, steps))
    each = 1 if feed.single else settings.steps_per_call
    return _Going(
        checkpoints, interrupts, speed, on_step, window, feed, Pace(each), validation, Pace(each)
    )


def _train_epoch(job: Job, progress: Progress, going: _Going) -> bool:
    """Trains the rest of an epoch; False if it was interrupted before its last step."""
    settings, epoch = job.experiment.train, progress.epoch
    order = batches.epoch_order(settings.seed, epoch, job.train.size, settings.batch)
    index, weight = parallel.deal(*order, job.mesh, settings.accumulate)
    resident = job.train.resident

    def call(dealt: Any, start: Any, stop: Any) -> Metrics:
        progress.state, progress.counted = job.train_step(
            progress.state, progress.counted, resident, dealt, job.key, index, weight, start, stop
        )
        return progress.counted

    def check(counted: Metrics) -> None:
        going.checkpoints.poll()
        going.speed.stepped()
        if going.on_step is not None:
            step = -(-int(counted.count) // settings.batch)
            going.on_step(epoch, settings.epochs, f"step {step} of {job.steps_per_epoch}")
        if not math.isfinite(float(counted.loss)):
            raise UserError(
                f"the loss is not finite in epoch {epoch + 1}: lower --optim.lr (now "
                f"{job.experiment.optim.lr:g}) or set --optim.clip_norm 1, in another run directory"
            )

    before = epoch * job.steps_per_epoch
    done = progress.step - before
    going.window.begin_epoch(before)
    reached = run_calls(
        going.pace, job.mesh, done, job.steps_per_epoch, call, check,
        lambda: bool(going.interrupts.signum), going.feed.take, going.window, going.votes,
    )  # fmt: skip
    progress.step += reached - done
    return reached == job.steps_per_epoch


def _finish_epoch(job: Job, progress: Progress, going: _Going, began: float) -> dict[str, Any]:
    """Validates, looks at the monitor, and returns the epoch's line of history."""
    settings = job.experiment.train
    progress.epoch += 1
    epoch, last = progress.epoch, progress.epoch == settings.epochs
    line: dict[str, Any] = {"epoch": epoch, "step": progress.step}
    line |= metrics.figures("train", to_host(progress.counted), job.experiment.data.landmarks)
    progress.counted = no_metrics(job)
    if job.validation is not None and (last or epoch % settings.evaluate_every == 0):
        validated = _validate(job, progress, going)
        line |= metrics.figures("validation", validated, job.experiment.data.landmarks)
    progress.monitor, progress.finished = judge(
        settings, progress.monitor, epoch, line, job.experiment.optim.lr
    )
    if progress.monitor.best_epoch == epoch:
        progress.best = snapshot(progress.state.variables)
    line["lr"] = float(np.asarray(job.schedule(progress.step)))
    line["seconds"] = round(time.monotonic() - began, 4)
    return line | going.speed.figures(job, going.pace)


def _validate(job: Job, progress: Progress, going: _Going) -> Metrics:
    source, feed, batch = job.validation, going.validation_feed, job.experiment.train.batch
    assert source is not None and feed is not None, "only called where there is something"
    order = batches.pad_batches(np.arange(source.size), batch)
    index, weight = parallel.deal(*order, job.mesh)
    counted = no_metrics(job)
    variables = progress.state.variables

    def call(dealt: Any, start: Any, stop: Any) -> Metrics:
        nonlocal counted
        counted = job.evaluate_step(
            variables, counted, source.resident, dealt, index, weight, start, stop
        )
        return counted

    run_calls(
        going.validation_pace, job.mesh, 0, len(order[0]), call, lambda _: None, lambda: False,
        feed.take, votes=going.votes,
    )  # fmt: skip
    return to_host(counted)


def _figures(line: dict[str, Any]) -> str:
    shown = [f"loss {line['train/loss']:.4f}", f"accuracy {line['train/accuracy']:.3f}"]
    if "validation/accuracy" in line:
        shown.append(f"validation {line['validation/accuracy']:.3f}")
    if "validation/landmark_error" in line:
        shown.append(f"landmark error {line['validation/landmark_error']:.4f}")
    return ", ".join([*shown, *described(line)])


def _summary(
    run: Path, experiment: Experiment, meta: dict[str, Any], notes: list[str]
) -> dict[str, Any]:
    if not distributed.is_first():
        return distributed.from_first(None)
    said, monitor = meta["progress"], meta["progress"]["monitor"]
    best = History(run).read()[monitor["best_epoch"] - 1] if monitor["best_epoch"] else {}
    summary = {
        "epochs": said["epoch"],
        "finished": said["finished"],
        "monitor": experiment.train.monitor,
        "best": monitor["best"],
        "best_epoch": monitor["best_epoch"],
        **{
            part: {
                name.removeprefix(f"{part}/"): value
                for name, value in best.items()
                if name.startswith(f"{part}/")
            }
            for part in ("train", "validation")
        },
        **meta["facts"],
        "notes": notes,
    }
    return distributed.from_first(summary)
