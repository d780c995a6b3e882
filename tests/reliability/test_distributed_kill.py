"""Of two processes one is killed: the other ends with a word in time, and both go on to the bit."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

pytestmark = pytest.mark.exhaustive

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 10
Job = list[subprocess.Popen]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Job]:
    """Starts two processes that train a toy LSTM for 60 epochs and save after each."""
    import importlib.util

    from fer_jax import config

    path = ROOT / "tests" / "training" / "conftest.py"
    spec = importlib.util.spec_from_file_location("toy_corpus", path)
    assert spec and spec.loader
    toy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(toy)
    base = tmp_path_factory.mktemp("kill")
    experiment = config.from_json(
        {
            "name": "toy",
            "data": {
                "dir": str(toy.write_records(base / "records", toy.make_clips())),
                "features": "blendshapes-27",
                "frames": 6,
            },
            "protocol": {"name": "subject", "validation": 0.2, "test": 0.2},
            "model": {"name": "lstm", "units": [8], "dropout": 0.3},
            "train": {"epochs": 60, "batch": 12, "seed": 5},
            "parallel": {"timeout_s": TIMEOUT_S},
            "checkpoint": {"every_seconds": 0, "every_epochs": 1},
            "track": {"tensorboard": False},
        }
    )
    (base / "toy.json").write_text(json.dumps(experiment.to_json()))
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "2", "FER_JAX_PROCESSES": "2",
        "JAX_COMPILATION_CACHE_DIR": str(base / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }  # fmt: skip

    def run(out: Path) -> Job:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            coordinator = f"127.0.0.1:{free.getsockname()[1]}"
        words = [sys.executable, "-m", "fer_jax.cli", "train", base / "toy.json", "--out", out]
        return [
            subprocess.Popen(
                words,
                env={
                    **environment,
                    "FER_JAX_COORDINATOR": coordinator,
                    "FER_JAX_PROCESS": str(process),
                },
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for process in range(2)
        ]

    return run


def epochs_of(run: Path) -> int:
    path = run / "history.jsonl"
    return path.read_text().count("\n") if path.is_file() else 0


def at_work(job: Job, run: Path, epochs: int) -> None:
    """Waits until so many epochs are done."""
    until = time.monotonic() + 300
    while epochs_of(run) < epochs:
        assert time.monotonic() < until
        assert [process.poll() for process in job] == [None, None], job[0].communicate()[1][-3000:]
        time.sleep(0.01)


def finish(job: Job) -> None:
    printed = [process.communicate(timeout=400)[1] for process in job]
    assert [process.returncode for process in job] == [0, 0], "\n".join(printed)[-5000:]


def ends(process: subprocess.Popen) -> tuple[float, str]:
    """Seconds until it ends, and its last line."""
    begun = time.monotonic()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 5, said[-3000:]
    return time.monotonic() - begun, said.splitlines()[-1]


def learned(run: Path) -> dict[str, Any]:
    from fer_jax.training import checkpoint

    directory = run / "checkpoints"
    step, problems = checkpoint.find_intact(directory)
    assert not problems
    return checkpoint.read(directory, step, dict.fromkeys(("state", "best")))


#: An idle machine needs less than a second beyond the limit.
SLACK_S = 20


def test_a_lost_process_ends_the_job_which_then_goes_on(
    start: Callable[[Path], Job], tmp_path: Path
) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    again = "start all processes again, and they go on from the last checkpoint"

    first, second = start(run)
    at_work([first, second], run, 2)
    second.kill()
    seconds, line = ends(first)
    second.communicate()
    assert seconds < TIMEOUT_S + SLACK_S
    assert line.startswith("fer-jax: nothing was heard of process 1 (") and line.endswith(again)

    before = epochs_of(run)
    assert before < 60
    first, second = start(run)
    at_work([first, second], run, before + 2)
    first.kill()
    seconds, line = ends(second)
    first.communicate()
    assert seconds < TIMEOUT_S + SLACK_S
    assert line.startswith("fer-jax: process 0 is gone, or ") and line.endswith(again)

    before = epochs_of(run)
    assert before < 60
    first, second = start(run)
    at_work([first, second], run, before + 2)
    first.send_signal(signal.SIGSTOP)  # It stands still: its connections stay open.
    seconds, line = ends(second)
    assert seconds < TIMEOUT_S + SLACK_S
    assert line.startswith("fer-jax: nothing was heard of process 0 (") and line.endswith(again)
    first.kill()
    first.communicate()

    assert epochs_of(run) < 60
    finish(start(run))
    finish(start(whole))
    assert epochs_of(run) == epochs_of(whole) == 60
    jax.tree.map(np.testing.assert_array_equal, learned(run), learned(whole))
    assert (run / "predictions.csv").read_bytes() == (whole / "predictions.csv").read_bytes()
