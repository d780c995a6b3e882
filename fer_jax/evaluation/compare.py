"""Which of several systems is better, and whether that may be chance: paired tests on test clips.

Systems are evaluated runs, evaluations of them (RUN/evaluations/...) or populations, whose folds
are pooled: every clip is judged by the model that did not see it. Clips of several samples count
once, by the mean of their samples.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fer_jax.errors import UserError
from fer_jax.evaluation.confidence import clustered_intervals, holm, mcnemar, paired_differences
from fer_jax.evaluation.evaluate import FEW_CLUSTERS, load_metrics
from fer_jax.evaluation.report import render_page
from fer_jax.evaluation.results import FIGURES
from fer_jax.training.metrics import confusion_matrix, scores
from fer_jax.training.run_directory import write_text


class Verdict(NamedTuple):
    """What predictions.csv says of a clip."""

    truth: str
    predicted: str
    subject: str


@dataclass(frozen=True)
class System:
    """One of the compared.

    Attributes:
      name: the directory, and the setting where a population has several.
      classes: K names.
      repeats: verdicts by clip id, of each seed.
      protocols: without the fold.
    """

    name: str
    classes: tuple[str, ...]
    repeats: tuple[Mapping[str, Verdict], ...]
    protocols: frozenset[str]


def load_systems(where: Path) -> list[System]:
    """A run as one system, a population as one a setting.

    Raises:
      UserError: not evaluated, a population that is not finished or had failures, or one that tests
        a clip twice with one seed.
    """
    if not (where / "population.json").is_file():
        return [_system(str(where), [[where]])]
    path = where / "summary.json"
    if not path.is_file():
        raise UserError(f"{where} is not finished: repeat the command that began it")
    summary = json.loads(path.read_text())
    configs = json.loads((where / "population.json").read_text())["members"]
    found = []
    for one in summary["settings"]:
        if one["failed"]:
            raise UserError(f"{where}: {', '.join(one['failed'])} failed, so clips are missing")
        pools: dict[int, list[Path]] = {}
        for member in one["members"]:
            pools.setdefault(configs[member]["train"]["seed"], []).append(where / member)
        name = f"{where}:{one['setting']}" if len(summary["settings"]) > 1 else str(where)
        found.append(_system(name, [pools[seed] for seed in sorted(pools)]))
    return found


def _system(name: str, pools: Sequence[Sequence[Path]]) -> System:
    repeats, protocols, classes = [], set(), ()
    for runs in pools:
        pool: dict[str, Verdict] = {}
        for run in runs:
            metrics = load_metrics(run)
            classes = tuple(metrics["classes"])
            protocols.add(metrics["protocol"].partition("[")[0])
            with (run / "predictions.csv").open(newline="") as file:
                rows = list(csv.DictReader(file))
            for row in rows:
                if row["clip_id"] in pool:
                    raise UserError(f"{name} tests {row['clip_id']} twice: its runs are no folds")
                pool[row["clip_id"]] = Verdict(row["truth"], row["predicted"], row["subject"])
        repeats.append(pool)
    return System(name, classes, tuple(repeats), frozenset(protocols))


def compare(systems: Sequence[System], *, common: bool = False) -> dict[str, Any]:
    """Every pair of systems on the same clips.

    Args:
      common: take the clips that all of them tested, where they are not the same.

    Returns:
      JSON-ready. clips, clusters (subjects drawn), drawn ("subject" or "clip"), notes;
      systems: name, repeats (seeds), protocols, and accuracy, uar and macro_f1, means over the
      repeats, with ci95; pairs: first, second, only_first and only_second (clips that one alone
      gets right; None with several repeats), mcnemar {p, p_holm}, and for each figure {difference,
      ci95, p, p_holm} of `confidence.paired_differences`. p_holm corrects for the number of pairs.

    Raises:
      UserError: fewer than two systems, other classes, other truths, or other clips.
    """
    if len(systems) < 2:
        raise UserError("one system only: name another run or population to compare with")
    names = [system.name for system in systems]
    if len(set(names)) < len(names):
        raise UserError(f"{max(names, key=names.count)} is named twice")
    clips, notes = _clips(systems, common)
    classes = systems[0].classes
    verdicts = systems[0].repeats[0]
    place = {word: index for index, word in enumerate(classes)}
    truth = np.array([place[verdicts[clip].truth] for clip in clips])
    # A clip id begins with its corpus, and two of those may have a subject "01".
    named = [(clip.partition("/")[0], verdicts[clip].subject) for clip in clips]
    subjects = ["/".join(name) for name in named]
    by_subject = all(subject for _, subject in named) and len(set(subjects)) > 1
    clusters = subjects if by_subject else clips
    predicted = [
        [np.array([place[pool[clip].predicted] for clip in clips]) for pool in system.repeats]
        for system in systems
    ]
    kind, drawn = ("subject" if by_subject else "clip"), len(set(clusters))
    if drawn < FEW_CLUSTERS:
        notes.append(f"{drawn} {kind}s are too few to draw: intervals and p values are too small")
    if len({system.protocols for system in systems}) > 1:
        said = "; ".join(f"{one.name}: {', '.join(sorted(one.protocols))}" for one in systems)
        notes.append(f"the systems were trained by different protocols ({said})")
    pairs = []
    for a, b in combinations(range(len(systems)), 2):
        row: dict[str, Any] = {"first": names[a], "second": names[b]}
        row |= _discordant(truth, predicted[a], predicted[b])
        row |= paired_differences(truth, predicted[a], predicted[b], clusters, len(classes))
        pairs.append(row)
    for test in ("mcnemar", *FIGURES):
        known = [row[test] for row in pairs if row[test] is not None]
        for one, p in zip(known, holm([one["p"] for one in known]), strict=True):
            one["p_holm"] = p
    return {
        "clips": len(clips),
        "drawn": kind,
        "clusters": drawn,
        "notes": notes,
        "systems": [
            _figures(system, truth, tables, clusters)
            for system, tables in zip(systems, predicted, strict=True)
        ],
        "pairs": pairs,
    }


def _clips(systems: Sequence[System], common: bool) -> tuple[list[str], list[str]]:
    """The clips to compare on, and what to say of them."""
    first, notes = systems[0], []
    for system in systems:
        if set(system.classes) != set(first.classes):
            raise UserError(
                f"{system.name} tells {', '.join(system.classes)} apart, {first.name} "
                f"{', '.join(first.classes)}: evaluate both with the same --labels"
            )
    tested = [set(pool) for system in systems for pool in system.repeats]
    clips, every = set.intersection(*tested), set.union(*tested)
    if clips != every:
        if not common:
            raise UserError(
                f"the systems were tested on different clips ({len(clips)} of {len(every)} in "
                "common): give --common to compare on those, or use the same protocol and seed"
            )
        if not clips:
            raise UserError("the systems have no test clip in common")
        notes.append(f"on the {len(clips)} of {len(every)} clips that all systems tested")
    for system in systems:
        for pool in system.repeats:
            for clip in clips:
                if pool[clip].truth != first.repeats[0][clip].truth:
                    raise UserError(
                        f"{clip} is {pool[clip].truth} to {system.name} and "
                        f"{first.repeats[0][clip].truth} to {first.name}: they are of other data"
                    )
    return sorted(clips), notes


def _discordant(
    truth: np.ndarray, first: Sequence[np.ndarray], second: Sequence[np.ndarray]
) -> dict[str, Any]:
    """McNemar's counts and test; None where a system has a verdict a seed."""
    if len(first) > 1 or len(second) > 1:
        return {"only_first": None, "only_second": None, "mcnemar": None}
    right, other = first[0] == truth, second[0] == truth
    counts = int((right & ~other).sum()), int((other & ~right).sum())
    return {"only_first": counts[0], "only_second": counts[1], "mcnemar": {"p": mcnemar(*counts)}}


