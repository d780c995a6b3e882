"""What a model sees of one frame: landmark geometry and blendshape scores.

Landmarks are dlib's 68 points, zero-based. Features are computed on the device from raw streams,
so that 2,278 distances never need to be stored.
"""

from __future__ import annotations

import json
from functools import cache, partial
from importlib.resources import files
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

from fer_jax.config import Features

#: Side of the square that landmarks are scaled to, pixels (paper 1).
SIDE = 224
_NOSE_TOP, _NOSE_TIP = 27, 30
_NEW_CENTRE = np.array([112, 135], np.float32)


@cache
def _facts(name: str) -> Any:
    return json.loads(files("fer_jax.data").joinpath(name).read_text())


def stream_of(features: Features) -> str:
    """The stream of a Clip that the features are computed from; "" for "none".

    "landmarks68", "blendshapes", or "extracted/NAME-SIZE" itself.
    """
    if features == "none":
        return ""
    if features.startswith("extracted/"):
        return features
    return "blendshapes" if features.startswith("blendshapes") else "landmarks68"


def dimension(features: Features) -> int:
    """F, the number of features of a frame: every name ends in it; 0 for "none"."""
    return 0 if features == "none" else int(features.rpartition("-")[2])


def raw_shape(features: Features) -> tuple[int, ...]:
    """Shape of one frame of the stream: (68, 2), (52,) or what was extracted."""
    stream = stream_of(features)
    if stream.startswith("extracted/"):
        return (dimension(features),)
    return (52,) if stream == "blendshapes" else (68, 2)


def chosen_distances(features: Features) -> bool:
    """Whether the features are distances whose pairs lie among the run's statistics."""
    return features.startswith(("importance-", "pairs/"))


def landmark_pairs(features: Features) -> np.ndarray:
    """The landmark pairs of "distances-F", i < j.

    "distances-2278" are all pairs in lexicographic order; 104, 259 and 368 are the lists that
    paper 1 publishes as its annex, in their order.

    Returns:
      i32[F, 2].
    """
    if features == "distances-2278":
        return np.stack(np.triu_indices(68, k=1), axis=1).astype(np.int32)
    return np.asarray(_facts("landmark_pairs.json")["pairs"][features[10:]], np.int32)


def blendshape_names(features: Features = "blendshapes-52") -> tuple[str, ...]:
    """MediaPipe's names of the scores, in feature order."""
    facts = _facts("blendshapes.json")
    names = facts["names"]
    return tuple(names if features == "blendshapes-52" else (names[i] for i in facts["kept_27"]))


def scale_landmarks(
    landmarks: np.ndarray,
    box: np.ndarray,
    width: int,
    height: int,
    how: str,
) -> np.ndarray:
    """Landmarks in source pixels, scaled to a 224x224 square (paper 1; docs/reproduction.md 1.3).

    Args:
      landmarks: f32[..., 68, 2], x and y in source pixels.
      box: f32[..., 4], left, top, right, bottom of the face ("face-box" only).
      width, height: size of the source in pixels ("full-frame" only).
      how: which rectangle becomes the square: "face-box" or "full-frame".

    Returns:
      f32[..., 68, 2]; NaN where the landmarks or the box are.
    """
    if how == "full-frame":
        size = np.array([width, height], np.float32)
        return np.asarray(landmarks * (np.float32(SIDE) / size), np.float32)
    if how != "face-box":
        raise ValueError(f"landmarks cannot be scaled by {how!r} here")
    corner, opposite = box[..., None, :2], box[..., None, 2:]
    return np.asarray((landmarks - corner) * (np.float32(SIDE) / (opposite - corner)), np.float32)


def to_crop(landmarks: np.ndarray, crop_matrix: np.ndarray, stored: int, size: int) -> np.ndarray:
    """Landmarks in source pixels, as pixels of the crop at another size.

    Args:
      landmarks: f32[T, 68, 2].
      crop_matrix: f32[T, 2, 3] from source pixels to pixels of the stored crop.
      stored, size: side of the stored crop and the wanted one. Pixel centres are whole numbers.

    Returns:
      f32[T, 68, 2]; NaN where there is no face or no crop.
    """
    linear, offset = crop_matrix[:, :, :2], crop_matrix[:, None, :, 2]
    points = np.einsum("tlc,tdc->tld", landmarks, linear) + offset
    return np.asarray((points + 0.5) * (size / stored) - 0.5, np.float32)


