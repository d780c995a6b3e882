"""FER2013: 35,887 grey face images of 48x48 in 7 classes, with an official partition.

Obtain: https://www.kaggle.com/c/challenges-in-representation-learning-facial-expression-recognition-challenge
(needs an account and consent to the rules). Terms: research use; do not redistribute.
FER+ votes (optional): fer2013new.csv of https://github.com/microsoft/FERPlus (MIT), put beside the
table.

Layout, the first that is found in ROOT or ROOT/fer2013 (ROOT may also be the table itself):

    fer2013.csv, icml_face_data.csv     columns emotion, pixels (2,304 numbers), Usage; .gz as well
    train|validation|test/<class>/*     image folders (also Training, PublicTest, PrivateTest); a
                                        test image named PublicTest_* belongs to validation

Usage Training, PublicTest, PrivateTest is split train, validation, test. Labels: 0 angry 1 disgust
2 fear 3 happy 4 sad 5 surprise 6 neutral. Counts: 28,709 / 3,589 / 3,589. Row n, from 0, is clip
"fer2013/fer<n>". FER+ votes go with the table row by row: neutral, happiness, surprise, sadness,
anger, disgust, fear, contempt, unknown, not a face; NaN where FER+ has no votes; image folders get
none. A malformed row is quarantined with its line number.

Goodfellow et al., Challenges in Representation Learning, 2013; Barsoum et al., ICMI 2016 (FER+).
"""

from __future__ import annotations

import csv
import gzip
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from fer_jax.errors import UserError
from fer_jax.labels import CORPUS_WORDS
from fer_jax.records import Clip
from preprocessing import video
from preprocessing.corpora.folder import SPLITS as FOLDER_SPLITS
from preprocessing.corpora.tree import Findings, media_files

LAYOUT = "fer2013.csv, fer2013.csv.gz, icml_face_data.csv or image folders train|test/<class>/"
#: The images are face crops already: they are kept as they are, without loss.
RECIPE = {
    "crop_size": 48,
    "crop_color": "gray",
    "crop_format": "png",
    "align": "none",
    # As paper 5. MediaPipe looks harder for a second face, at the cost of time.
    "max_faces": 1,
}

SIDE = 48
_TABLES = ("fer2013.csv", "fer2013.csv.gz", "icml_face_data.csv", "icml_face_data.csv.gz")
_VOTES = "fer2013new.csv"
_WORDS = CORPUS_WORDS["fer2013"]
_USAGE = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}
_SPLITS = FOLDER_SPLITS | {usage.lower(): split for usage, split in _USAGE.items()}
_COUNTS = {
    "train": (3995, 436, 4097, 7215, 4830, 3171, 4965),
    "validation": (467, 56, 496, 895, 653, 415, 607),
    "test": (491, 55, 528, 879, 594, 416, 626),
}


@dataclass(frozen=True)
class _Row:
    """A row of the table: its number from 0, its line in the file, its cells, what is wrong."""

    number: int
    line: int
    emotion: str
    usage: str
    pixels: bytes
    problem: str


def _table(root: Path) -> Path | None:
    if root.is_file():
        return root
    places = (folder / name for folder in (root, root / "fer2013") for name in _TABLES)
    return next((path for path in places if path.is_file()), None)


def _rows(table: Path) -> Iterator[_Row]:
    """Rows of Kaggle's table, in constant memory.

    Raises:
      UserError: no such table, or damaged compression.
    """
    with gzip.open(table) if table.suffix == ".gz" else open(table, "rb") as file:
        try:
            header = [cell.strip(b' "\r\n').lower() for cell in file.readline().split(b",")]
            if sorted(header) != [b"emotion", b"pixels", b"usage"]:
                raise UserError(
                    f"{table} is no FER2013 table: the columns must be emotion, pixels, Usage"
                )
            order = [header.index(name) for name in (b"emotion", b"usage", b"pixels")]
            number = 0
            for line_number, line in enumerate(file, start=2):
                if line.strip():
                    yield _parse(number, line_number, line.split(b","), order)
                    number += 1
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(f"{table} is damaged ({error}); download it again") from error


def _parse(number: int, line: int, cells: list[bytes], order: list[int]) -> _Row:
    """A row with what is wrong with it at first sight."""
    if len(cells) != 3:
        return _Row(number, line, "", "", b"", f"line {line}: {len(cells)} cells instead of 3")
    stripped = [cells[i].strip(b' "\r\n') for i in order]
    emotion, usage = (cell.decode(errors="replace") for cell in stripped[:2])
    pixels = stripped[2]
    problem = ""
    if emotion not in tuple("0123456"):
        problem = f"line {line}: emotion {emotion!r} is not 0 to 6"
    elif usage not in _USAGE:
        problem = f"line {line}: Usage {usage!r} is not one of {', '.join(_USAGE)}"
    elif pixels.count(b" ") != SIDE * SIDE - 1:
        problem = f"line {line}: {len(pixels.split())} pixels instead of {SIDE * SIDE}"
    return _Row(number, line, emotion, usage, pixels, problem)


