"""Training that is killed and repeated ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

EPOCHS = 12
#: Prints each epoch, and waits for the parent's word after it: the parent chooses when to strike.
PROGRAM = """
import sys
from fer_jax import config
from fer_jax.training import loop

def progress(done, total, note):
    print("epoch", done, flush=True)
    if "--wait" in sys.argv:
        sys.stdin.readline()

try:
    loop.train(config.load_config(sys.argv[1]), sys.argv[2], progress)
except loop.Interrupted as stopped:
    print(stopped, flush=True)
    sys.exit(130)
print("finished", flush=True)
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory):
    """Starts training of a toy LSTM in a process of its own."""
    import importlib.util

    from fer_jax import config

    path = Path(__file__).resolve().parent.parent / "training" / "conftest.py"
    spec = importlib.util.spec_from_file_location("toy_corpus", path)
    assert spec and spec.loader
    toy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(toy)
    base = tmp_path_factory.mktemp("kill")
    records = toy.write_records(base / "records", toy.make_clips())
    experiment = config.from_json(
        {
            "name": "toy",
            "data": {"dir": str(records), "features": "blendshapes-27", "frames": 6},
            "protocol": {"name": "subject", "validation": 0.2, "test": 0.2},
            "model": {"name": "lstm", "units": [8], "dropout": 0.3},
            "train": {"epochs": EPOCHS, "batch": 12, "seed": 5},
            "checkpoint": {"every_seconds": 0, "every_epochs": 1},
            "track": {"tensorboard": False},
        }
    )
    (base / "config.json").write_text(json.dumps(experiment.to_json()))
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "XLA_FLAGS": ""}

    def start(run: Path, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(base / "config.json"), str(run), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=root,
            text=True,
        )

    return start


def finish(process: subprocess.Popen) -> str:
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0, out
    return out


def outcome(run: Path) -> tuple:
    from fer_jax.training import checkpoint

    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    for line in lines:  # Without what the clock says.
        for name in [name for name in line if name.startswith(("seconds", "speed/"))]:
            del line[name]
    step, problems = checkpoint.find_intact(run / "checkpoints")
    assert not problems
    items = checkpoint.read(run / "checkpoints", step, dict.fromkeys(("state", "best", "meta")))
    return lines, step, items


@pytest.fixture(scope="module")
def uninterrupted(program, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    run = tmp_path_factory.mktemp("runs") / "uninterrupted"
    finish(program(run))
    return outcome(run)


def strike(process: subprocess.Popen, after: int, signum: int) -> None:
    """Lets `after` epochs pass, then sends the signal while the child saves or trains on."""
    assert process.stdin and process.stdout
    for epoch in range(1, after + 1):
        assert process.stdout.readline() == f"epoch {epoch}\n"
        process.stdin.write("\n")
        process.stdin.flush()
    process.send_signal(signum)


@pytest.mark.parametrize("after", [1, 7])
def test_killed_and_repeated(program, uninterrupted, tmp_path: Path, after: int) -> None:
    """kill -9 at about the first checkpoint, and at a later one."""
    run = tmp_path / "run"
    process = program(run, "--wait")
    strike(process, after, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    (run / "checkpoints" / "999.orbax-checkpoint-tmp").mkdir(parents=True)
    finish(program(run))
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == [str(uninterrupted[1])]
    jax.tree.map(np.testing.assert_array_equal, outcome(run), uninterrupted)


def test_interrupted_and_repeated(program, uninterrupted, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = program(run, "--wait")
    strike(process, 3, signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130, out
    assert "the same command goes on there" in out
    out = finish(program(run))
    assert "epoch 1\n" not in out
    assert f"epoch {EPOCHS}\n" in out
    jax.tree.map(np.testing.assert_array_equal, outcome(run), uninterrupted)
