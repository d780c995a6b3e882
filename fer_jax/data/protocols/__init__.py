"""Which clips train, validate and test.

A split depends on clip ids, their metadata, the protocol and its seed: not on the order of the
corpus, the platform or a random generator's version. Chance is the order of SHA-256 digests.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fer_jax.config import Protocol
from fer_jax.data.protocols.across import cross_corpus, leave_one_corpus_out
from fer_jax.data.protocols.classes import check_classes, count_classes, describe, render
from fer_jax.data.protocols.division import Division, known_subjects
from fer_jax.data.protocols.files import by_file, official
from fer_jax.data.protocols.index import Entry, Index, original_id, recording_of, subject_of
from fer_jax.data.protocols.listed import fold_directories, listed
from fer_jax.data.protocols.published import published, table_of
from fer_jax.data.protocols.split import PARTS, Split, everything, read_split, save_split
from fer_jax.data.protocols.subjects import by_count, by_subject, leave_one_subject_out
from fer_jax.errors import UserError
from fer_jax.records import Clip

__all__ = [
    "PARTS", "Entry", "Index", "Split", "check_classes", "count_classes", "describe",
    "everything", "fold_count", "has_folds", "make_split", "original_id", "read_split",
    "recording_of", "render", "save_split", "subject_of",
]  # fmt: skip

_DIVIDE: Mapping[str, Callable[[Index, Protocol], Division]] = {
    "official": official,
    "random": by_file,
    "random-kfold": by_file,
    "subject": by_subject,
    "subject-kfold": by_subject,
    "loso": leave_one_subject_out,
    "loco": leave_one_corpus_out,
    "cross-corpus": cross_corpus,
    "published": published,
    "actors": by_count,
    "file": listed,
}


def make_split(clips: Sequence[Clip] | Index, protocol: Protocol) -> Split:
    """Divides a corpus as the protocol says.

    * official: the corpus's own partition; clips that it does not name are left out. Without an
      official validation part, a share of the training clips validates.
    * random, random-kfold: files at random, each emotion in its share. Twins of a recording may
      fall on both sides, as in papers 1 and 2: `fer_jax.data.audit` says so.
    * subject, subject-kfold: no subject is in two parts. Folds differ by at most one subject, large
      subjects are spread over the folds, and no fold lacks an emotion where that can be.
    * loso, loco: a subject, or a corpus, tests and all others train.
    * cross-corpus: some corpora train, others test. Which emotions count is the label space's to
      say.
    * published: folds by subject that others published (`fer_jax.data.protocols.published`).
    * actors: the first subjects by name train, the next validate, the rest test (paper 3).
    * file: what a file lists (`fer_jax.data.protocols.listed`).

    Shares are of all clips, or of all subjects; of the training corpora's with loco and
    cross-corpus. Whole subjects validate wherever whole subjects, or corpora, test. Augmented
    copies train if their original trains; all others are left out, as are clips whose original is
    not in the corpus.

    Args:
      clips: the corpus, in any order, or what splitting reads of it, where several splits are made.
      protocol: name, folds, shares, seed.

    Raises:
      UserError: the corpus cannot be split so, e.g. it has no official partition, fewer subjects
        than folds, or unknown subjects.
    """
    index = clips if isinstance(clips, Index) else Index(clips)
    rows = index.originals
    division = _DIVIDE[protocol.name](index, protocol)
    for part, members in (("train", division.train), ("test", division.test)):
        if not members:
            raise UserError(
                f"protocol {protocol.name} leaves no clip to {part} on: "
                f"the records hold {len(rows)} clips, which are too few"
            )
    parts: dict[str, list[tuple[str, int]]] = {}
    for part in PARTS:
        members = getattr(division, part)
        parts[part] = [(row.clip_id, row.index) for row in rows if row.clip_id in members]
    parts["train"] += [
        (entry.clip_id, entry.index)
        for entry in index.entries
        if entry.original and entry.original in division.train
    ]
    train, validation, test = (
        np.asarray([i for _, i in sorted(parts[part])], np.int64) for part in PARTS
    )
    ids = tuple(entry.clip_id for entry in index.entries)
    split = Split(division.name, train, validation, test, ids)
    notes = list(division.notes)
    if division.sha256 and division.sha256 != split.sha256:
        notes.append(
            f"{split.name} is not the split that the file was written of: its sha256 was "
            f"{division.sha256[:12]} and is {split.sha256[:12]}"
        )
    return dataclasses.replace(split, notes=tuple(notes))


def has_folds(protocol: Protocol) -> bool:
    """Whether a protocol has folds, which --protocol.fold chooses from.

    Raises:
      UserError: protocol `file` without a file.
    """
    if protocol.name == "file":
        return bool(fold_directories(protocol))
    return protocol.name.endswith("-kfold") or protocol.name in ("loso", "loco", "published")


def fold_count(protocol: Protocol, read: Callable[[], Sequence[Clip]]) -> int:
    """How many folds a protocol with folds has: `folds` of a -kfold, else as many as there are.

    Args:
      read: gives the corpus; called for `loso` and `loco` alone.

    Raises:
      UserError: subjects are unknown, or there is no such table or file.
    """
    if protocol.name == "loso":
        return len(known_subjects(Index(read()).originals, protocol))
    if protocol.name == "loco":
        return len(Index(read()).corpora)
    if protocol.name == "published":
        return len(table_of(protocol)["test_subjects"])
    return len(fold_directories(protocol)) if protocol.name == "file" else protocol.folds
