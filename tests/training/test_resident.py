"""The data set on the devices, and the shapes that are said of it where it is not."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from fer_jax import config
from fer_jax.data.samples import Samples
from fer_jax.data.statistics import fit_statistics
from fer_jax.training import parallel
from fer_jax.training.inputs import inputs_of
from fer_jax.training.resident import Rows, make_resident, resident_shapes

FRAMES, COUNT = 12, 5
IMAGES = {"crops": (10, 10, 3), "frontal": (9, 9, 1)}
RNG = np.random.default_rng(0)


def samples(streams: dict[str, Any], steps: int) -> Samples:
    return Samples(
        streams=streams,
        rows=RNG.integers(0, FRAMES, (COUNT, steps)).astype(np.int32),
        frame_mask=np.ones((COUNT, steps), bool),
        label=np.zeros(COUNT, np.int32),
        clip=np.arange(COUNT, dtype=np.int32),
        weight=np.ones(COUNT, np.float32),
    )


def test_frames_are_what_they_were() -> None:
    stored = RNG.integers(0, 256, (FRAMES, 4, 3, 2)).astype(np.uint8)
    rows = RNG.integers(0, FRAMES, (6, 7))
    made = Rows.of(stored, parallel.make_mesh(config.Parallel(devices=1)))
    np.testing.assert_array_equal(jax.jit(Rows.take)(made, rows), stored[rows])


@pytest.mark.parametrize("shape", [(68, 2), (20,), (8, 16, 1), (9, 7, 3)])
def test_a_tpus_rows_are_whole_registers(shape: tuple[int, ...]) -> None:
    tpu = SimpleNamespace(devices=np.array([SimpleNamespace(platform="tpu")]))
    stored = RNG.normal(size=(FRAMES, *shape)).astype(np.float32)
    rows = RNG.integers(0, FRAMES, (6, 7))
    made = Rows.of(stored, cast(Mesh, tpu))
    assert made.values.shape == (FRAMES, {136: 256, 20: 128, 128: 128, 189: 256}[math.prod(shape)])
    np.testing.assert_array_equal(jax.jit(Rows.take)(made, rows), stored[rows])


@pytest.mark.parametrize(
    "data",
    [
        {"features": "distances-104", "frames": 3},
        {"features": "extracted/x-20", "frames": 3, "pca": 4, "zscore": False},
        {"features": "blendshapes-27", "images": ["crops", "frontal"], "image_size": 8,
         "image_color": "gray", "pixels": "standard", "frames": 3},
        {"features": "none", "images": ["crops"], "length": "frames", "landmarks": True},
    ],
    ids=["landmarks", "pca", "images", "landmark targets"],
)  # fmt: skip
def test_shapes_are_those_of_the_real_thing(data: dict[str, Any]) -> None:
    settings = config.from_json({"name": "toy", "data": data}).data
    raw = {"distances-104": (68, 2), "extracted/x-20": (20,), "blendshapes-27": (52,)}
    inputs = inputs_of(settings, IMAGES)
    streams: dict[str, Any] = {
        name: RNG.integers(0, 256, (FRAMES, *IMAGES[name])).astype(np.uint8)
        for name in settings.images
    }
    if settings.features != "none":
        shape = (FRAMES, *raw[settings.features])
        streams["raw"] = RNG.normal(size=shape).astype(np.float32)
    if settings.landmarks:
        streams["landmarks"] = RNG.normal(size=(FRAMES, 68, 2)).astype(np.float32)
    real = samples(streams, inputs.frames)
    mesh = parallel.make_mesh(config.Parallel(devices=1))
    resident = make_resident(real, real.streams, mesh, fit_statistics(real, settings))
    said = resident_shapes(settings, inputs, COUNT, FRAMES, mesh, IMAGES)
    assert jax.tree.structure(resident) == jax.tree.structure(said)
    for found, shape in zip(jax.tree.leaves(resident), jax.tree.leaves(said), strict=True):
        assert (found.shape, found.dtype) == (shape.shape, shape.dtype)
