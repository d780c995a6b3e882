"""The data set that lies on the devices, and what a step takes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from fer_jax import models
from fer_jax.config import Data
from fer_jax.data import geometry
from fer_jax.data.frames import Frames
from fer_jax.data.samples import Samples
from fer_jax.data.statistics import Statistics, statistics_shapes
from fer_jax.training import parallel


@partial(jax.tree_util.register_dataclass, data_fields=["values"], meta_fields=["shape"])
@dataclass(frozen=True)
class Rows:
    """A stream's frames on the devices, each a row.

    As rows they are gathered as they lie. Of [M, H, W, C] a TPU makes M the fastest axis, and
    copies the whole data set, padded, at every call of a step.

    Attributes:
      values: [M, n], or dealt to D devices [D, m, n]. On a TPU n is rounded up to the 128 numbers
        of a register's row, with zeros: it would copy other rows to such ones at every call.
      shape: of a frame.
    """

    values: Any
    shape: tuple[int, ...]

    @classmethod
    def of(cls, frames: np.ndarray, mesh: Mesh) -> Rows:
        """Of [M, *shape], for the devices of a mesh."""
        return cls(_as_rows(frames, mesh), frames.shape[1:])

    @classmethod
    def dealt(cls, frames: np.ndarray | Frames, mesh: Mesh) -> Rows:
        """Of [M, *shape], with the d-th D-th of them on device d, zeros filling the last; no more
        than one share is on the host beside what was there. A process looks at the shares of its
        own devices alone."""
        count = -(-len(frames) // mesh.size)
        shares = []
        for d in parallel.own_rows(mesh):
            device = mesh.devices.flat[d]
            part = _as_rows(frames[d * count : (d + 1) * count], mesh)
            if short := count - len(part):
                part = np.pad(part, ((0, short), (0, 0)))
            shares.append(jax.device_put(part[None], device))
        where = NamedSharding(mesh, PartitionSpec(parallel.AXIS))
        shape = (mesh.size, *shares[0].shape[1:])
        values = jax.make_array_from_single_device_arrays(shape, where, shares)
        return cls(values, frames.shape[1:])

    def take(self, rows: jax.Array) -> jax.Array:
        """The frames of rows i32[B, T], [B, T, *shape]."""
        if len(self.shape) == 3:
            return self._of(rows.reshape(-1)).reshape(*rows.shape, *self.shape)
        # All first frames, then all second ones: what is small goes to recurrent layers.
        return jnp.swapaxes(self._of(rows.T), 0, 1).reshape(*rows.shape, *self.shape)

    def _of(self, rows: jax.Array) -> jax.Array:
        numbers = math.prod(self.shape)
        if self.values.shape[1] == numbers:
            return self.values[rows]
        # The gather itself leaves out what fills a row: a slice after it would be a copy.
        dimensions = lax.GatherDimensionNumbers((rows.ndim,), (0,), (0,))
        return lax.gather(self.values, rows[..., None], dimensions, (1, numbers), mode="clip")


def _row_of(numbers: int, mesh: Mesh | AbstractMesh) -> int:
    """How many a frame's row holds."""
    return -(-numbers // 128) * 128 if parallel.platform_of(mesh) == "tpu" else numbers


def _as_rows(frames: np.ndarray, mesh: Mesh) -> np.ndarray:
    rows = frames.reshape(len(frames), math.prod(frames.shape[1:]))
    more = _row_of(rows.shape[1], mesh) - rows.shape[1]
    return np.pad(rows, ((0, 0), (0, more))) if more else rows


def make_resident(
    samples: Samples,
    streams: Mapping[str, np.ndarray | Frames],
    mesh: Mesh,
    statistics: Statistics | None = None,
) -> dict[str, Any]:
    """Samples, with these of their streams as `Rows`, and the statistics, whole on every device."""
    own = {} if statistics is None else {"statistics": statistics}
    rows = {name: Rows.of(np.asarray(frames), mesh) for name, frames in streams.items()}
    return parallel.replicate({**samples.arrays(), "streams": rows, **own}, mesh)


def resident_shapes(
    data: Data,
    inputs: models.Inputs,
    samples: int,
    frames: int,
    mesh: Mesh | AbstractMesh,
    image_shapes: Mapping[str, tuple[int, int, int]] | None = None,
) -> dict[str, Any]:
    """The shapes of `make_resident` of so many samples.

    Args:
      frames: M, that the streams hold.
      image_shapes: of the stored images; by default what the network reads.
    """
    shape = jax.ShapeDtypeStruct

    def stream(kind: Any, *one: int) -> Rows:
        return Rows(shape((frames, _row_of(math.prod(one), mesh)), kind), one)

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
