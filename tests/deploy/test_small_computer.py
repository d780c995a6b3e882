"""The example for a small computer: without JAX, on a real video, and what `predict` says of it."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from fer_jax.cli import main
from fer_jax.config import LSTM, Data, Experiment
from fer_jax.deploy import artifact
from fer_jax.deploy.formats import onnx
from fer_jax.deploy.recogniser import Recogniser, make_recogniser
from fer_jax.models import Inputs, build
from fer_jax.records import Clip, encode
from preprocessing import writer

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
from fer_jax.config import Checkpoint, Data, Dense, Experiment, Parallel, Protocol, Track, Train


def experiment():
    return Experiment(
        name="dense",
        data=Data(features="blendshapes-52", length="frames"),
        model=Dense(units=(6,), dropout=(0.0,)),
        protocol=Protocol(name="official"),
        train=Train(epochs=1, batch=8, monitor="train/loss"),
        parallel=Parallel(devices=1),
        checkpoint=Checkpoint(every_seconds=0),
        track=Track(tensorboard=False),
    )
"""

#: Runs the example, and then its Recogniser on rows of blendshapes.
ALONE = """
import json, runpy, sys
blocked = ("jax", "jaxlib", "flax", "fer_jax", "preprocessing", "tensorflow")
sys.modules.update(dict.fromkeys(blocked))  # An import of them fails.
script, other, rows, *sys.argv = sys.argv[1:]
names = runpy.run_path(script, run_name="__main__")
import numpy as np
recogniser = names["Recogniser"](other)
print(json.dumps([recogniser(row).tolist() for row in np.load(rows)]))
assert not any(sys.modules[name] for name in blocked)
"""


def clip(i: int) -> Clip:
    rng = np.random.default_rng(i)
    shapes = rng.uniform(0, 0.4 + 0.4 * (i % 2), (6, 52)).astype(np.float32)
    return Clip(
        clip_id=f"noise/{i}", corpus="noise", subject=f"s{i}", emotion=("SAD", "HAP")[i % 2],
        split=("train", "test")[i // 2 % 2], source=f"{i}.mp4", width=64, height=64,
        frame_index=np.arange(6, dtype="i4"), time_ms=np.arange(6, dtype="f4"),
        face_found=np.ones(6, bool), box=np.zeros((6, 4), "f4"), blendshapes=shapes,
    )  # fmt: skip


def fer(*words: object) -> tuple[int, dict[str, Any]]:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        code = main([*map(str, words), "--json"])
    return code, json.loads(printed.getvalue().splitlines()[-1])


def recurrent() -> Recogniser:
    """An LSTM on blendshapes that has learned nothing."""
    data, model = Data(features="blendshapes-52", frames=5), LSTM(units=(7,))
    experiment = Experiment(name="lstm", data=data, model=model)
    inputs = Inputs(frames=5, features=52)
    variables = jax.tree.map(np.asarray, build(model, inputs, 3).init(jax.random.key(0)))
    rng = np.random.default_rng(0)
    spread = rng.uniform(0.1, 0.3, (2, 52)).astype(np.float32)
    variables["statistics"] = {"mean": spread[0], "std": spread[1]}
    document = experiment.to_json()
    facts = {
        "classes": ["a", "b", "c"], "reads": document["data"], "image_shapes": {}, "recipe": {},
        "network": {"experiment": document, "inputs": dataclasses.asdict(inputs), "classes": 3},
        "embedder": None,
    }  # fmt: skip
    return make_recogniser(facts, variables)


def test_the_example(
    shared: Path, landmarker_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cv2

    # A few frames of a real face, and two without any.
    capture = cv2.VideoCapture(str(shared / "data" / "videos" / "single_face.mp4"))
    frames = [capture.read()[1] for _ in range(8)]
    capture.release()
    frames[3] = frames[7] = np.zeros_like(frames[0])
    video = tmp_path / "face.mp4"
    size = frames[0].shape[1::-1]
    file = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"mp4v"), 25, size)
    for frame in frames:
        file.write(frame)
    file.release()

    records = tmp_path / "records"
    records.mkdir()
    shard = records / writer.shard_name("noise", 0, 1)
    info = writer.write_shard(shard, (encode(clip(i)) for i in range(8)))
    build = {"build": {"recipe.outputs": ["blendshapes"], "recipe.max_faces": 1}}
    writer.write_dataset_info(records, "noise", [8], info.bytes, ("blendshapes",), {}, "png", build)
    (tmp_path / "dense.py").write_text(CONFIG)
    monkeypatch.setenv("FER_JAX_MODELS", str(landmarker_model.parent))
    run = tmp_path / "run"
    words = [tmp_path / "dense.py", "--out", run, "--data.dir", records]
    assert fer("train", *words)[0] == 0
    assert fer("export", run, "--to", "onnx")[0] == 0
    code, said = fer("predict", run, video, "--out", tmp_path / "said", "--no-video")
    assert code == 0

    sequence = recurrent()
    onnx.save(sequence, tmp_path)
    rows = np.random.default_rng(1).uniform(0, 1, (4, 52)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    script = ROOT / "examples" / "small_computer.py"
    example = [script, run / "export" / "onnx" / "stream.onnx", "--landmarker", landmarker_model]
    before = [script, tmp_path / "stream.onnx", tmp_path / "rows.npy"]
    words = [sys.executable, "-c", ALONE, *before, *example, "--video", video]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *lines, verdict, stream = done.stdout.splitlines()

    (whole,) = said["files"]
    assert whole["faces"] == 6
    assert [line.split("\t")[1] for line in (lines[3], lines[7])] == ["no face"] * 2
    assert len(lines) == 8
    word, emotion, each = verdict.split("\t")
    assert (word, emotion) == ("verdict", whole["predicted"])
    found = {name: float(p) for name, p in (pair.split("=") for pair in each.split())}
    assert list(found) == list(whole["probabilities"])
    for name, probability in whole["probabilities"].items():
        assert found[name] == pytest.approx(probability, abs=5e-6)

    run_in_jax, state = artifact.in_memory(sequence).run, sequence.stream.start(1)  # type: ignore[union-attr]
    for row, probabilities in zip(rows, json.loads(stream), strict=True):
        wanted = run_in_jax("stream", {"blendshapes": row[None], **state})
        np.testing.assert_allclose(probabilities, wanted["probabilities"][0], atol=1e-6)
        state = {name: wanted[f"next_{name}"] for name in state}
