"""Which clips train, validate and test.

A split depends on clip ids, their metadata, the protocol and its seed: not on the order of the
corpus, the platform or a random generator's version. Chance is the order of SHA-256 digests.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from fer_jax.config import Protocol
from fer_jax.errors import UserError
from fer_jax.labels import canonical
from fer_jax.records import Clip

PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Split:
    """A division of a corpus.

    Attributes:
      name: the protocol's, with fold and number of folds where it has them.
      train, validation, test: i64[n], indices into the corpus, in the order of their clip ids.
      clip_ids: the clip id of every index of the corpus.
    """

    name: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    clip_ids: tuple[str, ...]

    @cached_property
    def sha256(self) -> str:
        """Hash of the sorted clip ids of each part: equal for equal splits everywhere."""
        lines = []
        for part in PARTS:
            lines += [part + ":", *sorted(self.clip_ids[i] for i in getattr(self, part))]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@dataclass(frozen=True)
class _Row:
    """What splitting reads of an original."""

    index: int
    clip_id: str
    subject: str
    emotion: str
    split: str


def original_id(clip: Clip) -> str:
    """The clip id of what an augmented copy was made of; a clip's own id if it is no copy."""
    return clip.clip_id.rpartition("+aug")[0] if clip.augmentation else clip.clip_id


def make_split(clips: Sequence[Clip], protocol: Protocol) -> Split:
    """Divides a corpus as the protocol says.

    * official: the corpus's own partition; clips that it does not name are left out. Without an
      official validation part, a share of the training clips validates.
    * random, random-kfold: files at random, each emotion in its share. Twins of a recording may
      fall on both sides, as in papers 1 and 2: `fer_jax.data.audit` says so.
    * subject, subject-kfold: no subject is in two parts. Folds differ by at most one subject, and
      large subjects are spread over the folds.

    Shares are of all clips, or of all subjects. Augmented copies train if their original trains;
    all others are left out, as are clips whose original is not in the corpus.

    Args:
      clips: the corpus, in any order; each clip is read once. No stream is needed, so loading
        with `streams=()` is quickest.
      protocol: name, folds, shares, seed.

    Raises:
      UserError: the corpus cannot be split so, e.g. it has no official partition, fewer subjects
        than folds, or unknown subjects.
    """
    rows, copies, ids = [], [], []
    for index, clip in enumerate(clips):
        ids.append(clip.clip_id)
        if clip.augmentation:
            copies.append((index, clip.clip_id, original_id(clip)))
        else:
            emotion = canonical(clip.emotion)
            rows.append(_Row(index, clip.clip_id, clip.subject, emotion, clip.split))
    if len(set(ids)) < len(ids):
        raise UserError(
            f"{len(ids) - len(set(ids))} clip ids occur twice in the records: preprocess again"
        )
    folded = protocol.name.endswith("-kfold")
    if folded and protocol.fold >= protocol.folds:
        raise UserError(
            f"fold {protocol.fold} of {protocol.folds} does not exist: "
            f"--protocol.fold is 0 to {protocol.folds - 1}"
        )
    divide = {
        "official": _official,
        "random": _by_file,
        "random-kfold": _by_file,
        "subject": _by_subject,
        "subject-kfold": _by_subject,
    }[protocol.name]
    test, validation = divide(rows, protocol)
    taken = test | validation
    train = {row.clip_id for row in rows} - taken
    if protocol.name == "official":
        train &= {row.clip_id for row in rows if row.split == "train"}
    for part, members in (("train", train), ("test", test)):
        if not members:
            raise UserError(
                f"protocol {protocol.name} leaves no clip to {part} on: "
                f"the records hold {len(rows)} clips, which are too few"
            )
    parts: dict[str, list[tuple[str, int]]] = {part: [] for part in PARTS}
    for row in rows:
        for part, members in zip(PARTS, (train, validation, test), strict=True):
            if row.clip_id in members:
                parts[part].append((row.clip_id, row.index))
    parts["train"] += [(own, index) for index, own, original in copies if original in train]
    arrays = {p: np.asarray([i for _, i in sorted(m)], np.int64) for p, m in parts.items()}
    name = f"{protocol.name}[{protocol.fold}/{protocol.folds}]" if folded else protocol.name
    return Split(name=name, clip_ids=tuple(ids), **arrays)


def everything(clips: Sequence[Clip], name: str) -> Split:
    """A split that tests on every original clip: for records that a run never saw."""
    ids = tuple(clip.clip_id for clip in clips)
    test = sorted((i for i, clip in enumerate(clips) if not clip.augmentation), key=ids.__getitem__)
    none = np.zeros(0, np.int64)
    return Split(name, none, none, np.asarray(test, np.int64), ids)


