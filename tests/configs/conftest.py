"""Real faces in a small record directory, and every config made small enough for a test."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
CLIPS, FRAMES = 8, 16


@pytest.fixture(scope="module", autouse=True)
def compiles_once(compiled_once: None) -> None:
    """A run that is resumed compiles what the whole run compiled: once."""


def _people(video: Path, landmarker_model: Path) -> list:
    """8 clips of 16 frames of a real video: its first half is sad, its second happy."""
    from fer_jax.records import Clip
    from preprocessing.extract import Extractor, Recipe
    from preprocessing.video import read_frames

    outputs = ("landmarks", "blendshapes", "crops", "frontal")
    wanted = np.linspace(0, 440, CLIPS * FRAMES).astype(int).reshape(CLIPS, FRAMES)
    frames = {frame.index: frame for frame in read_frames(video) if frame.index in set(wanted.flat)}
    clips = []
    with Extractor(Recipe(outputs=outputs, crop_size=32, frontal_size=32)) as extractor:
        for i, indices in enumerate(wanted):
            word = "sad" if i < CLIPS // 2 else "happy"
            named = Clip(
                clip_id=f"people/{i:02d}", corpus="people", subject=f"s{i}", emotion=word,
                recording=f"r{i}", source=f"{i}.mp4",
            )  # fmt: skip
            clips.append(extractor.extract(named, (frames[int(t)] for t in indices)))
    parts = ["train", "train", "validation", "test"]
    return [clip.replace(split=parts[i % 4]) for i, clip in enumerate(clips)]


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory, shared: Path, landmarker_model: Path) -> Path:
    """Records of real faces with every stream, and features of 12 numbers beside them."""
    from fer_jax.data import corpus, extracted
    from fer_jax.records import encode, frame_record
    from preprocessing import writer

    out = tmp_path_factory.mktemp("people") / "records"
    out.mkdir()
    os.environ["FER_JAX_MODELS"] = str(landmarker_model.parent)
    clips = _people(shared / "data" / "videos" / "WolfgangLanger_Pexels.mp4", landmarker_model)
    info = writer.write_shard(out / writer.shard_name("people", 0, 1), map(encode, clips))
    shapes = {"crops": (32, 32, 3), "frontal": (32, 32, 3)}
    writer.write_dataset_info(
        out, "people", [info.records], info.bytes, clips[0].streams, shapes, "jpeg", {}
    )
    data = corpus.load(out)
    for name in ("xception", "fc7"):
        beside = out / "extracted" / f"{name}-12"
        beside.mkdir(parents=True)
        with open(beside / data.shards[0].name, "wb") as file:
            for clip in clips:
                values = clip.blendshapes[:, 8:20]
                file.write(frame_record(extracted.encode(clip.clip_id, values)))
        facts = {"data_sha256": data.data_sha256, "weights_sha256": "0", "run": "nowhere"}
        (beside / extracted.FACTS).write_text(json.dumps(facts))
    return out


class Stop(Exception):
    pass


#: What every small run changes: every clip trains, and nothing is random but the seed.
COMMON: dict[str, Any] = {
    "protocol": {"name": "official"},
    "data.labels": "auto", "data.keep": [0.0, 1.0], "data.augment": {}, "data.image_size": 16,
    "optim": {"lr": 0.01}, "train.monitor": "train/loss", "train.batch": 8, "train.freeze": [],
    "train.init": {}, "train.ema": 0.0, "train.accumulate": 1, "parallel.devices": 1,
    "train.loss.label_smoothing": 0.0, "train.loss.class_weights": "none",
    "checkpoint.every_seconds": 1e9, "track.tensorboard": False, "data.caps": {},
}  # fmt: skip


@pytest.fixture
def small(people: Path) -> Callable[..., Any]:
    """A config by name, with `changes` on top of `COMMON`."""
    from fer_jax import config

    def make(name: str, **changes: Any):
        document = config.load_config(ROOT / "configs" / f"{name}.py").to_json()
        document["data"]["dir"] = str(people)
        for key, value in {
            **COMMON,
            **{k.replace("__", "."): v for k, v in changes.items()},
        }.items():
            *path, last = key.split(".")
            node = document
            for part in path:
                node = node[part]
            node[last] = value
        return config.from_json(document)

    return make


@pytest.fixture
def learns(tmp_path: Path) -> Callable[..., list[dict]]:
    """Trains to 100 % of the training samples, and again, stopped in the second epoch and resumed,
    with the same result to the bit; then, if `half`, a step in bfloat16. Returns the history."""
    from fer_jax import config
    from fer_jax.training import checkpoint, loop
    from fer_jax.training.run_directory import History

    def newest(run: Path) -> dict[str, Any]:
        directory = run / "checkpoints"
        step, _ = checkpoint.find_intact(directory)
        return checkpoint.read(directory, step, dict.fromkeys(("state", "best")))

    def run(
        experiment: Any, figure: str = "train/accuracy", wanted: float = 1.0, half: bool = True
    ) -> list[dict]:
        whole, resumed = tmp_path / "whole", tmp_path / "resumed"
        loop.train(experiment, whole)
        lines = History(whole).read()

        def stop(epoch: int, epochs: int, figures: str) -> None:
            if epoch == 2:
                raise Stop

        often = config.override(experiment, [("checkpoint.every_seconds", "0")])
        with pytest.raises(Stop):
            loop.train(often, resumed, on_progress=stop)
        assert checkpoint.sealed_steps(resumed / "checkpoints")
        loop.train(experiment, resumed)
        jax.tree.map(np.testing.assert_array_equal, newest(whole), newest(resumed))

        if half:
            keys = [("train.precision", "bfloat16"), ("train.epochs", "1")]
            loop.train(config.override(experiment, keys), tmp_path / "half")
            assert np.isfinite(History(tmp_path / "half").read()[0]["train/loss"])
        shutil.rmtree(resumed)
        values = [line[figure] for line in lines]
        reached = max(values) >= wanted if figure == "train/accuracy" else min(values) <= wanted
        assert reached, f"{figure} {values}"
        return lines

    return run
