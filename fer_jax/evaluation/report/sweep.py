"""report.html of a sweep: which parameters did well, on one page that needs no network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fer_jax.evaluation.report import render_page, sweep_plots
from fer_jax.training.run_directory import write_text


def write_sweep_report(
    out: Path,
    name: str,
    report: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    axes: Mapping[str, Mapping[str, Any]],
    *,
    sign: float,
    command: str,
) -> Path:
    """Writes `<out>/report.html`.

    Args:
      report: out, objective, trials, best, importance, as `sweep.results` makes them.
      rows: the trials: trial, state, value, parameters, epochs, seconds, reason, run; one is
        complete.
      axes: see `sweep_plots.parallel_coordinates`.
      sign: 1 where more of the objective is better.
      command: what the user typed.
    """
    objective = report["objective"]
    reasons = Counter(row["reason"] for row in rows if row["reason"])
    page = render_page(
        "sweep.html",
        experiment=name,
        report=report,
        rows=sorted(
            rows, key=lambda row: (row["state"] != "complete", -sign * (row["value"] or 0))
        ),
        keys=list(axes),
        seconds=sum(row["seconds"] or 0 for row in rows),
        epochs=sum(row["epochs"] for row in rows),
        reasons=reasons.most_common(),
        parallel=sweep_plots.parallel_coordinates(rows, axes, objective, sign),
        history=sweep_plots.history(rows, objective, sign),
        importance=sweep_plots.importance(report["importance"]) if report["importance"] else "",
        command=command,
    )
    path = out / "report.html"
    write_text(path, page)
    return path
