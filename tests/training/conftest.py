"""A small corpus of blendshape sequences that a small LSTM can learn."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

WORDS = ("happy", "sad", "neutral")


@pytest.fixture(scope="module", autouse=True)
def compiles_once(compiled_once: None) -> None:
    """Programs that several tests compile alike are compiled once."""


def make_clips(count: int = 70, frames: int = 5, seed: int = 0) -> list:
    """Clips of 10 subjects whose scores drift in a direction of their emotion, in noise."""
    from fer_jax.records import Clip

    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(len(WORDS), 52))
    clips = []
    for i in range(count):
        emotion = i % len(WORDS)
        length = frames + i % 3
        time = np.linspace(0, 1, length)[:, None]
        scores = 0.5 * time * direction[emotion] + rng.normal(size=(length, 52))
        clips.append(
            Clip(
                clip_id=f"toy/{i:03d}",
                corpus="toy",
                subject=f"s{i % 10}",
                emotion=WORDS[emotion],
                width=64,
                height=64,
                frame_index=np.arange(length, dtype=np.int32),
                time_ms=np.arange(length, dtype=np.float32) * 40,
                face_found=np.ones(length, bool),
                box=np.tile(np.float32([0, 0, 64, 64]), (length, 1)),
                blendshapes=scores.astype(np.float32),
            )
        )
    return clips


def write_records(out: Path, clips: list) -> Path:
    from fer_jax.records import encode
    from preprocessing import writer

    out.mkdir(parents=True)
    info = writer.write_shard(out / writer.shard_name("toy", 0, 1), map(encode, clips))
    writer.write_dataset_info(
        out, "toy", [info.records], info.bytes, ("blendshapes",), {}, "png", {}
    )
    return out


@pytest.fixture(scope="session")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record directory of the small corpus."""
    return write_records(tmp_path_factory.mktemp("toy") / "records", make_clips())


@pytest.fixture(scope="session")
def other_records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of the same clips with other content."""
    return write_records(tmp_path_factory.mktemp("other") / "other", make_clips(seed=9))


TOY = {
    "name": "toy",
    "data": {"features": "blendshapes-27", "length": "frames"},
    "protocol": {"name": "subject", "validation": 0.2, "test": 0.2},
    "model": {"name": "dense", "units": [8, 8], "dropout": [0.3, 0.0], "kernel_l2": 1e-3},
    "optim": {"lr": 0.01},
    "train": {"epochs": 3, "batch": 60, "seed": 5},
    "parallel": {"devices": 1},
    "checkpoint": {"every_seconds": 0},
    "track": {"tensorboard": False},
}


@pytest.fixture(scope="session")
def experiment(records: Path):
    """A small dense net with dropout and L2: 3 epochs of 5 steps on one device, one validation
    and one save an epoch."""
    from fer_jax import config

    return config.override(config.from_json(TOY), [("data.dir", str(records))])


def history(run: Path) -> list[dict]:
    """Without what the clock says."""
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    timed = ("seconds", "speed/")
    return [{k: v for k, v in line.items() if not k.startswith(timed)} for line in lines]


def contents(run: Path) -> dict[str, Any]:
    """Everything that the newest checkpoint holds."""
    from fer_jax.training import checkpoint

    directory = run / "checkpoints"
    step, problems = checkpoint.find_intact(directory)
    assert not problems
    return {
        "step": step,
        **checkpoint.read(directory, step, dict.fromkeys(("state", "best", "meta"))),
    }


def assert_same(a: Path, b: Path) -> None:
    """Two runs learned the same, to the bit."""
    import jax

    assert history(a) == history(b)
    assert (a / "split.csv").read_bytes() == (b / "split.csv").read_bytes()
    jax.tree.map(np.testing.assert_array_equal, contents(a), contents(b))


@pytest.fixture(scope="session")
def runs() -> SimpleNamespace:
    """What run directories hold, and whether two are the same."""
    return SimpleNamespace(history=history, contents=contents, assert_same=assert_same)
