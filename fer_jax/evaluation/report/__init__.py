"""report.html of a run: one self-contained page that a person can read and pass on."""

from __future__ import annotations

import csv
import json
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

from fer_jax.evaluation.evaluate import interval_note, load_metrics
from fer_jax.evaluation.report import plots
from fer_jax.training.run_directory import write_text

MISTAKES = 12
#: What the audit's kinds of overlap are called on a page.
AUDIT_TITLES = {
    "subject_overlap": "same subject",
    "twin_overlap": "same recording (twins)",
    "near_duplicates": "same content, exact or near",
    "statement_overlap": "same statement (no leak for faces)",
    "statistics_outside_train": "used for statistics",
    "selection_outside_train": "used to choose features",
    "source_overlap": "known to an earlier network",
}
#: What preprocessing counts for each class, and what the page calls it.
_COUNTS = ("clips", "written", "no_face", "failed", "frames", "frames_with_face")


def write_report(run: str | Path) -> Path:
    """Write `<run>/report.html` from what the run directory and its records hold.

    The page shows the test metrics with intervals, chance and, for a paper's system, the paper's
    numbers; the leakage audit, learning curves, confusion matrix, per-class table, face coverage of
    the records (where they still are), the most confident mistakes, the config and the command that
    repeats the run. It needs no other file and no network.

    Raises:
      UserError: the run has not been evaluated.
    """
    run = Path(run)
    metrics = load_metrics(run)
    config = json.loads((run / "config.json").read_text())
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    support = [row["support"] for row in metrics["per_class"].values()]
    coverage = _coverage(Path(config["data"]["dir"]))
    chance = 1.0 / len(metrics["classes"])
    page = render_page(
        "template.html",
        metrics=metrics,
        config=config,
        headline=_headline(metrics),
        intervals=interval_note(metrics),
        chance=chance,
        majority=max(support) / sum(support),
        curves=plots.learning_curves(history, metrics["epoch"], chance),
        confusion=plots.confusion(metrics["confusion"], metrics["classes"]),
        coverage=coverage,
        videos=bool(coverage) and coverage[-1]["frames"] > coverage[-1]["written"],
        mistakes=_mistakes(run / "predictions.csv"),
        epochs=len(history),
        command=_command(run),
        config_text=json.dumps(config, indent=1),
    )
    path = run / "report.html"
    write_text(path, page)
    return path


def render_page(template: str, **values: Any) -> str:
    """A template of this folder, filled in."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("fer_jax.evaluation.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["audit_titles"] = AUDIT_TITLES
    environment.filters["percent"] = lambda share: f"{100 * share:.1f} %"
    return environment.get_template(template).render(**values)


def _headline(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    names = {"accuracy": "Accuracy (WAR)", "uar": "UAR", "macro_f1": "Macro F1"}
    reported = metrics.get("reported", {})
    return [
        {
            "name": title,
            "value": metrics[key],
            "interval": metrics["ci95"][key],
            "reported": reported.get(key),
        }
        for key, title in names.items()
    ]


def _coverage(records: Path) -> list[dict[str, Any]]:
    """What preprocessing counted, a row for each emotion and one for all of them."""
    path = records / "coverage.json"
    if not path.is_file():
        return []
    by_emotion: dict[str, Counter[str]] = {}
    for row in json.loads(path.read_text())["coverage"]:
        for emotion in (row["emotion"], "all"):
            by_emotion.setdefault(emotion, Counter()).update({key: row[key] for key in _COUNTS})
    total = by_emotion.pop("all")
    return [
        {"emotion": emotion, **counts}
        for emotion, counts in [*sorted(by_emotion.items()), ("all", total)]
    ]


def _mistakes(path: Path) -> list[dict[str, Any]]:
    """The wrong clips that the recogniser was surest of: where to look first."""
    with path.open(newline="") as file:
        wrong = [row for row in csv.DictReader(file) if row["correct"] == "0"]
    found = [{**row, "confidence": float(row[f"p_{row['predicted']}"])} for row in wrong]
    return sorted(found, key=lambda row: -row["confidence"])[:MISTAKES]


def _command(run: Path) -> str:
    """What the user typed, or else what does the same."""
    typed = run / "command.txt"
    if typed.is_file():
        return typed.read_text().strip()
    return f"fer-jax train {shlex.quote(str(run / 'config.json'))}"
