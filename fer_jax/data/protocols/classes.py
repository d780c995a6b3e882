"""What the parts of a split hold, and which classes they show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from fer_jax.data.protocols.division import some
from fer_jax.data.protocols.index import Index
from fer_jax.data.protocols.split import PARTS, Split
from fer_jax.errors import UserError
from fer_jax.labels import LABEL_SPACES, LabelSpace


def count_classes(index: Index, split: Split, space: LabelSpace) -> dict[str, dict[str, int]]:
    """Clips of each class, by part; of those without a class there is no count."""
    found = {}
    for part in PARTS:
        labels = Counter(space.index(index.entries[i].word) for i in getattr(split, part))
        found[part] = {name: labels[k] for k, name in enumerate(space.classes)}
    return found


def check_classes(index: Index, split: Split, space: LabelSpace) -> list[str]:
    """What a user should know of the classes of a split, a line each.

    Raises:
      UserError: the training part lacks a class that is tested.
    """
    counts = count_classes(index, split, space)
    lost = [name for name, n in counts["test"].items() if n and not counts["train"][name]]
    if lost:
        tested = sum(counts["test"][name] for name in lost)
        fit = _spaces_without(lost, [name for name, n in counts["train"].items() if n])
        remedy = f"--data.labels {' or '.join(fit)} leaves them out, or " if fit else ""
        raise UserError(
            f"{split.name}: the training part has no clip of {', '.join(lost)}, which "
            f"{tested:,} test clips show: {remedy}choose another split"
        )
    notes = []
    for part in PARTS[1:]:
        empty = [name for name, n in counts[part].items() if counts["train"][name] and not n]
        if empty and len(getattr(split, part)):
            notes.append(f"{split.name}: the {part} part has no clip of {', '.join(empty)}")
    words: Counter[str] = Counter()
    for part in PARTS:
        for i in getattr(split, part):
            if space.index(index.entries[i].word) is None:
                words[index.entries[i].word or "no label"] += 1
    if words:
        each = some(f"{n:,} {word}" for word, n in words.most_common())
        notes.append(
            f"{words.total():,} clips have no class in {space.name} and are left out: {each}"
        )
    return notes


def _spaces_without(lost: list[str], kept: list[str]) -> list[str]:
    """The named label spaces that leave these classes out and tell the others apart."""
    return [
        name
        for name, space in LABEL_SPACES.items()
        if all(space.index(word) is None for word in lost)
        and len({space.index(word) for word in kept} - {None}) == len(kept)
    ]


def describe(index: Index, split: Split, space: LabelSpace) -> dict[str, Any]:
    """A split as JSON values: protocol, split_sha256, notes; and by part clips, subjects (0 where
    none is known) and classes (clips of each)."""
    try:
        notes = check_classes(index, split, space)
    except UserError as error:
        notes = [str(error)]
    chosen = {part: [index.entries[i] for i in getattr(split, part)] for part in PARTS}
    return {
        "protocol": split.name,
        "split_sha256": split.sha256,
        "clips": {part: len(entries) for part, entries in chosen.items()},
        "subjects": {
            part: len({entry.person for entry in entries} - {""})
            for part, entries in chosen.items()
        },
        "classes": count_classes(index, split, space),
        "notes": [*split.notes, *notes],
    }


def render(report: Mapping[str, Any]) -> str:
    """What `describe` gives as text for a terminal: a line a class, a column a part."""
    rows: list[tuple[str, ...]] = [("", *PARTS)]
    for name in ("clips", "subjects"):
        rows.append((name, *(f"{report[name][part]:,}" for part in PARTS)))
    for name in report["classes"]["train"]:
        rows.append((name, *(f"{report['classes'][part][name]:,}" for part in PARTS)))
    first = max(len(row[0]) for row in rows)
    lines = [f"{report['protocol']}: sha256 {report['split_sha256']}"]
    lines += [f"{row[0]:<{first}}" + "".join(f"{cell:>12}" for cell in row[1:]) for row in rows]
    lines += [f"note: {note}" for note in report["notes"]]
    return "\n".join([*lines, *([f"written: {report['out']}"] if "out" in report else [])])
