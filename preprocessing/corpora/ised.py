"""ISED: 50 Indian people watching videos, 4 spontaneous emotions; 428 clips at 50 fps, 1920x1080.

Obtain: https://sites.google.com/site/iseddatabase/ (a signed agreement, by mail). Terms: academic
research, not commercial.

Layout, as the corpus's README describes it, in ROOT:

    ISED_details.mat         a cell array of 428 rows and 16 columns, of which are read: 5 path of
                             the clip, 6 path of its peak image, 7 emotion (1 happiness 2 surprise
                             3 sadness 4 disgust, or the word), 8 intensity
    videos/PS 1/4.avi        the 4th clip of participant 1
    peakImages/26_7_39.jpg   frame 39, the peak, of participant 26's 7th clip

`ised` gives the videos, `ised-frames` the peak images (paper 4 tests on single images). The name of
the variable in the .mat file is not documented: its largest array of enough columns is taken. A
copy without that file, or with another, is described by a `csv` manifest. Counts: happiness 227,
surprise 73, sadness 48, disgust 80.

Happy, Patnaik, Routray, Guha, The Indian Spontaneous Expression Database for Emotion Recognition,
IEEE Transactions on Affective Computing, 2015.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from fer_jax.errors import UserError
from fer_jax.labels import CORPUS_WORDS
from fer_jax.records import Clip
from preprocessing.corpora.tree import Findings, media_files
from preprocessing.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES

LAYOUT = "ISED_details.mat, and what it names: videos/PS 1/4.avi, peakImages/26_7_39.jpg"

_TABLE = "ISED_details.mat"
_VIDEO, _PEAK, _EMOTION, _INTENSITY = 4, 5, 6, 7
_WORDS = CORPUS_WORDS["ised"]
_COUNTS = (227, 73, 48, 80)


def _table(root: Path) -> Iterator[list[str]]:
    """The rows of the table as text."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    path = root / _TABLE
    remedy = "describe your copy with a csv manifest"
    if not path.is_file():
        raise UserError(f"{path} is missing, and with it the labels (expected {LAYOUT}); {remedy}")
    try:
        values = loadmat(path).values()
    except (MatReadError, OSError, ValueError, TypeError, NotImplementedError) as error:
        raise UserError(f"cannot read {path}: {error}; {remedy}") from error
    wide = [v for v in values if getattr(v, "ndim", 0) == 2 and v.shape[1] > _INTENSITY]
    if not wide:
        raise UserError(f"{path} holds no table of {_INTENSITY + 1} columns or more; {remedy}")
    for row in max(wide, key=len):
        yield [str(np.squeeze(cell)).strip() for cell in row]


def _scan(root: Path, findings: Findings, column: int) -> Iterator[Clip]:
    suffixes = VIDEO_SUFFIXES if column == _VIDEO else IMAGE_SUFFIXES
    here = {path.as_posix() for path in media_files(root, suffixes, findings)}
    listed = set()
    for row in _table(root):
        source = row[column].replace("\\", "/").lstrip("./")
        name = re.fullmatch(r"videos/PS (\d+)/(\d+)\.\w+|peakImages/(\d+)_(\d+)_\d+\.\w+", source)
        emotion = re.fullmatch(rf"([1-4])(?:\.0)?|{'|'.join(_WORDS)}", row[_EMOTION].lower())
        if name is None or emotion is None:
            findings.reject(source, f"a row of {_TABLE} with the emotion {row[_EMOTION]!r}")
            continue
        listed.add(source)
        if source not in here:
            findings.missing.append(source)
            continue
        person, clip = [part for part in name.groups() if part]
        yield Clip(
            clip_id=f"ised/{person}_{clip}",
            corpus="ised",
            subject=person,
            emotion=_WORDS[int(emotion[1]) - 1] if emotion[1] else emotion[0],
            intensity=row[_INTENSITY],
            recording=f"{person}_{clip}",
            source=source,
        )
    if column == _VIDEO and (extra := sorted(here - listed)):
        findings.skipped[f"videos that {_TABLE} does not name, e.g. {extra[0]}"] += len(extra)


def scan(root: Path, findings: Findings) -> Iterator[Clip]:
    """The videos that the table names."""
    return _scan(root, findings, _VIDEO)


def _scan_frames(root: Path, findings: Findings) -> Iterator[Clip]:
    return _scan(root, findings, _PEAK)


def published(clips: Sequence[Clip]) -> Mapping[tuple[str, str], int]:
    """428 clips, and as many peaks."""
    return {("", word): n for word, n in zip(_WORDS, _COUNTS, strict=True)}


#: The adapter `ised-frames`.
FRAMES = SimpleNamespace(LAYOUT=LAYOUT, scan=_scan_frames, published=published)
