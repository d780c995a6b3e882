"""CREMA-D: 91 actors, 12 sentences, 6 emotions; 7,442 clips at 30 fps, 480x360.

Obtain: https://github.com/CheyneyComputerScience/CREMA-D (git lfs; the directory VideoFlash holds
the .flv files). Terms: Open Database License, contents under the Database Contents License.

Layout: the clips anywhere below ROOT, named <actor>_<sentence>_<emotion>_<intensity>, e.g.
1001_DFA_ANG_XX.flv; converted files (.mp4, .avi ...) are read as well. Actors are 1001 to 1091.
Intensity is LO, MD, HI or XX (not given; some copies write X, which is taken for XX). The label is
what the actor was asked for. Counts: 1,271 of each emotion, 1,087 of NEU.

By the rule every actor says IEO in three intensities of five emotions and neutrally, and the other
eleven sentences in six emotions: 91 x 82 = 7,462 names, 20 of which were never published.
crema_d_known_bad.csv beside this file lists the published clips that are not what their names say:
what is wrong, whether the pictures suffer, who says so, and the version of the table that brought
the row. They stay in (7,442 is what papers use) and are named in the report.

Cao et al., CREMA-D: Crowd-sourced Emotional Multimodal Actors Dataset, IEEE Transactions on
Affective Computing, 2014.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from fer_jax.labels import CORPUS_WORDS
from fer_jax.records import Clip
from preprocessing.corpora.tree import Findings, media_files
from preprocessing.video import VIDEO_SUFFIXES

LAYOUT = "video files named like 1001_DFA_ANG_XX.flv"

SENTENCES = ("IEO", "TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "DFA", "ITS", "TSI", "WSI")
_WORDS = CORPUS_WORDS["crema-d"]
_NAME = re.compile(
    rf"(10(?:0[1-9]|[1-8]\d|9[01])_(?:{'|'.join(SENTENCES)})_(?:{'|'.join(_WORDS)}))_(XX?|LO|MD|HI)"
)
#: How the names begin that the rule makes and the corpus does not have.
_NEVER_PUBLISHED = ("1002_TIE_NEU", "1008_WSI", "1009_MTI", "1019_ITH", "1076_ITS_NEU")


def scan(root: Path, findings: Findings) -> Iterator[Clip]:
    """Clips of the tree, by name."""
    for path in media_files(root, VIDEO_SUFFIXES, findings):
        match = _NAME.fullmatch(path.stem)
        if match is None:
            findings.reject(path.as_posix(), f"the name is not like CREMA-D's ({LAYOUT})")
            continue
        start, intensity = match.groups()
        yield _clip(f"{start}_{'XX' if intensity == 'X' else intensity}", path.as_posix())


def _clip(name: str, source: str = "") -> Clip:
    actor, sentence, emotion, intensity = name.split("_")
    return Clip(
        clip_id=f"crema-d/{name}",
        corpus="crema-d",
        subject=actor,
        emotion=emotion,
        intensity=intensity,
        statement=sentence,
        recording=name,
        source=source,
    )


def listing(clips: Sequence[Clip]) -> Iterator[Clip]:
    """7,442 = 5 x 1,271 + 1,087, whichever part of it is there."""
    for actor, sentence, emotion in product(range(1001, 1092), SENTENCES, _WORDS):
        start = f"{actor}_{sentence}_{emotion}"
        graded = sentence == "IEO" and emotion != "NEU"
        if not start.startswith(_NEVER_PUBLISHED):
            for intensity in ("LO", "MD", "HI") if graded else ("XX",):
                yield _clip(f"{start}_{intensity}")


def known_bad() -> list[dict[str, str]]:
    """The rows of the table: clip, problem, pictures ("bad", "good"), source, since."""
    with open(Path(__file__).with_name("crema_d_known_bad.csv"), newline="") as file:
        return list(csv.DictReader(file))


def notes(clips: Sequence[Clip]) -> Iterator[str]:
    """The clips whose pictures are known to be bad."""
    here = {clip.recording for clip in clips}
    bad = [row for row in known_bad() if row["pictures"] == "bad" and row["clip"] in here]
    if bad:
        said = "; ".join(f"{row['clip']}: {row['problem']}" for row in bad)
        yield f"clips known to be faulty ({len(bad)}; --exclude leaves them out): {said}"
