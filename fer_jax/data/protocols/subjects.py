"""Protocols that keep subjects whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from fer_jax.config import Protocol
from fer_jax.data.protocols.chance import rank, share
from fer_jax.data.protocols.division import Division, fold_of, hold_out, known_subjects
from fer_jax.data.protocols.index import Entry, Index, in_order
from fer_jax.errors import UserError


def _divided(
    rows: Sequence[Entry], name: str, test: set[str], protocol: Protocol, of: int
) -> Division:
    """Subjects that test, and of the others a share of `of` that validates."""
    tested = {row.clip_id for row in rows if row.person in test}
    rest = [row for row in rows if row.clip_id not in tested]
    validation = hold_out(rest, protocol, of)
    train = {row.clip_id for row in rest} - validation
    return Division(name, train, validation, tested)


def by_subject(index: Index, protocol: Protocol) -> Division:
    """`subject` and `subject-kfold`."""
    rows = index.originals
    clips = known_subjects(rows, protocol)
    order = sorted(clips, key=lambda s: rank(s, "test", protocol))
    if protocol.name == "subject":
        parts = 2 + (protocol.validation > 0)
        if len(order) < parts:
            raise UserError(
                f"protocol subject needs {parts} subjects, the records have {len(order)}: "
                "choose --protocol.name random"
            )
        test = set(order[: share(protocol.test, len(order))])
        return _divided(rows, "subject", test, protocol, len(order))
    fold, folds = fold_of(protocol, protocol.folds), protocol.folds
    if len(order) < folds:
        raise UserError(
            f"{len(order)} subjects cannot make {folds} folds: "
            f"set --protocol.folds to {len(order)} or fewer"
        )
    emotions: dict[str, set[str]] = {subject: set() for subject in order}
    for row in rows:
        if row.emotion:
            emotions[row.person].add(row.emotion)
    sizes = {subject: len(ids) for subject, ids in clips.items()}
    test = _with_every_class(_dealt(order, sizes, folds), emotions, sizes)[fold]
    return _divided(rows, f"subject-kfold[{fold}/{folds}]", test, protocol, len(order))


def _dealt(order: Sequence[str], sizes: Mapping[str, int], folds: int) -> list[set[str]]:
    """Deals subjects in rounds of one a fold; in a round, the largest to the smallest fold."""
    members: list[set[str]] = [set() for _ in range(folds)]
    filled = [0] * folds
    for start in range(0, len(order), folds):
        largest_first = sorted(order[start : start + folds], key=lambda s: -sizes[s])
        smallest_first = sorted(range(folds), key=filled.__getitem__)
        for subject, fold in zip(largest_first, smallest_first, strict=False):
            members[fold].add(subject)
            filled[fold] += sizes[subject]
    return members


def _with_every_class(
    folds: list[set[str]], emotions: Mapping[str, set[str]], sizes: Mapping[str, int]
) -> list[set[str]]:
    """Exchanges subjects while a fold lacks an emotion and an exchange gives it one.

    Folds that lack nothing stay as they are. Of the exchanges that leave the fewest gaps, the one
    between subjects of the most equal size is made.
    """
    shown = [Counter(e for subject in fold for e in emotions[subject]) for fold in folds]
    everyone = set().union(*emotions.values())

    def gaps(counts: Counter[str]) -> int:
        return sum(counts[emotion] <= 0 for emotion in everyone)

    while True:
        found: list[tuple[int, int, str, str, int, int]] = []
        for poor, counts in enumerate(shown):
            lacking = {emotion for emotion in everyone if not counts[emotion]}
            for rich in range(len(folds)) if lacking else ():
                before = gaps(counts) + gaps(shown[rich])
                for giver in (s for s in folds[rich] if rich != poor and emotions[s] & lacking):
                    for taker in folds[poor]:
                        change = Counter(emotions[giver])
                        change.subtract(emotions[taker])
                        one, other = Counter(counts), Counter(shown[rich])
                        one.update(change)
                        other.subtract(change)
                        if (after := gaps(one) + gaps(other)) < before:
                            uneven = abs(sizes[giver] - sizes[taker])
                            found.append((after - before, uneven, giver, taker, rich, poor))
        if not found:
            return folds
        *_, giver, taker, rich, poor = min(found)
        for fold, goes, comes in ((rich, giver, taker), (poor, taker, giver)):
            folds[fold].remove(goes)
            folds[fold].add(comes)
            shown[fold].subtract(emotions[goes])
            shown[fold].update(emotions[comes])


def leave_one_subject_out(index: Index, protocol: Protocol) -> Division:
    """`loso`: fold i tests on the i-th subject, by name."""
    order = in_order(known_subjects(index.originals, protocol))
    parts = 2 + (protocol.validation > 0)
    if len(order) < parts:
        raise UserError(f"protocol loso needs {parts} subjects, the records have {len(order)}")
    fold = fold_of(protocol, len(order))
    name = f"loso[{fold}/{len(order)} {order[fold]}]"
    return _divided(index.originals, name, {order[fold]}, protocol, len(order))


def by_count(index: Index, protocol: Protocol) -> Division:
    """`actors`: the first subjects by name train, the next validate, the rest test (paper 3)."""
    clips = known_subjects(index.originals, protocol)
    order = in_order(clips)
    first, second = protocol.train_subjects, protocol.validation_subjects
    if not first:
        raise UserError(
            "protocol actors needs --protocol.train_subjects and .validation_subjects: paper 3 "
            "has 40 and 8 of SASE-FE, 65 and 15 of Oulu-CASIA"
        )
    if first + second > len(order):
        raise UserError(
            f"protocol actors: {first} subjects to train and {second} to validate on are more "
            f"than the {len(order)} that the records have"
        )
    rest = order[first + second :]
    notes = []
    if protocol.test_on_validation:
        if not second:
            raise UserError(
                "--protocol.test_on_validation true needs a --protocol.validation_subjects above 0"
            )
        test, last = order[first : first + second], "validation"
        notes.append("tests on the validation part, which chose the checkpoint: an optimistic test")
        if rest:
            notes.append(f"{len(rest)} subjects are in no part and are left out")
    elif rest:
        test, last = rest, str(len(rest))
    else:
        raise UserError(
            f"protocol actors leaves none of {len(order)} subjects to test on: lower "
            "--protocol.train_subjects or .validation_subjects, or report the validation part as "
            "paper 3 does with --protocol.test_on_validation true"
        )

    def of(people: Sequence[str]) -> set[str]:
        return {name for person in people for name in clips[person]}

    name = f"actors[{first}/{second}/{last}]"
    validation = of(order[first : first + second])
    return Division(name, of(order[:first]), validation, of(test), notes)
