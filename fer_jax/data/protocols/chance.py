"""Chance, as the order of SHA-256 digests: the same on every platform, in every version."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence

from fer_jax.config import Protocol
from fer_jax.data.protocols.index import Entry


def rank(name: str, salt: str, protocol: Protocol) -> bytes:
    """Where chance puts a name among others."""
    return hashlib.sha256(f"{protocol.seed}/{salt}/{name}".encode()).digest()


def share(part: float, n: int, *, up: bool = False) -> int:
    """A share of n, rounded half up, or `up`; at least 1 of a share that is not 0."""
    exact = round(part * n, 6)
    return max(math.ceil(exact) if up else int(part * n + 0.5), 1) if part else 0


def stratified(rows: Iterable[Entry], salt: str, protocol: Protocol) -> list[str]:
    """Clip ids sorted by emotion, at random within one: every k-th is a stratified sample."""
    order = sorted(rows, key=lambda r: (r.emotion, rank(r.clip_id, salt, protocol)))
    return [row.clip_id for row in order]


def every(ids: Sequence[str], k: int) -> set[str]:
    """k of the ids at even distances."""
    k = min(k, len(ids))
    return {ids[(2 * i + 1) * len(ids) // (2 * k)] for i in range(k)}
