"""From clips to arrays that a device holds: samples, normalisation, order of epochs."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax.config import Data, Features
from fer_jax.data.geometry import compute, dimension, raw_shape, scale_landmarks, stream_of
from fer_jax.data.protocols import original_id
from fer_jax.data.sequences import sample_frames, sample_length
from fer_jax.errors import UserError
from fer_jax.labels import CANONICAL, LabelSpace, canonical
from fer_jax.records import Clip

_OUTPUT_OF = {"landmarks68": "landmarks", "blendshapes": "blendshapes"}
#: Frames whose features are computed at once for the statistics: 2,278 of them take 9 MB.
_CHUNK = 1024


class ClipSequences(NamedTuple):
    """The samples of one clip.

    Attributes:
      raw: f32[S, T, 68, 2] scaled landmarks or f32[S, T, 52] scores, zero where padded.
      frame_mask: bool[S, T], True where a frame is real.
      frames: i32[S, T], index of each frame in the clip, zero where padded.
    """

    raw: np.ndarray
    frame_mask: np.ndarray
    frames: np.ndarray


@dataclass(frozen=True, eq=False)
class Samples:
    """Raw streams of N samples on the host.

    Attributes:
      raw: f32[N, T, 68, 2] scaled landmarks or f32[N, T, 52] scores, zero where padded.
      frame_mask: bool[N, T], True where a frame is real.
      label: i32[N], class index.
      clip: i32[N], index of the clip in the corpus; a clip may give several samples.
      weight: f32[N], 1 for each sample.
      unlabelled: clips left out because the label space has no class for them.
      faceless: clips left out because no frame has the stream.
    """

    raw: np.ndarray
    frame_mask: np.ndarray
    label: np.ndarray
    clip: np.ndarray
    weight: np.ndarray
    unlabelled: int = 0
    faceless: int = 0

    def __len__(self) -> int:
        return len(self.label)

    def arrays(self) -> dict[str, np.ndarray]:
        """The five arrays by name, for the device."""
        return {n: getattr(self, n) for n in ("raw", "frame_mask", "label", "clip", "weight")}


class Statistics(NamedTuple):
    """Mean f32[F] and standard deviation f32[F] of the training set's real frames. A pytree."""

    mean: jax.Array | np.ndarray
    std: jax.Array | np.ndarray


def clip_sequences(clip: Clip, data: Data) -> ClipSequences:
    """Cuts a clip into samples as the config says; frames that lack the stream are dropped first.

    Returns:
      S samples; S = 0 where no frame is usable.
    """
    stream, shape = stream_of(data.features), raw_shape(data.features)
    length = sample_length(data.length, data.frames)
    values = getattr(clip, stream)
    if values is None:
        values = np.zeros((0, *shape), np.float32)
    elif stream == "landmarks68":
        values = scale_landmarks(values, clip.box, clip.width, clip.height, data.landmark_scale)
    finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    usable = np.flatnonzero(finite).astype(np.int32)
    picks = sample_frames(len(usable), data.length, data.frames) if len(usable) else []
    raw = np.zeros((len(picks), length, *shape), np.float32)
    mask = np.zeros((len(picks), length), bool)
    frames = np.zeros((len(picks), length), np.int32)
    for s, pick in enumerate(picks):
        n = len(pick)
        frames[s, :n] = usable[pick]
        raw[s, :n] = values[frames[s, :n]]
        mask[s, :n] = True
    return ClipSequences(raw, mask, frames)


def make_samples(
    corpus: Sequence[Clip], indices: Sequence[int] | np.ndarray, label_space: LabelSpace, data: Data
) -> Samples:
    """The samples of the clips at `indices`, in that order; reads each clip once.

    Raises:
      UserError: the clips lack the stream that the features need, none has a class in the label
        space, or none has a usable frame.
    """
    stream = stream_of(data.features)
    no_stream = UserError(
        f"the records have no {stream}, which features {data.features} need: "
        f"preprocess with --outputs {_OUTPUT_OF[stream]}"
    )
    if stream not in getattr(corpus, "streams", (stream,)):
        raise no_stream
    pieces: deque[ClipSequences] = deque()
    labels, clips, counts = [], [], []
    faceless, unlabelled, words, lacking = 0, 0, set(), 0
    for index in indices:
        clip = corpus[int(index)]
        label = label_space.index(clip.emotion)
        if label is None:
            unlabelled += 1
            words.add(clip.emotion)
            continue
        lacking += getattr(clip, stream) is None
        piece = clip_sequences(clip, data)
        if not len(piece.raw):
            faceless += 1
            continue
        pieces.append(piece)
        labels.append(label)
        clips.append(int(index))
        counts.append(len(piece.raw))
    if len(indices) and not pieces:
        if not faceless:
            raise UserError(
                f"none of the {len(indices)} clips has a class in label space {label_space.name} "
                f"({', '.join(label_space.classes)}); their emotions are "
                f"{', '.join(sorted(words))}: choose another --data.labels"
            )
        if lacking == faceless:
            raise no_stream
        raise UserError(
            f"none of the {faceless} clips has a frame with {stream}: "
            "see the face coverage that `fer-jax inspect` prints"
        )
    length = sample_length(data.length, data.frames)
    raw = np.zeros((sum(counts), length, *raw_shape(data.features)), np.float32)
    mask = np.zeros(raw.shape[:2], bool)
    start = 0
    while pieces:  # Freed one by one, so that the samples are never held twice.
        piece = pieces.popleft()
        stop = start + len(piece.raw)
        raw[start:stop], mask[start:stop] = piece.raw, piece.frame_mask
        start = stop
    return Samples(
        raw=raw,
        frame_mask=mask,
        label=np.repeat(np.asarray(labels, np.int32), counts),
        clip=np.repeat(np.asarray(clips, np.int32), counts),
        weight=np.ones(len(raw), np.float32),
        unlabelled=unlabelled,
        faceless=faceless,
    )


