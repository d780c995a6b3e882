"""From clips to samples on the host: which frames, which streams, which label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np

from fer_jax.config import Data
from fer_jax.data import geometry, images
from fer_jax.data.frames import Frames
from fer_jax.data.protocols import original_id
from fer_jax.data.sequences import kept, sample_frames, sample_length
from fer_jax.errors import UserError
from fer_jax.labels import CANONICAL, LabelSpace, canonical
from fer_jax.records import IMAGES, Clip

Shapes = Mapping[str, tuple[int, int, int]]
"""H, W, C of the stored images, by stream."""


class ClipSamples(NamedTuple):
    """The samples of one clip.

    Attributes:
      streams: U usable frames of each stream (see `Samples.streams`), images still encoded.
      rows: i32[S, T], which of them each sample shows, zero where padded.
      frame_mask: bool[S, T], True where a frame is real.
      usable: i32[U], index of each usable frame in the clip.
    """

    streams: dict[str, Any]
    rows: np.ndarray
    frame_mask: np.ndarray
    usable: np.ndarray


@dataclass(frozen=True, eq=False)
class Samples:
    """N samples of T frames on the host. A frame that several samples show is held once.

    Attributes:
      streams: by name, [M, ...] of M frames. raw: f32[M, 68, 2] scaled landmarks, f32[M, 52] scores
        or f32[M, F] extracted features; crops, frontal: u8[M, H, W, C], in the records until
        `loaded`; landmarks: f32[M, 68, 2] in pixels of the crop that the model sees.
      rows: i32[N, T], the frames of each sample, zero where padded.
      frame_mask: bool[N, T], True where a frame is real.
      label: i32[N], class index.
      clip: i32[N], index of the clip in the corpus; a clip may give several samples.
      weight: f32[N], 1 for each sample.
      missing: why a clip gave no sample, by its index: "unlabelled", the label space has no class
        for it; "faceless", no frame has every stream; "short", it is shorter than a window.
    """

    streams: Mapping[str, np.ndarray | Frames]
    rows: np.ndarray
    frame_mask: np.ndarray
    label: np.ndarray
    clip: np.ndarray
    weight: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    missing: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.label)

    @property
    def nbytes(self) -> int:
        """Of the streams, with their pictures decoded."""
        return sum(stream.nbytes for stream in self.streams.values())

    def loaded(self) -> Samples:
        """The samples with their pictures read and decoded, in memory."""
        streams = {
            name: stream.load() if isinstance(stream, Frames) else stream
            for name, stream in self.streams.items()
        }
        return replace(self, streams=streams)

    def shown(self, index: np.ndarray | int) -> dict[str, np.ndarray]:
        """What samples show of each stream, [*index.shape, T, ...]; padded frames are any frame."""
        rows = self.rows[index]
        return {name: stream[rows] for name, stream in self.streams.items()}

    def arrays(self) -> dict[str, Any]:
        """What the device needs beside the streams, by name."""
        names = ("rows", "frame_mask", "label", "weight")
        return {name: getattr(self, name) for name in names}

    @property
    def used(self) -> np.ndarray:
        """i[<= M], the frames that some sample shows, in the order of the first that does.

        So statistics do not depend on what else the streams hold.
        """
        frames, first = np.unique(self.rows[self.frame_mask], return_index=True)
        return frames[np.argsort(first)]

    def left_out(self, why: str) -> int:
        """How many clips gave no sample for that reason."""
        return sum(reason == why for reason in self.missing.values())

    def places(self, clips: Sequence[int] | np.ndarray) -> np.ndarray:
        """i64[n], the samples of these clips in that order, as `make_samples` would order them."""
        ends = dict(zip(*_runs(self.clip), strict=True))
        found = [np.arange(*ends[int(index)]) for index in clips if int(index) in ends]
        return np.concatenate(found) if found else np.zeros(0, np.int64)

    def of_clips(self, clips: Sequence[int] | np.ndarray) -> Samples:
        """The samples of these clips alone; they share this object's frames."""
        wanted = {int(index) for index in clips}
        missing = {index: why for index, why in self.missing.items() if index in wanted}
        return replace(self.at(self.places(clips)), missing=missing)

    def at(self, chosen: np.ndarray) -> Samples:
        """The samples at these places alone; they share this object's frames."""
        return replace(
            self,
            rows=self.rows[chosen],
            frame_mask=self.frame_mask[chosen],
            label=self.label[chosen],
            clip=self.clip[chosen],
            weight=self.weight[chosen],
        )


