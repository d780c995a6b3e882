"""Record directories of generated people, in the structure of real corpora.

Clips, subjects, emotions, twins, official parts and lengths are those of the corpus; what the clips
show is drawn (`preprocessing.generate_streams`), and it is known how well anybody could tell their
emotions apart: the room in which protocols are tested, and every paper's command tried, without the
corpora. Accuracies on them say nothing about people.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, product
from pathlib import Path
from typing import Any

import numpy as np

from fer_jax.errors import UserError
from fer_jax.labels import CORPUS_WORDS
from fer_jax.records import Clip, encode
from preprocessing import generate_streams as streams
from preprocessing import writer
from preprocessing.corpora.crema_d import SENTENCES
from preprocessing.generate_streams import SIDE, Best, Truth

#: What may be generated of a clip, named as `fer-jax preprocess --outputs` names it.
OUTPUTS = ("landmarks", "blendshapes", "crops", "frontal")
#: Clips of a shard.
_SHARD = 1000


def crema_d(actors: int = 91) -> Iterator[Clip]:
    """Clips without frames: of 91 actors 7,442, 1,271 of each emotion, 1,087 of NEU."""
    words = CORPUS_WORDS["crema-d"]
    left = {word: (1087 if word == "NEU" else 1271) * actors // 91 for word in words}
    for actor, sentence, word in product(range(1001, 1001 + actors), SENTENCES, words):
        levels = ("LO", "MD", "HI") if sentence == "IEO" and word != "NEU" else ("XX",)
        for level in levels[: left[word]]:
            left[word] -= 1
            name = f"{actor}_{sentence}_{word}_{level}"
            yield Clip(
                clip_id=f"crema-d/{name}", corpus="crema-d", subject=str(actor), emotion=word,
                intensity=level, statement=sentence, recording=name, fps=30.0, width=480,
                height=360,
            )  # fmt: skip


def ravdess(actors: int = 24) -> Iterator[Clip]:
    """Clips without frames of 8 emotions, every recording twice; of 24 actors 4,904."""
    words = CORPUS_WORDS["ravdess"]
    people = range(1, actors + 1)
    for channel, actor, (emotion, word) in product(("01", "02"), people, enumerate(words, 1)):
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


def oulu_casia(people: int = 80) -> Iterator[Clip]:
    """Clips without frames: six emotions of each person, in strong light; of 80 people 480."""
    words = ("Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise")
    for person, word in product(range(1, people + 1), words):
        name = f"P{person:03d}/{word}"
        yield Clip(
            clip_id=f"oulu-casia/{name}", corpus="oulu-casia", subject=f"P{person:03d}",
            emotion=word, recording=name, fps=25.0, width=320, height=240,
        )  # fmt: skip


def sase_fe(people: int = 54) -> Iterator[Clip]:
    """648 clips without frames: 54 people, six emotions, felt and acted."""
    for person, word in product(range(1, people + 1), CORPUS_WORDS["sase-fe"]):
        name = f"{person:02d}/{word}"
        yield Clip(
            clip_id=f"sase-fe/{name}", corpus="sase-fe", subject=f"{person:02d}", emotion=word,
            recording=name, fps=100.0, width=1280, height=960,
        )  # fmt: skip


def _people(corpus: str, people: int, counts: Mapping[str, int]) -> Iterator[Clip]:
    """Single images of so many people in turn, by emotion."""
    taken = Counter()
    for word, count in counts.items():
        for number in range(count):
            subject = f"S{number % people + 1:03d}"
            taken[subject] += 1
            name = f"{subject}/{word}-{taken[subject]:03d}"
            yield Clip(
                clip_id=f"{corpus}/{name}", corpus=corpus, subject=subject, emotion=word,
                recording=name, width=SIDE, height=SIDE,
            )  # fmt: skip


def ck_plus_frames() -> Iterator[Clip]:
    """415 images without a frame: the peaks of six emotions, and 106 neutral faces."""
    counts = {"anger": 45, "disgust": 59, "fear": 25, "happy": 69, "sadness": 28, "surprise": 83,
              "neutral": 106}  # fmt: skip
    return _people("ck+", 118, counts)


def jaffe() -> Iterator[Clip]:
    """213 images without a frame, of ten women."""
    counts = {"anger": 30, "disgust": 29, "fear": 32, "happiness": 31, "neutral": 30,
              "sadness": 31, "surprise": 30}  # fmt: skip
    return _people("jaffe", 10, counts)


def ised_frames() -> Iterator[Clip]:
    """428 images without a frame: the peaks of 50 people's four emotions."""
    counts = {"disgust": 80, "happiness": 227, "sadness": 48, "surprise": 73}
    return _people("ised", 50, counts)


