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
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
_SONG_WORDS = CORPUS_WORDS["ravdess"][:6]


def scan(root: Path, findings: Findings) -> Iterator[Clip]:
    """Clips of the tree, by name."""
    for path in media_files(root, VIDEO_SUFFIXES | {".wav"}, findings):
        match = _NAME.fullmatch(path.stem)
        if match is None:
            findings.reject(path.as_posix(), f"the name is not like RAVDESS's ({LAYOUT})")
            continue
        modality, _, emotion, intensity, statement, _, actor = match.groups()
        if modality == _AUDIO_ONLY:
            findings.skipped["RAVDESS audio only (modality 03)"] += 1
            continue
        yield Clip(
            clip_id=f"ravdess/{path.stem}",
            corpus="ravdess",
            subject=actor,
            emotion=CORPUS_WORDS["ravdess"][int(emotion) - 1],
            intensity=_INTENSITY[intensity],
            statement=_STATEMENT[statement],
            recording=path.stem.partition("-")[2],
            source=path.as_posix(),
        )


def published(clips: Sequence[Clip]) -> Mapping[tuple[str, str], int]:
    """The published counts of every modality and channel that is there at all."""
    counts: Counter[tuple[str, str]] = Counter()
    for channel in {clip.source.rpartition("/")[2][:5] for clip in clips}:
        speech = channel.endswith(_SPEECH)
        neutral, other = (96, 192) if speech else (92, 184)
        for word in CORPUS_WORDS["ravdess"] if speech else _SONG_WORDS:
            counts["", word] += neutral if word == "neutral" else other
    return counts
