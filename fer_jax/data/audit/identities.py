"""What tells the clips of a corpus apart, and which of them are one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from fer_jax.data.audit.duplicates import Pairs, near_duplicates
from fer_jax.data.audit.signatures import Signature, make_signature
from fer_jax.data.protocols import recording_of, subject_of
from fer_jax.records import IMAGES, Clip

#: What is compared exactly: everything that was extracted from the pictures.
_CONTENT = (*IMAGES, "landmarks68", "landmarks478", "blendshapes")


def content_hash(clip: Clip) -> str:
    """SHA-256 of a clip's extracted streams; "" where it has none."""
    digest, found = hashlib.sha256(), False
    for name in _CONTENT:
        value = getattr(clip, name)
        if value is None:
            continue
        found = True
        blobs = [b or b"" for b in value] if name in IMAGES else [value.tobytes()]
        for blob in (name.encode(), *blobs):
            digest.update(len(blob).to_bytes(8, "little") + blob)
    return digest.hexdigest() if found else ""


def _statement_of(clip: Clip) -> str:
    """What is said, among the statements of all corpora; "" if unknown."""
    return f"{clip.corpus}/{clip.statement}" if clip.statement else ""


#: What two clips can have in common; "" is unknown.
KEYS: Mapping[str, Callable[[Clip], str]] = {
    "subject_overlap": subject_of,
    "twin_overlap": recording_of,
    "near_duplicates": content_hash,
    "statement_overlap": _statement_of,
}


class Identity(NamedTuple):
    """A clip, as far as the audit knows it.

    Attributes:
      keys: by name of `KEYS`.
      corpus, emotion: the clip's.
      split: the corpus's official part.
    """

    keys: Mapping[str, str]
    corpus: str
    emotion: str
    split: str


class Identities:
    """What tells the clips of a corpus apart; each is read once, however many splits are audited.

    Clips themselves are not kept: a clip of a hundred frames takes some 15 KB.
    """

    def __init__(self, clips: Sequence[Clip]):
        self._clips = clips
        self._known: dict[int, Identity] = {}
        #: By content: equal clips are compared with others once.
        self._signatures: dict[str, Signature | None] = {}
        self._compared = 0
        self._near: dict[str, list[tuple[str, float]]] = {}

    def __getitem__(self, index: int) -> Identity:
        if index not in self._known:
            clip = self._clips[index]
            keys = {name: key(clip) for name, key in KEYS.items()}
            self._known[index] = Identity(keys, clip.corpus, clip.emotion, clip.split)
            content = keys["near_duplicates"]
            if content and content not in self._signatures:
                self._signatures[content] = make_signature(clip)
        return self._known[index]

    def near(self, indices: Iterable[int]) -> Mapping[str, Sequence[tuple[str, float]]]:
        """By content hash, the hashes of other clips that are near duplicates, and how near.

        Args:
          indices: clips that must have been looked at; all that were looked at are.
        """
        for index in indices:
            self[index]
        if self._compared < len(self._signatures):
            contents = list(self._signatures)
            pairs: Pairs = near_duplicates(list(self._signatures.values()))
            self._near = {
                contents[place]: [(contents[other], distance) for other, distance in others]
                for place, others in pairs.items()
            }
            self._compared = len(contents)
        return self._near