def _images(corpus: str, counts: Mapping[str, Mapping[str, int]]) -> Iterator[Clip]:
    """Single images of people that nobody names, by official part and emotion."""
    for part, words in counts.items():
        for word, count in words.items():
            for number in range(count):
                name = f"{part}-{word}-{number:06d}"
                yield Clip(
                    clip_id=f"{corpus}/{name}", corpus=corpus, emotion=word, recording=name,
                    split=part, width=SIDE, height=SIDE,
                )  # fmt: skip


def fer2013() -> Iterator[Clip]:
    """35,887 images without a frame, in the official parts."""
    counts = (
        ("train", (3995, 436, 4097, 7215, 4830, 3171, 4965)),
        ("validation", (467, 56, 496, 895, 653, 415, 607)),
        ("test", (491, 55, 528, 879, 594, 416, 626)),
    )
    words = CORPUS_WORDS["fer2013"]
    return _images(
        "fer2013", {part: dict(zip(words, numbers, strict=True)) for part, numbers in counts}
    )


def affectnet() -> Iterator[Clip]:
    """A tenth of AffectNet's annotated images of seven classes; its validation set tests."""
    train = {
        "neutral": 7487, "happy": 13442, "sad": 2546, "surprise": 1409, "fear": 638,
        "disgust": 380, "angry": 2488,
    }  # fmt: skip
    return _images("affectnet", {"train": train, "test": dict.fromkeys(train, 500)})


@dataclass(frozen=True)
class Kind:
    """A corpus: its clips without frames, of so many subjects where it names them; their mean
    number of frames; where the face lies."""

    clips: Callable[..., Iterator[Clip]]
    frames: int
    corner: tuple[float, float]


KINDS: Mapping[str, Kind] = {
    "crema-d": Kind(crema_d, 76, (128, 68)),
    "ravdess": Kind(ravdess, 122, (528, 248)),
    "oulu-casia": Kind(oulu_casia, 20, (48, 8)),
    "sase-fe": Kind(sase_fe, 350, (528, 368)),
    "fer2013": Kind(fer2013, 1, (0, 0)),
    "affectnet": Kind(affectnet, 1, (0, 0)),
    "ck+-frames": Kind(ck_plus_frames, 1, (0, 0)),
    "jaffe": Kind(jaffe, 1, (0, 0)),
    "ised-frames": Kind(ised_frames, 1, (0, 0)),
}
#: Those whose number of people can be chosen.
_OF_PEOPLE = ("crema-d", "ravdess", "oulu-casia", "sase-fe")
#: What the five papers read, small: outputs, share of the recordings, frames of a video.
_PAPERS: Mapping[str, tuple[tuple[str, ...], float, int]] = {
    "crema-d": (("landmarks",), 0.08, 12),
    "ravdess": (("landmarks", "crops"), 0.12, 12),
    "sase-fe": (OUTPUTS, 0.3, 24),
    "oulu-casia": (OUTPUTS, 0.4, 24),
    "fer2013": (("blendshapes", "crops"), 0.03, 1),
    "affectnet": (("landmarks", "crops"), 0.03, 1),
    "ck+-frames": (("landmarks", "crops"), 0.5, 1),
    "jaffe": (("landmarks", "crops"), 0.5, 1),
    "ised-frames": (("landmarks", "crops"), 0.5, 1),
}


