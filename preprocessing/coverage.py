"""What a build found: faces by class, what was quarantined and why, and how to say it."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from fer_jax.records import Clip
from preprocessing.corpora.tree import first_of

#: Why a clip is quarantined, and how it is said. The command line shows "no_face" as ordinary.
KINDS: Mapping[str, str] = {
    "no_face": "no face found",
    "unreadable": "unreadable",
    "malformed": "malformed name or row",
    "error": "failed in extraction",
    "crash": "killed its worker",
    "timeout": "hung",
}
#: The order in which partitions are shown.
SPLITS = ("train", "validation", "test")
_EXAMPLES = 3


class Quarantined(NamedTuple):
    """A clip that is not in the records.

    Attributes:
      kind: a key of `KINDS`.
      size: bytes of the source file, None where there is none; a file that has changed since is
        tried again.
    """

    clip_id: str
    source: str
    kind: str
    reason: str
    size: int | None = None


class Row(NamedTuple):
    """What a number of the coverage counts.

    Attributes:
      augmented: copies are counted apart from originals.
      what: "written", "frames", "frames_with_face", or a key of `KINDS`.
    """

    split: str
    emotion: str
    augmented: bool
    what: str

    @classmethod
    def of(cls, clip: Clip, what: str) -> Row:
        return cls(clip.split, clip.emotion, bool(clip.augmentation), what)


@dataclass(frozen=True)
class BuildReport:
    """What `preprocessing.build.preprocess` did.

    Attributes:
      corpus, out: what was read and where the records are.
      scanned: clips of the raw tree that this build is about, augmented copies left out.
      written: records, augmented copies included.
      coverage: counts by split, class and outcome.
      quarantined: every clip that is not in the records, with the reason, sorted by clip_id.
      notes: what else a user should know, a sentence each.
      shards, resumed_shards: all of them, and those that an earlier run had finished.
      processed: clips that this run went through; seconds: how long that took.
    """

    corpus: str
    out: str
    scanned: int
    written: int
    coverage: Mapping[Row, int]
    quarantined: Sequence[Quarantined]
    notes: Sequence[str]
    shards: int
    resumed_shards: int
    processed: int
    seconds: float

    @property
    def exit_code(self) -> int:
        """0: every clip was written or shows no face. 3: some could not be read; see the list."""
        return 3 if any(item.kind != "no_face" for item in self.quarantined) else 0

    @property
    def clips_per_second(self) -> float:
        return self.processed / self.seconds if self.seconds > 0 else 0.0

    def table(self) -> list[dict]:
        """One dict for each split and class: scanned, written, no_face, failed, frames, ...

        Augmented copies are counted as `copies` (written) and `copies_lost` only.
        """
        failed = set(KINDS) - {"no_face"}
        rows: dict[tuple[str, str], Counter[str]] = {}
        for row, n in self.coverage.items():
            counts = rows.setdefault((row.split, row.emotion), Counter())
            if not row.augmented:
                counts["failed" if row.what in failed else row.what] += n
            elif row.what == "written" or row.what in KINDS:
                counts["copies" if row.what == "written" else "copies_lost"] += n
        fields = ("written", "no_face", "failed", "frames", "frames_with_face")
        return [
            {
                "split": split,
                "emotion": emotion,
                "clips": counts["written"] + counts["no_face"] + counts["failed"],
                **{name: counts[name] for name in (*fields, "copies", "copies_lost")},
            }
            for (split, emotion), counts in sorted(rows.items(), key=_official_order)
        ]

    def summary(self) -> dict:
        """The part of the report that two builds of the same records share."""
        return {
            "corpus": self.corpus,
            "scanned": self.scanned,
            "written": self.written,
            "coverage": self.table(),
            "quarantined": dict(sorted(Counter(item.kind for item in self.quarantined).items())),
            "notes": list(self.notes),
        }

    def to_json(self) -> dict:
        """Everything but the list of the quarantined, which is in OUT/quarantine.csv."""
        fields = dataclasses.asdict(self)
        plain = ("out", "shards", "resumed_shards", "processed", "seconds")
        return {
            **self.summary(),
            **{name: fields[name] for name in plain},
            "clips_per_second": self.clips_per_second,
            "exit_code": self.exit_code,
        }

    def render(self) -> str:
        """Plain text: what was done, faces by class, what was quarantined, and what to know."""
        lines = [self._headline(), "", *self._table_lines()]
        if self.quarantined:
            lines += [
                "",
                f"quarantined {len(self.quarantined):,}, all in {self.out}/quarantine.csv:",
            ]
            lines += self._reasons()
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)

    def _headline(self) -> str:
        text = f"{self.corpus}: {self.written:,} clips in {self.out}, {self.shards} shards"
        if self.resumed_shards == self.shards:
            return f"{text}; all of it was finished before"
        if self.resumed_shards:
            text += f" ({self.resumed_shards} finished before)"
        return (
            f"{text}; {self.processed:,} clips in {self.seconds:,.0f} s, "
            f"{self.clips_per_second:,.1f} a second"
        )

    def _table_lines(self) -> list[str]:
        rows = self.table()
        total = Counter[str]()
        for row in rows:
            total.update({name: n for name, n in row.items() if isinstance(n, int)})
        columns = ["clips", "written", "no_face", "failed"]
        if total["copies"] or total["copies_lost"]:
            columns += ["copies", "copies_lost"]
        names = ["split", "emotion"] if any(row["split"] for row in rows) else ["emotion"]
        heads = [*names, *(name.replace("_", " ") for name in columns), "found"]
        videos = total["frames"] > total["written"]
        cells = [[*heads, "of frames"] if videos else heads]
        for row in [*rows, {"split": "all", "emotion": "" if len(names) > 1 else "all", **total}]:
            readable = row["clips"] - row["failed"]
            line = [*(row[name] for name in names), *(f"{row[name]:,}" for name in columns)]
            line.append(f"{row['written'] / readable:.1%}" if readable else "-")
            if videos:
                faces = row["frames_with_face"] / row["frames"] if row["frames"] else None
                line.append("-" if faces is None else f"{faces:.1%}")
            cells.append(line)
        widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
        legend = "found: share of the readable clips that show a face"
        return [
            "  ".join(
                cell.ljust(width) if i < len(names) else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in cells
        ] + [f"{legend}; of frames: share of their frames that do" if videos else legend]

    def _reasons(self) -> list[str]:
        lines = []
        for kind, title in KINDS.items():
            items = [item for item in self.quarantined if item.kind == kind]
            if not items:
                continue
            lines.append(f"  {len(items):,} {title}")
            if kind != "no_face":
                lines += [f"      {item.source}: {item.reason}" for item in items[:_EXAMPLES]]
                if len(items) > _EXAMPLES:
                    lines.append(f"      and {len(items) - _EXAMPLES:,} more")
        return lines


def _official_order(item: tuple[tuple[str, str], Any]) -> tuple[int, str, str]:
    split, emotion = item[0]
    return SPLITS.index(split) if split in SPLITS else len(SPLITS), split, emotion


def quarantine_csv(items: Sequence[Quarantined]) -> bytes:
    """The list of the quarantined as a table: clip_id, source, kind, reason."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("clip_id", "source", "kind", "reason"))
    writer.writerows(item[:4] for item in items)
    return text.getvalue().encode()


