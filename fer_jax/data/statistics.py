"""What is fitted on the training set before any step: which distances, normalisation, projection,
mean shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax.config import Data, Features
from fer_jax.data import images, importance, projection
from fer_jax.data.geometry import chosen_distances, compute, dimension
from fer_jax.data.samples import Samples

Statistics = dict[str, jax.Array | np.ndarray]
"""Arrays by name, of what the config uses. mean, std: f32[F] of the features (after projection, if
there is one); centre f32[F0], matrix f32[F0, F]: the projection; <image stream>_mean, _std:
f32[S, S, C]; mean_shape: f32[68, 2], pixels of the image; pairs: i32[F0, 2], landmarks whose
distances the features are, where they were chosen."""

#: Frames whose features are computed at once: 2,278 of them take 9 MB.
_CHUNK = 1024


def fit_statistics(
    samples: Samples,
    data: Data,
    pairs: np.ndarray | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Statistics:
    """The statistics of a training set, over every frame that a sample shows.

    Args:
      pairs: i32[F0, 2] to take where distances are to be chosen; None chooses.
      on_progress: is told trees grown and in all, where distances are chosen by importance.

    Raises:
      ValueError: no sample has a real frame.
      UserError: more principal components than frames or features, or no list of pairs as named.
    """
    used = samples.used
    if not len(used):
        raise ValueError("no real frame to take statistics of")
    found: Statistics = {}
    if chosen_distances(data.features):
        if pairs is None:
            pairs = importance.choose_pairs(samples, data, on_progress)
        found["pairs"] = pairs
    if data.features != "none":
        found |= _fit_features(np.asarray(samples.streams["raw"]), used, data, found.get("pairs"))
    if data.pixels == "standard":
        for name in data.images:
            mean, std = images.fit_image_statistics(samples.streams[name], data, used)
            found |= {f"{name}_mean": mean, f"{name}_std": std}
    if data.landmarks:
        points = samples.streams["landmarks"][used].mean(axis=0, dtype=np.float64)
        found["mean_shape"] = points.astype(np.float32)
    return found


def statistics_shapes(
    data: Data, image_shape: tuple[int, int, int]
) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of what `fit_statistics` fits for images of `image_shape`, after `prepare`."""
    shapes: dict[str, tuple[int, ...]] = {}
    if data.features != "none":
        size = data.pca or dimension(data.features)
        if data.pca:
            whole = dimension(data.features)
            shapes |= {"centre": (whole,), "matrix": (whole, size)}
        shapes |= {"mean": (size,), "std": (size,)}
    if data.pixels == "standard":
        shapes |= {
            f"{name}_{what}": image_shape for name in data.images for what in ("mean", "std")
        }
    if data.landmarks:
        shapes["mean_shape"] = (68, 2)
    found = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}
    if chosen_distances(data.features):
        found["pairs"] = jax.ShapeDtypeStruct((dimension(data.features), 2), np.int32)
    return found


def _fit_features(raw: np.ndarray, used: np.ndarray, data: Data, pairs: Any) -> Statistics:
    if data.pca:
        chunks = (np.asarray(compute(data.features, raw[part], pairs)) for part in _chunks(used))
        centre, matrix, std = projection.fit_pca(chunks, data.pca)
        std = std if data.zscore else np.ones_like(std)
        return {"centre": centre, "matrix": matrix, "mean": np.zeros_like(std), "std": std}
    size = dimension(data.features)
    if not data.zscore:
        return {"mean": np.zeros(size, np.float32), "std": np.ones(size, np.float32)}
    return fit_moments(data.features, raw, used, pairs)


def fit_moments(
    features: Features, raw: np.ndarray, used: np.ndarray, pairs: np.ndarray | None = None
) -> Statistics:
    """Mean and standard deviation of every feature over the frames `used` of raw [M, ...].

    Features are computed in chunks on the device and merged by Chan's method in float64, so they
    never exist all at once. Values are taken relative to the first frame, which keeps float32
    sums exact enough. A constant feature gets standard deviation 1, as in scikit-learn.
    """
    size = dimension(features)
    origin = np.asarray(compute(features, raw[used[:1]], pairs)[0])
    count, mean, squares = 0, np.zeros(size), np.zeros(size)
    for chosen in _chunks(used):
        chunk = raw[np.resize(chosen, _CHUNK)]  # One shape, so that it compiles once.
        here = len(chosen)
        moments = _chunk_moments(features, chunk, np.arange(_CHUNK) < here, origin, pairs)
        chunk_mean, chunk_squares = (np.asarray(m, np.float64) for m in moments)
        delta, total = chunk_mean - mean, count + here
        squares += chunk_squares + delta * delta * (count * here / total)
        mean += delta * (here / total)
        count = total
    std = np.sqrt(squares / count)
    mean += origin
    std[std <= 1e-6 * np.abs(mean)] = 1  # Below float32's resolution: a constant.
    return {"mean": mean.astype(np.float32), "std": std.astype(np.float32)}


def _chunks(used: np.ndarray) -> Iterator[np.ndarray]:
    return (used[start : start + _CHUNK] for start in range(0, len(used), _CHUNK))


@partial(jax.jit, static_argnums=0)
def _chunk_moments(
    features: Features, raw: jax.Array, mask: jax.Array, origin: jax.Array, pairs: Any
) -> tuple[jax.Array, jax.Array]:
    """Mean f32[F] and sum of squared deviations f32[F] of the real rows, relative to `origin`."""
    real = mask[:, None]
    values = jnp.where(real, compute(features, raw, pairs) - origin[None, :], 0)
    mean = jnp.sum(values, axis=0) / jnp.sum(mask)
    return mean, jnp.sum(jnp.where(real, jnp.square(values - mean[None, :]), 0), axis=0)
