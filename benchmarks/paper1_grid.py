"""How long does paper 1's whole grid take: 8 experiments x 5 feature sets x 10 folds?

    python -m benchmarks.paper1_grid --json                                 on a GPU
    JAX_PLATFORMS=cpu python -m benchmarks.paper1_grid --json --scale 0.02 --folds 2 \\
        --epochs 2 --workers 1 --features distances-259                     a trial on a CPU

Table 3 of the paper (docs/reproduction.md 1.7), 30 epochs, on generated landmarks in the structure
and number of CREMA-D's 7,442 and RAVDESS's 4,904 clips. An experiment is a corpus to train on, a
length of sequences, and either its own folds to test on or the whole other corpus, averaged over
the ten networks. Experiments 1 and 2, and 5 and 6, test the same networks: 6 populations of 10
folds for each of 5 feature sets are 300 trainings, and 400 results. Each population runs through
what `fer-jax crossval` calls; several processes take them in turn, so that one reads, audits and
evaluates while another has the GPU.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks import race

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
FEATURES = ("coords-136", "distances-104", "distances-259", "emotii-272", "distances-368")
#: Mean frames of a clip, which is the length of its sequences too.
FRAMES = {"crema_d": 76, "ravdess": 122}


@dataclass(frozen=True)
class Training:
    """The networks that some experiments test.

    Attributes:
      crossed: the experiment that tests them on the other corpus; 0 if none does.
      folded: the experiment that tests each on its own fold; 0 if none does.
    """

    corpus: str
    labels: str
    length: str
    frames: int
    crossed: int
    folded: int


TRAININGS = (
    Training("crema_d", "crema6", "thin", 76, crossed=1, folded=2),
    Training("ravdess", "crema6", "thin", 76, crossed=3, folded=0),
    Training("ravdess", "ravdess8", "thin", 122, crossed=0, folded=4),
    Training("crema_d", "crema6", "sections", 30, crossed=5, folded=6),
    Training("ravdess", "crema6", "sections", 30, crossed=7, folded=0),
    Training("ravdess", "ravdess8", "sections", 30, crossed=0, folded=8),
)


@dataclass(frozen=True)
class Job:
    """One population of the grid."""

    training: Training
    features: str
    folder: str
    folds: int
    epochs: int
    lanes: int


def _generate(folder: Path, scale: float, folds: int) -> None:
    """Both corpora; of a trial's share every emotion and subject keeps its part."""
    from preprocessing.generate import KINDS, generate

    for name, frames in FRAMES.items():
        kind = name.replace("_", "-")
        clips = sum(1 for _ in KINDS[kind].clips())
        generate(kind, folder / name, scale=max(scale, 10 * folds / clips), frames=frames)


def _begin(cores: int, share: float) -> None:
    """A worker's process, before JAX starts."""
    import jax

    from fer_jax.training.parallel import enable_compilation_cache, use_every_core

    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{share:.2f}")
    enable_compilation_cache()
    if cores:
        use_every_core(16 * cores)
    jax.monitoring.register_event_duration_secs_listener(_heard)


#: Seconds that this process has compiled, one number a program.
_compiled: list[float] = []


def _heard(event: str, duration_secs: float, **_: Any) -> None:
    if event.endswith("backend_compile_duration"):
        _compiled.append(duration_secs)


@cache
def _records(where: str, streams: tuple[str, ...]) -> Any:
    """A corpus to test on, read once a process."""
    from fer_jax.data import corpus

    records = corpus.load(where, streams=streams)
    return records, list(records)


