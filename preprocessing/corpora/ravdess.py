"""RAVDESS: 24 actors, 8 emotions spoken and 6 sung; 2,452 recordings at 29.97 fps, 1280x720.

Obtain: https://zenodo.org/records/1188976 (Video_Speech_Actor_NN.zip, Video_Song_Actor_NN.zip).
Terms: Creative Commons BY-NC-SA 4.0; commercial licences from the authors.

Layout: .mp4 files anywhere below ROOT (Actor_NN folders or flat), seven fields in the name, e.g.
02-01-06-01-02-01-12.mp4:

    modality     01 audio and video, 02 video only, 03 audio only (left out, and counted)
    channel      01 speech, 02 song (actor 18 did not sing)
    emotion      01 neutral 02 calm 03 happy 04 sad 05 angry 06 fearful 07 disgust 08 surprised
    intensity    01 normal, 02 strong
    statement    01 "Kids are talking by the door", 02 "Dogs are sitting by the door"
    repetition   01, 02
    actor        01 to 24

Modality 01 and 02 of a take show the same pictures: 4,904 files are 2,452 recordings, and
`recording` is the name without the modality. Counts of one modality: 1,440 spoken (neutral 96,
others 192), 1,012 sung (neutral 92; calm, happy, sad, angry, fearful 184).

Livingstone, Russo, The Ryerson Audio-Visual Database of Emotional Speech and Song, PLoS ONE 2018.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from fer_jax.labels import CORPUS_WORDS
from fer_jax.records import Clip
from preprocessing.corpora.tree import Findings, media_files
from preprocessing.video import VIDEO_SUFFIXES

LAYOUT = "video files named like 02-01-06-01-02-01-12.mp4"

_NAME = re.compile(r"(0[123])-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(0[1-9]|1\d|2[0-4])")
_INTENSITY = {"01": "normal", "02": "strong"}
_STATEMENT = {"01": "kids", "02": "dogs"}
_AUDIO_ONLY = "03"
_SPEECH = "01"


def scan(root: Path, findings: Findings) -> Iterator[Clip]:
    """Clips of the tree, by name."""
    for path in media_files(root, VIDEO_SUFFIXES | {".wav"}, findings):
        if not _NAME.fullmatch(path.stem):
            findings.reject(path.as_posix(), f"the name is not like RAVDESS's ({LAYOUT})")
        elif path.stem.startswith(_AUDIO_ONLY):
            findings.skipped["files of audio only (modality 03)"] += 1
        else:
            yield _clip(path.stem, path.as_posix())


def _clip(stem: str, source: str = "") -> Clip:
    _, _, emotion, intensity, statement, _, actor = stem.split("-")
    return Clip(
        clip_id=f"ravdess/{stem}",
        corpus="ravdess",
        subject=actor,
        emotion=CORPUS_WORDS["ravdess"][int(emotion) - 1],
        intensity=_INTENSITY[intensity],
        statement=_STATEMENT[statement],
        recording=stem.partition("-")[2],
        source=source,
    )


def listing(clips: Sequence[Clip]) -> Iterator[Clip]:
    """Every clip of each modality and channel that is there at all."""
    two = ("01", "02")
    emotions = [f"{n:02d}" for n in range(1, 9)]
    actors = [f"{n:02d}" for n in range(1, 25)]
    for start in sorted({clip.clip_id.partition("/")[2][:5] for clip in clips}):
        speech = start.endswith(_SPEECH)
        for fields in product(emotions, two, two, two, actors):
            emotion, intensity, *_, actor = fields
            strong_neutral = emotion == "01" and intensity == "02"
            if not strong_neutral and (speech or (emotion <= "06" and actor != "18")):
                yield _clip("-".join((start, *fields)))