def _runs(clip: np.ndarray) -> tuple[list[int], list[tuple[int, int]]]:
    """Each clip of i32[N], whose samples lie together, and its first and past-last sample."""
    starts = np.flatnonzero(np.diff(clip, prepend=-1))
    stops = [*starts[1:].tolist(), len(clip)]
    return clip[starts].tolist(), list(zip(starts.tolist(), stops, strict=True))


def streams_of(data: Data) -> tuple[str, ...]:
    """The clip streams that a config reads."""
    found = [name for name in (geometry.stream_of(data.features), *data.images) if name]
    if data.landmarks:
        found.append("landmarks68")
    in_crop = data.landmark_scale == "crop" and "landmarks68" in found
    if data.landmarks or in_crop:
        found.append("crop_matrix")
    return tuple(dict.fromkeys(found))


def clip_samples(clip: Clip, data: Data, shapes: Shapes) -> ClipSamples:
    """Cuts a clip into samples as the config says; frames that lack a stream are dropped first.

    Args:
      shapes: of the stored images.

    Returns:
      S samples; S = 0 where no frame is usable, or the clip is shorter than a window.
    """
    found = _streams(clip, data, shapes)
    present = np.ones(clip.frames, bool)
    for name, values in found.items():
        if name in IMAGES:
            present &= np.array([image is not None for image in values], bool)
        else:
            present &= np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    usable = np.flatnonzero(present).astype(np.int32)
    if clip.frames:
        part = kept(clip.frames, data.keep)
        usable = usable[(usable >= part.start) & (usable < part.stop)]
    picks = []
    if len(usable):
        picks = sample_frames(len(usable), data.length, data.frames, data.stride)
    length = sample_length(data.length, data.frames)
    rows = np.zeros((len(picks), length), np.int32)
    mask = np.zeros((len(picks), length), bool)
    for s, pick in enumerate(picks):
        rows[s, : len(pick)] = pick
        mask[s, : len(pick)] = True
    streams = {
        name: [values[t] for t in usable] if name in IMAGES else values[usable]
        for name, values in found.items()
    }
    return ClipSamples(streams, rows, mask, usable)


def _streams(clip: Clip, data: Data, shapes: Shapes) -> dict[str, Any]:
    """Every frame of each stream that the config reads; nothing where the clip lacks it."""
    found: dict[str, Any] = {}
    stream = geometry.stream_of(data.features)
    if stream:
        name = "extracted" if stream.startswith("extracted/") else stream
        values = getattr(clip, name)
        if values is None:
            values = np.full((clip.frames, *geometry.raw_shape(data.features)), np.nan, np.float32)
        elif stream == "landmarks68":
            values = _scaled(clip, data, shapes)
        found["raw"] = values
    for name in data.images:
        found[name] = getattr(clip, name) or [None] * clip.frames
    if data.landmarks:
        size = data.image_size or shapes["crops"][0]
        found["landmarks"] = _in_crop(clip, shapes, size)
    return found


def _scaled(clip: Clip, data: Data, shapes: Shapes) -> np.ndarray:
    if data.landmark_scale == "crop":
        return _in_crop(clip, shapes, geometry.SIDE)
    assert clip.landmarks68 is not None
    return geometry.scale_landmarks(
        clip.landmarks68, clip.box, clip.width, clip.height, data.landmark_scale
    )


def _in_crop(clip: Clip, shapes: Shapes, size: int) -> np.ndarray:
    if clip.landmarks68 is None or clip.crop_matrix is None:
        return np.full((clip.frames, 68, 2), np.nan, np.float32)
    return geometry.to_crop(clip.landmarks68, clip.crop_matrix, shapes["crops"][0], size)


def decoded(streams: Mapping[str, Any], shapes: Shapes) -> dict[str, np.ndarray]:
    """Streams with their images as u8[U, H, W, C]."""
    return {
        name: images.decode(values, shapes[name]) if name in IMAGES else values
        for name, values in streams.items()
    }


