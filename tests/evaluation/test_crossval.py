"""Cross-validation by the command: every clip tested once, figures against scikit-learn."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from fer_jax.cli import main

KFOLD = ["--protocol.name", "subject-kfold", "--protocol.folds", "3", "--train.epochs", "2"]


def words(tiny_run, out: Path, *more: str) -> list[str]:
    data = ["--data.dir", str(tiny_run.records), "--out", str(out)]
    return [str(tiny_run.config), *data, *more]


@pytest.fixture(scope="module")
def crossed(tiny_run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("crossval") / "out"
    more = ["--seeds", "3,4", "--vary", "optim.lr", "1e-2", "1e-9"]
    assert main(["crossval", *words(tiny_run, out, *KFOLD), *more]) == 0
    return out


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_folds_are_pooled(crossed: Path, face_corpus) -> None:
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

    summary = json.loads((crossed / "summary.json").read_text())
    assert [one["setting"] for one in summary["settings"]] == ["lr-1e-2", "lr-1e-9"]
    assert len(summary["members"]) == 2 * 2 * 3
    for setting in summary["settings"]:
        figures, runs = [], []
        for seed in (3, 4):
            tables = [
                rows(crossed / f"fold{fold}_seed{seed}_{setting['setting']}" / "predictions.csv")
                for fold in range(3)
            ]
            table = [row for part in tables for row in part]
            # Every clip is tested once, in the fold of its subject.
            assert len({row["clip_id"] for row in table}) == len(table) == setting["clips"] == 60
            subjects = [{row["subject"] for row in part} for part in tables]
            assert sum(map(len, subjects)) == len(set.union(*subjects)) == 10
            pairs = [row["truth"] for row in table], [row["predicted"] for row in table]
            figures.append(
                (accuracy_score(*pairs), balanced_accuracy_score(*pairs),
                 f1_score(*pairs, average="macro"))
            )  # fmt: skip
            runs += [np.mean([row["correct"] == "1" for row in part]) for part in tables]
        names = ("accuracy", "uar", "macro_f1")
        for name, value in zip(names, np.mean(figures, axis=0), strict=True):
            assert setting[name]["mean"] == pytest.approx(value)
        assert setting["accuracy"]["sd"] == pytest.approx(np.std(runs, ddof=1))
        low, high = setting["accuracy"]["ci95"]
        assert low <= setting["accuracy"]["mean"] <= high


def test_each_member_is_a_run_like_any_other(crossed: Path, tiny_run, capsys) -> None:
    run = crossed / "fold1_seed4_lr-1e-2"
    before = (run / "metrics.json").read_text()
    assert main(["evaluate", str(run)]) == 0
    assert json.loads(before) == json.loads((run / "metrics.json").read_text())
    assert (run / "command.txt").read_text().startswith("fer-jax crossval")
    table = rows(crossed / "members.csv")
    assert len(table) == 12 and all(float(row["train_seconds"]) >= 0 for row in table)
    assert {row["protocol"] for row in table} == {f"subject-kfold[{i}/3]" for i in range(3)}
    capsys.readouterr()
    # Repeating the command finds everything there.
    more = ["--seeds", "3,4", "--vary", "optim.lr", "1e-2", "1e-9", "--json"]
    assert main(["crossval", *words(tiny_run, crossed, *KFOLD), *more]) == 0
    said = capsys.readouterr()
    assert "all runs of" not in said.out and "Traceback" not in said.err
    assert json.loads(said.out.splitlines()[-1])["members"][0]["name"] == "fold0_seed3_lr-1e-2"


def test_the_page_says_what_the_files_say(crossed: Path) -> None:
    from sklearn.metrics import confusion_matrix

    summary = json.loads((crossed / "summary.json").read_text())
    page = (crossed / "report.html").read_text()
    # Self-contained: what it refers to are its own parts and the members' pages, which are there.
    links = re.findall(r'(?:href|src)="([^"#]+)"', page)
    assert sorted(links) == sorted(f"{one['name']}/report.html" for one in summary["members"])
    assert all((crossed / link).is_file() for link in links)
    text = " ".join(
        re.sub(r"<style.*?</style>|<svg.*?</svg>|<[^>]+>", " ", page, flags=re.S).split()
    )
    for one in summary["settings"]:
        row = f"{one['setting']} 6 60 {100 * one['accuracy']['mean']:.1f} %"
        assert row in text
    for one in summary["members"]:
        assert f"{one['name']} {one['n']} {100 * one['accuracy']:.1f} %" in text
    assert "fer-jax crossval" in text and "paper 90.0 %" in text and "Audit: clean" in text
    # The matrix is that of all folds and seeds of the best setting.
    best = max(summary["settings"], key=lambda one: one["accuracy"]["mean"])
    table = [row for name in best["members"] for row in rows(crossed / name / "predictions.csv")]
    pairs = [row["truth"] for row in table], [row["predicted"] for row in table]
    expected = confusion_matrix(*pairs, labels=best["classes"])
    np.testing.assert_array_equal(best["confusion"], expected)
    for name, counts in zip(best["classes"], expected, strict=True):
        assert f"{name} {' '.join(map(str, counts))}" in text
    assert "Learning curves of lr-1e-2, lr-1e-9" in page


def test_seeds_without_folds(tiny_run, tmp_path: Path, capsys) -> None:
    table = tmp_path / "results.csv"
    more = ["--seeds", "1,2", "--train.epochs", "1", "--results", str(table)]
    assert main(["train", *words(tiny_run, tmp_path / "out"), *more]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == [
        "setting", "runs", "clips", "accuracy", "95", "%", "interval", "sd", "uar", "macro_f1"
    ]  # fmt: skip
    assert printed[1].split()[:2] == ["tiny", "2"] and any("audit: " in line for line in printed)
    curves = re.search("Learning curves of (.*?):", (tmp_path / "out" / "report.html").read_text())
    assert curves is not None and curves[1] == "train, validation"
    kept = [row["command"].partition("  # ") for row in rows(table)]
    assert [name for _, _, name in kept] == ["seed1", "seed2"]
    assert all(command.startswith("fer-jax train ") for command, _, _ in kept)


def test_mistakes(tiny_run, tmp_path: Path, fails) -> None:
    out = tmp_path / "out"
    assert "protocol subject has no folds" in fails("crossval", *words(tiny_run, out))
    assert "--seeds x" in fails("train", *words(tiny_run, out), "--seeds", "x")
    line = fails("train", *words(tiny_run, out), "--vary", "optim.lr")
    assert line == "--vary optim.lr has no values, as in --vary optim.lr 1e-3 3e-4"
    line = fails("train", *words(tiny_run, out), "--vary", "model.units", "4", "8")
    assert "--model.units cannot differ within one program" in line
    line = fails("train", *words(tiny_run, out), "--lanes", "2")
    assert line == "--lanes 2 is for several runs: add --seeds 0,1 or --vary KEY VALUE VALUE"
    assert "--lanes -1: give how many" in fails("crossval", *words(tiny_run, out), "--lanes", "-1")
    assert "no data" in fails("crossval", tiny_run.config, *KFOLD, "--out", out)
    assert not out.exists()
