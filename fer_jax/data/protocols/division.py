"""What a protocol says of the clips, before augmented copies join them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from fer_jax.config import Protocol
from fer_jax.data.protocols.chance import every, rank, share, stratified
from fer_jax.data.protocols.index import Entry
from fer_jax.errors import UserError

#: Names that a line of a message shows at most.
_SHOWN = 3


@dataclass(frozen=True)
class Division:
    """The clip ids of each part; what is in none of them is left out.

    Attributes:
      name: of the split.
      notes: what a user should know of it, a line each.
      sha256: what the split should be; "" where nothing says so.
    """

    name: str
    train: set[str]
    validation: set[str]
    test: set[str]
    notes: list[str] = field(default_factory=list)
    sha256: str = ""


def fold_of(protocol: Protocol, folds: int) -> int:
    """The protocol's fold of so many.

    Raises:
      UserError: there is no such fold.
    """
    if protocol.fold >= folds:
        raise UserError(
            f"fold {protocol.fold} of {folds} does not exist: --protocol.fold is 0 to {folds - 1}"
        )
    return protocol.fold


def known_subjects(rows: Sequence[Entry], protocol: Protocol) -> dict[str, list[str]]:
    """The clip ids of each subject.

    Raises:
      UserError: a clip has none.
    """
    unknown = sum(not row.person for row in rows)
    if unknown:
        raise UserError(
            f"protocol {protocol.name} needs subjects, and {unknown} of {len(rows)} clips have "
            "none: choose --protocol.name official, random or random-kfold"
        )
    clips: dict[str, list[str]] = {}
    for row in rows:
        clips.setdefault(row.person, []).append(row.clip_id)
    return clips


def hold_out(rows: Sequence[Entry], protocol: Protocol, of: int = 0) -> set[str]:
    """The validation part of those that do not test: whole subjects at random.

    Where a subject is unknown, clips at random, each emotion in its share.

    Args:
      of: how many subjects (clips) the share is of; those of `rows` if 0.
    """
    if not protocol.validation or not rows:
        return set()
    if not all(row.person for row in rows):
        ids = stratified(rows, "validation", protocol)
        return every(ids, share(protocol.validation, of or len(ids)))
    people = sorted({row.person for row in rows}, key=lambda s: rank(s, "validation", protocol))
    held = set(people[: share(protocol.validation, of or len(people))])
    return {row.clip_id for row in rows if row.person in held}


def some(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    found = list(names)
    more = len(found) - _SHOWN
    return ", ".join(found[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")
