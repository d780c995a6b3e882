"""Record directories of generated landmarks and blendshapes, in the structure of real corpora.

Clips, subjects, classes, twins and lengths are those of CREMA-D and RAVDESS; the faces are noise
that drifts as the emotion wants. For measuring time, not accuracy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np

from fer_jax.labels import CORPUS_WORDS
from fer_jax.records import Clip, encode
from preprocessing import writer
from preprocessing.corpora.crema_d import SENTENCES

#: Clips of a shard.
_SHARD = 1000


def crema_d() -> Iterator[Clip]:
    """7,442 clips without frames: 91 actors; 1,271 of each emotion, 1,087 of NEU."""
    words = CORPUS_WORDS["crema-d"]
    left = {word: 1087 if word == "NEU" else 1271 for word in words}
    for actor, sentence, word in product(range(1001, 1092), SENTENCES, words):
        levels = ("LO", "MD", "HI") if sentence == "IEO" and word != "NEU" else ("XX",)
        for level in levels[: left[word]]:
            left[word] -= 1
            name = f"{actor}_{sentence}_{word}_{level}"
            yield Clip(
                clip_id=f"crema-d/{name}", corpus="crema-d", subject=str(actor), emotion=word,
                intensity=level, statement=sentence, recording=name, fps=30.0, width=480,
                height=360,
            )  # fmt: skip


def ravdess() -> Iterator[Clip]:
    """4,904 clips without frames: 24 actors, 8 emotions, and every recording twice."""
    words = CORPUS_WORDS["ravdess"]
    for channel, actor, (emotion, word) in product(("01", "02"), range(1, 25), enumerate(words, 1)):
        if channel == "02" and (actor == 18 or emotion > 6):
            continue
        strengths = ("01",) if word == "neutral" else ("01", "02")
        for strength, statement, repetition in product(strengths, *[("01", "02")] * 2):
            take = f"{channel}-{emotion:02d}-{strength}-{statement}-{repetition}-{actor:02d}"
            for modality in ("01", "02"):
                yield Clip(
                    clip_id=f"ravdess/{modality}-{take}", corpus="ravdess", subject=f"{actor:02d}",
                    emotion=word, intensity=strength, statement=statement, recording=take,
                    fps=29.97, width=1280, height=720,
                )  # fmt: skip


def with_landmarks(clips: Sequence[Clip], frames: int, seed: int = 0) -> Iterator[Clip]:
    """The clips with 68 landmarks a frame, twins with the same ones.

    Args:
      frames: their mean number; lengths spread by a fifth.
    """
    rng = np.random.default_rng(seed)
    face = rng.uniform(120, 240, (68, 2))
    drift = {word: rng.normal(0, 6, (68, 2)) for word in sorted({c.emotion for c in clips})}
    found: dict[str, np.ndarray] = {}
    for clip in clips:
        if clip.recording not in found:
            length = max(2, round(rng.normal(frames, frames / 5)))
            time = np.linspace(0, 1, length)[:, None, None]
            noise = rng.standard_normal((length, 68, 2), np.float32)
            found[clip.recording] = (face + time * drift[clip.emotion] + noise).astype(np.float32)
        points = found[clip.recording]
        yield clip.replace(**_timeline(len(points), clip.fps), landmarks68=points)


def with_blendshapes(clips: Sequence[Clip], seed: int = 0) -> Iterator[Clip]:
    """The clips as single images with 52 scores."""
    rng = np.random.default_rng(seed)
    for clip in clips:
        scores = rng.random((1, 52), np.float32)
        yield clip.replace(**_timeline(1, 0.0), blendshapes=scores)


def _timeline(frames: int, fps: float) -> dict[str, object]:
    index = np.arange(frames, dtype=np.int32)
    return {
        "frame_index": index,
        "time_ms": (index * (1e3 / (fps or 1))).astype(np.float32),
        "face_found": np.ones(frames, bool),
        "box": np.tile(np.array([110, 110, 250, 250], np.float32), (frames, 1)),
    }


def write(out: Path, clips: Sequence[Clip]) -> Path:
    """The record directory of these clips, which `fer_jax.data.corpus.load` reads."""
    name, streams = clips[0].corpus, clips[0].streams
    count = -(-len(clips) // _SHARD)
    out.mkdir(parents=True)
    shards = [
        writer.write_shard(
            out / writer.shard_name(name, i, count),
            map(encode, clips[i * _SHARD : (i + 1) * _SHARD]),
        )
        for i in range(count)
    ]
    numbers, size = [shard.records for shard in shards], sum(shard.bytes for shard in shards)
    writer.write_dataset_info(out, name, numbers, size, streams, {}, "png", {})
    return out
