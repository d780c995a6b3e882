"""report.html of a population: what its folds, seeds and settings say together, on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fer_jax.config import Experiment
from fer_jax.evaluation.evaluate import load_metrics
from fer_jax.evaluation.report import plots, render_page
from fer_jax.training.run_directory import History, write_text


def write_population_report(
    out: Path, experiment: Experiment, summary: Mapping[str, Any], command: str
) -> Path:
    """Writes `<out>/report.html` from a population's summary and its members' run directories.

    The page shows each setting's figures with intervals and, for a paper's system, the paper's; the
    leakage audit; the best setting's pooled confusion matrix; learning curves with their range over
    the runs; every run, with a link to its report where there is one; and the command. It needs no
    network.

    Args:
      summary: content of summary.json; a member has been evaluated.
      command: what the user typed.
    """
    members = [_member(out, one) for one in summary["members"]]
    trained = [one for one in members if "metrics" in one]
    settings = sorted(
        (one for one in summary["settings"] if "clips" in one),
        key=lambda one: -one["accuracy"]["mean"],
    )
    best = settings[0]
    chance = 1 / len(best["classes"])
    page = render_page(
        "population.html",
        experiment=summary["experiment"],
        reported=dict(experiment.reported),
        settings=summary["settings"],
        best=best,
        members=members,
        trained=len(trained),
        chance=chance,
        audits=sorted({one["metrics"]["audit"] or "" for one in trained} - {""}),
        protocols=sorted({one["metrics"]["protocol"].partition("[")[0] for one in trained}),
        facts=trained[0]["metrics"],
        curves=plots.bands(_curves(settings, trained), chance),
        shown=min(len(settings), len(plots.COLOURS)),
        confusion=plots.confusion(best["confusion"], best["classes"]),
        command=command,
    )
    path = out / "report.html"
    write_text(path, page)
    return path


def _member(out: Path, found: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the table of runs."""
    if "failed" in found:
        return dict(found)
    run = Path(found["run"])
    history = History(run).read()
    report = f"{found['name']}/report.html"
    return {
        **found,
        "metrics": load_metrics(run),
        "history": history,
        "seconds": sum(line["seconds"] for line in history),
        "report": report if (out / report).is_file() else "",
    }


def _curves(
    settings: Sequence[Mapping[str, Any]], members: Sequence[Mapping[str, Any]]
) -> dict[str, list[dict[str, float]]]:
    """By what is told apart, the points of its runs: training and validation of one setting; of
    several what chooses between them, validation where there is one."""

    def points(part: str, names: Sequence[str]) -> list[dict[str, float]]:
        return [
            {"epoch": line["epoch"], "loss": line[f"{part}/loss"],
             "accuracy": line[f"{part}/accuracy"]}
            for one in members
            if one["name"] in names
            for line in one["history"]
            if f"{part}/loss" in line
        ]  # fmt: skip

    everyone = [one["name"] for one in members]
    parts = [part for part in ("train", "validation") if points(part, everyone)]
    if len(settings) == 1:
        return {part: points(part, everyone) for part in parts}
    return {one["setting"]: points(parts[-1], one["members"]) for one in settings}