def _figures(
    system: System, truth: np.ndarray, tables: Sequence[np.ndarray], clusters: Sequence[str]
) -> dict[str, Any]:
    count = len(system.classes)
    found = [scores(confusion_matrix(truth, table, count)) for table in tables]
    intervals = [clustered_intervals(truth, table, clusters, count) for table in tables]
    row: dict[str, Any] = {"name": system.name, "repeats": len(tables)}
    row["protocols"] = sorted(system.protocols)
    for name in FIGURES:
        row[name] = float(np.mean([one[name] for one in found]))
    row["ci95"] = {
        name: np.mean([one[name] for one in intervals], axis=0).tolist() for name in FIGURES
    }
    return row


_COLUMNS: tuple[str, ...] = (
    "first", "second", "figure", "difference", "low", "high", "p", "p_holm",
    "only_first", "only_second", "mcnemar_p", "mcnemar_p_holm",
)  # fmt: skip


def _rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a pair and figure; McNemar's test is of accuracy."""
    rows = []
    for pair in report["pairs"]:
        for name in FIGURES:
            one, test = pair[name], pair["mcnemar"] if name == "accuracy" else None
            row = {"first": pair["first"], "second": pair["second"], "figure": name}
            row |= {"difference": one["difference"], "p": one["p"], "p_holm": one["p_holm"]}
            row["low"], row["high"] = one["ci95"]
            if test is not None:
                row |= {"only_first": pair["only_first"], "only_second": pair["only_second"]}
                row |= {"mcnemar_p": test["p"], "mcnemar_p_holm": test["p_holm"]}
            rows.append(row)
    return rows


def render(report: Mapping[str, Any]) -> str:
    """Tables of systems and of pairs."""
    lines = [
        f"{report['clips']} clips; bootstrap over {report['clusters']} {report['drawn']}s, paired"
    ]
    for one in report["systems"]:
        values = "  ".join(
            f"{name} {one[name]:.4f} ({one['ci95'][name][0]:.4f} - {one['ci95'][name][1]:.4f})"
            for name in FIGURES
        )
        seeds = f", {one['repeats']} seeds" if one["repeats"] > 1 else ""
        lines.append(f"{one['name']} [{', '.join(one['protocols'])}{seeds}]: {values}")
    many = len(report["pairs"]) > 1
    for pair in report["pairs"]:
        lines.append(f"{pair['first']} - {pair['second']}:")
        for name in FIGURES:
            one = pair[name]
            low, high = one["ci95"]
            corrected = f", Holm {one['p_holm']:.4f}" if many else ""
            lines.append(
                f"  {name:10}{one['difference']:+8.4f}  ({low:+.4f} to {high:+.4f})  "
                f"p {one['p']:.4f}{corrected}"
            )
        if (test := pair["mcnemar"]) is not None:
            corrected = f", Holm {test['p_holm']:.4f}" if many else ""
            lines.append(
                f"  right alone: {pair['only_first']} and {pair['only_second']} clips; McNemar "
                f"mid-p {test['p']:.4f}{corrected}"
            )
    return "\n".join([*lines, *(f"note: {note}" for note in report["notes"])])


def write(report: Mapping[str, Any], out: Path) -> Path:
    """Writes comparison.csv, a row a pair and figure, and comparison.html, a page to pass on."""
    out.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    table = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(_rows(report))
    write_text(out / "comparison.csv", text.getvalue())
    page = render_page("comparison.html", report=report, rows=_rows(report), figures=FIGURES)
    write_text(out / "comparison.html", page)
    return out
