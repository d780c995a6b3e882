"""The table of runs."""

import csv
import json

import pytest

from fer_jax.errors import UserError


def test_a_run_is_one_row_and_repeating_it_replaces_it(tiny_run, tmp_path):
    from fer_jax.evaluation.results import append_row

    run = tiny_run.dir
    table = tmp_path / "results" / "table.csv"
    for _ in range(2):
        assert append_row(run, table) == table
    with table.open(newline="") as file:
        (row,) = csv.DictReader(file)
    metrics = json.loads((run / "metrics.json").read_text())
    assert float(row["accuracy"]) == pytest.approx(metrics["accuracy"], abs=5e-5)
    low, high = map(float, row["macro_f1_ci95"].split("-"))
    assert [low, high] == pytest.approx(metrics["ci95"]["macro_f1"], abs=5e-5)
    assert row["command"].startswith("fer-jax train ")
    assert int(row["epochs"]) == len((run / "history.jsonl").read_text().splitlines())
    for name in ("split_sha256", "data_sha256", "hardware", "protocol"):
        assert row[name] == metrics[name]


def test_an_older_table_gets_the_new_columns(tiny_run, tmp_path):
    from fer_jax.evaluation.results import append_row

    table = tmp_path / "table.csv"
    table.write_text("experiment,command,hardware\nold,fer-jax train x.py,a CPU\n")
    append_row(tiny_run.dir, table)
    with table.open(newline="") as file:
        old, new = csv.DictReader(file)
    assert (old["experiment"], old["accuracy"], new["experiment"]) == ("old", "", "tiny")
    assert float(new["vote_accuracy"]) > 0


def test_another_kind_of_table_and_a_run_without_metrics_are_refused(tiny_run, tmp_path):
    from fer_jax.evaluation.results import append_row

    run = tiny_run.dir
    table = tmp_path / "table.csv"
    table.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="other columns"):
        append_row(run, table)
    assert table.read_text() == "a,b\n1,2\n"
    with pytest.raises(UserError, match=r"has no metrics\.json"):
        append_row(tmp_path, tmp_path / "new.csv")
