"""Protocols that divide files, whoever they show."""

from __future__ import annotations

from fer_jax.config import Protocol
from fer_jax.data.protocols.chance import every, share, stratified
from fer_jax.data.protocols.division import Division, fold_of
from fer_jax.data.protocols.index import Index
from fer_jax.data.protocols.split import PARTS
from fer_jax.errors import UserError


def official(index: Index, protocol: Protocol) -> Division:
    """The corpus's own partition."""
    parts = {part: [row for row in index.originals if row.split == part] for part in PARTS}
    if not parts["test"] or not parts["train"]:
        raise UserError(
            "the records have no official train and test parts: "
            "choose --protocol.name subject, random or a -kfold"
        )
    validation = {row.clip_id for row in parts["validation"]} if protocol.validation else set()
    if protocol.validation and not validation:
        ids = stratified(parts["train"], "validation", protocol)
        validation = every(ids, share(protocol.validation, len(ids)))
    train = {row.clip_id for row in parts["train"]} - validation
    return Division("official", train, validation, {row.clip_id for row in parts["test"]})


def by_file(index: Index, protocol: Protocol) -> Division:
    """`random` and `random-kfold`. The test share of `random` is rounded up, so that 4,904 files
    are paper 2's 3,923, 490 and 491."""
    rows = index.originals
    ids = stratified(rows, "test", protocol)
    if protocol.name == "random":
        name = "random"
        test = every(ids, share(protocol.test, len(ids), up=True))
    else:
        fold, folds = fold_of(protocol, protocol.folds), protocol.folds
        if len(ids) < folds:
            raise UserError(
                f"{len(ids)} clips cannot make {folds} folds: "
                f"set --protocol.folds to {len(ids)} or fewer"
            )
        name = f"random-kfold[{fold}/{folds}]"
        test = set(ids[fold::folds])
    rest = stratified((r for r in rows if r.clip_id not in test), "validation", protocol)
    validation = every(rest, share(protocol.validation, len(rows)))
    return Division(name, set(rest) - validation, validation, test)
