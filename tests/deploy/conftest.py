"""Runs of small networks of pictures."""

from __future__ import annotations

import contextlib
import io
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fer_jax import config
from fer_jax.cli import main
from fer_jax.records import Clip, encode
from fer_jax.training import loop
from preprocessing import writer

SIDE = 24
#: As `preprocess` notes it, with an option of another version.
BUILD = {
    "recipe.outputs": ["crops"], "recipe.crop_size": SIDE, "recipe.crop_color": "rgb",
    "recipe.crop_format": "png", "recipe.crop_quality": 90, "recipe.align": "none",
    "recipe.frontal_size": SIDE, "recipe.frontal_symmetry": "soft", "recipe.max_faces": 2,
    "recipe.version": 7, "recipe.crop_perfume": "lavender",
}  # fmt: skip

CONFIG = """
from fer_jax.config import C3D, LSTM, Checkpoint, Data, Experiment, Parallel, Protocol, Track
from fer_jax.config import Train, Xception

CNN = Xception(stem=(4, 4), stem_stride=1, entry=(6,), middle=0, exit=(), dense=6)
PICTURES = dict(features="none", images=("crops",))
DATA = {{
    "cnn": Data(**PICTURES, length="frames", image_size=16, image_color="gray", pixels="standard"),
    "c3d": Data(**PICTURES, length="windows", frames=3, keep=(0.3, 1.0), pixels="vgg-face"),
    "lstm": Data(features="extracted/net-6", length="skip", frames=4),
}}
MODEL = {{
    "cnn": CNN,
    "c3d": C3D(widths=(8, 8, 8, 8, 8), pools="thesis", dense=()),
    "lstm": LSTM(units=(5,)),
}}


def experiment():
    return Experiment(
        name="{name}",
        data=DATA["{name}"],
        model=MODEL["{name}"],
        protocol=Protocol(name="official"),
        train=Train(epochs=1, batch=8, monitor="train/loss"),
        parallel=Parallel(devices=1),
        checkpoint=Checkpoint(every_seconds=0),
        track=Track(tensorboard=False),
    )
"""


def make_clip(i: int) -> Clip:
    """7 frames of noise, each of its own brightness, the second without a face."""
    from PIL import Image

    rng = np.random.default_rng(i)
    found = np.arange(7) != 1
    crops = []
    for t, face in enumerate(found):
        file = io.BytesIO()
        pixels = rng.integers(0, 60, (SIDE, SIDE, 3)) + 30 * ((3 * t + i) % 7)
        Image.fromarray(pixels.astype(np.uint8)).save(file, "png")
        crops.append(file.getvalue() if face else None)
    return Clip(
        clip_id=f"noise/{i}", corpus="noise", subject=f"s{i}", emotion=("SAD", "HAP")[i % 2],
        split=("train", "train", "test")[i % 3], source=f"{i}.mp4", width=64, height=64,
        frame_index=np.arange(7, dtype="i4"), time_ms=np.arange(7, dtype="f4"),
        face_found=found, box=np.zeros((7, 4), "f4"), crops=tuple(crops),
    )  # fmt: skip


def fer(*words: object) -> tuple[int, dict[str, Any]]:
    """A command's exit code and its JSON."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        code = main([*map(str, words), "--json"])
    return code, json.loads(printed.getvalue().splitlines()[-1])


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Records and runs on them: a CNN, a C3D, and an LSTM on what the CNN extracted; and `fer`."""
    root = tmp_path_factory.mktemp("images")
    records = root / "records"
    records.mkdir()
    info = writer.write_shard(
        records / writer.shard_name("noise", 0, 1), (encode(make_clip(i)) for i in range(6))
    )
    writer.write_dataset_info(
        records, "noise", [6], info.bytes, ("crops",), {"crops": (SIDE, SIDE, 3)}, "png",
        {"build": BUILD},
    )  # fmt: skip
    for name in ("cnn", "c3d", "lstm"):
        (root / f"{name}.py").write_text(CONFIG.format(name=name))
        if name == "lstm":
            code, said = fer("extract", root / "cnn", records, "--name", "net")
            assert (code, said["features"], said["clips"]) == (0, "extracted/net-6", 6)
            words = [root / "lstm.py", "--out", root / "lstm", "--data.dir", records]
            assert fer("train", *words)[0] == 0
            continue
        experiment = config.load_config(root / f"{name}.py", [("data.dir", str(records))])
        loop.train(experiment, root / name)
    return SimpleNamespace(
        root=root, records=records, cnn=root / "cnn", c3d=root / "c3d", lstm=root / "lstm", fer=fer
    )