def apply_caps(
    clips: Sequence[Clip], indices: Sequence[int] | np.ndarray, data: Data
) -> np.ndarray:
    """Training clips that the config lets in, in the order of `indices`.

    `data.caps` keeps the first n originals of an emotion by clip_id (paper 5 keeps the first rows
    of its file; records hold detectable faces only, so n of those). A copy that preprocessing made
    stays where `data.augmented` and its original stay.

    Returns:
      i64[<= n], indices into `clips`.

    Raises:
      UserError: a cap is on an emotion that nobody knows.
    """
    if not data.caps and data.augmented:
        return np.asarray(indices, np.int64)
    rows = {}
    for index in indices:
        clip = clips[int(index)]
        rows[int(index)] = (clip.clip_id, original_id(clip), canonical(clip.emotion))
    caps = _canonical_caps(data.caps, {emotion for _, _, emotion in rows.values()})
    kept, seen = set(), Counter()
    for clip_id, original, emotion in sorted(rows.values()):
        if clip_id == original and seen[emotion] < caps.get(emotion, len(rows)):
            seen[emotion] += 1
            kept.add(clip_id)
    return np.asarray(
        [
            index
            for index, (clip_id, original, _) in rows.items()
            if original in kept and (data.augmented or clip_id == original)
        ],
        np.int64,
    )


def _canonical_caps(caps: Mapping[str, int], present: set[str]) -> dict[str, int]:
    known = [*CANONICAL, *sorted(present.difference(CANONICAL))]
    result = {}
    for word, cap in caps.items():
        emotion = canonical(word)
        if emotion not in known:
            near = get_close_matches(emotion, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(
                f"data.caps: unknown emotion {word!r}{hint} (known: {', '.join(known)})"
            )
        result[emotion] = cap
    return result


def fit_statistics(samples: Samples, features: Features, zscore: bool = True) -> Statistics:
    """Mean and standard deviation of every feature over all real frames of the training set.

    Features are computed in chunks on the device and merged by Chan's method in float64, so they
    never exist all at once. Values are taken relative to the first frame, which keeps float32
    sums exact enough. A constant feature gets standard deviation 1, as in scikit-learn.

    Args:
      samples: the training set.
      features: which features.
      zscore: False gives mean 0 and standard deviation 1, which leaves features as they are.

    Raises:
      ValueError: no sample has a real frame.
    """
    size = dimension(features)
    if not zscore:
        return Statistics(np.zeros(size, np.float32), np.ones(size, np.float32))
    real = np.flatnonzero(samples.frame_mask)
    if not len(real):
        raise ValueError("no real frame to take statistics of")
    flat = samples.raw.reshape(-1, *raw_shape(features))
    origin = np.asarray(compute(features, flat[real[:1]])[0])
    count, mean, squares = 0, np.zeros(size), np.zeros(size)
    for start in range(0, len(real), _CHUNK):
        chosen = real[start : start + _CHUNK]
        chunk = flat[np.resize(chosen, _CHUNK)]  # One shape, so that it compiles once.
        here = len(chosen)
        moments = _chunk_moments(features, chunk, np.arange(_CHUNK) < here, origin)
        chunk_mean, chunk_squares = (np.asarray(m, np.float64) for m in moments)
        delta, total = chunk_mean - mean, count + here
        squares += chunk_squares + delta * delta * (count * here / total)
        mean += delta * (here / total)
        count = total
    std = np.sqrt(squares / count)
    mean += origin
    std[std <= 1e-6 * np.abs(mean)] = 1  # Below float32's resolution: a constant.
    return Statistics(mean.astype(np.float32), std.astype(np.float32))


@partial(jax.jit, static_argnums=0)
def _chunk_moments(
    features: Features, raw: jax.Array, mask: jax.Array, origin: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Mean f32[F] and sum of squared deviations f32[F] of the real rows, relative to `origin`."""
    real = mask[:, None]
    values = jnp.where(real, compute(features, raw) - origin[None, :], 0)
    mean = jnp.sum(values, axis=0) / jnp.sum(mask)
    return mean, jnp.sum(jnp.where(real, jnp.square(values - mean[None, :]), 0), axis=0)


def normalise(values: jax.Array, statistics: Statistics, frame_mask: jax.Array) -> jax.Array:
    """z-scores of real frames, zero where padded: a padded step is the average frame.

    Args:
      values: f32[..., T, F] of `compute`.
      statistics: of the training set.
      frame_mask: bool[..., T].

    Returns:
      f32[..., T, F].
    """
    shape = (1,) * (values.ndim - 1) + (-1,)
    mean, std = jnp.reshape(statistics.mean, shape), jnp.reshape(statistics.std, shape)
    return jnp.where(frame_mask[..., None], (values - mean) / std, 0)


def features(
    raw: jax.Array, frame_mask: jax.Array, statistics: Statistics, name: Features
) -> jax.Array:
    """The model's input f32[..., T, F] of raw streams: `compute`, then `normalise`. For jit."""
    return normalise(compute(name, raw), statistics, frame_mask)


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