def generate(
    kind: str,
    out: str | Path,
    *,
    outputs: Sequence[str] = ("landmarks",),
    subjects: int = 0,
    scale: float = 1.0,
    frames: int = 0,
    seed: int = 0,
    truth: Truth | None = None,
    crop_size: int = 48,
    crop_color: str = "gray",
) -> Path:
    """Writes the records of a generated corpus.

    A clip depends on its name, `seed`, `frames` and `truth` alone, not on the others.

    Args:
      kind: of `KINDS`.
      out: the record directory to make.
      outputs: streams, of `OUTPUTS`. Crops and frontal views are drawings of the landmarks.
      subjects: how many there are; 0 is the corpus's own number.
      scale: the share of recordings that is kept, twins together; every subject, emotion and part
        keeps about its share.
      frames: mean number of a video; 0 is the corpus's own. Lengths spread by a fifth.
      truth: what the people are like; `best_of(out)` says how well they can be read.

    Raises:
      UserError: no such kind or output, or `out` is there already.
    """
    out, truth = Path(out), truth or Truth()
    if kind not in KINDS:
        raise UserError(f"no corpus {kind!r} to generate: choose {', '.join(KINDS)}")
    if unknown := [name for name in outputs if name not in OUTPUTS]:
        raise UserError(f"no output {unknown[0]!r}: choose of {', '.join(OUTPUTS)}")
    if not 0 < scale <= 1:
        raise UserError(f"scale {scale:g}: give a share of the corpus, above 0 and at most 1")
    if out.exists():
        raise UserError(f"{out} is there already: name a new directory")
    people = () if not subjects else (subjects,)
    if subjects < 0 or (people and kind not in _OF_PEOPLE):
        raise UserError(
            f"{subjects} subjects: give a number above 0, and one of {', '.join(_OF_PEOPLE)}"
        )
    clips = list(chosen(list(KINDS[kind].clips(*people)), scale))
    if not clips:
        raise UserError(f"scale {scale:g} leaves no clip of {kind}: give a larger share")
    mean = frames if frames and KINDS[kind].frames > 1 else KINDS[kind].frames
    lengths = {clip.recording: _length(clip.recording, mean, seed) for clip in clips}
    known = {
        "kind": kind, "seed": seed, "truth": vars(truth),
        "emotions": Counter(clip.emotion for clip in clips),
        "frames": Counter(lengths[clip.recording] for clip in clips),
    }  # fmt: skip
    make = Maker(kind, outputs, truth, seed, crop_size, crop_color == "rgb")
    images = {name: (crop_size, crop_size, 3 if crop_color == "rgb" else 1)
              for name in ("crops", "frontal") if name in outputs}  # fmt: skip
    made = (make(clip, lengths[clip.recording]) for clip in clips)
    return write(out, made, len(clips), images, {"generated": known})


def best_of(out: str | Path, *, labels: str = "auto", known_subject: bool = False) -> Best:
    """`best_accuracy` of generated records.

    Raises:
      UserError: they were not generated.
    """
    path = Path(out) / "metadata.json"
    known = json.loads(path.read_text()).get("generated") if path.is_file() else None
    if known is None:
        raise UserError(f"{out} holds no generated records")
    return streams.best_accuracy(
        known["emotions"],
        {int(length): count for length, count in known["frames"].items()},
        Truth(**known["truth"]),
        labels=labels,
        known_subject=known_subject,
    )


def chosen(clips: Sequence[Clip], scale: float) -> Iterator[Clip]:
    """A share of the recordings, the same share of every subject, emotion and part."""
    seen: Counter[tuple[str, ...]] = Counter()
    kept: dict[str, bool] = {}
    for clip in clips:
        if clip.recording not in kept:
            group = clip.split, clip.emotion
            seen[group] += 1
            number = seen[group]
            kept[clip.recording] = int(number * scale + 1e-9) > int((number - 1) * scale + 1e-9)
        if kept[clip.recording]:
            yield clip


