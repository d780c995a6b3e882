"""A table of runs: one CSV row for every result that is quoted anywhere."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fer_jax.errors import UserError
from fer_jax.evaluation.evaluate import load_metrics
from fer_jax.training.run_directory import History, write_text

FIGURES = ("accuracy", "uar", "macro_f1")


def result_row(run: str | Path) -> dict[str, Any]:
    """What a finished and evaluated run leaves behind, flat.

    Raises:
      UserError: the run has not been evaluated.
    """
    run = Path(run)
    metrics = load_metrics(run)
    history, command = History(run).read(), run / "command.txt"
    row = {
        "experiment": metrics["experiment"],
        "command": command.read_text().strip() if command.is_file() else "",
        "protocol": metrics["protocol"],
        "test_samples": metrics["n"],
    }
    for name in FIGURES:
        low, high = metrics["ci95"][name]
        row |= {name: f"{metrics[name]:.4f}", f"{name}_ci95": f"{low:.4f}-{high:.4f}"}
    more = {
        "clip_accuracy": metrics.get("by_clip", {}).get("accuracy"),
        "vote_accuracy": metrics.get("by_vote", {}).get("accuracy"),
        "landmark_error": metrics.get("landmark_error"),
    }
    row |= {name: "" if value is None else f"{value:.4f}" for name, value in more.items()}
    row |= {
        "subject_overlap": metrics["subject_overlap"],
        "twin_overlap": metrics["twin_overlap"],
        "audit": metrics["audit"],
        "best_epoch": metrics["epoch"],
        "epochs": len(history),
        "train_seconds": round(sum(line["seconds"] for line in history)),
    }
    same = ("split_sha256", "data_sha256", "code_version", "hardware")
    return row | {name: metrics[name] for name in same}


def append_row(run: str | Path, table: Path) -> Path:
    """Add the run's row to a CSV table, or put it in the place of an equal command's old one.

    Raises:
      UserError: the run has not been evaluated, or `table` is another kind of table.
    """
    row = {name: "" if value is None else str(value) for name, value in result_row(run).items()}
    rows: list[dict[str, str]] = []
    if table.is_file():
        with table.open(newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            # An older table may lack columns that came later.
            if not set(reader.fieldnames or ()) <= set(row):
                raise UserError(f"{table} has other columns than a table of results: name another")
    same = ("experiment", "command", "hardware")
    rows = [old for old in rows if any(old[name] != row[name] for name in same)]
    write_rows(table, [*rows, row])
    return table


def write_rows(table: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes a table whose columns are those of the last row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[-1]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    table.parent.mkdir(parents=True, exist_ok=True)
    write_text(table, text.getvalue())