def make_samples(
    corpus: Sequence[Clip], indices: Sequence[int] | np.ndarray, label_space: LabelSpace, data: Data
) -> Samples:
    """The samples of the clips at `indices`, in that order; reads each clip once.

    Raises:
      UserError: the clips lack a stream that the config needs, none has a class in the label
        space, none has a usable frame, or all are shorter than a window.
    """
    shapes: Shapes = getattr(corpus, "image_shapes", {})
    pieces: list[ClipSamples] = []
    labels, clips, counts = [], [], []
    missing: dict[int, str] = {}
    words: set[str] = set()
    longest = 0
    for index in indices:
        clip = corpus[int(index)]
        label = label_space.index(clip.emotion)
        if label is None:
            missing[int(index)] = "unlabelled"
            words.add(clip.emotion)
            continue
        piece = clip_samples(clip, data, shapes)
        if not len(piece.rows):
            missing[int(index)] = "short" if len(piece.usable) else "faceless"
            longest = max(longest, len(piece.usable))
            continue
        # The pictures are read again when they are wanted: a corpus of them fits in no memory.
        kept_streams = {k: v for k, v in piece.streams.items() if k not in IMAGES}
        pieces.append(piece._replace(streams=kept_streams))
        labels.append(label)
        clips.append(int(index))
        counts.append(len(piece.rows))
    if len(indices) and not pieces:
        left_out = Counter(missing.values())
        raise UserError(_nothing_left(len(indices), label_space, words, left_out, longest, data))
    starts = np.cumsum([0, *(len(piece.usable) for piece in pieces)])
    rows = [piece.rows + start for piece, start in zip(pieces, starts, strict=False)]
    length = sample_length(data.length, data.frames)
    mask = np.concatenate([piece.frame_mask for piece in pieces] or [np.zeros((0, length), bool)])
    place = np.concatenate(rows or [np.zeros((0, length), np.int32)])
    sizes = [len(piece.usable) for piece in pieces]
    where = np.repeat(np.asarray(clips, np.int32), sizes)
    frames = np.concatenate([piece.usable for piece in pieces] or [np.zeros(0, np.int32)])
    return Samples(
        streams=_joined(pieces, data)
        | {name: Frames(corpus, name, shapes[name], where, frames) for name in data.images},
        rows=np.where(mask, place, 0).astype(np.int32),
        frame_mask=mask,
        label=np.repeat(np.asarray(labels, np.int32), counts),
        clip=np.repeat(np.asarray(clips, np.int32), counts),
        weight=np.ones(len(mask), np.float32),
        missing=missing,
    )


def _joined(pieces: Sequence[ClipSamples], data: Data) -> dict[str, np.ndarray]:
    """The streams of all clips, end to end, but for pictures."""
    if not pieces:
        raw = {"raw": geometry.raw_shape(data.features)} if data.features != "none" else {}
        blank = {name: np.zeros((0, *shape), np.float32) for name, shape in raw.items()}
        return blank | ({"landmarks": np.zeros((0, 68, 2), np.float32)} if data.landmarks else {})
    return {
        name: np.concatenate([piece.streams[name] for piece in pieces])
        for name in pieces[0].streams
    }


def _nothing_left(
    clips: int,
    label_space: LabelSpace,
    words: set[str],
    left_out: Mapping[str, int],
    longest: int,
    data: Data,
) -> str:
    if left_out.get("short"):
        return (
            f"all {left_out['short']} clips are shorter than a window of {data.frames} frames "
            f"(the longest has {longest} to use): set --data.frames {max(longest, 1)} or less, or "
            f"a wider --data.keep (now {data.keep[0]:g},{data.keep[1]:g})"
        )
    if left_out.get("faceless"):
        needed = ", ".join(streams_of(data))
        return (
            f"none of the {left_out['faceless']} clips has a frame with {needed}: see the face "
            "coverage that `fer-jax inspect` prints"
        )
    return (
        f"none of the {clips} clips has a class in label space {label_space.name} "
        f"({', '.join(label_space.classes)}); their emotions are {', '.join(sorted(words))}: "
        "choose another --data.labels"
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
