"""`fer-jax audit`: the audit of one split or of all folds, as lines and as a page."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fer_jax.config import Data, Protocol
from fer_jax.data import audit, protocols
from fer_jax.data.corpus import Corpus, load
from fer_jax.errors import UserError
from fer_jax.evaluation.report import AUDIT_TITLES, render_page
from fer_jax.progress import Progress
from fer_jax.records import IMAGES
from fer_jax.training.run_directory import write_text


def audit_splits(
    clips: Corpus, protocol: Protocol, data: Data | None = None, *, all_folds: bool = False
) -> list[dict[str, Any]]:
    """What `fer_jax.data.audit` finds, with protocol, split_sha256 and clips by part.

    Args:
      data: of a config, whose selections are audited too.
      all_folds: of a -kfold protocol, instead of `protocol.fold` alone. Each clip is read once.

    Raises:
      UserError: the corpus cannot be split so.
    """
    wanted = [protocol]
    if all_folds:
        if not protocol.name.endswith("-kfold"):
            raise UserError(
                f"--all-folds with protocol {protocol.name}, which has no folds: choose "
                "--protocol random-kfold or another -kfold"
            )
        wanted = [dataclasses.replace(protocol, fold=fold) for fold in range(protocol.folds)]
    splits = [protocols.make_split(_without_streams(clips), one) for one in wanted]
    identities = audit.Identities(clips)
    reports = []
    with Progress("audit", "splits") as progress:
        for split in splits:
            sizes = {part: len(getattr(split, part)) for part in protocols.PARTS}
            reports.append(
                audit.audit(identities, split, data=data)
                | {"protocol": split.name, "split_sha256": split.sha256, "clips": sizes}
            )
            progress(len(reports), len(splits), split.name)
    return reports


def _without_streams(clips: Corpus) -> Corpus:
    """The same records, read for their metadata alone."""
    return load(clips.dir, streams=())


def render(reports: Sequence[Mapping[str, Any]]) -> str:
    """The verdicts, a line each where there are several, and one split's table."""
    if len(reports) > 1:
        return "\n".join(f"{one['protocol']}: {one['verdict']}" for one in reports)
    (report,) = reports
    sides = ("train-test", "train-validation", "validation-test")
    rows: list[tuple[str, ...]] = [("clips of the second part known to the first", *sides)]
    for name, title in AUDIT_TITLES.items():
        cells = [report["parts"][name].get(side) for side in sides]
        if any(cell and cell["of"] for cell in cells):
            rows.append((title, *(_cell(cell) for cell in cells)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines += [
        f"{one['sides']}: {' and '.join(one['clips'])}, distance {one['distance']:.2f}"
        for one in report["pairs"]
    ]
    lines += [f"{one['what']}: fitted on {one['where']}" for one in report["fitted"]]
    sizes = ", ".join(f"{part} {count}" for part, count in report["clips"].items())
    lines.append(f"protocol {report['protocol']}, split {report['split_sha256'][:12]}: {sizes}")
    return "\n".join([report["verdict"], *lines])


def _cell(row: Mapping[str, Any] | None) -> str:
    if not row:
        return ""
    return "unknown" if row["share"] is None else f"{row['clips']} ({100 * row['share']:.1f} %)"


def write_audit(out: Path, clips: Corpus, reports: Sequence[Mapping[str, Any]]) -> Path:
    """Writes audit.json and audit.html, one self-contained page, into `out`, made if absent.

    The page shows the verdict, the table of overlaps, clips by class and part, and the nearest near
    duplicates, with their pictures where the records hold pictures.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "audit.json", json.dumps(list(reports), indent=1) + "\n")
    shown = {clip for one in reports for pair in one["pairs"] for clip in pair["clips"]}
    page = render_page(
        "audit.html",
        name=clips.name,
        dir=str(clips.dir),
        data_sha256=clips.data_sha256,
        reports=reports,
        pictures=_pictures(clips, shown),
    )
    write_text(out / "audit.html", page)
    return out / "audit.html"


def _pictures(clips: Corpus, wanted: set[str]) -> dict[str, str]:
    """By clip id the picture in its middle, as a page holds it itself."""
    found: dict[str, str] = {}
    stream = next((name for name in IMAGES if name in clips.streams), "")
    if not (stream and wanted):
        return found
    for index, clip in enumerate(_without_streams(clips)):
        if clip.clip_id in wanted:
            images = [image for image in getattr(clips[index], stream) or () if image is not None]
            if images:
                image = images[len(images) // 2]
                kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
                text = base64.b64encode(image).decode()
                found[clip.clip_id] = f"data:image/{kind};base64,{text}"
    return found
