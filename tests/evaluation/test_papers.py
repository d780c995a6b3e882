"""The plans of the five papers, and one reproduction from commands to page."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from fer_jax.cli import main
from fer_jax.config import load_config
from fer_jax.errors import UserError
from fer_jax.evaluation.papers import PAPERS, plan
from fer_jax.evaluation.papers.figures import kept_by_rule
from fer_jax.evaluation.papers.plan import Need, Paper, Step
from fer_jax.evaluation.papers.results import COLUMNS, found_of, show
from fer_jax.evaluation.papers.run import Library, run_steps
from fer_jax.parser import make_parser

EVERY = [(name, small) for name in PAPERS for small in (False, True)]


class Anything(dict):
    """Whatever records a command wants."""

    def __missing__(self, need: Need) -> Path:
        return Path("/records") / need[0]


@pytest.mark.parametrize(("name", "small"), EVERY)
def test_every_command_of_a_plan_can_be_said(name: str, small: bool) -> None:
    paper = PAPERS[name](small)
    known: set[str] = set()
    for step in paper.steps:
        assert set(step.after) <= known, step
        known.add(step.name)
        if any(word.startswith("extracted/") for word in step.words):
            assert any(paper.step(other).words[0] == "extract" for other in step.after), step
        words = step.command(Path("/out"), Anything(), ["--train.seed", "3"])
        assert not any("{" in word for word in words if word != "{}")
        args, rest = make_parser().parse_known_args(words)
        pairs = list(zip(rest[::2], rest[1::2], strict=True))
        if step.trains:
            changes = [(key.removeprefix("--"), value) for key, value in pairs]
            experiment = load_config(args.config, changes)
            assert experiment.paper == name and experiment.train.seed == 3
            assert str(args.out) == f"/out/runs/{step.name}"
        else:
            assert not step.name.startswith("train")
    assert set(paper.shown) <= known or small


def reported(name: str) -> dict[tuple[str, str, str], float]:
    """(table, row, column) -> what a plan says that the paper reports."""
    return {
        (table.name, cell.row, cell.column): cell.paper
        for table in PAPERS[name](False).tables
        for cell in table.cells
        if cell.paper is not None
    }


def test_the_papers_numbers_are_those_that_were_carried_over(shared: Path) -> None:
    """Against a table that somebody else typed."""
    facts = json.loads((shared / "papers" / "reported_results.json").read_text())
    one = reported("ryumina2020")
    by_set = {column: [v for (_, _, c), v in one.items() if c == column] for *_, column in one}
    for size, values in facts["ryumina2020_table4"].items():
        np.testing.assert_allclose(by_set[size], np.array(values) / 100)
    first = list(facts["ryumina2020_table3_136"].values())
    np.testing.assert_allclose(by_set["136"], np.array(first) / 100)

    two = [v for _, v in sorted(reported("abdullah2020").items())]
    paper2 = facts["abdullah2020"]
    assert sorted(two) == sorted([paper2["fer2013_val"], paper2["lstm_val"], paper2["test"]])

    three = reported("zennou2023")
    tables = {table: [v for (t, _, _), v in three.items() if t == table] for table, *_ in three}
    assert tables["Table 6"] == pytest.approx(
        [facts["zennou2023_sase6_nopre"][key] for key in (
            "no_freeze+no_pool", "first_frozen+3fc+no_pool", "all_frozen+3fc",
            "all_frozen+3fc+avg", "all_frozen+3fc+max", "all_frozen+no_pool", "all_frozen+avg",
            "all_frozen+max")], abs=1e-4)  # fmt: skip
    front = facts["zennou2023_sase6_front"]
    assert tables["Table 7"] + tables["Table 8"] == pytest.approx(
        [front["soft"], front["none"], front["two_stream"]], abs=1e-4
    )
    sase, oulu = facts["zennou2023_sase12"], facts["zennou2023_oulu6"]
    still, moving = (
        ("face", "front", "two_stream", "front+geo"),
        ("c3d", "lstm_feat", "lstm_img", "gru_feat", "gru_img"),
    )
    for table, values, keys in (
        ("Table 9", sase, still), ("Table 10", sase, moving),
        ("Table 11", oulu, still), ("Table 12", oulu, moving),
    ):  # fmt: skip
        assert tables[table] == pytest.approx([values[key] for key in keys], abs=1e-4), table
    proposed = [sase["proposed_face+front"], sase["proposed_front"],
                oulu["proposed_front+geo"], oulu["proposed_front"]]  # fmt: skip
    assert tables["Table 14"] == pytest.approx(proposed, abs=1e-4)

    four = reported("emotionaldan2018")
    names = {"CNN2": "CNN (2)", "CNN5": "CNN (5)", "InceptionV3": "Inception-V3",
             "EmotionNet2": "EmotionNet 2", "EmotionalDAN": "EmotionalDAN"}  # fmt: skip
    for table, key in (
        ("Table 1", "emotionaldan2018_7class"),
        ("Table 2", "emotionaldan2018_3class"),
    ):
        values = facts[key]
        for own, row in names.items():
            found = [four[table, row, column] for column in values["columns"]]
            assert found == values[own]

    five = facts["attrah2024"]
    table = reported("attrah2024")
    for name in ("accuracy", "macro_f1"):
        assert table["Section 5", "LSTM", name] == five[name]
    assert table["Section 5", "LSTM", "cross_entropy"] == five["cce"]
    shares = np.array(five["confusion"]) / np.sum(five["confusion"], axis=1, keepdims=True)
    words = five["class_order"]
    for i, truth in enumerate(words):
        for j, said in enumerate(words):
            cell = table["Table 4", f"truth {truth}", f"predicted {said}"]
            assert cell == pytest.approx(shares[i, j])


def test_a_part_of_a_paper_takes_what_it_stands_on() -> None:
    part = plan("zennou2023", tables=["table 8"])
    assert [table.name for table in part.tables] == ["Table 8"]
    names = [step.name for step in part.steps]
    assert "sase6-two-stream" in names and "sase6-face-leak-free" in names
    assert not any("oulu" in name for name in names)
    assert [t.name for t in plan("attrah2024", tables=["4"]).tables] == ["Table 4"]
    with pytest.raises(UserError, match=r"attrah2024 has no 'table 9' here \(it has: Table 1"):
        plan("attrah2024", tables=["table 9"])
    with pytest.raises(UserError, match="unknown paper 'attrah' "):
        plan("attrah")


def test_records_are_found_by_what_they_hold(tmp_path: Path) -> None:
    from preprocessing.generate import generate

    for name, outputs, size in (
        ("small", ("crops",), 24), ("large", ("crops", "landmarks"), 32), ("fer", ("crops",), 24),
    ):  # fmt: skip
        kind = "fer2013" if name == "fer" else "jaffe"
        generate(
            kind,
            tmp_path / name,
            outputs=outputs,
            scale=0.1 if kind == "jaffe" else 0.001,
            crop_size=size,
        )
    library = Library([tmp_path], {"affectnet": "fer2013"})
    assert library.find(Need("jaffe", "crops", "")) == tmp_path / "large"
    assert library.find(Need("jaffe", "crops,landmarks68", "")) == tmp_path / "large"
    assert library.find(Need("affectnet", "crops", "")) == tmp_path / "fer"
    assert library.find(Need("ravdess", "crops", "")) == "no records of ravdess"
    assert "do not all hold landmarks68" in str(library.find(Need("fer2013", "landmarks68", "")))
    assert "align none" in str(library.find(Need("jaffe", "crops", "align=none")))
    with pytest.raises(UserError, match="is no directory"):
        Library([tmp_path / "none"], {})
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no records: make some with `fer-jax preprocess"):
        Library([tmp_path / "empty"], {})


def test_what_is_missing_or_fails_does_not_stop_the_rest(tmp_path: Path) -> None:
    from preprocessing.generate import generate

    generate("jaffe", tmp_path / "jaffe", outputs=("landmarks",), scale=0.05)
    steps = (
        Step("lost", ("audit", "{ravdess:landmarks68}")),
        Step("after-lost", ("evaluate", "{run:lost}")),
        Step("wrong", ("audit", "{jaffe:landmarks68}", "--protocol", "nonsense")),
        Step("right", ("audit", "{jaffe:landmarks68}", "--protocol", "random")),
    )
    paper = Paper("none", "", (), steps)
    said: list[str] = []
    library = Library([tmp_path], {})
    run_steps(paper, library, tmp_path / "out", say=said.append)

    def result(name: str) -> dict:
        return json.loads((tmp_path / "out" / "results" / f"{name}.json").read_text())

    assert result("lost")["missing"] == "no records of ravdess"
    assert result("after-lost")["missing"] == "lost has no result"
    assert "nonsense" in result("wrong")["failed"] and result("wrong")["code"] == 2
    assert result("right")["report"]["verdict"].startswith("leaks")
    assert any(line.startswith("wrong failed:") for line in said)
    assert "none: no records of ravdess: 1 of 4 commands were left out" in said
    # The same command is not run again; what failed is.
    marked = tmp_path / "out" / "results" / "right.json"
    known = result("right")
    known["report"]["verdict"] = "kept"
    marked.write_text(json.dumps(known))
    run_steps(paper, library, tmp_path / "out", say=said.append)
    assert result("right")["report"]["verdict"] == "kept"
    assert "failed" in result("wrong")


def test_a_reproduction_from_commands_to_page(tmp_path: Path, capsys) -> None:
    out = tmp_path / "reproduction"
    words = ["reproduce", "attrah2024", "--generated", "--out", str(out), "--json",
             "--tables", "Table 1", "Section 5", "Table 4", "--train.epochs", "2"]  # fmt: skip
    assert main(words) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["failed"] == {}
    with open(report["csv"], newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    accuracy = next(row for row in rows if row["column"] == "accuracy")
    metrics = json.loads((out / "attrah2024" / "runs" / "lstm" / "metrics.json").read_text())
    assert float(accuracy["here"]) == pytest.approx(metrics["accuracy"], rel=1e-5)
    assert float(accuracy["difference"]) == pytest.approx(metrics["accuracy"] - 0.7199, rel=1e-4)
    assert float(accuracy["low"]) == pytest.approx(metrics["ci95"]["accuracy"][0], rel=1e-5)
    clean = json.loads(
        (out / "attrah2024" / "runs" / "lstm-leak-free" / "metrics.json").read_text()
    )
    assert float(accuracy["leak_free"]) == pytest.approx(clean["accuracy"], rel=1e-5)
    shares = [row for row in rows if row["table"] == "Table 4" and row["row"] == "truth happy"]
    matrix = np.array(metrics["confusion"])
    np.testing.assert_allclose(
        [float(row["here"]) for row in shares], matrix[0] / matrix[0].sum(), rtol=1e-5
    )
    page = Path(report["report"]).read_text()
    assert "Generated people" in page and "Most confident mistakes" in page
    assert "fer-jax train" in page and page.count("<svg") >= 4


def test_figures_of_results() -> None:
    single = {
        "protocol": "subject", "audit": "clean", "n": 4, "run": "r", "accuracy": 0.5,
        "ci95": {"accuracy": [0.2, 0.8]}, "confusion": [[1, 1], [0, 2]], "classes": ["a", "b"],
    }  # fmt: skip
    found = found_of({"report": single}, "accuracy")
    assert (found.value, found.low, found.high, found.n) == (0.5, 0.2, 0.8, 4)
    assert found_of({"report": single}, "confusion/a/b").value == 0.5
    assert found_of(None, "accuracy").why == "not run yet"
    assert found_of({"missing": "no records of x"}, "accuracy").why == "no records of x"
    assert found_of({"failed": "it broke"}, "accuracy").why == "it broke"
    assert [show(0.5, True), show(-0.0312, True, sign=True), show(None, True)] == [
        "50.0", "-3.1", "-"
    ]  # fmt: skip
    assert [show(7215, False), show(0.6298, False), show(0, False)] == ["7,215", "0.630", "0"]


def test_the_rule_of_paper_5() -> None:
    scores = np.zeros((300, 52), np.float32)
    scores[:101, 3] = 0.41
    scores[:100, 4] = 0.9
    scores[:, 5] = 0.4
    assert np.flatnonzero(kept_by_rule(scores)).tolist() == [3]


def test_mistakes_are_one_clear_line(capsys, tmp_path: Path) -> None:
    from preprocessing.generate import generate

    generate("jaffe", tmp_path / "jaffe", scale=0.05)
    for words, text in (
        (["attrah2024"], "give record directories with --data, or --generated"),
        (["attrah2024", "--data", str(tmp_path / "none")], "is no directory"),
        (
            ["attrah2024", "--data", str(tmp_path / "jaffe")],
            "attrah2024 reads fer2013 (blendshapes); there is only jaffe: preprocess one of them",
        ),
        (["nobody", "--generated", "--out", str(tmp_path)], "unknown paper 'nobody'"),
        (["all", "--generated", "--out", str(tmp_path), "--swap", "a"], "give two corpora"),
    ):
        assert main(["reproduce", *words]) == 2
        assert text in capsys.readouterr().err
