"""What `fer-jax bench` asks, and what it writes of the answers."""

import importlib
import json
import re

import pytest

from benchmarks import race, suite
from fer_jax.cli import main


def test_every_question_is_a_module_that_answers() -> None:
    for name in suite.QUESTIONS:
        module = importlib.import_module(f"benchmarks.{name.partition(':')[0]}")
        assert module.__doc__ and callable(module.measure)
    for told in (one for pair in suite.QUESTIONS.values() for one in pair):
        assert told is None or isinstance(told, tuple)


def counting(number: int) -> race.Step:
    total = 0.0

    def run(index: int) -> None:
        nonlocal total
        total += sum(range(number * (1 + index % 2)))

    return run, {"number": number}


def small() -> race.Step:
    return counting(2_000)


def large() -> race.Step:
    return counting(400_000)


def test_a_race_tells_the_faster_one_by_what_it_does() -> None:
    times, facts = race.race({"ours": small, "large": large}, turns=3, steps=3)
    assert {name: len(values) for name, values in times.items()} == {"ours": 6, "large": 6}
    answer = race.compare(times, facts)
    # 200 times the work; a process start or a busy core is no factor of 100.
    assert answer["ratio_large"] > 2 and answer["number"] == 2_000
    assert answer["ratio_large"] == pytest.approx(answer["large_ms"] / answer["ours_ms"], rel=0.1)


def test_answers_are_added_to_those_of_this_machine(tmp_path, monkeypatch) -> None:
    def ask(question: str, gpu: bool) -> dict:
        found = {"question": question, "hardware": race.hardware(), "ratio_peer": 1.5}
        return found | {"ours_ms": 2.0, "gflop": 4.0}

    monkeypatch.setattr(suite, "ask", ask)
    (tmp_path / "cpu.json").write_text(json.dumps([
        {"question": "lstm_step", "hardware": "another machine", "ratio_other": 9.0},
        {"question": "depthwise", "hardware": race.hardware(), "ratio_xla": 5.0},
    ]))  # fmt: skip
    answers, table = suite.run(["record_reading"], False, tmp_path)
    assert {one["question"] for one in answers} == {"depthwise", "record_reading"}
    assert json.loads((tmp_path / "cpu.json").read_text()) == [
        next(one for one in answers if one["question"] == name)
        for name in suite.QUESTIONS
        if name in ("depthwise", "record_reading")
    ]
    assert (tmp_path / "cpu.md").read_text() == table
    assert re.search(r"\| record_reading \| peer \| 1\.50 \| 2 \| 4 \|", table)
    assert "| depthwise | xla | 5.00 |" in table and "other" not in table


def test_a_question_that_is_not_there(capsys, tmp_path) -> None:
    assert main(["bench", "lstm", "--out", str(tmp_path / "out")]) == 2
    assert "no question 'lstm' here: choose from lstm_step" in capsys.readouterr().err
    assert main(["bench", "paper1_grid", "--out", str(tmp_path / "out")]) == 2  # For a GPU alone.
    assert not (tmp_path / "out").exists()
