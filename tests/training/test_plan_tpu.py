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
#: Whose backward pass takes the compiler half a minute, even so.
FROZEN = {"inception-v3": ["conv2d_*", "batch_normalization_*"], "c3d": ["conv*"]}
#: One config on each generation, and a batch that is smaller than the chips.
FEW: tuple[dict[str, Any], ...] = (
    *({"config": "attrah2024_dense", "topology": name} for name in GENERATIONS),
    {"config": "attrah2024_dense", "topology": "v5e:16x16", "batch": 64, "price": 2.0},
)  # fmt: skip
REFUSED = {
    "config": "attrah2024_dense", "topology": "v5e:1x1", "units": 4096, "batch": 1_000_000,
    "search": True,
}  # fmt: skip
#: Classes of attrah2024_dense.
K = 3


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
    sides = {"inception-v3": 75, "c3d": 20, "nested-lstm": 16}
    data["image_size"] = min(data["image_size"], sides.get(model["name"], 32))
    data["frames"] = min(data["frames"], 16 if model["name"] == "c3d" else 5)
    train["freeze"] = FROZEN.get(model["name"], train["freeze"])
    train["batch"], data["augment"] = batch, {}
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


def run(wanted: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed: it is there for x86-64 Linux")
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("XLA_", "TPU_"))}
    done = subprocess.run(
        [sys.executable, __file__, json.dumps(wanted)],
        cwd=ROOT,
        env={**environment, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def check(found: dict[str, Any]) -> None:
    """What holds of every plan that was compiled."""
    topology, report = found["given"]["topology"], found["report"]
    assert report["fits"] and not report["estimated"] and not report["refused"]
    assert report["chips"] == CHIPS[topology] and report["hosts"] == CHIPS[topology] // 4
    memory = report["memory"]
    assert memory["chip"] == int(HBM[topology.partition(":")[0]] * GIB)
    # Arrays lie in tiles, which are no smaller; the peak holds them and what is temporary.
    assert memory["state"] + memory["data"] + memory["beside"] < report["bytes_per_chip"] < GIB
    assert report["flops_per_step"] == report["chips"] * report["flops_per_chip"] > 0
    assert report["collective_bytes"] > 0 and report["bytes_moved_per_chip"] > 0
    assert 0 < report["steps_per_s_about"] <= report["steps_per_s_at_most"]


@pytest.fixture(scope="module")
def few() -> list[dict[str, Any]]:
    return run(list(FEW))


def test_a_config_on_each_generation(few: list[dict[str, Any]]) -> None:
    """52 x 8 + 8 and 8 x 3 + 3 parameters: what is exchanged is the gradient, and the memory
    has them, the three moments of AMSGrad, three counters and the data set."""
    parameters = 52 * 8 + 8 + 8 * K + K
    for found in few[: len(GENERATIONS)]:
        check(found)
        report = found["report"]
        # In the loop of the steps beside it: the number of real samples. The metrics follow it.
        assert 0 <= report["collective_bytes"] - 4 * parameters <= 4 * (K * K + 4)
        assert report["memory"]["state"] == 4 * (1 + 3) * parameters + 3 * 4
        assert found["said"][0].startswith("compiling for ")


def test_a_batch_smaller_than_the_chips_of_many_hosts(few: list[dict[str, Any]]) -> None:
    report = few[-1]["report"]
    assert (report["chips"], report["hosts"], report["batch_per_chip"]) == (256, 64, 1)
    assert report["fits"] and report["steps_per_epoch"] == 4
    assert report["cost_about"] == pytest.approx(256 * 2.0 * report["hours_about"])


@pytest.mark.exhaustive
@pytest.mark.parametrize("topology", GENERATIONS)
def test_every_config_on_every_generation(topology: str) -> None:
    found = run([{"config": name, "topology": topology} for name in CONFIGS])
    assert [one["given"]["config"] for one in found] == CONFIGS
    for one in found:
        check(one)


@pytest.mark.exhaustive
def test_the_largest_batch_is_compiled_and_near_the_memory() -> None:
    """A layer of 4,096 units, of which each sample keeps some: a million samples do not fit."""
    (found,) = run([REFUSED])
    report = found["report"]
    assert not report["fits"] and "exceeds available HBM" in report["refused"]
    largest, limit = report["largest_batch"], report["memory"]["chip"]
    assert 100_000 < largest < 1_000_000
    assert 0.85 * limit < report["shares"][str(largest)] <= limit


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
