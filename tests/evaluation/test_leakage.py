"""`fer-jax audit` as lines and page, and `--strict` where training would leak."""

import json
import re
from pathlib import Path

import pytest

from fer_jax.cli import main


def test_all_folds_are_audited_and_written(tiny_run, tmp_path: Path, capsys) -> None:
    words = ["audit", str(tiny_run.records), "--protocol", "random-kfold", "--all-folds"]
    out = tmp_path / "audit"
    assert main([*words, "--folds", "3", "--out", str(out), "--json"]) == 0
    folds = json.loads(capsys.readouterr().out.splitlines()[-1])["folds"]
    assert [one["protocol"] for one in folds] == [f"random-kfold[{i}/3]" for i in range(3)]
    assert json.loads((out / "audit.json").read_text()) == folds
    page = (out / "audit.html").read_text()
    for one in folds:
        assert one["verdict"] in page and one["protocol"] in page
        rows = one["parts"]["subject_overlap"]["train-test"]
        assert f"{rows['clips']} of {rows['of']} (100.0 %)" in page
        assert one["clips"]["test"] == 20
    assert "http" not in page and not re.search(r'(src|href)="(?!data:|#)', page)


def test_a_configs_choices_are_audited(tiny_run, capsys) -> None:
    words = ["audit", str(tiny_run.records), "--config", str(tiny_run.config)]
    assert main([*words, "--strict"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "clean"
    assert "z-score: fitted on the training part" in lines
    assert any("choice of distances-104: fitted on a published list" in line for line in lines)
    assert lines[-1].startswith("protocol subject, ")


def test_a_protocol_without_folds_has_no_all_folds(tiny_run, fails) -> None:
    assert "which has no folds" in fails("audit", tiny_run.records, "--all-folds")


@pytest.mark.parametrize("command", ["train", "crossval"])
def test_a_leaky_split_is_not_trained_on(command: str, tiny_run, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    words = [command, str(tiny_run.config), "--data.dir", str(tiny_run.records), "--out", str(out)]
    words += ["--protocol.name", "random-kfold", "--protocol.folds", "2", "--train.epochs", "1"]
    assert main([*words, "--strict"]) == 4
    printed, said = capsys.readouterr()
    assert not printed and len(said.splitlines()) == 1
    assert said.startswith("fer-jax: leaks: 100.0 % of test clips show a subject of training")
    assert said.endswith("accept it with --protocol.allow subjects, or divide otherwise\n")
    assert not out.exists()
    if command == "train":
        assert main([*words, "--strict", "--protocol.allow", "subjects"]) == 0
        assert "same recording (twins)" in (out / "report.html").read_text()
