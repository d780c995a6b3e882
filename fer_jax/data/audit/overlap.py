"""The audit of a split: shares, the table behind them, and one line."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from typing import Any

from fer_jax.config import Data
from fer_jax.data.audit.identities import KEYS, Identities, Identity
from fer_jax.data.audit.selections import fitted_by
from fer_jax.data.protocols import PARTS, Split
from fer_jax.errors import LeakError
from fer_jax.records import Clip

#: What makes a split leak, worst first: what it is called where it is allowed, and what the verdict
#: says. The statement does not: faces are judged.
LEAKS = {
    "twin_overlap": ("twins", "have their twin in training"),
    "near_duplicates": ("duplicates", "have a copy in training"),
    "subject_overlap": ("subjects", "show a subject of training"),
    "statistics_outside_train": ("statistics", "were used for statistics"),
    "selection_outside_train": ("selections", "were there when features were chosen"),
    "source_overlap": ("sources", "trained or validated a network that this one starts from"),
}
#: Whose clips are looked for in whose.
_SIDES = (("train", "test"), ("train", "validation"), ("validation", "test"))
#: Pairs of near duplicates that are listed, the nearest that are not equal first.
_LISTED = 12


def audit(
    clips: Sequence[Clip] | Identities,
    split: Split,
    statistics: Iterable[int] | None = None,
    seen: Container[str] | None = None,
    data: Data | None = None,
) -> dict[str, Any]:
    """Measures what leaks from the parts of a split into each other.

    Augmented copies only ever follow a training original, so they add nothing.

    Args:
      clips: the corpus that was split, or its identities. Each clip of a part is read once.
      split: of `fer_jax.data.protocols.make_split`.
      statistics: indices of the clips that normalisation or feature selection looked at; the
        training part if not given.
      seen: clip ids that networks were trained or validated on which this run starts from, or whose
        features it reads; None if there are no such networks.
      data: the config's, to tell what it takes that was fitted elsewhere.

    Returns:
      JSON-ready. Each number is the share of those test clips of which the records say it, None
      where they say it of none:
      subject_overlap: their subject also trains;
      twin_overlap: their recording also trains, e.g. as RAVDESS's video-only copy;
      near_duplicates: a training clip shows the same, though it may have been encoded again,
        scaled, shifted by a few pixels or cut (exact_duplicates: its extracted streams are equal);
      statement_overlap: what they say is also said in training;
      statistics_outside_train: they are among `statistics`;
      selection_outside_train: a published choice of features was made on their corpus;
      source_overlap: they are among `seen`.
      parts: by kind and "train-test", "train-validation" and "validation-test", clips of the second
        that the first knows, clips of which the records say it, and their share;
      pairs: near duplicates in two parts, the nearest that are not equal first;
      fitted: what the config fits or takes over, and where that was fitted;
      classes: clips by part and emotion.
      verdict: one line that starts with "clean" or "leaks".
    """
    identities = clips if isinstance(clips, Identities) else Identities(clips)
    indices = {part: [int(index) for index in getattr(split, part)] for part in PARTS}
    near = identities.near(index for part in PARTS for index in indices[part])
    known = {part: [identities[index] for index in indices[part]] for part in PARTS}
    table, exact = _table(known, near)
    fitted = fitted_by(data) if data else []
    used = set() if statistics is None else {int(index) for index in statistics}
    test = split.clip_ids
    outside = {
        "statistics_outside_train": [index in used for index in indices["test"]],
        "selection_outside_train": [
            any(one.saw(clip) for one in fitted) for clip in known["test"]
        ] if data else [],
        "source_overlap": [] if seen is None else [test[i] in seen for i in indices["test"]],
    }  # fmt: skip
    for name, hits in outside.items():
        table[name] = {"train-test": _count(sum(hits), len(hits))}
    shares = {name: row["train-test"]["share"] for name, row in table.items()}
    report = {**shares, "exact_duplicates": exact, "parts": table}
    report |= {
        "pairs": _pairs(known, indices, near, split.clip_ids),
        "fitted": [{"what": one.what, "where": one.where} for one in fitted],
        "classes": {part: dict(sorted(Counter(c.emotion for c in known[part]).items()))
                    for part in PARTS},
    }  # fmt: skip
    return {"verdict": _verdict(report, [one.where for one in fitted if one.corpora]), **report}


def _count(found: int, of: int) -> dict[str, Any]:
    return {"clips": found, "of": of, "share": found / of if of else None}


def _table(
    known: Mapping[str, Sequence[Identity]], near: Mapping[str, Sequence[tuple[str, float]]]
) -> tuple[dict[str, dict[str, dict[str, Any]]], float | None]:
    """By kind and sides what is known, and the share of test clips that training has exactly."""
    table: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in KEYS}
    exact = None
    for first, second in _SIDES:
        for name in KEYS:
            there = {clip.keys[name] for clip in known[first]}
            said = [clip.keys[name] for clip in known[second] if clip.keys[name]]
            hits = [key in there for key in said]
            if name == "near_duplicates":
                if (first, second) == ("train", "test"):
                    exact = _count(sum(hits), len(hits))["share"]
                hits = [
                    hit or any(other in there for other, _ in near.get(key, ()))
                    for key, hit in zip(said, hits, strict=True)
                ]
            table[name][f"{first}-{second}"] = _count(sum(hits), len(hits))
    return table, exact


def _pairs(
    known: Mapping[str, Sequence[Identity]],
    indices: Mapping[str, Sequence[int]],
    near: Mapping[str, Sequence[tuple[str, float]]],
    clip_ids: Sequence[str],
) -> list[dict[str, Any]]:
    """The near duplicates to look at: those with a test clip first, then the nearest."""
    places: dict[str, dict[str, list[int]]] = {part: defaultdict(list) for part in PARTS}
    for part in PARTS:
        for index, clip in zip(indices[part], known[part], strict=True):
            places[part][clip.keys["near_duplicates"]].append(index)
    found = []
    for rank, (first, second) in enumerate(_SIDES):
        for content, there in places[second].items():
            best = min(
                ((distance, other) for other, distance in near.get(content, ())
                 if other in places[first]),
                default=None,
            )  # fmt: skip
            if best is None and content and content in places[first]:
                best = (0.0, content)
            if best is not None:
                distance, other = best
                found.append((rank, distance == 0, distance, places[first][other][0], there[0],
                              f"{first}-{second}"))  # fmt: skip
    return [
        {"sides": sides, "distance": round(distance, 4), "clips": [clip_ids[i], clip_ids[j]]}
        for _, _, distance, i, j, sides in sorted(found)[:_LISTED]
    ]


def _verdict(report: Mapping[str, Any], lists: Sequence[str]) -> str:
    leaks = []
    for name, (_, what) in LEAKS.items():
        if share := report[name]:
            text = f"{_percent(share)} of test clips {what}"
            if name == "near_duplicates":
                text += f" ({_percent(report['exact_duplicates'] or 0)} an exact one)"
            if name == "selection_outside_train":
                text += f" (selection: {'; '.join(lists)})"
            leaks.append(text)
    verdict = "leaks: " + "; ".join(leaks) if leaks else "clean"
    for sides, text in (
        ("train-validation", "of validation clips {} (a leak of model selection)"),
        ("validation-test", "of test clips {}"),
    ):
        for name, (_, what) in LEAKS.items():
            row = report["parts"][name].get(sides)
            if row and row["share"] and not (sides == "validation-test" and report[name]):
                part = what.replace("training", "validation") if sides[0] == "v" else what
                verdict += f"; {_percent(row['share'])} " + text.format(part)
    unknown = [
        word
        for name, word in (("subject_overlap", "subjects"), ("twin_overlap", "recordings"))
        if report[name] is None
    ]
    return verdict + (f" (the records name no {' and no '.join(unknown)})" if unknown else "")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def refuse(report: Mapping[str, Any], allowed: Collection[str], remedy: str) -> None:
    """Raises:
    LeakError: the split leaks what is not `allowed` (names of `LEAKS`); `remedy` says what to do.
    """
    names = [name for key, (name, _) in LEAKS.items() if report[key] and name not in allowed]
    if names:
        raise LeakError(f"{report['verdict']}: {remedy.format(','.join([*allowed, *names]))}")
