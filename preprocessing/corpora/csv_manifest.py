"""A collection of the user's own, described by a table.

RAW is the table, or a directory with one .csv file in it. Columns, in any order, separated by
commas, semicolons or tabs, UTF-8:

    path        the video or image, absolute or relative to the table (required)
    emotion     in whatever words you use (required)
    subject     who is seen
    split       train, validation or test
    recording   what copies of one take share; by default every file is its own
    intensity, statement
    start, end  seconds: only this part of a video is read; either may be empty

A mistake in the table stops the run before any work is done, with its line number; a file that
cannot be read is quarantined like anywhere else. Two rows may name the same file if their parts
differ.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fer_jax.errors import UserError
from fer_jax.records import Clip
from preprocessing import video
from preprocessing.corpora.folder import SPLITS
from preprocessing.corpora.tree import Findings

LAYOUT = "a .csv file with the columns path and emotion, and a row a clip"

_REQUIRED = ("path", "emotion")
_COLUMNS = (
    *_REQUIRED, "subject", "split", "recording", "intensity", "statement", "start", "end",
)  # fmt: skip
_PART = "#t="


def _table(root: Path) -> Path:
    if root.is_file():
        return root
    tables = sorted(root.glob("*.csv"))
    if len(tables) != 1:
        raise UserError(f"{root} holds {len(tables)} .csv files, one is needed; name the manifest")
    return tables[0]


@dataclass(frozen=True)
class _Row:
    """A line of the table with helpful errors."""

    where: str
    cells: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells.get(column, "")

    def seconds(self, column: str) -> float | None:
        if not self[column]:
            return None
        try:
            value = float(self[column])
        except ValueError:
            value = -1.0
        if not 0 <= value < float("inf"):
            raise UserError(f"{self.where}: {column} {self[column]!r} is no time in seconds")
        return value

    def part(self) -> str:
        """The part of the video as a media fragment (W3C: #t=start,end), "" for all of it."""
        start, end = self.seconds("start"), self.seconds("end")
        if start is None and end is None:
            return ""
        if end is not None and end <= (start or 0.0):
            raise UserError(f"{self.where}: end {end:g} does not lie after start {start or 0:g}")
        return f"{_PART}{start or 0:g}" + ("" if end is None else f",{end:g}")

    def split(self) -> str:
        word = self["split"].lower()
        if word and word not in SPLITS:
            raise UserError(
                f"{self.where}: unknown split {word!r}; known are train, validation, test"
            )
        return SPLITS.get(word, "")


def _rows(table: Path) -> Iterator[_Row]:
    try:
        text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{table}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
    if not text.strip():
        raise UserError(f"{table} is empty; expected {LAYOUT}")
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    header = [name.strip().lower() for name in next(reader)]
    for name in _REQUIRED:
        if header.count(name) != 1:
            raise UserError(f"{table}, line 1: needs one column {name!r}, has {', '.join(header)}")
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        where = f"{table}, line {reader.line_num}"
        if len(cells) != len(header):
            raise UserError(f"{where}: {len(cells)} cells, the header has {len(header)}")
        values = {
            name: cell.strip() for name, cell in zip(header, cells, strict=True) if name in _COLUMNS
        }
        for name in _REQUIRED:
            if not values[name]:
                raise UserError(f"{where}: {name} is empty")
        yield _Row(where, values)


def scan(root: Path, findings: Findings) -> Iterator[Clip]:
    """Clips of the table, by row."""
    seen: dict[str, str] = {}
    for row in _rows(_table(root)):
        source = row["path"] + row.part()
        if source in seen:
            raise UserError(f"{row.where}: {source} was on {seen[source]} before")
        seen[source] = row.where.rpartition(", ")[2]
        yield Clip(
            clip_id=f"csv/{source}",
            corpus="csv",
            subject=row["subject"],
            emotion=row["emotion"],
            intensity=row["intensity"],
            statement=row["statement"],
            recording=row["recording"] or row["path"],
            split=row.split(),
            source=source,
        )


def folder(root: Path) -> Path:
    """What the paths of the table are relative to."""
    return _table(root).parent


def open_frames(root: Path) -> Callable[[Clip], Iterator[video.Frame]]:
    """Frames of the named part; times stay those of the whole video."""
    base = folder(root)

    def read(clip: Clip) -> Iterator[video.Frame]:
        name, _, part = clip.source.partition(_PART)
        start_s, _, end_s = part.partition(",")
        start_ms = 1000 * float(start_s or 0)
        end_ms = 1000 * float(end_s or "inf")
        found = False
        for frame in video.read_frames(base / name):
            if frame.time_ms >= end_ms:
                break
            if frame.time_ms >= start_ms:
                found = True
                yield frame
        if not found:
            raise video.VideoError(f"{name} has no frame between {part.replace(',', ' s and ')} s")

    return read
