"""What of a clip outlives re-encoding, scaling, small shifts and trimming: its signature.

A clip is known by one of its streams. A video's is a track of points or scores, where it has one:
two takes of a person look alike, but do not move alike. A single image's is the picture. A
signature takes at most some 35 KB, however long the clip is.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from fer_jax.errors import UserError
from fer_jax.records import IMAGES, Clip

#: By which stream a clip is known: the first that it has.
_OF_VIDEO = ("landmarks478", "landmarks68", "blendshapes", *IMAGES)
_OF_IMAGE = (*IMAGES, "landmarks478", "landmarks68", "blendshapes")
#: Side of the thumbnails, pixels.
SIDE = 32
#: Frames that are kept of a clip, evenly spread.
_MOST_FRAMES = {"picture": 24, "track": 256}
#: Frames over which a track is averaged: detectors tremble from frame to frame, faces do not.
_SMOOTH = 5
#: Numbers that are kept of the points of a frame, beside their centre.
_COMPONENTS = 16
#: The points around the eyes to the left and to the right in the picture.
_EYES = {
    "landmarks68": (range(36, 42), range(42, 48)),
    "landmarks478": ((33, 133, 159, 145), (362, 263, 386, 374)),
}
#: A picture of less contrast, of 255, shows nothing.
_LEAST_CONTRAST = 2.0


@dataclass(frozen=True, eq=False)
class Signature:
    """A clip, as far as another encoding of it is the same.

    Attributes:
      stream: which it was made of: only those of the same stream are compared.
      values: u8[T, SIDE, SIDE] gray thumbnails; complex64[T, 1 + 16] centre and shape of the
        points in source pixels; or f32[T, 52] scores.
      step_ms: time from one frame to the next, 1 where the clip has no times.
    """

    stream: str
    values: np.ndarray
    step_ms: float


def make_signature(clip: Clip) -> Signature | None:
    """The signature of a clip; None where it has no stream, no face or nothing in its pictures.

    Raises:
      UserError: an image is damaged.
    """
    for stream in _OF_VIDEO if clip.frames > 1 else _OF_IMAGE:
        if getattr(clip, stream) is not None:
            make = _pictures if stream in IMAGES else _track
            return make(clip, stream)
    return None


def _track(clip: Clip, stream: str) -> Signature | None:
    values = np.asarray(getattr(clip, stream), np.float32)
    values = values.reshape(len(values), -1)
    real = np.flatnonzero(np.isfinite(values).all(1))
    if not len(real):
        return None
    if stream in _EYES:
        points = values.reshape(len(values), -1, getattr(clip, stream).shape[-1])
        values = _shape_of(points[..., 0] + 1j * points[..., 1], stream)
    frames = np.arange(real[0], real[-1] + 1)
    if len(real) < len(frames):  # A gap is bridged straight.
        after = np.clip(np.searchsorted(real, frames), 0, len(real) - 1)
        before = np.maximum(after - (real[after] > frames), 0)
        width = np.maximum(real[after] - real[before], 1)
        share = ((frames - real[before]) / width)[:, None]
        values = (1 - share) * values[real[before]] + share * values[real[after]]
    else:
        values = values[real]
    values = _smooth(values)
    thin = -(-len(values) // _MOST_FRAMES["track"])
    kind = np.complex64 if stream in _EYES else np.float32
    return Signature(stream, values[::thin].astype(kind), thin * _step_ms(clip, frames))


def _smooth(values: np.ndarray) -> np.ndarray:
    """The mean of a frame and its neighbours; [T, D] in double precision."""
    kind = np.complex128 if np.iscomplexobj(values) else np.float64
    sums = np.cumsum(np.concatenate([np.zeros_like(values[:1]), values]), 0, kind)
    t, reach = np.arange(len(values)), _SMOOTH // 2
    low, high = np.maximum(t - reach, 0), np.minimum(t + reach + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)[:, None]


def _step_ms(clip: Clip, frames: np.ndarray) -> float:
    if len(frames) < 2:
        return 1.0
    whole = float(clip.time_ms[frames[-1]] - clip.time_ms[frames[0]])
    return whole / (len(frames) - 1) if whole > 0 else 1.0


def _shape_of(points: np.ndarray, stream: str) -> np.ndarray:
    """complex[T, L] -> complex[T, 1 + 16]: turned, scaled and moved as the points are, and with
    about their distances (Johnson and Lindenstrauss, 1984), as a root mean square over points."""
    origin = np.nanmean(points[:, 0])  # Far from zero, float32 would round the differences.
    # Not by BLAS, whose threads take longer to begin than this does.
    return np.einsum("tl,lk->tk", points - origin, _projection(stream, points.shape[1]))


@cache
def _projection(stream: str, count: int) -> np.ndarray:
    """f64[L, 1 + 16]: the mean of the points, the eyes' difference, and random directions."""
    first, eyes = np.ones(count), np.zeros(count)
    left, right = _EYES[stream]
    eyes[list(left)], eyes[list(right)] = -1, 1
    rest = np.random.RandomState(0).standard_normal((count, _COMPONENTS - 1))
    basis, _ = np.linalg.qr(np.column_stack([first, eyes, rest]))
    basis[:, :2] *= np.sign([first @ basis[:, 0], eyes @ basis[:, 1]])
    basis[:, 2:] *= ((count - 2) / (_COMPONENTS - 1)) ** 0.5
    return basis / count**0.5


def _pictures(clip: Clip, stream: str) -> Signature | None:
    images: Sequence[bytes | None] = getattr(clip, stream)
    found = [t for t, image in enumerate(images) if image is not None]
    if not found:
        return None
    chosen = np.linspace(0, len(found) - 1, min(len(found), _MOST_FRAMES["picture"]))
    frames = np.array(found)[np.round(chosen).astype(int)]
    values = np.stack([_thumbnail(images[t] or b"", clip.clip_id) for t in frames])
    if values.std(axis=(1, 2)).max() < _LEAST_CONTRAST:
        return None
    return Signature(stream, values, _step_ms(clip, frames))


def _thumbnail(image: bytes, name: str) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(image), formats=("PNG", "JPEG")) as opened:
            # A JPEG decodes at a fraction of its size for a fraction of the time.
            opened.draft("L", (2 * SIDE, 2 * SIDE))
            gray = opened.convert("L")
            return np.asarray(gray.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{name}: an image is damaged: check the records with `fer-jax inspect DIR --check`"
        ) from error
