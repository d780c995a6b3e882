"""What splitting reads of a corpus."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from fer_jax.errors import UserError
from fer_jax.labels import canonical
from fer_jax.records import Clip


def original_id(clip: Clip) -> str:
    """The clip id of what an augmented copy was made of; a clip's own id if it is no copy."""
    return clip.clip_id.rpartition("+aug")[0] if clip.augmentation else clip.clip_id


def subject_of(clip: Clip) -> str:
    """Who is seen, among all corpora: two of them have a subject "01"; "" if unknown."""
    return f"{clip.corpus}/{clip.subject}" if clip.subject else ""


def recording_of(clip: Clip) -> str:
    """The clip's recording, among those of all corpora; "" if unknown."""
    return f"{clip.corpus}/{clip.recording}" if clip.recording else ""


def in_order(names: Iterable[str]) -> list[str]:
    """Sorted, with numbers by their value: s2 before s10."""

    def key(name: str) -> list[tuple[int, str]]:
        parts = re.split(r"(\d+)", name)
        return [(int(part), part) if part.isdecimal() else (-1, part) for part in parts]

    return sorted(names, key=key)


@dataclass(frozen=True)
class Entry:
    """What splitting reads of a clip; `emotion` is the canonical one of its `word`.

    Attributes:
      index: in the corpus.
      person: the subject; with the corpus, where the clips are of several.
      original: the clip id of what this copy was made of; "" if it is no copy.
    """

    index: int
    clip_id: str
    corpus: str
    subject: str
    person: str
    recording: str
    word: str
    emotion: str
    split: str
    original: str


class Index:
    """The clips of a corpus as splitting sees them; each is read once, at the first look.

    Args:
      clips: the corpus, in any order. No stream is needed, so loading with `streams=()` is
        quickest.
    """

    def __init__(self, clips: Sequence[Clip]):
        self._clips = clips

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Every clip, in the order of the corpus.

        Raises:
          UserError: a clip id occurs twice.
        """
        seen = [
            (clip.clip_id, clip.corpus, clip.subject, subject_of(clip), clip.recording,
             clip.emotion, canonical(clip.emotion), clip.split,
             original_id(clip) if clip.augmentation else "")
            for clip in self._clips
        ]  # fmt: skip
        several = len({corpus for _, corpus, *_ in seen}) > 1
        entries = tuple(
            Entry(index, name, corpus, subject, person if several else subject, *rest)
            for index, (name, corpus, subject, person, *rest) in enumerate(seen)
        )
        names = Counter(entry.clip_id for entry in entries)
        if twice := [name for name, count in names.items() if count > 1]:
            raise UserError(
                f"{len(entries) - len(names)} clip ids occur twice in the records, as {twice[0]}: "
                "preprocess again, or, of several record directories, name one that holds them"
            )
        return entries

    @cached_property
    def originals(self) -> list[Entry]:
        """The clips that are no augmented copies."""
        return [entry for entry in self.entries if not entry.original]

    @cached_property
    def corpora(self) -> list[str]:
        """The names of the corpora, sorted."""
        return sorted({entry.corpus for entry in self.originals})
