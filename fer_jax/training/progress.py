"""How far a run is: starting it, saving it, going on with it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fer_jax.config import Experiment
from fer_jax.data import protocols
from fer_jax.data.geometry import chosen_distances, dimension
from fer_jax.data.statistics import Statistics, fit_statistics
from fer_jax.errors import UserError
from fer_jax.models.paths import flatten, matches
from fer_jax.progress import LINE_EVERY_S
from fer_jax.training import checkpoint, distributed, metrics, parallel
from fer_jax.training.initial import by_layer, initial_variables, render
from fer_jax.training.job import Dataset, Job, load_dataset, make_job
from fer_jax.training.metrics import Metrics
from fer_jax.training.monitor import Monitor
from fer_jax.training.run_directory import History, checkpoints_of, empty, load_run
from fer_jax.training.state import TrainState, snapshot, to_host


@dataclass
class Progress:
    """How far a run is: what a checkpoint holds.

    Attributes:
      state: on the devices; its memory goes into the next step.
      counted: training metrics of the epoch so far.
      best: the best variables so far.
      step: steps done.
      epoch: epochs done, validated and in the history.
      finished: why training is over; "" while it is not.
      saved_epoch, saved_time: of the last save.
    """

    state: TrainState
    counted: Metrics
    best: dict[str, Any]
    step: int = 0
    epoch: int = 0
    monitor: Monitor = Monitor()
    finished: str = ""
    saved_epoch: int = 0
    saved_time: float = field(default_factory=time.monotonic)


def restore_point(run: Path, notes: list[str]) -> tuple[int, dict[str, Any]] | None:
    """The step and meta of the newest intact checkpoint; None where there is none yet."""
    directory = checkpoints_of(run)
    step, problems = None, []
    if distributed.is_first() and checkpoint.sealed_steps(directory):
        step, problems = checkpoint.find_intact(directory)
    step, problems = distributed.from_first((step, problems))
    if step is None:
        return None
    for problem in problems:
        notes.append(f"{problem}: went back to the checkpoint of step {step}")
    return step, checkpoint.read(directory, step, {"meta": None})["meta"]


def begin(
    experiment: Experiment,
    run: Path,
    found: tuple[int, dict[str, Any]] | None,
    notes: list[str],
    say: Callable[[str], None],
) -> tuple[Job, Progress]:
    """Reads the data, and starts from new parameters or from a checkpoint."""
    dataset = load_dataset(experiment)
    read = {f"the records' {key}": dataset.facts[key] for key in ("data_sha256", "split_sha256")}
    distributed.agree(read, "give every process the same records and the same split")
    classes = len(dataset.label_space.classes)
    if found is None:
        statistics = distributed.arrays_from_first(
            lambda: first_statistics(experiment, dataset, say)
        )
        job = make_job(experiment, dataset, statistics)
        variables = first_variables(experiment, job.first_variables(), dataset.facts)
        variables = distributed.tree_from_first(variables)
        state = job.first_state(variables)
        progress = Progress(_place(state, job), no_metrics(job), _place(state.variables, job))
    else:
        step, meta = found
        _same_data(meta["facts"], dataset.facts, experiment)
        dataset.facts.update(
            {k: meta["facts"][k] for k in ("initial", "notes", "audit") if k in meta["facts"]}
        )
        directory = checkpoints_of(run)
        best = checkpoint.read(directory, step, {"best": None})["best"]
        job = make_job(experiment, dataset, best["statistics"])
        shape = empty(jax.eval_shape(lambda: job.first_state(job.first_variables())))
        template = {**fields_of(shape), "counted": tuple(metrics.no_metrics(classes))}
        tree = checkpoint.read(directory, step, {"state": template})["state"]
        counted = parallel.replicate(Metrics(*tree.pop("counted")), job.mesh)
        variables = {"params": best["params"], "stats": best["stats"]}
        said = meta["progress"]
        progress = Progress(
            _place(TrainState(**tree), job),
            counted,
            _place(variables, job),
            step=step,
            epoch=said["epoch"],
            monitor=Monitor(**said["monitor"]),
            saved_epoch=said["epoch"],
        )
        notes.append(f"went on after epoch {progress.epoch} of {experiment.train.epochs}")
    notes += [*dataset.facts["notes"], f"input: {dataset.placement.why}"]
    if distributed.is_first():
        History(run).rewind(progress.epoch)
        protocols.save_split(run / "split.csv", dataset.split)
    return job, progress


def first_statistics(
    experiment: Experiment, dataset: Dataset, say: Callable[[str], None]
) -> Statistics:
    """Of the training set; where landmarks go on from another run's, what that run had fitted.

    A stage's offsets are relative to the mean shape, and its pictures to the mean picture, that it
    was trained with; and what it learned of chosen distances holds for the pairs that it had.
    """
    data, source, before = experiment.data, experiment.train.init.run, {}
    if source and (data.landmarks or chosen_distances(data.features)):
        before = load_run(source[0]).statistics
    pairs = None
    if "pairs" in before and len(before["pairs"]) == dimension(data.features):
        pairs = np.asarray(before["pairs"])
        dataset.facts["notes"].append(f"the distances are those that {source[0]} had chosen")
    found = fit_statistics(dataset.train, data, pairs, _told(say))
    if "mean_shape" not in before or not data.landmarks:
        return found
    kept = {
        name: before[name]
        for name, value in found.items()
        if name in before and np.shape(before[name]) == np.shape(value)
    }
    if any(not np.array_equal(kept[name], found[name]) for name in kept):
        dataset.facts["notes"].append(f"mean shape and mean pictures are those of {source[0]}")
    return found | kept


def _told(say: Callable[[str], None]) -> Callable[[int, int], None]:
    """Says now and then how far the choice of distances is."""
    last = [-np.inf]

    def tell(done: int, total: int) -> None:
        now = time.monotonic()
        if now - last[0] >= LINE_EVERY_S or done == total:
            last[0] = now
            say(f"importance of distances: {done}/{total} trees")

    return tell


def first_variables(
    experiment: Experiment, random: dict[str, Any], facts: dict[str, Any]
) -> dict[str, Any]:
    """The variables before the first step: random, with what `train.init` names in their place.

    What was loaded goes into `facts`, and that a frozen part was not.
    """
    settings, variables, report = experiment.train, random, {}
    if settings.init.run or settings.init.weights:
        variables, report = initial_variables(settings.init, random, experiment.model)
        facts["initial"] = report
        facts["notes"].append(render(report))
    paths = flatten(random["params"])
    still = [path for path in report.get("random", paths) if path in paths]
    if frozen := by_layer(path for path in still if matches(path, settings.freeze)):
        facts["notes"].append(
            f"frozen, and random: {frozen}: nothing trains them; start them from another run with "
            "--train.init.run, or from a file with --train.init.weights"
        )
    return variables


def _same_data(before: dict[str, Any], now: dict[str, Any], experiment: Experiment) -> None:
    for key in ("data_sha256", "split_sha256"):
        if before[key] != now[key]:
            raise UserError(
                f"{experiment.data.dir} does not hold the records that this run began with "
                f"({key} {now[key][:12]}, was {before[key][:12]}): give those with --data.dir, or "
                "train in another directory"
            )


def fields_of(state: TrainState) -> dict[str, Any]:
    """A state as a checkpoint names its parts."""
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}


def _place(tree: Any, job: Job) -> Any:
    """On every device, in memory of its own, since a step takes the state's memory."""
    return snapshot(parallel.replicate(tree, job.mesh))


