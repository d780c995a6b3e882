"""A paper's numbers beside ours: the tables of a reproduction as rows."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fer_jax.evaluation.papers.plan import Cell, Need, Paper, Table
from fer_jax.evaluation.papers.run import Library


@dataclass(frozen=True)
class Found:
    """What a result says of a figure.

    Attributes:
      value: None where there is no result; why then says why.
      low, high: its 95 % interval, where it has one.
      audit: the auditor's verdict on the split.
      n: test samples.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    protocol: str = ""
    audit: str = ""
    n: int | None = None
    run: str = ""
    why: str = ""


@dataclass(frozen=True)
class Row:
    """A number of a table: the paper's, ours under its protocol, and ours without a leak."""

    table: Table
    cell: Cell
    here: Found
    leak_free: Found | None
    """None where the paper's own protocol does not leak."""

    @property
    def difference(self) -> float | None:
        if self.cell.paper is None or self.here.value is None:
            return None
        return self.here.value - self.cell.paper


def rows_of(paper: Paper, results: Mapping[str, Mapping[str, Any]], library: Library) -> list[Row]:
    """Every number of the paper's tables, in their order."""
    rows = []
    for table in paper.tables:
        if table.count is not None:
            rows += _counted(table, library)
            continue
        for cell in table.cells:
            clean = found_of(results.get(cell.leak_free), cell.figure) if cell.leak_free else None
            rows.append(Row(table, cell, found_of(results.get(cell.step), cell.figure), clean))
    return rows


def _counted(table: Table, library: Library) -> list[Row]:
    assert table.count is not None
    (need,) = Need.of(table.reads)
    place = library.find(need)
    counts = {} if isinstance(place, str) else table.count(place)
    why = place if isinstance(place, str) else "the records have no coverage.json"
    return [
        Row(table, cell, Found(counts.get((cell.row, cell.column)), why=why), None)
        for cell in table.cells
    ]


def found_of(result: Mapping[str, Any] | None, figure: str) -> Found:
    """A figure of a step's result (see `run.load_results`)."""
    if result is None:
        return Found(why="not run yet")
    if "report" not in result:
        return Found(why=result.get("missing") or result["failed"])
    report = result["report"]
    if "settings" in report:
        return _of_population(report, figure)
    facts = {
        "protocol": report["protocol"], "audit": report["audit"] or "", "n": report["n"],
        "run": report.get("run") or report.get("written", ""),
    }  # fmt: skip
    if figure.startswith("confusion/"):
        return Found(_share(report["confusion"], report["classes"], figure), **facts)
    low, high = report["ci95"].get(figure, (None, None))
    return Found(report[figure], low, high, **facts)


def _of_population(report: Mapping[str, Any], figure: str) -> Found:
    """Of folds and seeds together; see `crossval.summarise`."""
    one = report["settings"][0]
    if "clips" not in one:
        return Found(why="every run failed: " + report["members"][0]["failed"])
    verdicts = [member["audit"] for member in report["members"] if member.get("audit")]
    facts = {
        "protocol": report["protocol"], "audit": verdicts[0] if verdicts else "",
        "n": one["clips"], "run": report["out"],
    }  # fmt: skip
    if figure.startswith("confusion/"):
        return Found(_share(one["confusion"], one["classes"], figure), **facts)
    low, high = one[figure]["ci95"]
    return Found(one[figure]["mean"], low, high, **facts)


def _share(matrix: Sequence[Sequence[float]], classes: Sequence[str], figure: str) -> float | None:
    _, truth, said = figure.split("/")
    row = matrix[classes.index(truth)]
    return row[classes.index(said)] / sum(row) if sum(row) else None


COLUMNS = (
    "table", "row", "column", "figure", "paper", "here", "difference", "low", "high", "leak_free",
    "leak_free_low", "leak_free_high", "protocol", "leak_free_protocol", "audit", "leak_free_audit",
    "n", "run", "leak_free_run", "note",
)  # fmt: skip


def to_csv(rows: Sequence[Row], out: Path) -> str:
    """The rows as CSV with `COLUMNS`; what is not known is empty, runs are relative to `out`."""

    def place(run: str) -> str:
        return os.path.relpath(run, out) if run else ""

    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for row in rows:
        here, clean = row.here, row.leak_free
        unleaked = here if clean is None else clean
        table.writerow(
            [row.table.name, row.cell.row, row.cell.column, row.cell.figure,
             *map(_plain, (row.cell.paper, here.value, row.difference, here.low, here.high,
                           unleaked.value, unleaked.low, unleaked.high)),
             here.protocol, unleaked.protocol, here.audit, unleaked.audit,
             "" if here.n is None else here.n, place(here.run), place(unleaked.run),
             here.why if here.value is None else unleaked.why if unleaked.value is None else ""]
        )  # fmt: skip
    return text.getvalue()


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def render(rows: Sequence[Row]) -> str:
    """The tables as text."""
    lines: list[str] = []
    for table in dict.fromkeys(row.table.name for row in rows):
        own = [row for row in rows if row.table.name == table]
        lines += ["", f"{table}: {own[0].table.title}"]
        cells = [("", "paper", "here", "difference", "95 % interval", "leak-free here")]
        for row in own:
            shares = row.table.shares
            clean = row.here if row.leak_free is None else row.leak_free
            interval = ""
            if row.here.low is not None and row.here.high is not None:
                low, high = show(row.here.low, shares), show(row.here.high, shares)
                interval = f"{low} - {high}"
            cells.append((
                f"{row.cell.row}, {row.cell.column}", show(row.cell.paper, shares),
                show(row.here.value, shares), show(row.difference, shares, sign=True), interval,
                "" if row.table.count else show(clean.value, shares),
            ))  # fmt: skip
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines += [
            "  ".join(
                cell.ljust(width) if index == 0 else cell.rjust(width)
                for index, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in cells
        ]
        whys = {row.here.why for row in own if row.here.value is None and row.here.why}
        lines += [f"not here: {why}" for why in sorted(whys)]
    return "\n".join(lines[1:])


def show(value: float | None, shares: bool, *, sign: bool = False) -> str:
    """A share in percent, a count as a whole number, other figures with three places."""
    if value is None:
        return "-"
    plus = "+" if sign else ""
    if shares:
        return f"{100 * value:{plus}.1f}"
    whole = (float(value).is_integer() and abs(value) >= 2) or value == 0
    return f"{value:{plus},.0f}" if whole else f"{value:{plus}.3f}"


def csv_path(out: Path) -> Path:
    return out / "tables.csv"