def compute(
    features: Features,
    raw: jax.Array | np.ndarray,
    pairs: jax.Array | np.ndarray | None = None,
) -> jax.Array:
    """Features of every frame, before normalisation.

    Args:
      features: which ones.
      raw: f32[..., 68, 2] scaled landmarks, or f32[..., 52] blendshape scores.
      pairs: i32[F, 2], of `chosen_distances`.

    Returns:
      f32[..., F]. Coordinates are x0, y0, x1, y1, ...; distances follow `pairs`, or
      `landmark_pairs`.
    """
    raw = jnp.asarray(raw)
    if features == "blendshapes-52":
        return raw
    if features == "blendshapes-27":
        kept = _facts("blendshapes.json")["kept_27"]
        return jnp.take(raw, np.asarray(kept, np.int32), axis=-1, mode="clip")
    if features.startswith("extracted/"):
        return raw
    if features == "geometry-136":
        return _geometry(raw)
    if features == "coords-136":
        return _flat(raw)
    if features == "emotii-272":
        return _emotii(raw)
    pairs = landmark_pairs(features) if pairs is None else pairs
    how = {"tpu": partial(_multiplied, pairs), "default": partial(_taken, pairs)}
    dx, dy = lax.platform_dependent(raw, **how)
    return jnp.sqrt(dx * dx + dy * dy)


def _flat(points: jax.Array) -> jax.Array:
    """f32[..., 68, 2] -> f32[..., 136], as it lies.

    Left to itself, XLA turns the numbers of a TPU's frames, to pad fewer of them, and back.
    """
    flat = points.reshape(*points.shape[:-2], 136)
    # An exported program of any batch may not hold what JAX does not promise to read again.
    if not all(isinstance(side, int) for side in flat.shape):
        return flat
    straight = Layout(tuple(range(flat.ndim)))
    return lax.platform_dependent(
        flat, tpu=lambda x: with_layout_constraint(x, straight), default=lambda x: x
    )


def _geometry(points: jax.Array) -> jax.Array:
    """Paper 3's geometry: a new centre, then one range 0 to 1 for a face's 136 numbers.

    docs/reproduction.md 3.2: G' = G - (112, 135) in the 224x224 crop, (G' - min) / (max - min).
    """
    flat = (points - jnp.broadcast_to(_NEW_CENTRE, points.shape)).reshape(*points.shape[:-2], 136)
    low, high = jnp.min(flat, -1, keepdims=True), jnp.max(flat, -1, keepdims=True)
    # A padded frame is one point, which has no range.
    return (flat - low) / jnp.maximum(high - low, 1e-6)


def _taken(pairs: jax.Array | np.ndarray, points: jax.Array) -> list[jax.Array]:
    """The first of each pair minus the second: f32[..., 68, 2] to x and y of f32[..., F]."""

    def difference(values: jax.Array) -> jax.Array:
        first = jnp.take(values, pairs[:, 0], axis=-1, mode="clip")
        return first - jnp.take(values, pairs[:, 1], axis=-1, mode="clip")

    # x and y apart: on a CPU, gathering points of two numbers is 12 to 40 times slower.
    return [difference(points[..., axis]) for axis in (0, 1)]


def _multiplied(pairs: jax.Array | np.ndarray, points: jax.Array) -> list[jax.Array]:
    """As `_taken`, up to the rounding of the last sum, in matmuls.

    A TPU multiplies far faster than it gathers, and would copy points and what it took of them
    into other layouts. Three bfloat16 hold all bits of a coordinate, and 1 and -1 are exact.
    """
    first, second = (jax.nn.one_hot(pairs[:, i], 68, axis=0, dtype=jnp.bfloat16) for i in (0, 1))
    apart = jnp.eye(2, dtype=jnp.bfloat16)[None, :, :, None]
    signs = ((first - second)[:, None, None, :] * apart).reshape(136, -1)
    rest = _flat(points)
    total = jnp.zeros((), jnp.float32)
    for _ in range(3):
        # XLA may leave out a cast there and back.
        part = lax.reduce_precision(rest, exponent_bits=8, mantissa_bits=7)
        rest = rest - part
        part = part.astype(jnp.bfloat16)
        total += jnp.dot(part, signs, preferred_element_type=jnp.float32)
    return jnp.split(total, 2, axis=-1)


def _emotii(points: jax.Array) -> jax.Array:
    """x, y, distance to the centre of gravity and nose-corrected angle of each landmark.

    Paper 1's 272 features after its reference [11]; the formula and its special cases are those
    of docs/reproduction.md 1.2. Angles are in degrees with period 180. An exactly upright nose has
    phi = 0.
    """
    x, y = points[..., 0], points[..., 1]
    u = x - jnp.mean(x, axis=-1, keepdims=True)
    v = y - jnp.mean(y, axis=-1, keepdims=True)
    distance = jnp.sqrt(u * u + v * v)
    top, tip = points[..., _NOSE_TOP, :], points[..., _NOSE_TIP, :]
    rise, run = top[..., 1] - tip[..., 1], top[..., 0] - tip[..., 0]
    phi = jnp.trunc(jnp.degrees(jnp.arctan(rise / jnp.where(run == 0, 1, run))))
    phi = jnp.where(phi < 0, phi + 90, phi - 90)
    phi = jnp.where(run == 0, 0, phi)[..., None]
    angle = jnp.degrees(jnp.arctan(v / jnp.where(u == 0, 1, u)))
    angle = jnp.where(u == 0, 90, angle) - phi
    return jnp.stack([x, y, distance, angle], axis=-1).reshape(*points.shape[:-2], 272)
