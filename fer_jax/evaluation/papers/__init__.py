"""`fer-jax reproduce`: every table of a paper beside ours, under its protocol and leak-free."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fer_jax.errors import UserError
from fer_jax.evaluation.papers import (
    abdullah2020,
    attrah2024,
    emotionaldan2018,
    ryumina2020,
    zennou2023,
)
from fer_jax.evaluation.papers.page import write_page
from fer_jax.evaluation.papers.plan import Paper, part_of
from fer_jax.evaluation.papers.results import csv_path, render, rows_of, to_csv
from fer_jax.evaluation.papers.run import Library, load_results, run_steps
from fer_jax.progress import Progress
from fer_jax.training.run_directory import write_text

#: By name, what makes a paper's plan; its argument says whether the corpora are generated.
PAPERS: Mapping[str, Callable[[bool], Paper]] = {
    "ryumina2020": ryumina2020.plan,
    "abdullah2020": abdullah2020.plan,
    "zennou2023": zennou2023.plan,
    "emotionaldan2018": emotionaldan2018.plan,
    "attrah2024": attrah2024.plan,
}


def reproduce(
    name: str,
    data: Sequence[Path],
    out: Path,
    *,
    generated: bool = False,
    swap: Mapping[str, str] | None = None,
    tables: Sequence[str] = (),
    seeds: str = "",
    extra: Sequence[str] = (),
    command: str = "",
    dry: bool = False,
) -> tuple[dict[str, Any], str]:
    """Runs what a paper's tables need and writes them beside the paper's.

    Writes into `out`: runs/ (a run directory or population a step), results/ (a JSON a step),
    tables.csv (see `results.COLUMNS`) and report.html. What is done is not done again.

    Args:
      name: of `PAPERS`.
      data: record directories, or directories that hold some.
      generated: the records are generated: the plan is a small one.
      swap: another corpus in the place of one, by name.
      tables: only these, by name; all by default.
      seeds: each training, but for those that others start from, once a seed: "0,1,2".
      extra: overrides of every training, as words.
      command: what the user typed.
      dry: only say the commands.

    Returns:
      JSON-ready: paper, out, report, csv, rows (a dict each), failed (exit codes by step); and
      the lines to show.

    Raises:
      UserError: no such paper or table; no such data, or nothing in it that the paper reads.
    """
    paper = plan(name, generated, tables)
    begun = {other for step in paper.steps for other in step.after}
    steps = tuple(step if step.name in begun else step.repeated(seeds) for step in paper.steps)
    paper = dataclasses.replace(paper, steps=steps)
    library = Library(data, swap or {})
    needs = {need for step in paper.steps for need in step.needs}
    if all(isinstance(library.find(need), str) for need in needs):
        wanted = sorted({f"{need.corpus} ({need.streams})" for need in needs})
        held = ", ".join(library.held)
        raise UserError(
            f"{name} reads {', '.join(wanted)}; there is only {held}: preprocess one of them, see "
            "docs/reproduction.md"
        )
    if dry:
        return _dry(paper, library, out, extra)
    notes: list[str] = []
    with Progress(f"reproduce {name}", "steps") as progress:
        run_steps(paper, library, out, extra=extra, on_step=progress, say=notes.append)
    results = load_results(out, paper)
    rows = rows_of(paper, results, library)
    write_text(csv_path(out), to_csv(rows, out))
    page = write_page(out, paper, rows, results, library, command=command, generated=generated)
    failed = {step: result["code"] for step, result in results.items() if "failed" in result}
    report = {
        "paper": name,
        "out": str(out),
        "report": str(page),
        "csv": str(csv_path(out)),
        "rows": [
            {
                "table": row.table.name, "row": row.cell.row, "column": row.cell.column,
                "figure": row.cell.figure, "paper": row.cell.paper, "here": row.here.value,
                "difference": row.difference, "ci95": [row.here.low, row.here.high],
                "leak_free": (row.here if row.leak_free is None else row.leak_free).value,
                "audit": row.here.audit, "why": row.here.why,
            }
            for row in rows
        ],
        "failed": failed,
    }  # fmt: skip
    lines = [render(rows), "", *notes, f"tables: {csv_path(out)}", f"report: {page}"]
    return report, "\n".join(lines)


def plan(name: str, generated: bool = False, tables: Sequence[str] = ()) -> Paper:
    """A paper's plan, or the part of it that these tables need.

    Raises:
      UserError: no such paper or table.
    """
    if name not in PAPERS:
        raise UserError(f"unknown paper {name!r} (known: {', '.join(PAPERS)}, all)")
    paper = PAPERS[name](generated)
    if not tables:
        return paper
    known = {table.name.lower(): table for table in paper.tables}
    chosen = []
    for one in tables:
        found = known.get(one.lower()) or known.get(f"table {one}".lower())
        if found is None:
            names = ", ".join(table.name for table in paper.tables)
            raise UserError(f"{name} has no {one!r} here (it has: {names})")
        chosen.append(found.name)
    return part_of(paper, chosen)


def _dry(
    paper: Paper, library: Library, out: Path, extra: Sequence[str]
) -> tuple[dict[str, Any], str]:
    lines, commands = [], []
    for step in paper.steps:
        places = {need: library.find(need) for need in step.needs}
        missing = [place for place in places.values() if isinstance(place, str)]
        known = {need: Path(place) for need, place in places.items()}
        if missing:
            lines.append(f"# {step.name}: {'; '.join(missing)}")
        else:
            commands.append(shlex.join(["fer-jax", *step.command(out, known, extra)]))
            lines.append(commands[-1])
    return {"paper": paper.name, "commands": commands}, "\n".join(lines)
