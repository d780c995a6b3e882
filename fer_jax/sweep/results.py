"""What a sweep leaves behind: trials.csv, best.json and its page."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from fer_jax.config import Choice
from fer_jax.config.sweep import Values
from fer_jax.errors import UserError
from fer_jax.evaluation.report.sweep import write_sweep_report
from fer_jax.sweep.plan import Plan
from fer_jax.sweep.table import best_first, shown, word
from fer_jax.training.run_directory import write_text

#: Trials that the text shows.
_SHOWN = 5


def write_results(plan: Plan, study: optuna.Study) -> tuple[dict[str, Any], str]:
    """Writes trials.csv, best.json (a config that `fer-jax train` takes) and report.html.

    Returns:
      JSON-ready: out, study, objective, trials (how many of each state), best (trial, value,
      parameters, run, config, command) and importance by key; and the lines to show.

    Raises:
      UserError: no trial came to its end.
    """
    trials = study.get_trials(deepcopy=False)
    rows = [_row(trial) for trial in trials]
    write_text(plan.out / "trials.csv", _csv(rows, list(plan.space)))
    ranked = best_first(trials, plan.sign)
    counts = dict(Counter(row["state"] for row in rows))
    if not ranked:
        reasons = [row["reason"] for row in rows if row["reason"]]
        raise UserError(
            f"none of the {len(rows)} trials came to its end: {reasons[0] if reasons else counts}"
        )
    best = ranked[0]
    config = plan.out / "best.json"
    experiment = plan.experiment_of(best.params)
    write_text(config, json.dumps(experiment.to_json(), indent=1) + "\n")
    importance = _importance(study, plan, ranked)
    report = {
        "out": str(plan.out),
        "study": plan.address.name,
        "storage": plan.address.shown(),
        "objective": plan.objective,
        "trials": counts,
        "best": {
            "trial": best.number,
            "value": best.values[0],
            "parameters": best.params,
            "run": best.user_attrs["run"],
            "config": str(config),
            "command": f"fer-jax train {shlex.quote(str(config))}",
        },
        "importance": importance,
    }
    page = write_sweep_report(
        plan.out,
        plan.experiment.name,
        report,
        rows,
        {key: _axis(values) for key, values in plan.space.items()},
        sign=plan.sign,
        command=plan.command,
    )
    return report, f"{_render(report, ranked)}\nreport: {page}"


def _row(trial: FrozenTrial) -> dict[str, Any]:
    known = trial.user_attrs
    return {
        "trial": trial.number,
        "state": word(trial.state),
        "value": trial.values[0] if trial.values else None,
        "parameters": trial.params,
        "epochs": known.get("epochs", len(trial.intermediate_values)),
        "seconds": known.get("seconds"),
        "reason": known.get("reason", ""),
        "run": known.get("run", ""),
        "curve": sorted(trial.intermediate_values.items()),
    }


def _axis(values: Values) -> dict[str, Any]:
    listed = isinstance(values, Choice)
    return {
        "log": not listed and values.log,
        "choices": list(values.values) if listed else None,
    }


def _csv(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> str:
    file = io.StringIO()
    names = ["trial", "state", "value", *keys, "epochs", "seconds", "reason", "run"]
    writer = csv.DictWriter(file, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, **row["parameters"]} for row in rows)
    return file.getvalue()


def _importance(study: optuna.Study, plan: Plan, ranked: Sequence[FrozenTrial]) -> dict[str, float]:
    """How much of the value's variance over the complete trials each key explains (fANOVA, Hutter
    et al. 2014), the largest first; empty where too few differ to say."""
    values = {trial.values[0] for trial in ranked}
    differ = {key for key in plan.space if len({str(t.params[key]) for t in ranked}) > 1}
    if len(values) < 2 or len(ranked) < 4 or not differ:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    keys = [key for key in plan.space if key in differ]
    found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=keys)
    return {key: float(value) for key, value in found.items()}


def _render(report: Mapping[str, Any], ranked: Sequence[FrozenTrial]) -> str:
    best = report["best"]
    lines = [
        f"{report['objective']}: {', '.join(f'{n} {what}' for what, n in report['trials'].items())}"
    ]
    lines += [
        f"  trial {trial.number}: {trial.values[0]:.4f}  {shown(trial.params)}"
        for trial in ranked[:_SHOWN]
    ]
    if report["importance"]:
        parts = (f"{key} {value:.2f}" for key, value in report["importance"].items())
        lines.append(f"importance: {', '.join(parts)}")
    lines += [
        f"train the best again, and test it: {best['command']}",
        f"trials: {Path(report['out']) / 'trials.csv'}",
    ]
    return "\n".join(lines)
