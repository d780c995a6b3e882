"""Splits that a file lists: our own split.csv, and the lists of MAE-DFER and others.

* A CSV with the columns part and clip_id, as `save_split` writes it; others are allowed, and
  `emotion` is compared. A clip may be given by its file's name.
* A directory of train.csv, test.csv and perhaps val.csv, whose lines are "path label": the path of
  a video, or of a directory of its frames, and a number or word for the emotion.
* A directory of such directories, or of directories with a split.csv: folds, in order.
"""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fer_jax import storage
from fer_jax.config import Protocol
from fer_jax.data.protocols.division import Division, fold_of, hold_out, some
from fer_jax.data.protocols.index import Entry, Index, in_order
from fer_jax.data.protocols.split import PARTS
from fer_jax.errors import UserError
from fer_jax.labels import canonical

#: What lists and columns call the parts.
_PART = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
_OWN = "split.csv"
_FORMS = (
    "a CSV with the columns part and clip_id, or a directory of train.csv and test.csv with lines "
    "like `path label`"
)


@dataclass(frozen=True)
class _Line:
    """One clip of a list. `word`: the label names an emotion; else it is any code."""

    part: str
    name: str
    label: str
    word: bool


def _path(protocol: Protocol) -> Path:
    """Raises:
    UserError: there is no such file.
    """
    if not protocol.file:
        raise UserError(f"protocol file needs --protocol.file: {_FORMS}")
    path = storage.local(protocol.file)
    if not path.exists():
        raise UserError(f"--protocol.file {path} does not exist: give {_FORMS}")
    return path


def _holds(directory: Path) -> bool:
    return (directory / _OWN).is_file() or (directory / "train.csv").is_file()


def fold_directories(protocol: Protocol) -> list[Path]:
    """The directories of a fold each; none where the file is one split.

    Raises:
      UserError: there is no such file, or nothing in it is a list.
    """
    path = _path(protocol)
    if not path.is_dir() or _holds(path):
        return []
    below = {one.name: one for one in path.iterdir() if one.is_dir() and _holds(one)}
    if not below:
        raise UserError(f"--protocol.file {path} holds no lists: give {_FORMS}")
    return [below[name] for name in in_order(below)]


def listed(index: Index, protocol: Protocol) -> Division:
    """`file`: what a file says; clips that it does not name are left out."""
    source = _path(protocol)
    name = f"file[{source.name}]"
    if folds := fold_directories(protocol):
        fold = fold_of(protocol, len(folds))
        name, source = f"file[{source.name} {fold}/{len(folds)}]", folds[fold]
    if source.is_dir() and (source / _OWN).is_file():
        source /= _OWN
    sha256, lines = "", []
    if source.is_dir():
        lines = [line for path in sorted(source.glob("*.csv")) for line in _read_list(path)]
    else:
        sha256, lines = _read_own(source)
    copies = {entry.clip_id for entry in index.entries if entry.original}
    lines = [line for line in lines if line.name not in copies]  # They follow their originals.
    found = _matched(lines, index.originals)
    _need_half(source, found, lines, index)
    parts = _parts(source, found)
    notes = _notes(source, found, lines, index)
    if both := sorted(parts["validation"] & parts["test"]):
        notes.append(
            f"{len(both):,} clips validate and test in {source} ({some(both)}): a checkpoint "
            "chosen on them is tested on them"
        )
    if source.is_dir() and not parts["validation"]:
        rest = [row for row in index.originals if row.clip_id in parts["train"]]
        parts["validation"] = hold_out(rest, protocol)
        parts["train"] -= parts["validation"]
    return Division(name, **parts, notes=notes, sha256=sha256)