def no_metrics(job: Job) -> Metrics:
    return parallel.replicate(metrics.no_metrics(len(job.label_space.classes)), job.mesh)


def due(experiment: Experiment, progress: Progress) -> bool:
    settings = experiment.checkpoint
    epochs = progress.epoch - progress.saved_epoch
    seconds = time.monotonic() - progress.saved_time
    enough = epochs >= settings.every_epochs and seconds >= settings.every_seconds
    return bool(progress.finished) or enough


def save(job: Job, progress: Progress, checkpoints: checkpoint.NoCheckpoints) -> None:
    """Starts to save. The last and the best state are one checkpoint, so they always agree."""
    if distributed.is_first():
        state = {**fields_of(to_host(progress.state)), "counted": tuple(to_host(progress.counted))}
        check_finite(state["params"], progress.epoch, job.experiment)
        best = {**to_host(progress.best), "statistics": to_host(job.statistics)}
        checkpoints.save(progress.step, state, best, to_meta(job, progress))
    progress.saved_epoch, progress.saved_time = progress.epoch, time.monotonic()


def check_finite(params: Any, epoch: int, experiment: Experiment) -> None:
    """Raises:
    UserError: parameters, on the host, that nothing can go on from.
    """
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
        raise UserError(
            f"parameters are not finite in epoch {epoch}: lower --optim.lr (now "
            f"{experiment.optim.lr:g}) or set --optim.clip_norm 1, in another run directory"
        )


def to_meta(job: Job, progress: Progress) -> dict[str, Any]:
    facts = {**job.facts, "parameters": job.parameters, "trained": job.trained}
    return make_meta(progress.epoch, progress.monitor, progress.finished, facts)


def make_meta(
    epoch: int, monitor: Monitor, finished: str, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """What a run's checkpoint says of itself, in JSON."""
    said = {"epoch": epoch, "monitor": dataclasses.asdict(monitor), "finished": finished}
    return {"progress": said, "facts": dict(facts)}
