"""Folds and seeds of a config as one population, and what they say together."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fer_jax.config import Experiment
from fer_jax.evaluation.confidence import clustered_intervals
from fer_jax.evaluation.evaluate import evaluate, load_metrics, open_records
from fer_jax.evaluation.report import write_report
from fer_jax.evaluation.report.population import write_population_report
from fer_jax.evaluation.results import FIGURES, result_row, write_rows
from fer_jax.progress import Progress
from fer_jax.training import metrics
from fer_jax.training.members import Member, make_members
from fer_jax.training.parallel import keep_memory, use_every_core
from fer_jax.training.population import train_population
from fer_jax.training.run_directory import write_text

#: Members of which each gets a report of its own; of more it would take longer than training them.
_REPORTED = 40


def train_and_compare(
    experiment: Experiment,
    out: Path,
    *,
    folds: bool = False,
    seeds: Sequence[int] = (),
    vary: Sequence[tuple[str, Sequence[str]]] = (),
    lanes: int = 0,
    command: str = "",
) -> tuple[dict[str, Any], str]:
    """Trains (or goes on with) every fold, seed and value as one population, and evaluates it.

    Writes into `out`: a run directory a member, members.csv (a result a line), summary.json and
    report.html. Up to 40 members have a report.html of their own, to which it links.

    Args:
      folds, seeds, vary: see `make_members`.
      lanes: see `train_population`.
      command: what the user typed, kept in each run's command.txt with the member's name.

    Returns:
      summary.json's content, and the lines to show: settings, a dict each of setting, runs,
      failed, confusion, and for accuracy, uar and macro_f1 {"mean", "sd", "ci95"} (see
      `summarise`); and
      members, name, run and figures or why it failed.
    """
    members = make_members(experiment, folds=folds, seeds=seeds, vary=vary)
    use_every_core(16 * len(members))
    if experiment.data.images:
        keep_memory()
    with Progress(f"train {experiment.name}", "epochs") as progress:
        found = train_population(
            members, out, lanes=lanes, on_progress=progress, on_note=progress.say
        )["members"]
    done = [one for one in found if "failed" not in one]
    opened = open_records(Path(experiment.data.dir), experiment.data) if done else None
    with Progress(f"evaluate {experiment.name}", "runs") as progress:
        for count, one in enumerate(done, 1):
            run = Path(one["run"])
            if command and not (run / "command.txt").is_file():
                # A table of results holds a row a command: the comment sets members apart.
                write_text(run / "command.txt", f"{command}  # {one['name']}\n")
            one |= _figures(evaluate(run, opened=opened))
            if len(members) <= _REPORTED:
                write_report(run)
            progress(count, len(done))
    if done:
        write_rows(out / "members.csv", [result_row(one["run"]) for one in done])
    by_name = {one["name"]: one for one in found}
    settings = {member.setting: None for member in members}
    summary = {
        "experiment": experiment.name,
        "protocol": experiment.protocol.name,
        "settings": [
            summarise(setting, [m for m in members if m.setting == setting], by_name)
            for setting in settings
        ],
        "members": found,
    }
    write_text(out / "summary.json", json.dumps(summary, indent=1) + "\n")
    text = render(summary) + f"\nruns: {out}"
    if done:
        text += f"\nreport: {write_population_report(out, experiment, summary, command)}"
    return {"out": str(out), **summary}, text


def _figures(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in (*FIGURES, "n", "audit")}


def summarise(
    setting: str, members: Sequence[Member], found: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """What the folds and seeds of one setting say together.

    The folds of a seed are pooled: every clip is tested once, by the model that did not see it, and
    the figures are of all clips. "mean" is over the seeds' pools, and so are the ends of "ci95",
    which draws the subjects of each; "sd" is over the runs, folds or seeds (with one run there is
    none). "confusion" adds up the pools, rows are the truth.

    Args:
      members: of the setting.
      found: by name, where its run lies, or why it failed.
    """
    runs = [found[member.name] for member in members]
    row: dict[str, Any] = {
        "setting": setting,
        "members": [member.name for member in members],
        "runs": len(runs),
        "failed": [one["name"] for one in runs if "failed" in one],
    }
    pools: dict[int, list[_Table]] = {}
    for member, one in zip(members, runs, strict=True):
        if "failed" not in one:
            pools.setdefault(member.experiment.train.seed, []).append(_read(Path(one["run"])))
    if not pools:
        return row
    tables = [table for pool in pools.values() for table in pool]
    run = next(Path(one["run"]) for one in runs if "failed" not in one)
    classes = load_metrics(run)["classes"]
    pooled = [[line for table in pool for line in table] for pool in pools.values()]
    whole, single = ([_scores(table, classes) for table in some] for some in (pooled, tables))
    intervals = [
        clustered_intervals(*_columns(table, classes), classes=len(classes)) for table in pooled
    ]
    row["clips"] = len(pooled[0])
    row["classes"] = classes
    matrices = [_confusion(table, classes) for table in pooled]
    row["confusion"] = np.sum(matrices, axis=0).astype(int).tolist()
    for name in FIGURES:
        deviation = np.std([score[name] for score in single], ddof=1) if len(single) > 1 else None
        row[name] = {
            "mean": float(np.mean([score[name] for score in whole])),
            "sd": None if deviation is None else float(deviation),
            "ci95": np.mean([interval[name] for interval in intervals], axis=0).tolist(),
        }
    return row


_Table = list[tuple[str, str, str]]
"""Truth, prediction and cluster of clips."""


def _read(run: Path) -> _Table:
    with (run / "predictions.csv").open(newline="") as file:
        return [(line["truth"], line["predicted"], _cluster(line)) for line in csv.DictReader(file)]


def _cluster(line: Mapping[str, str]) -> str:
    """Who is seen, among all corpora; the clip where that is unknown."""
    corpus = line["clip_id"].partition("/")[0]
    return f"{corpus}/{line['subject']}" if line["subject"] else line["clip_id"]


def _columns(table: _Table, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Class indices of truth and prediction, and clusters."""
    place = {word: index for index, word in enumerate(classes)}
    truth = np.array([place[line[0]] for line in table])
    return truth, np.array([place[line[1]] for line in table]), [line[2] for line in table]