def save_split(path: str | Path, split: Split) -> None:
    """Writes a CSV of part and clip_id, a line a clip; replaces the file in one step."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("part", "clip_id"))
        for part in PARTS:
            writer.writerows((part, split.clip_ids[i]) for i in getattr(split, part))
    temporary.replace(path)


def _rank(name: str, salt: str, protocol: Protocol) -> bytes:
    """Where chance puts a name among others."""
    return hashlib.sha256(f"{protocol.seed}/{salt}/{name}".encode()).digest()


def _share(share: float, n: int) -> int:
    """A share of n, rounded half up; at least 1 of a share that is not 0."""
    return max(int(share * n + 0.5), 1) if share else 0


def _stratified(rows: Iterable[_Row], salt: str, protocol: Protocol) -> list[str]:
    """Clip ids sorted by emotion, at random within one: every k-th is a stratified sample."""
    order = sorted(rows, key=lambda r: (r.emotion, _rank(r.clip_id, salt, protocol)))
    return [row.clip_id for row in order]


def _every(ids: Sequence[str], k: int) -> set[str]:
    """k of the ids at even distances."""
    k = min(k, len(ids))
    return {ids[(2 * i + 1) * len(ids) // (2 * k)] for i in range(k)}


def _official(rows: list[_Row], protocol: Protocol) -> tuple[set[str], set[str]]:
    parts = {part: [row for row in rows if row.split == part] for part in PARTS}
    if not parts["test"] or not parts["train"]:
        raise UserError(
            "the records have no official train and test parts: "
            "choose --protocol.name subject, random or a -kfold"
        )
    validation = {row.clip_id for row in parts["validation"]} if protocol.validation else set()
    if protocol.validation and not validation:
        ids = _stratified(parts["train"], "validation", protocol)
        validation = _every(ids, _share(protocol.validation, len(ids)))
    return {row.clip_id for row in parts["test"]}, validation


def _by_file(rows: list[_Row], protocol: Protocol) -> tuple[set[str], set[str]]:
    ids = _stratified(rows, "test", protocol)
    if protocol.name == "random":
        test = _every(ids, _share(protocol.test, len(ids)))
    else:
        if len(ids) < protocol.folds:
            raise UserError(
                f"{len(ids)} clips cannot make {protocol.folds} folds: "
                f"set --protocol.folds to {len(ids)} or fewer"
            )
        test = set(ids[protocol.fold :: protocol.folds])
    rest = _stratified((r for r in rows if r.clip_id not in test), "validation", protocol)
    return test, _every(rest, _share(protocol.validation, len(rows)))


def _by_subject(rows: list[_Row], protocol: Protocol) -> tuple[set[str], set[str]]:
    unknown = sum(not row.subject for row in rows)
    if unknown:
        raise UserError(
            f"protocol {protocol.name} needs subjects, and {unknown} of {len(rows)} clips have "
            "none: choose --protocol.name official, random or random-kfold"
        )
    clips: dict[str, list[str]] = {}
    for row in rows:
        clips.setdefault(row.subject, []).append(row.clip_id)
    order = sorted(clips, key=lambda s: _rank(s, "test", protocol))
    parts = 2 + (protocol.validation > 0)
    if protocol.name == "subject":
        if len(order) < parts:
            raise UserError(
                f"protocol subject needs {parts} subjects, the records have {len(order)}: "
                "choose --protocol.name random"
            )
        test = set(order[: _share(protocol.test, len(order))])
    else:
        if len(order) < protocol.folds:
            raise UserError(
                f"{len(order)} subjects cannot make {protocol.folds} folds: "
                f"set --protocol.folds to {len(order)} or fewer"
            )
        test = _subject_folds(order, clips, protocol.folds)[protocol.fold]
    rest = sorted(
        (s for s in order if s not in test), key=lambda s: _rank(s, "validation", protocol)
    )
    validation = rest[: _share(protocol.validation, len(order))]
    return {i for s in test for i in clips[s]}, {i for s in validation for i in clips[s]}


def _subject_folds(order: list[str], clips: dict[str, list[str]], folds: int) -> list[set[str]]:
    """Deals subjects in rounds of one a fold; in a round, the largest to the smallest fold."""
    members: list[set[str]] = [set() for _ in range(folds)]
    sizes = [0] * folds
    for start in range(0, len(order), folds):
        largest_first = sorted(order[start : start + folds], key=lambda s: -len(clips[s]))
        smallest_first = sorted(range(folds), key=sizes.__getitem__)
        for subject, fold in zip(largest_first, smallest_first, strict=False):
            members[fold].add(subject)
            sizes[fold] += len(clips[subject])
    return members
