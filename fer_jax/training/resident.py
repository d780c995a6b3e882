"""The data set that lies on the devices, whole on each, and what a step takes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from fer_jax import models
from fer_jax.config import Data
from fer_jax.data import geometry
from fer_jax.data.samples import Samples
from fer_jax.data.statistics import Statistics, statistics_shapes
from fer_jax.training import parallel


@partial(jax.tree_util.register_dataclass, data_fields=["values"], meta_fields=["shape"])
@dataclass(frozen=True)
class Frames:
    """A stream's frames, each a row.

    As rows they are gathered as they lie. Of [M, H, W, C] a TPU makes M the fastest axis, and
    copies the whole data set, padded, at every call of a step.

    Attributes:
      values: [M, n].
      shape: of a frame, n numbers.
    """

    values: Any
    shape: tuple[int, ...]

    @classmethod
    def of(cls, frames: np.ndarray) -> Frames:
        """Of [M, *shape]."""
        return cls(frames.reshape(len(frames), -1), frames.shape[1:])

    def take(self, rows: jax.Array) -> jax.Array:
        """The frames of rows i32[...], [..., *shape]."""
        return self.values[rows].reshape(*rows.shape, *self.shape)


def make_resident(
    samples: Samples, mesh: Mesh, statistics: Statistics | None = None
) -> dict[str, Any]:
    """A data set on the devices: the samples' arrays, its streams as `Frames`, and statistics."""
    arrays = samples.arrays()
    streams = {name: Frames.of(frames) for name, frames in arrays["streams"].items()}
    own = {} if statistics is None else {"statistics": statistics}
    return parallel.replicate({**arrays, "streams": streams, **own}, mesh)


def resident_shapes(
    data: Data,
    inputs: models.Inputs,
    samples: int,
    frames: int,
    image_shapes: Mapping[str, tuple[int, int, int]] | None = None,
) -> dict[str, Any]:
    """The shapes of `make_resident` of so many samples.

    Args:
      frames: M, that the streams hold.
      image_shapes: of the stored images; by default what the network reads.
    """
    shape = jax.ShapeDtypeStruct

    def stream(kind: Any, *one: int) -> Frames:
        return Frames(shape((frames, math.prod(one)), kind), one)

    streams = {}
    if data.features != "none":
        streams["raw"] = stream(np.float32, *geometry.raw_shape(data.features))
    for name in data.images:
        streams[name] = stream(np.uint8, *(image_shapes or {}).get(name, inputs.image_shape))
    if data.landmarks:
        streams["landmarks"] = stream(np.float32, 68, 2)
    return {
        "streams": streams,
        "rows": shape((samples, inputs.frames), np.int32),
        "frame_mask": shape((samples, inputs.frames), np.bool_),
        "label": shape((samples,), np.int32),
        "weight": shape((samples,), np.float32),
        "statistics": statistics_shapes(data, inputs.image_shape),
    }
