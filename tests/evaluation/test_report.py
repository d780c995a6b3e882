"""report.html: valid, self-contained, and it says what the run's files say."""

from __future__ import annotations

import csv
import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from fer_jax.errors import UserError

VOID = {"meta", "link", "br", "img", "input", "hr"}
NINE = ("neutral", "calm", "happy", "sad", "angry", "fear", "disgust", "surprise", "contempt")


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails where tags do not nest."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"<{tag}> repeats an attribute"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and self.open[-1] != "style":
            self.text.append(" ".join(data.split()))

    def ids(self) -> list[str]:
        return [attrs["id"] for _, attrs in self.tags if "id" in attrs]


def make_run(run: Path, classes: tuple[str, ...], epochs: int = 5) -> dict:
    """A finished run directory with random figures; returns its metrics."""
    from fer_jax.config import Experiment
    from fer_jax.training.metrics import compute

    run.mkdir(parents=True)
    rng = np.random.default_rng(0)
    matrix = rng.integers(0, 30, (len(classes), len(classes)))
    found = compute(matrix, classes) | {
        "ci95": {name: [0.1, 0.25] for name in ("accuracy", "uar", "macro_f1")},
        "ci95_clusters": "subject", "ci95_drawn": 24, "classes": list(classes),
        "protocol": "subject", "split": "test", "split_sha256": "ab" * 32,
        "data_sha256": "cd" * 32, "left_out": {"no_class": 4, "no_face": 7},
        "subject_overlap": 0.125, "twin_overlap": None, "audit": "leaks: something",
        "code_version": "1.2.3", "hardware": "CPU: x, 2 cores", "experiment": "trial", "epoch": 2,
        "reported": {"accuracy": 0.7199},
    }  # fmt: skip
    (run / "metrics.json").write_text(json.dumps(found))
    config = Experiment(name="a trial").to_json()
    config["data"]["dir"] = str(run.parent / "records")
    (run / "config.json").write_text(json.dumps(config))
    lines = []
    for epoch in range(1, epochs + 1):
        line = {"epoch": epoch, "train/loss": 2 / epoch, "train/accuracy": 0.1 * epoch}
        if epoch % 2 == 0:
            line |= {"validation/loss": 2.1 / epoch, "validation/accuracy": 0.08 * epoch}
        lines.append(json.dumps(line) + "\n")
    (run / "history.jsonl").write_text("".join(lines))
    with (run / "predictions.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["clip_id", "truth", "predicted", "correct", *(f"p_{c}" for c in classes)])
        for i in range(30):
            share = 0.5 + i / 100
            wrong = i % 2
            shares = [share, 1 - share] + [0.0] * (len(classes) - 2)
            table.writerow([f"c{i}", classes[wrong], classes[0], 1 - wrong, *shares])
    return found


def test_is_one_valid_page_on_its_own(tmp_path: Path) -> None:
    from fer_jax.evaluation.report import write_report

    make_run(tmp_path / "run", NINE)
    text = write_report(tmp_path / "run").read_text()
    page = Page(text)
    ids = page.ids()
    assert len(set(ids)) == len(ids)
    # Every reference is to an element of the page: no file and no network is needed.
    for tag, attrs in page.tags:
        assert tag not in {"script", "link", "img", "iframe", "object", "metadata"}
        for name in ("src", "href", "xlink:href"):
            if name in attrs:
                assert attrs[name].startswith("#")
                assert attrs[name][1:] in ids
    for target in re.findall(r"url\((.*?)\)", text):
        assert target.strip("\"'#") in ids
    assert "@import" not in text
    pictures = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(pictures) == 2
    for attrs in pictures:
        assert attrs["role"] == "img"
        assert len(attrs["aria-label"]) > 10
        assert "viewbox" in attrs
        assert "width" not in attrs


def test_shows_what_the_files_say(tmp_path: Path) -> None:
    from fer_jax.evaluation.report import write_report

    found = make_run(tmp_path / "run", NINE)
    page = Page(write_report(tmp_path / "run").read_text())
    text = " ".join(page.text)
    assert f"{100 * found['accuracy']:.1f} %" in text
    assert "95 % interval 10.0 to 25.0 %" in text
    assert text.count("paper 72.0 %") == 1
    assert "Chance is 11.1 % (9 classes)" in text
    supports = np.sum(found["confusion"], axis=1)
    assert f"would give {100 * supports.max() / supports.sum():.1f} %" in text
    assert "bootstrap over 24 subjects." in text
    assert "subject is in training: 12.5 %" in text
    assert "recording is: unknown" in text
    assert "4 clips of other emotions, 7 without a face" in text
    for name in NINE:
        row = found["per_class"][name]
        cells = (f"{row[key]:.3f}" for key in ("precision", "recall", "f1"))
        assert " ".join([name, *cells, str(row["support"])]) in text
    for row in found["confusion"]:
        assert " ".join(map(str, row)) in text
    # Twelve mistakes, surest first.
    assert re.findall(r"c(\d+) calm neutral", text) == [str(i) for i in range(29, 5, -2)]
    assert f"fer-jax train {tmp_path / 'run' / 'config.json'}" in text


def test_shows_coverage_by_emotion(tmp_path: Path) -> None:
    from fer_jax.evaluation.report import write_report

    make_run(tmp_path / "run", NINE)
    zero = {"failed": 0, "frames": 0, "frames_with_face": 0, "copies": 3, "copies_lost": 0}
    rows = [
        {"split": "train", "emotion": "HAP", "clips": 10, "written": 8, "no_face": 2, **zero},
        {"split": "test", "emotion": "HAP", "clips": 5, "written": 4, "no_face": 0, **zero},
        {"split": "test", "emotion": "SAD", "clips": 4, "written": 4, "no_face": 0, **zero},
    ]
    rows[1] |= {"failed": 1, "frames": 100, "frames_with_face": 60}
    (tmp_path / "records").mkdir()
    (tmp_path / "records/coverage.json").write_text(json.dumps({"coverage": rows}))
    text = " ".join(Page(write_report(tmp_path / "run").read_text()).text)
    assert "HAP 15 12 2 1 85.7 % 60.0 %" in text
    assert "all 19 16 2 1 88.9 % 60.0 %" in text


def test_reads_what_preprocessing_writes(tmp_path: Path) -> None:
    from collections import Counter

    from fer_jax.evaluation.report import write_report
    from preprocessing.coverage import BuildReport, Row

    make_run(tmp_path / "run", NINE)
    coverage = Counter({Row("", "SAD", False, "written"): 3, Row("", "SAD", False, "no_face"): 1})
    report = BuildReport("crema-d", "out", 4, 3, coverage, [], [], 1, 0, 4, 1.0)
    (tmp_path / "records").mkdir()
    (tmp_path / "records/coverage.json").write_text(json.dumps(report.summary()))
    text = " ".join(Page(write_report(tmp_path / "run").read_text()).text)
    assert "SAD 4 3 1 0 75.0 %" in text


def test_names_are_text_never_markup(tmp_path: Path) -> None:
    from fer_jax.evaluation.report import write_report

    classes = ("<b>joy</b>", "R&D $x^", "悲しみ")
    make_run(tmp_path / "run", classes, epochs=1)
    (tmp_path / "run/command.txt").write_text("fer-jax train 'a&b <c>.py'\n")
    page = Page(write_report(tmp_path / "run").read_text(encoding="utf-8"))
    assert not [tag for tag, attrs in page.tags if tag == "b" and attrs]
    for name in (*classes, "fer-jax train 'a&b <c>.py'"):
        assert name in page.text


def test_needs_an_evaluated_run(tmp_path: Path) -> None:
    from fer_jax.evaluation.report import write_report

    with pytest.raises(UserError, match=r"no metrics\.json: run `fer-jax evaluate"):
        write_report(tmp_path)


def test_a_real_runs_page(tiny_run) -> None:
    page = Page((tiny_run.dir / "report.html").read_text())
    assert "tiny" in page.text
    assert "paper 90.0 %" in " ".join(page.text)
    # What was typed, so that it can be typed again.
    command = page.text[page.text.index("Repeat it") + 1]
    typed = ["--out", str(tiny_run.dir), "--data.dir", str(tiny_run.records), "--json"]
    assert shlex.split(command) == ["fer-jax", "train", str(tiny_run.config), *typed]
