"""Folds that others published, by the subjects of each test part (published.json)."""

from __future__ import annotations

import json
import re
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any

from fer_jax.config import Protocol
from fer_jax.data.protocols.division import Division, fold_of, hold_out, some
from fer_jax.data.protocols.index import Index
from fer_jax.errors import UserError


@cache
def tables() -> dict[str, dict[str, Any]]:
    """By name: corpus, what (in words), names (regular expression of file stems), clips (how many
    there are; 0 where the source does not say), source, test_subjects (a list a fold)."""
    return json.loads(files("fer_jax.data.protocols").joinpath("published.json").read_text())


def table_of(protocol: Protocol) -> dict[str, Any]:
    """The table that the protocol names.

    Raises:
      UserError: there is none.
    """
    known = ", ".join(tables())
    if not protocol.published:
        raise UserError(f"protocol published needs --protocol.published: one of {known}")
    if protocol.published not in tables():
        near = get_close_matches(protocol.published, tables(), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"--protocol.published {protocol.published!r}: choose {known}{hint}")
    return tables()[protocol.published]


def published(index: Index, protocol: Protocol) -> Division:
    """`published`: the subjects of a fold test, all others of the table train and validate."""
    table = table_of(protocol)
    folds = table["test_subjects"]
    fold = fold_of(protocol, len(folds))
    name = f"{protocol.published}[{fold}/{len(folds)}]"
    members = {subject for subjects in folds for subject in subjects}
    rows = [
        row
        for row in index.originals
        if row.corpus == table["corpus"]
        and row.subject in members
        and re.fullmatch(table["names"], row.clip_id.rpartition("/")[2])
    ]
    if not rows:
        raise UserError(
            f"{protocol.published} divides {table['what']}, and the records hold nothing of it, "
            f"but {len(index.originals)} clips of {', '.join(index.corpora) or 'no corpus'}"
        )
    there = {row.subject for row in rows}
    absent = [subject for subject in sorted(members) if subject not in there]
    if not there.intersection(folds[fold]):
        raise UserError(
            f"{name} tests on subjects {some(folds[fold])}, and the records hold none of them"
        )
    notes = []
    if left := len(index.originals) - len(rows):
        notes.append(f"{left:,} clips are not of {protocol.published} and are left out")
    if len(rows) < table["clips"]:
        notes.append(
            f"{protocol.published} has {table['clips']:,} clips, the records {len(rows):,} of them"
        )
    if absent:
        notes.append(f"{protocol.published}: the records lack subjects {some(absent)}")
    test = {row.clip_id for row in rows if row.subject in folds[fold]}
    rest = [row for row in rows if row.clip_id not in test]
    validation = hold_out(rest, protocol, len(there))
    return Division(name, {row.clip_id for row in rest} - validation, validation, test, notes)