def compare_with_published(
    published: Mapping[tuple[str, str], int],
    clips: Sequence[Clip],
    listing: Sequence[Clip] = (),
) -> list[str]:
    """Where the clips at hand differ from what the publisher counts; [] where they agree.

    Args:
      published: clips by (split, emotion); empty where nothing is published.
      clips: what is there.
      listing: what should be, by name; empty where nobody knows.
    """
    notes = []
    found = Counter((clip.split, clip.emotion) for clip in clips)
    if published and found != published:
        parts = [
            f"{' '.join(filter(None, key))} {found[key]:,} of {published.get(key, 0):,}"
            for key in sorted({*found, *published})
            if found[key] != published.get(key, 0)
        ]
        notes.append(
            f"{len(clips):,} clips here, {sum(published.values()):,} published; "
            f"they differ in {', '.join(parts)}"
        )
    if listing:
        here = {clip.clip_id for clip in clips}
        listed = {clip.clip_id for clip in listing}
        subjects = {clip.subject for clip in clips}
        # Of whom nothing is there, the name says enough.
        absent = sorted({clip.subject for clip in listing} - subjects)
        missing = [c.clip_id for c in listing if c.clip_id not in here and c.subject in subjects]
        extra = [clip.clip_id for clip in clips if clip.clip_id not in listed]
        for title, names in (
            ("subjects without a clip", absent),
            ("clips missing of subjects that are here", missing),
            ("clips that the publisher does not list", extra),
        ):
            if names:
                notes.append(f"{title} ({len(names):,}): {first_of(names)}")
    return notes