def _confusion(table: _Table, classes: Sequence[str]) -> np.ndarray:
    truth, predicted, _ = _columns(table, classes)
    return metrics.confusion_matrix(truth, predicted, len(classes))


def _scores(table: _Table, classes: Sequence[str]) -> dict[str, np.ndarray]:
    return metrics.scores(_confusion(table, classes))


def render(summary: Mapping[str, Any]) -> str:
    """A table, a line a setting."""
    rows = [("setting", "runs", "clips", "accuracy", "95 % interval", "sd", "uar", "macro_f1")]
    for one in summary["settings"]:
        name = one["setting"] or summary["experiment"]
        if "clips" not in one:
            rows.append((name, str(one["runs"]), "-", "failed", "-", "-", "-", "-"))
            continue
        accuracy = one["accuracy"]
        low, high = accuracy["ci95"]
        deviation = "-" if accuracy["sd"] is None else f"{accuracy['sd']:.4f}"
        rows.append(
            (
                name,
                str(one["runs"] - len(one["failed"])),
                str(one["clips"]),
                f"{accuracy['mean']:.4f}",
                f"{low:.4f} - {high:.4f}",
                deviation,
                f"{one['uar']['mean']:.4f}",
                f"{one['macro_f1']['mean']:.4f}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    failed = [one for one in summary["members"] if "failed" in one]
    lines += [f"{one['name']} failed in epoch {one['epochs']}: {one['failed']}" for one in failed]
    verdicts = sorted({one["audit"] for one in summary["members"] if one.get("audit")})
    lines += [f"audit: {verdict}" for verdict in verdicts[:3]]
    if len(verdicts) > 3:
        lines.append(f"audit: and {len(verdicts) - 3} more verdicts, in members.csv")
    return "\n".join(lines)
