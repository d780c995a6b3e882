"""Protocols that train on some corpora and test on others."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from fer_jax.config import Protocol
from fer_jax.data.protocols.division import Division, fold_of, hold_out
from fer_jax.data.protocols.index import Index
from fer_jax.errors import UserError


def leave_one_corpus_out(index: Index, protocol: Protocol) -> Division:
    """`loco`: fold i tests on the i-th corpus, by name."""
    corpora = index.corpora
    if len(corpora) < 2:
        raise UserError(
            f"protocol loco needs several corpora, the records hold {corpora[0] or 'one'} alone: "
            "name several record directories, as in --data.dir crema-d,ravdess"
            if corpora
            else "protocol loco leaves no clip to train on: the records hold no clip"
        )
    fold = fold_of(protocol, len(corpora))
    others = [corpus for corpus in corpora if corpus != corpora[fold]]
    name = f"loco[{fold}/{len(corpora)} {corpora[fold]}]"
    return _between(index, protocol, name, others, [corpora[fold]])


def cross_corpus(index: Index, protocol: Protocol) -> Division:
    """`cross-corpus`: `train_corpora` train and validate, `test_corpora` test."""
    train, test = protocol.train_corpora, protocol.test_corpora
    known = ", ".join(index.corpora) or "none"
    for key, names in (("train_corpora", train), ("test_corpora", test)):
        if not names:
            raise UserError(
                f"protocol cross-corpus needs --protocol.{key}: the records hold {known}"
            )
        for name in names:
            if name not in index.corpora:
                near = get_close_matches(name, index.corpora, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise UserError(
                    f"--protocol.{key}: the records hold no corpus {name!r}, but {known}{hint}"
                )
    if both := sorted(set(train) & set(test)):
        raise UserError(f"{', '.join(both)} cannot both train and test in cross-corpus")
    name = f"cross-corpus[{'+'.join(sorted(train))} to {'+'.join(sorted(test))}]"
    return _between(index, protocol, name, train, test)


def _between(
    index: Index, protocol: Protocol, name: str, train: Iterable[str], test: Iterable[str]
) -> Division:
    rows = [row for row in index.originals if row.corpus in set(train)]
    validation = hold_out(rows, protocol)
    tested = {row.clip_id for row in index.originals if row.corpus in set(test)}
    notes = []
    if left := len(index.originals) - len(rows) - len(tested):
        notes.append(f"{left:,} clips of corpora that neither train nor test are left out")
    return Division(name, {row.clip_id for row in rows} - validation, validation, tested, notes)
