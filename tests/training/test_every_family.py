"""Every family of networks learns the same on 1, 2 and 8 devices and on 2 processes of 4.

This file is also the program of the two processes, which are started once for all families.
"""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.exhaustive

ROOT = Path(__file__).resolve().parents[2]
CLASSES, SAMPLES = 3, 11
#: Two batches: of 6, which 8 devices do not divide, and of 5.
BATCH = 6
FRAME = {"features": "none", "images": ["crops"], "length": "frames", "image_size": 32}
CLIP = {**FRAME, "length": "windows", "frames": 3, "image_size": 16}
SEQUENCE = {"features": "blendshapes-27", "frames": 4, "length": "thin"}
XCEPTION = {
    "name": "xception", "stem": [4, 8], "entry": [8], "middle": 0, "exit": [], "dense": 0,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "lstm": {"data": SEQUENCE, "model": {"name": "lstm", "units": [6, 5], "dropout": 0.4}},
    "gru": {"data": SEQUENCE, "model": {"name": "gru", "units": [6, 5], "dropout": 0.4}},
    "dense": {
        "data": {"features": "blendshapes-27", "length": "frames"},
        "model": {"name": "dense", "units": [8, 8], "dropout": [0.3, 0.0]},
    },
    "xception": {"data": {**FRAME, "augment": {"flip": True, "shear": 0.2}}, "model": XCEPTION},
    "vgg-face": {"data": FRAME, "model": {"name": "vgg-face", "widths": [4] * 5, "dense": [8]}},
    "cnn-rnn": {
        "data": {**CLIP, "image_size": 32},
        "model": {"name": "cnn-rnn", "cnn": XCEPTION, "rnn": {"name": "lstm", "units": [6]}},
    },
    "c3d": {
        "data": {**CLIP, "frames": 16},
        "model": {"name": "c3d", "widths": [4] * 5, "dense": [8]},
    },
    "nested-lstm": {
        "data": CLIP,
        "model": {
            "name": "nested-lstm", "widths": [4] * 5, "projection": 4, "temporal_units": 4,
            "convolutional_units": 6,
        },
    },
    "emotional-dan": {
        "data": {**FRAME, "landmarks": True},
        "model": {"name": "emotional-dan", "widths": [4], "dense": 8},
        "train": {"loss": {"landmarks": 0.4}},
    },
    "small-cnn": {
        "data": FRAME,
        "model": {"name": "small-cnn", "kernels": [3], "widths": [6], "padding": "same"},
    },
    "resnet": {"data": FRAME, "model": {"name": "resnet", "blocks": [1], "widths": [6]}},
    "inception-v3": {
        "data": {**FRAME, "image_size": 75},
        "model": {"name": "inception-v3", "width": 0.05},
        "train": {"freeze": ["conv2d_*", "batch_normalization_*"]},
    },
}  # fmt: skip


