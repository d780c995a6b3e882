"""SAVEE: 4 men, 7 emotions; 480 clips at 60 fps with markers painted on the face.

Obtain: http://kahlan.eps.surrey.ac.uk/savee/ (registration). Terms: free for research, not for
commercial use.

Layout: AudioVisualClip/<speaker>/<emotion><n>.avi anywhere below ROOT, e.g.
AudioVisualClip/DC/a1.avi; names with the speaker in front (DC_a01) and converted videos are read as
well. Speakers are DC, JE, JK, KL. Emotion is a anger, d disgust, f fear, h happiness, n neutral, sa
sadness, su surprise; n is 1 to 15, of neutral 1 to 30. All four men read the same TIMIT sentences,
so emotion and number are the `statement`. AudioData (.wav) has no pictures: left out, and counted.
Counts: 60 of each emotion, 120 neutral.

Haq, Jackson, Speaker-dependent audio-visual emotion recognition, AVSP 2009.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from fer_jax.records import Clip
from preprocessing.corpora.tree import Findings, media_files
from preprocessing.video import VIDEO_SUFFIXES

LAYOUT = "video files like AudioVisualClip/DC/a1.avi"

SPEAKERS = ("DC", "JE", "JK", "KL")
_WORDS = {
    "a": "anger", "d": "disgust", "f": "fear", "h": "happiness", "n": "neutral", "sa": "sadness",
    "su": "surprise",
}  # fmt: skip
_NAME = re.compile(rf"(?:({'|'.join(SPEAKERS)})_)?(sa|su|a|d|f|h|n)(\d\d?)")


def scan(root: Path, findings: Findings) -> Iterator[Clip]:
    """Clips of the tree, by name."""
    for path in media_files(root, VIDEO_SUFFIXES | {".wav"}, findings):
        match = _NAME.fullmatch(path.stem)
        speaker = (match and match[1]) or path.parent.name
        if match is None or speaker not in SPEAKERS or not 1 <= int(match[3]) <= _last(match[2]):
            findings.reject(path.as_posix(), f"the name is not like SAVEE's ({LAYOUT})")
        elif path.suffix.lower() == ".wav":
            findings.skipped["files of audio only (.wav)"] += 1
        else:
            yield _clip(speaker, match[2], int(match[3]), path.as_posix())


def _last(code: str) -> int:
    return 30 if code == "n" else 15


def _clip(speaker: str, code: str, number: int, source: str = "") -> Clip:
    statement = f"{code}{number:02d}"
    return Clip(
        clip_id=f"savee/{speaker}_{statement}",
        corpus="savee",
        subject=speaker,
        emotion=_WORDS[code],
        statement=statement,
        recording=f"{speaker}_{statement}",
        source=source,
    )


def listing(clips: Sequence[Clip]) -> Iterator[Clip]:
    """480, whichever part of it is there."""
    for speaker in SPEAKERS:
        for code in _WORDS:
            for number in range(1, _last(code) + 1):
                yield _clip(speaker, code, number)
