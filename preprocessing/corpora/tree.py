"""What every adapter shares: walking a raw tree, and noting what is no clip."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from preprocessing.video import IMAGE_SUFFIXES


@dataclass
class Findings:
    """What a scan met beside clips.

    Attributes:
      rejected: (source, reason) of everything that looks like a clip and is none.
      ignored: how many files of each suffix were passed over; they are no media of this corpus.
      skipped: how many were left out on purpose, by what they are (e.g. audio without pictures).
      missing: sources that the corpus's own table or labels name and that are not there.
    """

    rejected: list[tuple[str, str]] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    missing: list[str] = field(default_factory=list)

    def reject(self, source: str, reason: str) -> None:
        self.rejected.append((source, reason))

    def notes(self) -> list[str]:
        """One sentence for each kind of file that was passed over."""
        notes = [f"left out ({n:,}): {what}" for what, n in sorted(self.skipped.items())]
        if self.missing:
            count, names = len(self.missing), first_of(self.missing)
            notes.append(f"labelled, but not here ({count:,}): {names}")
        if self.ignored:
            kinds = ", ".join(f"{n:,} {suffix}" for suffix, n in sorted(self.ignored.items()))
            notes.append(f"ignored {self.ignored.total():,} files that are no media: {kinds}")
        return notes


def first_of(names: Sequence[str], count: int = 3) -> str:
    """The first few of many names in one line."""
    more = f" and {len(names) - count:,} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def is_image(source: str) -> bool:
    """Whether a clip's source is a single picture: an image file or a row of a table of images."""
    suffix = os.path.splitext(source.partition("#")[0])[1].lower()
    return suffix in IMAGE_SUFFIXES or suffix in (".csv", ".gz")


def media_files(root: Path, suffixes: Collection[str], findings: Findings) -> Iterator[Path]:
    """Files with one of `suffixes` below `root`, relative to it, in the order of their names.

    Links to directories are followed, each directory once. Hidden files and directories are passed
    over in silence; any other file is counted in `findings.ignored`.
    """
    seen: set[str] = set()
    found: list[Path] = []
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if name.startswith("."):
                continue
            suffix = os.path.splitext(name)[1].lower()
            if suffix in suffixes:
                found.append(Path(folder, name).relative_to(root))
            else:
                findings.ignored[suffix or "without a suffix"] += 1
    yield from sorted(found, key=lambda path: path.parts)
