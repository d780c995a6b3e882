"""AffectNet: faces from the web, manually labelled; 287,651 training images of 8 expressions.

Obtain: http://mohammadmahoor.com/affectnet/ (on request). Terms: research, not
commercial; no redistribution.

Layout, one of the two releases:

    Manually_Annotated_file_lists/training.csv, validation.csv      (or the tables in ROOT)
    Manually_Annotated_Images/689/737db248...b61b.jpg               of any size; several faces
or
    train_set/images/0.jpg          val_set/images/0.jpg            crops of 224x224
    train_set/annotations/0_exp.npy ...

Expression is 0 Neutral 1 Happiness 2 Sadness 3 Surprise 4 Fear 5 Disgust 6 Anger 7 Contempt; 8
None, 9 Uncertain and 10 No-Face (tables only) are left out, and counted. The tables also give the
box of the face that is meant: frames are that part of the picture, with MARGIN of it on each side,
and all coordinates in the records are that part's. AffectNet's own 68 points are not read:
`landmarks` are found like in any other picture, by the same detector that will find them when the
model is used.

Splits are train and validation (the test set is not public). Counts: training 74,874 134,415 25,459
14,090 6,378 3,803 24,882 3,750, together 283,901 in seven classes and 287,651 in eight; validation
500 each. The second release lacks one validation image. There are no subjects.

Mollahosseini, Hasani, Mahoor, AffectNet, IEEE Transactions on Affective Computing, 2017.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from fer_jax.labels import CORPUS_WORDS
from fer_jax.records import Clip
from preprocessing import video
from preprocessing.corpora.tree import Findings, media_files

LAYOUT = (
    "Manually_Annotated_file_lists/training.csv with Manually_Annotated_Images/, or "
    "train_set/images/ with train_set/annotations/"
)

#: How much of the face's box is added on each side, so that a detector sees a whole head.
MARGIN = 0.3
_WORDS = CORPUS_WORDS["affectnet"]
_NO_EXPRESSION = {8: "None", 9: "Uncertain", 10: "No-Face"}
_COUNTS = {
    "train": (74874, 134415, 25459, 14090, 6378, 3803, 24882, 3750),
    "validation": (500,) * 8,
}
_TABLES = {"training.csv": "train", "validation.csv": "validation"}
_SETS = {"train_set": "train", "val_set": "validation"}
_BOX = "#xywh="


def scan(root: Path, findings: Findings) -> Iterator[Clip]:
    """Images that a table or an annotation gives an expression."""
    parts = (
        "",
        "Manually_Annotated_file_lists",
        "Manually_Annotated/Manually_Annotated_file_lists",
    )
    tables = [root / part / name for part in parts for name in _TABLES]
    if found := [table for table in tables if table.is_file()]:
        for table in found:
            yield from _scan_table(root, table, findings)
        return
    for part in sorted(root.glob("**/annotations")):
        yield from _scan_annotations(root, part.parent.relative_to(root), findings)


def _scan_table(root: Path, table: Path, findings: Findings) -> Iterator[Clip]:
    parts = ("Manually_Annotated_Images", "Manually_Annotated/Manually_Annotated_Images")
    folder = next((part for part in parts if (root / part).is_dir()), "")
    with open(table, newline="") as file:
        for line, row in enumerate(csv.reader(file), 1):
            # Some copies of validation.csv have no line of titles.
            if row and row[0] == "subDirectory_filePath":
                continue
            try:
                source = (Path(folder) / row[0]).as_posix()
                box = ",".join(str(int(float(cell))) for cell in row[1:5])
                expression = int(row[6])
            except (IndexError, ValueError) as error:
                findings.reject(f"{table.name}#{line}", f"line {line} is malformed: {error}")
                continue
            if (root / source).is_file():
                clip = _clip(Path(row[0]), expression, _TABLES[table.name], findings)
                if clip is not None:
                    yield clip.replace(source=source + _BOX + box)
            elif expression not in _NO_EXPRESSION:
                findings.missing.append(source)


def _scan_annotations(root: Path, part: Path, findings: Findings) -> Iterator[Clip]:
    name = (root / part).absolute().name
    images = part / "images"
    for path in media_files(root / images, video.IMAGE_SUFFIXES, findings):
        label = root / part / "annotations" / f"{path.stem}_exp.npy"
        source = (images / path).as_posix()
        try:
            # Numbers in some copies, text in others.
            expression = int(np.load(label).item())
        except (OSError, ValueError) as error:
            findings.reject(source, f"no expression in {label.relative_to(root)}: {error}")
            continue
        clip = _clip(Path(name) / path, expression, _SETS.get(name, ""), findings)
        if clip is not None:
            yield clip.replace(source=source)


def _clip(name: Path, expression: int, split: str, findings: Findings) -> Clip | None:
    """The image as a clip, its source left open; None if it shows no expression."""
    stem = name.with_suffix("").as_posix()
    if expression in _NO_EXPRESSION:
        findings.skipped[f"images labelled {_NO_EXPRESSION[expression]}"] += 1
        return None
    if not 0 <= expression < len(_WORDS):
        findings.reject(name.as_posix(), f"expression {expression} is not 0 to 10")
        return None
    return Clip(
        clip_id=f"affectnet/{stem}",
        corpus="affectnet",
        emotion=_WORDS[expression],
        recording=stem,
        split=split,
    )


def open_frames(root: Path) -> Callable[[Clip], Iterator[video.Frame]]:
    """The image, or the part of it around the face that is meant."""

    def read(clip: Clip) -> Iterator[video.Frame]:
        name, _, box = clip.source.partition(_BOX)
        for frame in video.read_frames(root / name):
            yield video.Frame(0, 0.0, _around(frame.image, box)) if box else frame

    return read


def _around(image: np.ndarray, box: str) -> np.ndarray:
    """u8[h, w, 3] of the box "x,y,width,height" and MARGIN about it, as far as the image goes."""
    left, top, width, height = map(int, box.split(","))
    x, y = int(MARGIN * width), int(MARGIN * height)
    rows = slice(max(0, top - y), max(0, top + height + y))
    part = image[rows, max(0, left - x) : max(0, left + width + x)]
    if not part.size:
        raise video.VideoError(f"the face's box {box} lies outside of the image")
    return part


def published(clips: Sequence[Clip]) -> Mapping[tuple[str, str], int]:
    """287,651 and 4,000; without contempt where the copy at hand has none of it."""
    words = {clip.emotion for clip in clips}
    return {
        (split, word): n
        for split, numbers in _COUNTS.items()
        for word, n in zip(_WORDS, numbers, strict=True)
        if word != "Contempt" or word in words
    }