def _length(recording: str, mean: int, seed: int) -> int:
    if mean == 1:
        return 1
    return max(2, round(streams.random_of("length", recording, seed).normal(mean, mean / 5)))


class Maker:
    """Gives clips their frames; the arguments are those of `generate`."""

    def __init__(
        self,
        kind: str,
        outputs: Sequence[str],
        truth: Truth | None = None,
        seed: int = 0,
        size: int = 48,
        rgb: bool = False,
    ):
        self._corner, self._outputs = KINDS[kind].corner, outputs
        self._truth, self._seed = truth or Truth(), seed
        self._matrix, self._draw = streams.drawing(size, rgb)

    def __call__(self, clip: Clip, frames: int) -> Clip:
        truth, seed, take = self._truth, self._seed, clip.recording
        subject = clip.subject or clip.recording
        z = streams.expression(truth, subject, take, clip.emotion, seed)
        index = np.arange(frames, dtype=np.int32)
        corner = np.array(self._corner)
        box = np.concatenate([corner, corner + SIDE])
        found: dict[str, Any] = {
            "frame_index": index,
            "time_ms": (index * (1e3 / (clip.fps or 1))).astype(np.float32),
            "duration_ms": 1e3 * frames / clip.fps if clip.fps else 0.0,
            "face_found": np.ones(frames, bool),
            "box": np.tile(box.astype(np.float32), (frames, 1)),
        }
        if set(self._outputs) - {"blendshapes"}:
            points = streams.landmarks(truth, subject, take, z, frames, seed)
            if "landmarks" in self._outputs:
                found["landmarks68"] = np.asarray(points + corner, np.float32)
            pictures = [name for name in ("crops", "frontal") if name in self._outputs]
            if pictures:
                drawn = [self._draw(one) for one in points]
                found |= dict.fromkeys(pictures, drawn)
            if "crops" in self._outputs:
                matrix = self._matrix.copy()
                matrix[:, 2] -= matrix[:, :2] @ corner
                found["crop_matrix"] = np.tile(matrix.astype(np.float32), (frames, 1, 1))
        if "blendshapes" in self._outputs:
            scores = streams.blendshapes(truth, subject, take, z, frames, seed)
            found["blendshapes"] = scores.astype(np.float32)
        return clip.replace(**found)


def write(
    out: Path,
    clips: Iterator[Clip],
    count: int,
    image_shapes: Mapping[str, tuple[int, int, int]] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """The record directory of these `count` clips of one corpus with the same streams, which
    `fer_jax.data.corpus.load` reads."""
    out.mkdir(parents=True)
    first = next(clips)
    name, every, parts = first.corpus, chain([first], clips), -(-count // _SHARD)
    shards = [
        writer.write_shard(
            out / writer.shard_name(name, part, parts), map(encode, islice(every, _SHARD))
        )
        for part in range(parts)
    ]
    numbers, size = [shard.records for shard in shards], sum(shard.bytes for shard in shards)
    writer.write_dataset_info(
        out, name, numbers, size, first.streams, image_shapes or {}, "png", metadata or {}
    )
    return out


def generate_papers(out: str | Path, seed: int = 0) -> Path:
    """Small records of every corpus that the five papers read, a directory each below `out`; those
    that are there stay."""
    out = Path(out)
    for kind, (outputs, scale, frames) in _PAPERS.items():
        place, unfinished = out / kind, out / f".{kind}"
        if place.exists():
            continue
        shutil.rmtree(unfinished, ignore_errors=True)
        generate(
            kind, unfinished, outputs=outputs, scale=scale, frames=frames, seed=seed, crop_size=32
        ).rename(place)
    return out
