"""Plans for TPUs that are not there: every shipped config, made small, on every generation.

All are made by one process of their own, this file as a script: libtpu and eight CPU devices do not
share one.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem != "__init__")
#: One topology of each generation.
GENERATIONS = ("v4:2x2x1", "v5e:4x4", "v5p:2x2x2", "v6e:2x4")
CHIPS = dict(zip(GENERATIONS, (4, 16, 8, 8), strict=True))
GIB = 2**30
HBM = {"v4": 30.75, "v5e": 15.75, "v5p": 95.74, "v6e": 31.25}
VGG = {"widths": [4] * 5, "dense": [8, 8, 8]}
XCEPTION = {"stem": [4, 8], "entry": [8], "middle": 0, "exit": []}
#: What makes a network small, by its name.
SMALL: dict[str, dict[str, Any]] = {
    "lstm": {"units": [8]},
    "gru": {"units": [8]},
    "dense": {"units": [8], "dropout": [0.2]},
    "xception": XCEPTION,
    "vgg-face": VGG,
    "c3d": {"widths": [4] * 5, "dense": [8, 8]},
    "nested-lstm": {
        "widths": [4] * 5, "projection": 4, "temporal_units": 4, "convolutional_units": 4,
    },
    "emotional-dan": {"widths": [4], "dense": 8},
    "small-cnn": {"kernels": [3], "widths": [4], "dense": [8]},
    "resnet": {"blocks": [1], "widths": [4]},
    "inception-v3": {"width": 0.02},
}  # fmt: skip
#: One config on each generation, a batch that cannot fit, and one smaller than the chips.
FEW: tuple[dict[str, Any], ...] = (
    *({"config": "attrah2024_dense", "topology": name} for name in GENERATIONS),
    {"config": "attrah2024_dense", "topology": "v5e:1x1", "units": 4096, "batch": 1_000_000,
     "search": True},
    {"config": "attrah2024_dense", "topology": "v5e:16x16", "batch": 64, "price": 2.0},
)  # fmt: skip


def small(name: str, batch: int) -> Any:
    """A shipped config with a small network of the same kind, small pictures and few frames."""
    from fer_jax import config

    document = config.load_config(ROOT / "configs" / f"{name}.py").to_json()
    data, model, train = (document[key] for key in ("data", "model", "train"))
    if model["name"] == "cnn-rnn":
        for part in (model["cnn"], model["rnn"]):
            part.update(SMALL[part["name"]])
    else:
        model.update(SMALL[model["name"]])
    data["image_size"] = min(data["image_size"], 75 if model["name"] == "inception-v3" else 32)
    data["frames"] = min(data["frames"], 16 if model["name"] == "c3d" else 5)
    train["batch"] = batch
    return config.from_json(document)


def planned(given: dict[str, Any]) -> dict[str, Any]:
    """A plan, with what was asked for and said."""
    from fer_jax.config import override
    from fer_jax.training.plan import plan

    said: list[str] = []
    experiment = small(given["config"], given.get("batch", 32))
    if "units" in given:
        experiment = override(experiment, [("model.units", str(given["units"]))])
    report = plan(
        experiment,
        given["topology"],
        samples=256,
        price=given.get("price"),
        search=given.get("search", False),
        say=said.append,
    )
    return {"given": given, "said": said, "report": report}


def main(wanted: list[dict[str, Any]]) -> None:
    # Where libtpu waits, another thread compiles.
    with ThreadPoolExecutor(2) as pool:
        for one in pool.map(planned, wanted):
            print(json.dumps(one), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
