"""Batches: what a network reads of samples, made on the device, and the order of epochs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fer_jax.config import Data
from fer_jax.data import augment, geometry, images
from fer_jax.data.geometry import compute
from fer_jax.data.statistics import Statistics


def normalise(values: jax.Array, statistics: Statistics, frame_mask: jax.Array) -> jax.Array:
    """Projected and normalised features of real frames, zero where padded: the average frame.

    Args:
      values: f32[..., T, F] of `compute`.
      statistics: of the training set.
      frame_mask: bool[..., T].

    Returns:
      f32[..., T, F].
    """
    shape = (1,) * (values.ndim - 1) + (-1,)
    if "matrix" in statistics:
        rows = values.reshape(-1, values.shape[-1]) - statistics["centre"][None, :]
        rows = jnp.matmul(rows, statistics["matrix"], precision="highest")
        # Only the components take the shape of samples: XLA would give it to the rows before.
        values = lax.optimization_barrier(rows).reshape(*values.shape[:-1], -1)
    mean, std = (jnp.reshape(statistics[name], shape) for name in ("mean", "std"))
    return jnp.where(frame_mask[..., None], (values - mean) / std, 0)


def make_batch(
    streams: Mapping[str, jax.Array],
    frame_mask: jax.Array,
    statistics: Statistics,
    data: Data,
    draw: augment.Draw | None = None,
) -> dict[str, Any]:
    """What a network reads of B samples (`fer_jax.models.model.Batch`), for jit.

    Args:
      streams: B samples of T frames of each stream of `Samples.streams`, [B, T, ...].
      frame_mask: bool[B, T].
      statistics: of the training set.
      draw: the random changes of training samples; None changes nothing.

    Returns:
      features f32[B, T, F], frames {stream: f32[B, T, S, S, C]}, landmarks f32[B, 68, 2] of the
      first frame (where the samples have them) and mean_shape f32[68, 2], of what the config asks
      for; frame_mask bool[B, T].
    """
    settings = data.augment
    batch: dict[str, Any] = {"frame_mask": frame_mask}
    if data.features != "none":
        raw = streams["raw"]
        if draw is not None and raw.shape[2:] == (68, 2):
            raw = augment.augment_points(raw, geometry.SIDE, draw, settings)
        elif draw is not None and geometry.stream_of(data.features) == "blendshapes":
            raw = augment.augment_blendshapes(raw, draw, settings)
        # Frames first, as recurrent layers read them: nothing is then transposed but `raw`.
        values = compute(data.features, jnp.swapaxes(raw, 0, 1), statistics.get("pairs"))
        batch["features"] = jnp.swapaxes(normalise(values, statistics, frame_mask.T), 0, 1)
    frames = {}
    for name in data.images:
        pixels = images.normalise(
            images.prepare(streams[name], data),
            data,
            statistics.get(f"{name}_mean"),
            statistics.get(f"{name}_std"),
        )
        if draw is not None:
            pixels = augment.augment_images(pixels, draw, settings)
        if pixels.shape[1] > 1:
            pixels = jnp.where(frame_mask[:, :, None, None, None], pixels, 0)
        frames[name] = pixels
    if frames:
        batch["frames"] = frames
    if data.landmarks:
        batch["mean_shape"] = statistics["mean_shape"]
    if data.landmarks and "landmarks" in streams:
        points = streams["landmarks"]
        if draw is not None:
            side = frames[data.images[0]].shape[2]
            points = augment.augment_points(points, side, draw, settings)
        batch["landmarks"] = points[:, 0]
    return batch


def epoch_order(seed: int, epoch: int, n: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """The batches of a training epoch: a pure function of its arguments on every platform.

    Args:
      seed, epoch: together the key of a counter-based generator.
      n: number of samples.
      batch: samples in a batch.

    Returns:
      i32[steps, batch] sample indices, each of 0 .. n - 1 once with weight 1, and their weights
      f32[steps, batch]; see `pad_batches`.
    """
    key = np.array([seed % 2**64, epoch], np.uint64)
    # Raw counter output and a stable sort: NumPy promises these, not `Generator.permutation`.
    order = np.argsort(np.random.Philox(key=key).random_raw(n), kind="stable")
    return pad_batches(order, batch)


def pad_batches(order: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """`order` cut into whole batches; the last is filled from the start with weight 0.

    Returns:
      i32[steps, batch] indices, f32[steps, batch] weights, steps = ceil(n / batch).
    """
    steps = -(-len(order) // batch)
    weight = (np.arange(steps * batch) < len(order)).astype(np.float32)
    filled = np.resize(order, steps * batch).astype(np.int32)
    return filled.reshape(steps, batch), weight.reshape(steps, batch)


def share_of(batch: int, devices: int, parts: int = 1) -> int:
    """A device's examples of a batch, b = ceil(batch / D) or the next multiple of `parts`."""
    return -(-batch // (devices * parts)) * parts


def divide_batches(batches: np.ndarray, devices: int, parts: int = 1) -> np.ndarray:
    """Batches as each device's share of them.

    Args:
      batches: [S, B] of S batches.
      parts: what must divide a share.

    Returns:
      [D, S, b], b of `share_of`. Where they do not divide B the last devices' shares end in zeros.
    """
    steps, batch = batches.shape
    share = share_of(batch, devices, parts)
    filled = np.pad(batches, ((0, 0), (0, share * devices - batch)))
    return filled.reshape(steps, devices, share).transpose(1, 0, 2).copy()


def fill(batch: dict[str, Any], keys: jax.Array, least: int) -> tuple[dict[str, Any], jax.Array]:
    """A network's batch of at least so many examples, the further ones repeated with weight 0,
    and their keys."""
    count = len(keys)
    if count >= least:
        return batch, keys

    def repeat(x: jax.Array) -> jax.Array:
        return jnp.concatenate([x] * -(-least // count))[:least]

    own = {name: value for name, value in batch.items() if name != "mean_shape"}
    weight = jnp.where(np.arange(least) < count, repeat(batch["weight"]), 0)
    return {**batch, **jax.tree.map(repeat, own), "weight": weight}, repeat(keys)
