"""report.html of a run: one self-contained page that a person can read and pass on."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from fer_jax.errors import UserError
from fer_jax.evaluation.report import plots
from fer_jax.training.run_directory import write_text

MISTAKES = 12


def write_report(run: str | Path) -> Path:
    """Write `<run>/report.html` from what the run directory and its records hold.

    The page shows the test metrics with intervals, chance and, for a paper's system, the paper's
    numbers; learning curves, confusion matrix, per-class table, face coverage of the records, the
    leakage audit, the most confident mistakes, the config and the command that repeats the run.

    Raises:
      UserError: the run has not been evaluated.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    run = Path(run)
    if not (run / "metrics.json").is_file():
        raise UserError(f"{run} has no metrics.json: run `fer-jax evaluate {run}` first")
    metrics = json.loads((run / "metrics.json").read_text())
    config = json.loads((run / "config.json").read_text())
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    environment = Environment(
        loader=PackageLoader("fer_jax.evaluation.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    support = [row["support"] for row in metrics["per_class"].values()]
    command = run / "command.txt"
    page = environment.get_template("template.html").render(
        run=run,
        metrics=metrics,
        config=config,
        headline=_headline(metrics),
        chance=1.0 / len(metrics["classes"]),
        majority=max(support) / sum(support),
        curves=plots.learning_curves(history, metrics.get("epoch")),
        confusion=plots.confusion(metrics["confusion"], metrics["classes"]),
        coverage=_coverage(Path(config["data"]["dir"])),
        mistakes=_mistakes(run / "predictions.csv"),
        epochs=len(history),
        command=command.read_text().strip()
        if command.is_file()
        else f"fer-jax train {run / 'config.json'}",
        config_text=json.dumps(config, indent=1),
    )
    path = run / "report.html"
    write_text(path, page)
    return path


def _headline(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    names = {"accuracy": "Accuracy (WAR)", "uar": "UAR", "macro_f1": "Macro F1"}
    reported = metrics.get("reported", {})
    return [
        {
            "name": title,
            "value": metrics[key],
            "interval": metrics["ci95"].get(key),
            "reported": reported.get(key),
        }
        for key, title in names.items()
    ]


def _coverage(records: Path) -> list[dict[str, Any]]:
    """Clips written and asked for by class, as preprocessing counted them."""
    path = records / "coverage.json"
    if not path.is_file():
        return []
    return json.loads(path.read_text())["by_class"]


def _mistakes(path: Path) -> list[dict[str, Any]]:
    """The wrong clips that the recogniser was surest of: where to look first."""
    with path.open(newline="") as file:
        wrong = [row for row in csv.DictReader(file) if row["correct"] == "0"]
    for row in wrong:
        row["confidence"] = float(row[f"p_{row['predicted']}"])
    return sorted(wrong, key=lambda row: -row["confidence"])[:MISTAKES]
