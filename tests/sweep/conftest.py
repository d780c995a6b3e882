"""A study of tiny trials, without processes of its own unless a test asks for them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fer_jax.executors import Outcome

TOY = {
    "name": "toy",
    "data": {"features": "distances-104", "length": "frames"},
    "protocol": {"name": "subject", "validation": 0.3, "test": 0.2},
    "model": {"name": "dense", "units": [8], "dropout": [0.2], "kernel_l2": 1e-3},
    "train": {"epochs": 3, "batch": 64, "seed": 5},
    "parallel": {"devices": 1},
    "checkpoint": {"every_seconds": 0},
    "track": {"tensorboard": False},
}


@pytest.fixture(scope="module", autouse=True)
def compiles_once(compiled_once: None) -> None:
    """Trials of the same rate are the same program."""


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory, face_corpus) -> Path:
    """A config of a small dense net, with records, as JSON."""
    root = tmp_path_factory.mktemp("sweep")
    records = face_corpus.write(root / "records", face_corpus.clips())
    path = root / "toy.json"
    data = {**TOY["data"], "dir": str(records)}
    path.write_text(json.dumps({**TOY, "data": data}))
    return path


class Here:
    """An engine that does its jobs in this process, one at a time."""

    def __init__(self, function: Callable[[Any], Any], workers: int = 1):
        self.workers, self._function, self._queue = workers, function, []
        self.done: list[Any] = []

    def submit(self, job: Any) -> None:
        self._queue.append(job)

    def wait(self, seconds: float) -> list[Outcome]:
        if not self._queue:
            return []
        job = self._queue.pop(0)
        self.done.append(job)
        try:
            return [Outcome(job, self._function(job))]
        except Exception as error:
            return [Outcome(job, error=error)]

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


@pytest.fixture(scope="session")
def engine() -> type[Here]:
    return Here


@pytest.fixture
def here(monkeypatch) -> list[Here]:
    """Sweeps train in this process; the engines that they made."""
    from fer_jax.sweep import driver, worker

    made: list[Here] = []

    def start(plan):
        made.append(Here(lambda job: worker.run_trials(job)))
        return made[-1]

    monkeypatch.setattr(driver, "start_engine", start)
    monkeypatch.setattr(driver, "_POLL_S", 0.0)
    return made


@pytest.fixture
def rows():
    """trials.csv of a sweep."""

    def read(out: Path) -> list[dict[str, str]]:
        with (out / "trials.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    return read
