"""One small train step a network family, compiled for a TPU that is not there, and what it does.

All are compiled by one process of their own, this file as a script: libtpu and eight CPU devices
do not share one.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
MB = 1_000_000
FRAME = {"features": "none", "images": ["crops"], "length": "frames", "image_color": "gray"}
CLIP = {**FRAME, "length": "windows"}
VGG = {"name": "vgg-face", "widths": [64, 16, 16, 16, 16], "dense": [16]}
#: Batch 64 on four chips, bfloat16. Shapes at which a copy of what a layer makes or reads, or of a
#: recurrent kernel, is above 1 MB: paper 1's landmarks of 122 frames, paper 3's fc7 of 5 frames in
#: batches that fill no tile, mini-Xception's 32 pictures and 32 channels a chip,
#: C3D's 5 clips a chip.
FAMILIES: dict[str, dict[str, Any]] = {
    "lstm": {
        "data": {"features": "distances-259", "frames": 122, "length": "thin"},
        "model": {"name": "lstm", "units": [128, 512], "dropout": 0.5},
    },
    "gru": {
        "data": {"features": "extracted/fc7-4096", "frames": 5, "length": "windows", "pca": 100},
        "model": {"name": "gru", "units": [128, 512], "dropout": 0.5},
        "train": {"batch": 60},
    },
    "dense": {
        "data": {"features": "blendshapes-52", "length": "frames"},
        "model": {"name": "dense", "units": [1024, 1024], "dropout": [0.2, 0.2]},
    },
    "xception": {
        "data": {**FRAME, "image_size": 48},
        "model": {
            "name": "xception", "stem": [8, 16], "stem_stride": 1, "entry": [32], "middle": 0,
            "exit": [], "dense": 0,
        },
        "train": {"batch": 128},
    },
    "vgg-face": {"data": {**FRAME, "image_size": 32, "augment": {"shear": 0.2}}, "model": VGG},
    "cnn-rnn": {
        "data": {**CLIP, "frames": 4, "image_size": 32},
        "model": {
            "name": "cnn-rnn",
            "cnn": {
                "name": "xception", "stem": [8, 16], "entry": [16], "middle": 0, "exit": [],
                "dense": 0,
            },
            "rnn": {"name": "lstm", "units": [512]},
        },
    },
    "c3d": {
        "data": {**CLIP, "frames": 16, "image_size": 16},
        "model": {"name": "c3d", "widths": [32, 16, 16, 16, 16], "dense": [16]},
        "train": {"batch": 20},
    },
    "nested-lstm": {
        "data": {**CLIP, "frames": 4, "image_size": 16},
        "model": {
            "name": "nested-lstm", "widths": [64, 16, 16, 16, 16], "projection": 16,
            "temporal_units": 16, "convolutional_units": 512,
        },
    },
    "emotional-dan": {
        "data": {**FRAME, "image_size": 32, "landmarks": True},
        "model": {"name": "emotional-dan", "widths": [64], "dense": 16},
        "train": {"loss": {"landmarks": 0.4}},
    },
    "small-cnn": {
        "data": {**FRAME, "image_size": 32},
        "model": {"name": "small-cnn", "kernels": [3], "widths": [64], "padding": "same"},
    },
    "resnet": {
        "data": {**FRAME, "image_size": 64},
        "model": {"name": "resnet", "blocks": [1], "widths": [64]},
    },
    "inception-v3": {
        "data": {**FRAME, "image_size": 75},
        "model": {"name": "inception-v3", "width": 0.1},
        "train": {"freeze": ["conv2d_*", "batch_normalization_*"]},
    },
}  # fmt: skip


#: Layers of recurrent networks: each has a loop forward and one backward.
LAYERS = {"lstm": 2, "gru": 2, "cnn-rnn": 1, "nested-lstm": 9}


def facts_of(name: str) -> dict[str, Any]:
    """What the step of a family does."""
    from fer_jax import config
    from fer_jax.training.ahead import compile_traced, make_mesh, trace_train_step
    from fer_jax.training.capacity import bytes_of
    from fer_jax.training.compiled import read_collectives, read_step
    from fer_jax.training.exchanges import count_collectives
    from fer_jax.training.state import divide

    given = FAMILIES[name]
    train = {"batch": 64, "precision": "bfloat16", **given.get("train", {})}
    experiment = config.from_json({"name": name, **given, "train": train})
    mesh = make_mesh("v5e:2x2")
    traced = trace_train_step(experiment, mesh, samples=256, frames=4096, classes=7)
    made = compile_traced(traced, "v5e:2x2")
    step, trained = read_step(made.text), divide(traced.state.params, experiment.train.freeze)[0]
    return {
        "family": name,
        "chips": made.chips,
        "kind": made.kind,
        "seconds": made.seconds,
        "flops": made.flops,
        "bytes": made.bytes_accessed,
        "memory": made.memory,
        "gradient": bytes_of(trained),
        "state": bytes_of(traced.state),
        "data": traced.data,
        "exchanged": sum(one.bytes for one in read_collectives(made.text, made.chips)),
        "counted": sum(one.bytes for one in count_collectives(traced.step.jaxpr.jaxpr)),
        "step": asdict(step),
        "recurrences": [len(loop.products) for loop in step.recurrences],
    }


def main(names: list[str]) -> None:
    """Prints a JSON object a family, and what is said of a topology that nobody builds."""
    from fer_jax.errors import UserError
    from fer_jax.training.ahead import make_mesh

    try:
        make_mesh("v5e:3x1000")
    except UserError as error:
        print(json.dumps({"family": "mistake", "said": str(error)}), flush=True)
    # Where libtpu waits, another thread compiles.
    with ThreadPoolExecutor(2) as pool:
        for facts in pool.map(facts_of, names):
            print(json.dumps(facts), flush=True)


@pytest.fixture(scope="module")
def compiled() -> dict[str, dict[str, Any]]:
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed: it is there for x86-64 Linux")
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("XLA_", "TPU_"))}
    done = subprocess.run(
        [sys.executable, __file__],
        cwd=ROOT,
        env={**environment, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {facts["family"]: facts for facts in found}


def test_every_family_is_here() -> None:
    from fer_jax.models import NETWORKS

    assert set(FAMILIES) == set(NETWORKS)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_step_of_a_family(compiled: dict[str, dict[str, Any]], family: str) -> None:
    """It compiles; no product reads float32; a recurrent loop multiplies once; nothing above 1 MB
    is copied, in the step or around it."""
    facts = compiled[family]
    assert (facts["chips"], facts["kind"]) == (4, "TPU v5 lite")
    assert 0 < facts["memory"]["arguments"] < facts["memory"]["peak"] < 2**30
    assert facts["flops"] > 0 and facts["bytes"] > 0
    step = facts["step"]
    assert step["products"]
    float32 = [product for product in step["products"] if "f32" in product["operands"]]
    # The projection on principal components is one of the input's.
    assert len(float32) == int("pca" in FAMILIES[family]["data"])
    assert facts["recurrences"] == [1] * (2 * LAYERS.get(family, 0))
    # Dropout's random words are two numbers each, which a TPU has to set beside each other.
    found = [move for move in step["moves"] if not move["result"].startswith("u32[")]
    assert [move for move in found if move["bytes"] > MB] == []
    around = step["around"]
    assert [m for m in around if m["bytes"] > MB or m["result"].startswith("u8")] == []
    if "augment" in FAMILIES[family]["data"]:
        # A warp that gathered pixel by pixel would move nine tenths of the bytes.
        assert facts["bytes"] < 300 * MB


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_family_exchanges_and_holds(
    compiled: dict[str, dict[str, Any]], family: str
) -> None:
    """The gradient once, BatchNorm's sums, of which XLA computes equal ones once, and the metrics,
    a matrix and three sums, which it may reduce after the steps; the state and the data set, in
    tiles that are no smaller than they."""
    facts = compiled[family]
    assert facts["gradient"] <= facts["exchanged"] <= facts["counted"]
    assert facts["counted"] - facts["exchanged"] <= 4 * (7 * 7 + 3) + 0.01 * facts["gradient"]
    arguments = facts["state"] + facts["data"]
    assert arguments <= facts["memory"]["arguments"] < facts["memory"]["peak"]


def test_mistakes_are_named(
    compiled: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fer_jax.errors import UserError
    from fer_jax.training.ahead import make_mesh

    said = compiled["mistake"]["said"]
    assert said.startswith("no topology 'v5e:3x1000': there are v5e and v6e in 1x1, 2x2, ")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs libtpu.*pip install 'fer-jax\[plan\]'"):
        make_mesh("v5e:2x2")


if __name__ == "__main__":
    main(sys.argv[1:] or list(FAMILIES))