def _text(path: Path) -> Iterator[str]:
    """Raises:
    UserError: it cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            yield from file
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _read_own(path: Path) -> tuple[str, list[_Line]]:
    """The hash that a split.csv states, and its lines."""
    text = list(_text(path))
    comments = [line for line in text if line.startswith("#")]
    stated = re.search(r"\bsha256 ([0-9a-f]{64})\b", "".join(comments))
    table = csv.DictReader(text[len(comments) :], restval="")
    try:
        rows = list(table)
    except csv.Error as error:
        raise UserError(f"--protocol.file {path} is no CSV ({error}): give {_FORMS}") from None
    if not {"part", "clip_id"} <= set(table.fieldnames or ()):
        raise UserError(f"--protocol.file {path} has no columns part and clip_id: give {_FORMS}")
    lines = []
    for number, row in enumerate(rows, len(comments) + 2):
        if row["part"] not in _PART:
            raise UserError(
                f"{path}, line {number}: part {row['part']!r} is none of {', '.join(_PART)}"
            )
        label = row.get("emotion", "")
        lines.append(_Line(_PART[row["part"]], row["clip_id"], label, word=True))
    return stated[1] if stated else "", lines


def _read_list(path: Path) -> list[_Line]:
    """The lines of train.csv, val.csv or test.csv; none of another file."""
    part = _PART.get(path.stem)
    lines = []
    for number, text in enumerate(_text(path) if part else (), 1):
        if not text.strip() or text.startswith("#"):
            continue
        match = re.fullmatch(r"(.+?)(?:\s+|\s*,\s*)([^\s,]+)", text.strip())
        if match is None:
            raise UserError(f"{path}, line {number}: {text.strip()!r} is not like `path label`")
        label = match[2]
        lines.append(_Line(part or "", match[1], label, word=not label.isdecimal()))
    return lines


def _pieces(name: str) -> tuple[str, ...]:
    """The directories and the stem of a path; a number as stem has no leading zeros."""
    *folders, last = [piece for piece in name.replace("\\", "/").split("/") if piece] or [""]
    stem = re.sub(r"\.[A-Za-z]\w{1,4}$", "", last)
    return (*folders, str(int(stem)) if stem.isdecimal() else stem)


def _matched(lines: Sequence[_Line], rows: Sequence[Entry]) -> list[tuple[_Line, Entry]]:
    """The lines whose clip is there: by its id, else by the end of its path.

    As many directories of the path count as tell the list's own lines apart.
    """
    by_id = {row.clip_id: row for row in rows}
    names = {line.name: _pieces(line.name) for line in lines}
    whole = len(set(names.values()))
    longest = max(map(len, names.values()), default=1)
    depth = next(
        d
        for d in range(1, longest + 1)
        if d == longest or len({n[-d:] for n in names.values()}) == whole
    )
    by_end: dict[tuple[str, ...], list[Entry]] = defaultdict(list)
    for row in rows:
        by_end[_pieces(row.clip_id)[-depth:]].append(row)
    found = []
    for line in lines:
        row = by_id.get(line.name)
        if row is None:
            same = by_end[names[line.name][-depth:]]
            row = same[0] if len(same) == 1 else None
        if row is not None:
            found.append((line, row))
    return found


def _need_half(
    source: Path, found: Sequence[tuple[_Line, Entry]], lines: Sequence[_Line], index: Index
) -> None:
    if not lines:
        raise UserError(f"{source} names no clip")
    if 2 * len(found) < len(lines):
        there = {id(line) for line, _ in found}
        example = next(line.name for line in lines if id(line) not in there)
        held = index.originals[0].clip_id if index.originals else "none"
        raise UserError(
            f"only {len(found):,} of the {len(lines):,} clips that {source} names are in the "
            f"records, whose clips are named like {held}, not {example}: give the records of "
            "that list's corpus"
        )


def _parts(source: Path, found: Sequence[tuple[_Line, Entry]]) -> dict[str, set[str]]:
    parts: dict[str, set[str]] = {part: set() for part in PARTS}
    for line, row in found:
        parts[line.part].add(row.clip_id)
    for other in ("validation", "test"):
        if both := sorted(parts["train"] & parts[other]):
            raise UserError(
                f"{source}: {len(both):,} clips are in train and in {other}: {some(both)}"
            )
    return parts


def _notes(
    source: Path,
    found: Sequence[tuple[_Line, Entry]],
    lines: Sequence[_Line],
    index: Index,
) -> list[str]:
    notes = []
    there = {id(line) for line, _ in found}
    if absent := [line.name for line in lines if id(line) not in there]:
        notes.append(
            f"{len(absent):,} of {len(lines):,} clips that {source} names are not in the records: "
            f"{some(absent)}"
        )
    if left := len(index.originals) - len({row.clip_id for _, row in found}):
        notes.append(f"{left:,} clips of the records are in no part of {source} and are left out")
    if wrong := _contradictions(found):
        notes.append(
            f"{source} labels {len(wrong):,} clips otherwise than the records, whose labels are "
            f"used: {some(wrong)}"
        )
    return notes


def _contradictions(found: Sequence[tuple[_Line, Entry]]) -> list[str]:
    """Clips with another label than most of their emotion have, or than the word says.

    Codes of emotions are unknown, so one may stand for several emotions.
    """
    usual: Mapping[str, Counter[str]] = defaultdict(Counter)
    for line, row in found:
        usual[row.emotion][line.label] += 1
    wrong = []
    for line, row in found:
        if not line.label or not row.emotion:
            continue
        if line.word:
            right = canonical(line.label) == row.emotion
        else:
            right = line.label == usual[row.emotion].most_common(1)[0][0]
        if not right:
            wrong.append(row.clip_id)
    return wrong