def _votes(path: Path, rows: int, usages: Sequence[str]) -> np.ndarray | None:
    """FER+ votes f32[rows, 10], NaN where there are none; None without the file."""
    if not path.is_file():
        return None
    with open(path, newline="") as file:
        _, *lines = csv.reader(file)
    if len(lines) != rows:
        raise UserError(
            f"{path} has {len(lines)} rows, the table {rows}: they do not belong together"
        )
    votes = np.full((rows, 10), np.nan, np.float32)
    for i, (usage, name, *counts) in enumerate(lines):
        if usages[i] and usage != usages[i]:
            raise UserError(
                f"{path}, line {i + 2}: Usage {usage}, the table says {usages[i]}: they do not "
                "belong together"
            )
        if name:
            try:
                votes[i] = np.array(counts, np.float32)
            except ValueError as error:
                raise UserError(f"{path}, line {i + 2}: needs 10 numbers of votes") from error
    return votes


def scan(root: Path, findings: Findings) -> Iterator[Clip]:
    """Clips of the table or of the image folders; no pixel is kept."""
    table = _table(root)
    if table is None:
        yield from _scan_folders(root, findings)
        return
    found: list[Clip] = []
    usages: list[str] = []
    name = table.name if root.is_file() else table.relative_to(root).as_posix()
    for row in _rows(table):
        usages.append("" if row.problem else row.usage)
        source = f"{name}#{row.number}"
        if row.problem:
            findings.reject(source, row.problem)
            continue
        stem = f"fer{row.number:07d}"
        found.append(
            Clip(
                clip_id=f"fer2013/{stem}",
                corpus="fer2013",
                emotion=_WORDS[int(row.emotion)],
                recording=stem,
                split=_USAGE[row.usage],
                source=source,
            )
        )
    votes = _votes(table.parent / _VOTES, len(usages), usages)
    for clip in found:
        row = int(clip.source.rpartition("#")[2])
        yield clip if votes is None else clip.replace(votes=votes[row])


def _scan_folders(root: Path, findings: Findings) -> Iterator[Clip]:
    for path in media_files(root, video.IMAGE_SUFFIXES, findings):
        *_, split, word, name = ("", "", *path.parts)
        if split.lower() not in _SPLITS or word.lower() not in _WORDS:
            findings.reject(path.as_posix(), f"does not lie in <split>/<class>/ ({LAYOUT})")
            continue
        # Kaggle's image folders put both test sets into one; the files still say which.
        usage = _USAGE.get(name.partition("_")[0], _SPLITS[split.lower()])
        yield Clip(
            clip_id=f"fer2013/{path.with_suffix('').as_posix()}",
            corpus="fer2013",
            emotion=word.lower(),
            recording=path.with_suffix("").as_posix(),
            split=usage,
            source=path.as_posix(),
        )


def folder(root: Path) -> Path:
    """What sources are relative to: ROOT, or where the table lies that was given as ROOT."""
    return root.parent if root.is_file() else root


def open_frames(root: Path) -> Callable[[Clip], Iterator[video.Frame]]:
    """Rows of the table (parsed once a process, on the first image) or image files."""
    table = _table(root)
    if table is None:
        return lambda clip: video.read_frames(root / clip.source)

    def read(clip: Clip) -> Iterator[video.Frame]:
        images, problems = _pixels(table)
        row = int(clip.source.rpartition("#")[2])
        if row in problems:
            raise video.VideoError(problems[row])
        yield video.Frame(0, 0.0, np.repeat(images[row][..., None], 3, axis=2))

    return read


@lru_cache(maxsize=1)
def _pixels(table: Path) -> tuple[np.ndarray, Mapping[int, str]]:
    """u8[N, 48, 48] of every row, and what is wrong with the rows that have no picture."""
    data = bytearray()
    problems: dict[int, str] = {}
    blank = bytes(SIDE * SIDE)
    for row in _rows(table):
        problem = row.problem
        values = np.zeros(0, np.uint8) if problem else _parse_pixels(row.pixels)
        if not problem and len(values) != SIDE * SIDE:
            problem = f"line {row.line}: a pixel is no whole number from 0 to 255"
        if problem:
            problems[row.number] = problem
        data += blank if problem else values.tobytes()
    return np.frombuffer(data, np.uint8).reshape(-1, SIDE, SIDE), problems


def _parse_pixels(text: bytes) -> np.ndarray:
    """u8[n] of the numbers in `text`; empty if one of them is no pixel."""
    with warnings.catch_warnings():
        # Older NumPy stops at what is no number and warns, newer raises.
        warnings.simplefilter("error", DeprecationWarning)
        try:
            values = np.fromstring(text, np.int64, sep=" ")
        except (ValueError, DeprecationWarning):
            return np.zeros(0, np.uint8)
    if values.min() < 0 or values.max() > 255:
        return np.zeros(0, np.uint8)
    return values.astype(np.uint8)


def published(clips: Sequence[Clip]) -> Mapping[tuple[str, str], int]:
    """28,709 / 3,589 / 3,589; both test sets as one where the copy at hand merged them."""
    counts = {
        (split, word): n
        for split, numbers in _COUNTS.items()
        for word, n in zip(_WORDS, numbers, strict=True)
    }
    if not any(clip.split == "validation" for clip in clips):
        for word in _WORDS:
            counts["test", word] += counts.pop(("validation", word))
    return counts
