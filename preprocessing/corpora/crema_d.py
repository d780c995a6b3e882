"""CREMA-D: 91 actors, 12 sentences, 6 emotions; 7,442 clips at 30 fps, 480x360.

Obtain: https://github.com/CheyneyComputerScience/CREMA-D (git lfs; the directory VideoFlash holds
the .flv files). Terms: Open Database License, contents under the Database Contents License.

Layout: the clips anywhere below ROOT, named <actor>_<sentence>_<emotion>_<intensity>, e.g.
1001_DFA_ANG_XX.flv; converted files (.mp4, .avi ...) are read as well. Actors are 1001 to 1091.
Intensity is LO, MD, HI or XX (not given; some lists write X). The label is what the actor was asked
for. Counts: 1,271 of each emotion, 1,087 of NEU.

Cao et al., CREMA-D: Crowd-sourced Emotional Multimodal Actors Dataset, IEEE Transactions on
Affective Computing, 2014.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fer_jax.labels import CORPUS_WORDS
from fer_jax.records import Clip
from preprocessing.corpora.tree import Findings, media_files
from preprocessing.video import VIDEO_SUFFIXES

LAYOUT = "video files named like 1001_DFA_ANG_XX.flv"

SENTENCES = ("IEO", "TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "DFA", "ITS", "TSI", "WSI")
_NAME = re.compile(
    rf"(10[0-8]\d|109[01])_({'|'.join(SENTENCES)})_({'|'.join(CORPUS_WORDS['crema-d'])})"
    r"_(XX|X|LO|MD|HI)"
)


def scan(root: Path, findings: Findings) -> Iterator[Clip]:
    """Clips of the tree, by name."""
    for path in media_files(root, VIDEO_SUFFIXES, findings):
        match = _NAME.fullmatch(path.stem)
        if match is None or match[1] == "1000":
            findings.reject(path.as_posix(), f"the name is not like CREMA-D's ({LAYOUT})")
            continue
        actor, sentence, emotion, intensity = match.groups()
        yield Clip(
            clip_id=f"crema-d/{path.stem}",
            corpus="crema-d",
            subject=actor,
            emotion=emotion,
            intensity="XX" if intensity == "X" else intensity,
            statement=sentence,
            recording=path.stem,
            source=path.as_posix(),
        )


def published(clips: Sequence[Clip]) -> Mapping[tuple[str, str], int]:
    """7,442 = 5 x 1,271 + 1,087, whichever part of it is there."""
    return {("", word): 1087 if word == "NEU" else 1271 for word in CORPUS_WORDS["crema-d"]}
