"""What a record directory holds, for `fer-jax inspect`."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from typing import Any

from fer_jax.data.corpus import Corpus, load
from fer_jax.data.protocols import subject_of
from fer_jax.errors import UserError
from fer_jax.records import Clip


def inspect(dir: str | os.PathLike[str], check: bool = False) -> dict[str, Any]:
    """Counts, face coverage and integrity of a record directory, as JSON values.

    Args:
      dir: what `fer-jax preprocess` wrote.
      check: verify every checksum, manifest and record, and list all that is wrong instead of
        raising at the first damage; counts are then of the intact clips.

    Returns:
      clips, frames, faces (frames with a face), coverage (faces / frames); the same by "classes"
      (the corpus's words), "splits" (official, "" for none) and "subjects"; unlabelled and
      augmented (clips), streams, image_shapes (by stream), shards, bytes, quarantined (files that
      preprocessing set aside, None where it kept no list), data_sha256, metadata, checked and
      problems.

    Raises:
      UserError: `dir` is no record directory, or without `check` it is damaged.
    """
    corpus = load(dir)
    problems: list[str] = []
    groups: dict[str, dict[str, dict[str, int]]] = {"classes": {}, "splits": {}, "subjects": {}}
    total = _counts()
    unlabelled = augmented = 0
    # Frames and faces are in every record; without a check no stream need be decoded.
    clips = corpus.scan(problems) if check else iter(load(dir, streams=()))
    for clip in clips:
        _add(total, clip)
        unlabelled += not clip.emotion
        augmented += bool(clip.augmentation)
        for group, key in (
            ("classes", clip.emotion),
            ("splits", clip.split),
            ("subjects", subject_of(clip) if len(corpus.parts) > 1 else clip.subject),
        ):
            _add(groups[group].setdefault(key, _counts()), clip)
    return {
        "dir": str(corpus.dir),
        "name": corpus.name,
        **_with_coverage(total),
        **{
            group: {key: _with_coverage(rows[key]) for key in sorted(rows)}
            for group, rows in groups.items()
        },
        "unlabelled": unlabelled,
        "augmented": augmented,
        "streams": list(corpus.stored_streams),
        "image_shapes": {name: list(shape) for name, shape in corpus.image_shapes.items()},
        "shards": len(corpus.shards),
        "bytes": sum(path.stat().st_size for path in corpus.shards),
        "quarantined": _quarantined(corpus.parts),
        "data_sha256": corpus.data_sha256,
        "metadata": corpus.metadata,
        "checked": check,
        "problems": problems,
    }


def _counts() -> dict[str, int]:
    return {"clips": 0, "frames": 0, "faces": 0}


def _add(counts: dict[str, int], clip: Clip) -> None:
    counts["clips"] += 1
    counts["frames"] += clip.frames
    counts["faces"] += int(clip.face_found.sum())


def _with_coverage(counts: Mapping[str, int]) -> dict[str, Any]:
    frames = counts["frames"]
    return {**counts, "coverage": counts["faces"] / frames if frames else None}


def _quarantined(parts: Sequence[Corpus]) -> int | None:
    paths = [path for part in parts if (path := part.dir / "quarantine.csv").is_file()]
    count = 0
    for path in paths:
        try:
            with open(path, newline="", encoding="utf-8") as file:
                count += sum(1 for _ in csv.DictReader(file))
        except (OSError, ValueError, csv.Error) as error:
            raise UserError(f"cannot read {path}: {error}") from None
    return count if paths else None


def render(report: Mapping[str, Any]) -> str:
    """The report of `inspect` as text for a terminal."""
    streams = ", ".join(report["streams"]) or "none"
    if shapes := report["image_shapes"]:
        sizes = (f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
        streams += f" ({', '.join(sizes)})"
    lines = [
        f"{report['name']}: {report['clips']} clips, {report['frames']} frames, faces found in "
        f"{_percent(report['coverage'])} of them",
        f"  {report['shards']} shards, {_size(report['bytes'])}, in {report['dir']}",
        f"  streams: {streams}",
    ]
    if report["quarantined"]:
        lines.append(f"  {report['quarantined']} files were set aside: see quarantine.csv")
    if report["augmented"]:
        lines.append(f"  {report['augmented']} clips are augmented copies")
    if report["unlabelled"]:
        lines.append(f"  {report['unlabelled']} clips have no label")
    for title, group in (("class", "classes"), ("split", "splits"), ("subject", "subjects")):
        rows = report[group]
        if group == "classes" or set(rows) - {""}:
            lines += ["", *_table(title, rows)]
    lines.append("")
    if report["problems"]:
        lines.append(f"{len(report['problems'])} problems:")
        lines += [f"  {problem}" for problem in report["problems"]]
    elif report["checked"]:
        lines.append("intact: every checksum fits")
    else:
        lines.append("record checksums fit; --check also verifies streams and manifests")
    return "\n".join(lines)


def _table(title: str, rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    cells = [(title, "clips", "frames", "faces")]
    cells += [
        (key or "(none)", str(row["clips"]), str(row["frames"]), _percent(row["coverage"]))
        for key, row in rows.items()
    ]
    first, *others = (max(len(row[i]) for row in cells) for i in range(4))
    return [
        f"  {row[0]:<{first}}"
        + "".join(f"  {c:>{w}}" for c, w in zip(row[1:], others, strict=True))
        for row in cells
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _size(count: int) -> str:
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"
