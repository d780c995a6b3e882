"""What a split leaks: how much of the test set the training set already knows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

from fer_jax.data.protocols import Split, recording_of, subject_of
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


_KEYS: Mapping[str, Callable[[Clip], str]] = {
    "subject_overlap": subject_of,
    "twin_overlap": recording_of,
    "near_duplicates": content_hash,
    "statement_overlap": lambda clip: clip.statement,
}
#: What makes a split leak, worst first. The statement does not: faces are judged.
_LEAKS = {
    "twin_overlap": "have their twin in training",
    "near_duplicates": "have an exact copy in training",
    "subject_overlap": "show a subject of training",
    "statistics_outside_train": "were used for statistics",
    "source_overlap": "trained or validated a network that this one starts from",
}


class Identities:
    """What tells the clips of a corpus apart; each is read once, however many splits are audited.

    `identities[index]` gives the clip's subject, recording, content and statement, by `_KEYS`.
    """

    def __init__(self, clips: Sequence[Clip]):
        self._clips = clips
        self._known: dict[int, dict[str, str]] = {}

    def __getitem__(self, index: int) -> Mapping[str, str]:
        if index not in self._known:
            clip = self._clips[index]
            self._known[index] = {name: key(clip) for name, key in _KEYS.items()}
        return self._known[index]


def audit(
    clips: Sequence[Clip] | Identities,
    split: Split,
    statistics: Iterable[int] | None = None,
    seen: Container[str] | None = None,
) -> dict[str, Any]:
    """Measures what leaks from the test part of a split into its training part.

    Augmented copies only ever follow a training original, so they add nothing.

    Args:
      clips: the corpus that was split, or its identities. Each training and test clip is read
        once.
      split: of `fer_jax.data.protocols.make_split`.
      statistics: indices of the clips that normalisation or feature selection looked at; the
        training part if not given.
      seen: clip ids that networks were trained or validated on which this run starts from, or whose
        features it reads; None if there are no such networks.

    Returns:
      JSON-ready. Each number is the share of those test clips of which the records say it, None
      where they say it of none:
      subject_overlap: their subject also trains;
      twin_overlap: their recording also trains, e.g. as RAVDESS's video-only copy;
      near_duplicates: a training clip has exactly the same extracted streams;
      statement_overlap: what they say is also said in training;
      statistics_outside_train: they are among `statistics`;
      source_overlap: they are among `seen`.
      verdict: one line that starts with "clean" or "leaks".
    """
    identities = clips if isinstance(clips, Identities) else Identities(clips)
    train = [identities[int(index)] for index in split.train]
    test = [identities[int(index)] for index in split.test]
    hits = {}
    for name in _KEYS:
        known = {one[name] for one in train}
        hits[name] = [one[name] in known for one in test if one[name]]
    fitted = set() if statistics is None else {int(i) for i in statistics}
    hits["statistics_outside_train"] = [int(i) in fitted for i in split.test]
    hits["source_overlap"] = []
    if seen is not None:
        hits["source_overlap"] = [split.clip_ids[int(i)] in seen for i in split.test]
    shares = {name: sum(hit) / len(hit) if hit else None for name, hit in hits.items()}
    return {"verdict": _verdict(shares), **shares}


def _verdict(shares: Mapping[str, float | None]) -> str:
    leaks = [
        f"{100 * share:.1f} % of test clips {what}"
        for name, what in _LEAKS.items()
        if (share := shares[name])
    ]
    unknown = [
        word
        for name, word in (("subject_overlap", "subjects"), ("twin_overlap", "recordings"))
        if shares[name] is None
    ]
    verdict = "leaks: " + "; ".join(leaks) if leaks else "clean"
    return verdict + (f" (the records name no {' and no '.join(unknown)})" if unknown else "")
