"""A division of a corpus, and its form on disk."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from fer_jax.data.protocols.index import Index
from fer_jax.records import Clip

PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Split:
    """A division of a corpus.

    Attributes:
      name: the protocol's, with fold and number of folds where it has them.
      train, validation, test: i64[n], indices into the corpus, in the order of their clip ids.
      clip_ids: the clip id of every index of the corpus.
      notes: what a user should know of it, a line each.
    """

    name: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    clip_ids: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @cached_property
    def sha256(self) -> str:
        """Hash of the sorted clip ids of each part: equal for equal splits everywhere."""
        lines = []
        for part in PARTS:
            lines += [part + ":", *sorted(self.clip_ids[i] for i in getattr(self, part))]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def everything(clips: Sequence[Clip], name: str) -> Split:
    """A split that tests on every original clip: for records that a run never saw."""
    ids = tuple(clip.clip_id for clip in clips)
    test = sorted((i for i, clip in enumerate(clips) if not clip.augmentation), key=ids.__getitem__)
    none = np.zeros(0, np.int64)
    return Split(name, none, none, np.asarray(test, np.int64), ids)


def save_split(path: str | Path, split: Split, index: Index | None = None) -> None:
    """Writes a CSV of part and clip_id, a line a clip; replaces the file in one step.

    Protocol `file` reads it.

    Args:
      index: of the corpus: the file then says of each clip what it shows, and in a comment above
        the header what the split is.
    """
    path = Path(path)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = () if index is None else ("subject", "emotion", "recording")
    if index is not None:
        text.write(f"# {split.name}, sha256 {split.sha256}\n")
    writer.writerow(("part", "clip_id", *columns))
    for part in PARTS:
        for i in getattr(split, part):
            entry = index.entries[i] if index is not None else None
            more = (entry.subject, entry.word, entry.recording) if entry else ()
            writer.writerow((part, split.clip_ids[i], *more))
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        file.write(text.getvalue())
    temporary.replace(path)


def read_split(path: str | Path) -> list[tuple[str, str]]:
    """The part and clip id of each line of what `save_split` wrote, in its order."""
    with Path(path).open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        lines = (line for line in file if not line.startswith("#"))
        return [(row["part"], row["clip_id"]) for row in csv.DictReader(lines)]