def run(job: Job) -> dict[str, Any]:
    """Trains and evaluates a population; seconds, sizes and the accuracies by experiment."""
    import numpy as np

    from fer_jax.config import load_config
    from fer_jax.data.samples import streams_of
    from fer_jax.evaluation.crossval import train_and_compare
    from fer_jax.evaluation.evaluate import evaluate
    from fer_jax.training.members import make_members
    from fer_jax.training.population import train_population
    from fer_jax.training.run_directory import History

    training, folder = job.training, Path(job.folder)
    experiment = load_config(
        CONFIGS / f"ryumina2020_{training.corpus}.py",
        [
            ("data.dir", str(folder / training.corpus)), ("data.features", job.features),
            ("data.labels", training.labels), ("data.length", training.length),
            ("data.frames", str(training.frames)), ("protocol.folds", str(job.folds)),
            ("train.epochs", str(job.epochs)), ("track.tensorboard", "false"),
        ],
    )  # fmt: skip
    name = f"{training.corpus}-{training.labels}-{training.length}-{training.frames}"
    out = folder / "runs" / f"{name}-{job.features}"
    before, begun = len(_compiled), time.monotonic()
    members = make_members(experiment, folds=True)
    found = train_population(members, out, lanes=job.lanes)["members"]
    trained = time.monotonic()
    # The networks are there: this evaluates them, as the command does after training.
    report, _ = train_and_compare(experiment, out, folds=True, lanes=job.lanes)
    accuracy = {training.folded: [one["accuracy"] for one in report["members"]]}
    if training.crossed:
        other = folder / next(name for name in FRAMES if name != training.corpus)
        opened = _records(str(other), streams_of(experiment.data))
        accuracy[training.crossed] = [
            evaluate(one["run"], other, opened=opened)["accuracy"] for one in found
        ]
    steps = [History(Path(one["run"])).read()[-1]["step"] for one in found]
    return {
        "train_s": trained - begun,
        "evaluate_s": time.monotonic() - trained,
        "compile_s": sum(_compiled[before:]),
        "compilations": len(_compiled) - before,
        "members": len(found),
        "steps": sum(steps),
        "frames": sum(steps) * experiment.train.batch * training.frames,
        "accuracy": {
            number: round(float(np.mean(values)), 4)
            for number, values in accuracy.items()
            if number
        },
        "results": sum(len(values) for number, values in accuracy.items() if number),
    }


def _spread(jobs: list[Job], workers: int, share: float) -> list[dict[str, Any]]:
    cores = 0 if os.environ.get("JAX_PLATFORMS") != "cpu" else race.CORES // workers
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _begin, (cores, share)) as pool:
        return list(pool.map(run, jobs))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Wall-clock of the whole, and the seconds of its parts added over the processes."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        _generate(Path(folder), arguments.scale, arguments.folds)
        generated = time.monotonic()
        jobs = [
            Job(training, features, folder, arguments.folds, arguments.epochs, arguments.lanes)
            for features in arguments.features.split(",")
            for training in TRAININGS
        ]
        found = _spread(jobs, arguments.workers, 0.9 / arguments.workers)
    seconds = time.monotonic() - begun
    total: Callable[[str], float] = lambda name: sum(one[name] for one in found)  # noqa: E731
    return {
        "seconds": round(seconds, 1),
        "generate_s": round(generated - begun, 1),
        **{f"{part}_s": round(total(f"{part}_s"), 1) for part in ("train", "compile", "evaluate")},
        **{name: total(name) for name in ("compilations", "members", "results", "steps")},
        "frames_a_second": round(total("frames") / (seconds - generated + begun)),
        "workers": arguments.workers,
        "epochs": arguments.epochs,
        "accuracy": _table(jobs, found),
    }


def _table(jobs: list[Job], found: list[dict[str, Any]]) -> Mapping[str, Mapping[int, float]]:
    """By feature set, the mean accuracy of each experiment."""
    rows: dict[str, dict[int, float]] = {job.features: {} for job in jobs}
    for job, one in zip(jobs, found, strict=True):
        rows[job.features] |= one["accuracy"]
    return {features: dict(sorted(row.items())) for features, row in rows.items()}


if __name__ == "__main__":
    options = {
        "scale": (1.0, "share of the clips"), "epochs": (30, "of every run"),
        "folds": (10, "of every corpus"),
        "features": (",".join(FEATURES), "feature sets"),
        "workers": (4, "processes that take populations in turn"),
        "lanes": (0, "runs at a time; 0: what fits"),
    }  # fmt: skip
    race.main("paper1_grid", __doc__, measure, options)
