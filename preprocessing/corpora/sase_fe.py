"""SASE-FE: 54 people, 6 emotions, each felt and acted; 643 clips of 3 to 4 s at 100 fps.

Obtain: http://icv.tuit.ut.ee/sase-fe-database.html (University of Tartu, on request). Terms:
academic research.

Layout: FakeTrue_DB/<person>/<name>.MP4 or, of the ChaLearn 2017 challenge,
Train/<person>/<name>.MP4 anywhere below ROOT; the folder is the person. Names say through which
expressions the face goes, in upper or lower case: N2A is neutral to anger, felt; H2N2A is happy to
neutral to anger, acted. As several public loaders of the corpus read them:

    felt    N2A    N2C    N2D    N2H    N2S    N2Sur
    acted   H2N2A  H2N2C  H2N2D  S2N2H  H2N2S  D2N2Sur (once D2N2S)

C is "contempt" in the corpus's page and paper, "contentment" in the challenge and in the code of
paper 3; the labels here follow the latter, and both words mean the same class. The challenge's
validation and test videos do not say what is acted: they are listed as malformed, and may be
described by a `csv` manifest, like any copy with other names.

Counts: 643 of 54 people (the paper; 12 each, less five that nobody names). The corpus's page and
the challenge have 50 people (40 train, 5 validation, 5 test).

Kulkarni et al., Automatic Recognition of Facial Displays of Unfelt Emotions, IEEE Transactions on
Affective Computing, 2018.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fer_jax.records import Clip
from preprocessing.corpora.tree import Findings, media_files
from preprocessing.video import VIDEO_SUFFIXES

LAYOUT = "video files like FakeTrue_DB/<person>/N2A.MP4 (felt) and H2N2A.MP4 (acted)"

CLIPS, PEOPLE = 643, 54
_WORDS = {
    "N2A": "Anger_Real", "N2C": "Contentment_Real", "N2D": "Disgust_Real",
    "N2H": "Happiness_Real", "N2S": "Sadness_Real", "N2Sur": "Surprise_Real",
    "H2N2A": "Anger_Fake", "H2N2C": "Contentment_Fake", "H2N2D": "Disgust_Fake",
    "S2N2H": "Happiness_Fake", "H2N2S": "Sadness_Fake", "D2N2Sur": "Surprise_Fake",
}  # fmt: skip
_NAMES = {name.upper(): name for name in _WORDS} | {"D2N2S": "D2N2Sur"}


def scan(root: Path, findings: Findings) -> Iterator[Clip]:
    """Clips of the tree, by name."""
    for path in media_files(root, VIDEO_SUFFIXES, findings):
        name = _NAMES.get(path.stem.upper())
        if name is None or not path.parent.name:
            findings.reject(
                path.as_posix(), f"not like SASE-FE's {LAYOUT}; describe it with a csv manifest"
            )
            continue
        yield _clip(path.parent.name, name, path.as_posix())


def _clip(person: str, name: str, source: str = "") -> Clip:
    return Clip(
        clip_id=f"sase-fe/{person}/{name}",
        corpus="sase-fe",
        subject=person,
        emotion=_WORDS[name],
        recording=f"{person}/{name}",
        source=source,
    )


def listing(clips: Sequence[Clip]) -> Iterator[Clip]:
    """Twelve of each person who is there; nobody publishes their names."""
    for person in sorted({clip.subject for clip in clips}):
        for name in _WORDS:
            yield _clip(person, name)


def published(clips: Sequence[Clip]) -> Mapping[tuple[str, str], int]:
    """Empty: 643 is not told by emotion."""
    return {}


def notes(clips: Sequence[Clip]) -> Iterator[str]:
    """How much of the corpus this is."""
    people = len({clip.subject for clip in clips})
    if (len(clips), people) != (CLIPS, PEOPLE):
        yield f"{len(clips)} clips of {people} people here, {CLIPS} of {PEOPLE} published"