def trained(family: str, devices: int = 0, mapper: str = "shard_map") -> dict[str, np.ndarray]:
    """Two steps on random samples, and an evaluation on one device and on those of all processes:
    every parameter and statistic after them, and what was counted.

    Args:
      devices: 0 is all.
    """

    from fer_jax import config
    from fer_jax.data import batches
    from fer_jax.models.paths import flatten
    from fer_jax.training import metrics, parallel, steps
    from fer_jax.training.inputs import inputs_of
    from fer_jax.training.job import make_method
    from fer_jax.training.losses import make_loss
    from fer_jax.training.resident import resident_shapes
    from fer_jax.training.state import make_keys, make_state, snapshot, to_host

    given = FAMILIES[family]
    experiment = config.from_json(
        {
            "name": family,
            **given,
            # Adam makes what is nearly zero as large as the rest, and its sign is then chance.
            "optim": {"name": "sgd", "lr": 0.05, "momentum": 0.9},
            "train": {"batch": BATCH, **given.get("train", {})},
            "parallel": {"devices": devices, "mapper": mapper},
        }
    )
    mesh = parallel.make_mesh(experiment.parallel)
    inputs = inputs_of(experiment.data)
    method = make_method(experiment, inputs, np.ones(CLASSES), 2)
    plain = make_loss(experiment.train.loss, np.ones(CLASSES), weighted=False)
    train = steps.make_train_step(method.model, experiment, method.loss, method.optimizer, mesh)
    evaluate = steps.make_evaluate_step(method.model, experiment, plain, mesh)
    shapes = resident_shapes(experiment.data, inputs, SAMPLES, SAMPLES * inputs.frames, mesh)
    resident = parallel.replicate(_filled(shapes, inputs.frames), mesh)
    first, key = make_keys(3)
    state = make_state(method.model.init(first), method.optimizer, experiment.train.freeze)
    state = snapshot(parallel.replicate(state, mesh))
    zero = parallel.replicate(metrics.no_metrics(CLASSES), mesh)
    order = parallel.deal(*batches.epoch_order(1, 0, SAMPLES, BATCH), mesh)
    bounds = parallel.replicate((np.int32(0), np.int32(2)), mesh)
    key = parallel.replicate(key, mesh)
    state, counted = train(state, zero, resident, {}, key, *order, *bounds)
    measured = {}
    if devices < 2:
        found = to_host(evaluate(state.variables, zero, resident, {}, *order, *bounds))
        assert found.count == SAMPLES and found.confusion.sum() == SAMPLES
        measured = {"evaluate/loss": found.loss, "evaluate/confusion": found.confusion}
    state, counted = to_host((state, counted))
    assert counted.count == SAMPLES
    learned = flatten({"params": state.params, "stats": state.stats})
    return {**learned, "train/loss": counted.loss, **measured}


def _filled(shapes: dict[str, Any], frames: int) -> dict[str, Any]:
    import jax

    rng = np.random.default_rng(0)
    # Of a face's size: what is lost is measured in distances between its pupils.
    face = rng.uniform(2, 30, (68, 2))

    def fill(leaf: Any) -> np.ndarray:
        if leaf.dtype == np.uint8:
            return rng.integers(0, 256, leaf.shape, np.uint8)
        if leaf.shape[-2:] == (68, 2) or leaf.shape[-1:] == (136,):
            points = face + rng.normal(0, 0.5, (math.prod(leaf.shape) // 136, 68, 2))
            return points.reshape(leaf.shape).astype(leaf.dtype)
        return rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)

    mask = np.arange(frames) < rng.integers(1, frames + 1, SAMPLES)[:, None]
    return {
        **jax.tree.map(fill, shapes),
        "rows": np.arange(SAMPLES * frames, dtype=np.int32).reshape(SAMPLES, frames),
        "frame_mask": mask,
        "label": (np.arange(SAMPLES) % CLASSES).astype(np.int32),
        "weight": np.ones(SAMPLES, np.float32),
    }


def main(out: Path) -> None:
    from fer_jax import config
    from fer_jax.training import distributed

    distributed.start(config.Parallel())
    for family in FAMILIES:
        np.savez(out / f"{family}-{distributed.process()}.npz", **trained(family))
    distributed.leave(0)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What each of two processes learned, of all families."""
    out = tmp_path_factory.mktemp("families")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {
        **os.environ, "PYTHONPATH": path, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "4", "FER_JAX_PROCESSES": "2", "FER_JAX_COORDINATOR": coordinator,
    }  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(out)],
            env={**environment, "FER_JAX_PROCESS": str(process)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for process in range(2)
    ]  # fmt: skip
    printed = [process.communicate(timeout=1500)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(printed)[-6000:]
    return out


def test_every_family_is_here() -> None:
    from fer_jax.models import NETWORKS

    assert set(FAMILIES) == set(NETWORKS)


def assert_close(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    """Sums over devices are in another order: float32's rounding, through two steps."""
    for name, values in found.items():
        scale = np.abs(wanted[name]).max()
        np.testing.assert_allclose(
            values, wanted[name], rtol=2e-4, atol=2e-5 * max(scale, 1e-2), err_msg=name
        )


def assert_equal(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert set(found) == set(wanted)
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_devices_and_processes_are_one_device(job: Path, family: str) -> None:
    one, eight = trained(family, 1), trained(family, 8)
    assert_close(trained(family, 2), one)
    assert_close(eight, one)
    assert_equal(trained(family, 8, "pmap"), eight)
    first, second = (dict(np.load(job / f"{family}-{process}.npz")) for process in range(2))
    assert_equal(first, second)
    assert_close(first, one)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
