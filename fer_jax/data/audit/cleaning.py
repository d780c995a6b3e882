"""A split without the copies that make it leak."""

from __future__ import annotations

import dataclasses

import numpy as np

from fer_jax.data.audit.identities import Identities
from fer_jax.data.protocols import PARTS, Split


def without_copies(identities: Identities, split: Split) -> tuple[Split, dict[str, int]]:
    """The split without training clips that show what a validation or test clip shows, and without
    validation clips that show what a test clip shows; equal or nearly so (see `audit`).

    Augmented copies go with their originals. Subjects and recordings stay where they are: a
    protocol by subject divides those.

    Returns:
      the split, and how many clips "train" and "validation" lost.
    """
    near = identities.near(int(index) for part in PARTS for index in getattr(split, part))
    judged: set[str] = set()

    def show(indices: np.ndarray) -> None:
        for index in indices:
            content = identities[int(index)].keys["near_duplicates"]
            if content:
                judged.add(content)
                judged.update(other for other, _ in near.get(content, ()))

    kept: dict[str, np.ndarray] = {}
    lost: dict[str, int] = {}
    show(split.test)
    for part in ("validation", "train"):
        indices = getattr(split, part)
        copies = {
            split.clip_ids[i]
            for i in map(int, indices)
            if identities[i].keys["near_duplicates"] in judged
        }
        originals = [_original(split.clip_ids[i]) for i in map(int, indices)]
        stays = np.array(
            [
                split.clip_ids[i] not in copies and original not in copies
                for i, original in zip(map(int, indices), originals, strict=True)
            ],
            bool,
        )
        kept[part], lost[part] = indices[stays], int((~stays).sum())
        show(kept[part])
    changed = dataclasses.replace(split, name=f"{split.name} without copies", **kept)
    return changed, {part: lost[part] for part in ("train", "validation")}


def _original(clip_id: str) -> str:
    """The clip id that an augmented copy was made of, or the clip's own."""
    return clip_id.partition("+aug")[0]
