"""Every family of networks in every format, on real faces (`make test-exhaustive`)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fer_jax
from fer_jax.data import corpus
from fer_jax.deploy import artifact, formats
from fer_jax.deploy.export import TOLERANCE, export
from fer_jax.training.checkpoint import Checkpoints
from fer_jax.training.monitor import Monitor
from fer_jax.training.progress import begin, save
from fer_jax.training.run_directory import checkpoints_of, write_config

pytestmark = pytest.mark.exhaustive

FORMATS = formats.FORMATS
XCEPTION = {"name": "xception", "stem": [4, 4], "stem_stride": 1, "entry": [6, 8], "middle": 1,
            "exit": [8], "dense": 6}  # fmt: skip
VGG = {"name": "vgg-face", "widths": [4, 4, 8, 8, 8], "dense": [16, 8]}
VOLUME = {"widths": [4, 4, 6, 6, 8], "dropout": 0.0}
LSTM = {"name": "lstm", "units": [8, 6]}
PICTURE = {"data__length": "frames"}

#: Config, changes: small, and each a family or an input of its own.
SYSTEMS: dict[str, tuple[str, dict[str, Any]]] = {
    "landmarks": ("ryumina2020_crema_d", {"model": LSTM, "data__frames": 9}),
    "full-frame": (
        "ryumina2020_crema_d",
        {"model": {**LSTM, "mask_padding": True}, "data__frames": 20, "data__pca": 5,
         "data__features": "emotii-272", "data__landmark_scale": "full-frame"},
    ),
    "gru": (
        "landmarks_lstm",
        {"model": {"name": "gru", "units": [8], "dense": 5}, "data__features": "blendshapes-27",
         "data__length": "windows", "data__frames": 6, "train__precision": "bfloat16"},
    ),
    "dense": (
        "attrah2024_dense",
        {"model": {"name": "dense", "units": [9, 7], "dropout": [0.0, 0.1]}, **PICTURE},
    ),
    "features": ("attrah2024_lstm", {"model": {**LSTM, "steps": "features"}, **PICTURE}),
    "xception": ("abdullah2020_xception", {"model": XCEPTION, **PICTURE}),
    "geometry": ("zennou2023_geometry", {"model": VGG, "data__image_size": 32, **PICTURE}),
    "two-stream": ("zennou2023_two_stream", {"model": VGG, "data__image_size": 32, **PICTURE}),
    "cnn-rnn": (
        "abdullah2020_xception_lstm",
        {"model": {"name": "cnn-rnn", "cnn": XCEPTION, "rnn": LSTM}, "data__frames": 7},
    ),
    "c3d": (
        "zennou2023_c3d",
        {"model": {"name": "c3d", "pools": "thesis", "dense": [6], **VOLUME}, "data__frames": 4,
         "data__image_size": 20, "data__length": "windows"},
    ),
    "nested-lstm": (
        "zennou2023_nested_lstm_geometry",
        {"model": {"name": "nested-lstm", "bins": 2, "projection": 6, "temporal_units": 5,
                   "convolutional_units": 4, **VOLUME},
         "data__frames": 20, "data__length": "thin"},
    ),
    "emotional-dan": (
        "emotionaldan2018",
        {"model": {"name": "emotional-dan", "widths": [4, 6], "dense": 8, "patch": 4}, **PICTURE},
    ),
    "small-cnn": (
        "emotionaldan2018_cnn2",
        {"model": {"name": "small-cnn", "kernels": [3, 3], "widths": [4, 6], "dense": [8]},
         **PICTURE},
    ),
    "inception-v3": (
        "emotionaldan2018_inception_v3",
        {"model": {"name": "inception-v3", "width": 0.03}, "data__image_size": 75, **PICTURE},
    ),
    "resnet": (
        "emotionaldan2018_emotionnet2",
        {"model": {"name": "resnet", "blocks": [1, 1], "widths": [4, 6]}, **PICTURE},
    ),
}  # fmt: skip


def first(experiment: Any, run: Path) -> Path:
    """A run directory whose best epoch has the parameters that training begins with."""
    run.mkdir()
    job, progress = begin(experiment, run, None, [], lambda _: None)
    progress.epoch, progress.monitor = 1, Monitor(best=0.0, best_epoch=1)
    write_config(run, experiment)
    checkpoints = Checkpoints(checkpoints_of(run), keep=1)
    save(job, progress, checkpoints)
    checkpoints.wait()
    checkpoints.close()
    return run


def check(run: Path, out: Path, records: Path) -> None:
    report = export(run, FORMATS, out)
    assert [one["format"] for one in report["exports"]] == list(FORMATS)
    for one in report["exports"]:
        assert one["max_abs_difference"] <= TOLERANCE
    predictor, original = fer_jax.load(out / "stablehlo"), fer_jax.load(run)
    precision = original.loaded.experiment.train.precision  # type: ignore[attr-defined]
    assert artifact.read_facts(out / "hf")["trained_in"] == precision
    half = precision == "bfloat16"
    clip = corpus.load(records)[3]
    atol = 0.02 if half else 5e-6
    np.testing.assert_allclose(predictor.clip(clip), original.clip(clip), atol=atol)
    np.testing.assert_allclose(predictor.frames(clip), original.frames(clip), atol=atol)


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_family(small, people: Path, tmp_path: Path, name: str) -> None:
    config, changes = SYSTEMS[name]
    run = first(small(config, **changes), tmp_path / "run")
    check(run, tmp_path / "out", people)


def test_features_of_another_network(small, people: Path, tmp_path: Path) -> None:
    from fer_jax.evaluation.embed import extract

    records = shutil.copytree(people, tmp_path / "records")
    config, changes = SYSTEMS["geometry"]
    inner = first(small(config, **changes, data__dir=str(records)), tmp_path / "inner")
    said = extract(inner, records, "net")
    model = {"name": "lstm", "units": [8]}
    experiment = small(
        "zennou2023_lstm_features", data__features=said["features"], data__frames=6, data__pca=3,
        data__image_size=0, data__dir=str(records), model=model,
    )  # fmt: skip
    check(first(experiment, tmp_path / "run"), tmp_path / "out", records)
