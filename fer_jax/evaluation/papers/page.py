"""The page of a reproduction: tables beside the paper's, figures, and what went wrong."""

from __future__ import annotations

import base64
import csv
import html
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fer_jax.data import corpus
from fer_jax.errors import UserError
from fer_jax.evaluation.papers.plan import Figure, Need, Paper
from fer_jax.evaluation.papers.results import Row, show
from fer_jax.evaluation.papers.run import Library
from fer_jax.evaluation.report import plots, render_page
from fer_jax.labels import canonical
from fer_jax.records import Clip
from fer_jax.training.run_directory import History, write_text

#: Mistakes of a system in the gallery.
_MISTAKES = 8


def write_page(
    out: Path,
    paper: Paper,
    rows: Sequence[Row],
    results: Mapping[str, Mapping[str, Any]],
    library: Library,
    *,
    command: str,
    generated: bool,
) -> Path:
    """Writes `<out>/report.html`, which needs no other file and no network.

    Args:
      rows: of `results.rows_of`.
      results: of `run.load_results`.
      generated: the records are of generated people, and their numbers say nothing of real ones.
    """
    tables = [
        {
            "name": table.name,
            "title": table.title,
            "note": table.note,
            "counts": table.count is not None,
            "rows": [_line(row, out) for row in rows if row.table is table],
        }
        for table in paper.tables
    ]
    page = render_page(
        "reproduction.html",
        paper=paper,
        tables=tables,
        figures=[one for figure in paper.figures if (one := _figure(figure, results, library))],
        systems=[one for name in paper.shown if (one := _system(name, results.get(name, {}), out))],
        audits=_audits(rows),
        commands=[
            (name, result["command"]) for name, result in results.items() if "command" in result
        ],
        missing=sorted({result["missing"] for result in results.values() if "missing" in result}),
        swapped=[f"{own} in the place of {name}" for name, own in library.swap.items()],
        command=command,
        generated=generated,
    )
    path = out / "report.html"
    write_text(path, page)
    return path


def _line(row: Row, out: Path) -> dict[str, Any]:
    shares, here = row.table.shares, row.here
    clean = here if row.leak_free is None else row.leak_free

    def interval(found: Any) -> str:
        if found.low is None or found.high is None:
            return ""
        return f"{show(found.low, shares)} to {show(found.high, shares)}"

    return {
        "row": row.cell.row,
        "column": row.cell.column,
        "paper": show(row.cell.paper, shares),
        "here": show(here.value, shares),
        "difference": show(row.difference, shares, sign=True),
        "interval": interval(here),
        "clean": show(clean.value, shares),
        "clean_interval": interval(clean),
        "same": row.leak_free is None,
        "leaks": here.audit.startswith("leaks"),
        "why": here.why if here.value is None else "",
        "link": _link(here.run, out),
        "clean_link": _link(clean.run, out),
    }


def _link(run: str, out: Path) -> str:
    page = Path(run) / "report.html" if run else None
    return os.path.relpath(page, out) if page and page.is_file() else ""


def _audits(rows: Sequence[Row]) -> list[tuple[str, str, int]]:
    """(protocol, verdict, how many numbers) of what the numbers rest on."""
    counts: dict[tuple[str, str], int] = {}
    for row in rows:
        for found in (row.here, row.leak_free):
            if found is not None and found.audit:
                key = found.protocol.partition("[")[0], found.audit
                counts[key] = counts.get(key, 0) + 1
    return [(protocol, verdict, n) for (protocol, verdict), n in sorted(counts.items())]


def _figure(figure: Figure, results: Mapping[str, Any], library: Library) -> dict[str, str] | None:
    places = [library.find(need) for one in figure.reads for need in Need.of(one)]
    if any(isinstance(place, str) for place in places):
        return None
    drawn = figure.draw([place for place in places if isinstance(place, Path)], results)
    return None if drawn is None else {"title": figure.title, "svg": drawn[0], "said": drawn[1]}


def _system(name: str, result: Mapping[str, Any], out: Path) -> dict[str, Any] | None:
    """Confusion matrix, learning curves and mistakes of one system."""
    report = result.get("report")
    if report is None:
        return None
    if "settings" in report:
        one = report["settings"][0]
        if "clips" not in one:
            return None
        classes, confusion = one["classes"], one["confusion"]
        runs = [Path(member["run"]) for member in report["members"] if "failed" not in member]
    else:
        classes, confusion = report["classes"], report["confusion"]
        runs = [Path(report["run"])]
    curves: dict[str, list[dict[str, float]]] = {}
    for run in runs:
        for line in History(run).read():
            for part in ("train", "validation"):
                if f"{part}/loss" in line:
                    point = {"epoch": line["epoch"], "loss": line[f"{part}/loss"],
                             "accuracy": line[f"{part}/accuracy"]}  # fmt: skip
                    curves.setdefault(part, []).append(point)
    wrong = sorted(
        (one for run in runs for one in _wrong(run)), key=lambda one: -one["confidence"]
    )[:_MISTAKES]
    pictures = _pictures(result["command"], [one["clip_id"] for one in wrong])
    return {
        "name": name,
        "link": _link(str(report.get("run") or report["out"]), out),
        "curves": _own(plots.bands(curves, 1 / len(classes)), name) if curves else "",
        "confusion": _own(plots.confusion(confusion, classes), name),
        "mistakes": [{**one, "picture": pictures.get(one["clip_id"], "")} for one in wrong],
    }


def _own(svg: str, name: str) -> str:
    """The picture with ids of its own: a page shows several of a kind."""
    for mark in (' id="', "url(#", 'href="#'):
        svg = svg.replace(mark, f"{mark}{name}-")
    return svg


def _wrong(run: Path) -> list[dict[str, Any]]:
    with (run / "predictions.csv").open(newline="") as file:
        return [
            {**row, "confidence": float(row[f"p_{row['predicted']}"])}
            for row in csv.DictReader(file)
            if row["correct"] == "0"
        ]


def _pictures(command: str, clip_ids: Sequence[str]) -> dict[str, str]:
    """HTML of what the clips show: the crop in the middle of a clip, else its landmarks, else its
    strongest blendshapes."""
    words = shlex.split(command)
    records = words[words.index("--data.dir") + 1] if "--data.dir" in words else ""
    wanted = set(clip_ids)
    try:
        ids = corpus.load(records, streams=())
        where = {clip.clip_id: i for i, clip in enumerate(ids) if clip.clip_id in wanted}
        clips = corpus.load(records)
        return {clip_id: _picture(clips[i]) for clip_id, i in where.items()}
    except UserError:  # The records have moved; the table says the names.
        return {}


def _picture(clip: Clip) -> str:
    middle = len(clip.face_found) // 2
    word = html.escape(canonical(clip.emotion))
    if clip.crops is not None and (images := [image for image in clip.crops if image]):
        image = images[len(images) // 2]
        kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
        text = base64.b64encode(image).decode()
        return f'<img alt="{word}" src="data:image/{kind};base64,{text}">'
    if clip.landmarks68 is not None:
        return plots.face(clip.landmarks68[middle], word)
    return ""
