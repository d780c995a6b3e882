"""Protocols by command: split, audit, train, crossval and evaluate say and use the same one."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from fer_jax.cli import main
from fer_jax.data import corpus


def said(capsys: pytest.CaptureFixture[str], *words: object) -> dict:
    assert main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


@pytest.fixture(scope="module")
def both(tiny_run, face_corpus, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The records of `tiny_run` and 30 clips of another corpus, whose subjects have its names and
    one of whose emotions it has not."""
    clips = [
        clip.replace(
            clip_id=clip.clip_id.replace("tiny", "other"),
            corpus="other",
            emotion="DIS" if i % 6 == 0 else clip.emotion,
        )
        for i, clip in enumerate(face_corpus.clips(30, 1))
    ]
    other = face_corpus.write(tmp_path_factory.mktemp("other") / "records2", clips)
    return f"{tiny_run.records},{other}"


CROSS = ["--protocol.train_corpora", "tiny", "--protocol.test_corpora", "other"]


def test_split_writes_what_every_command_reads_back(tiny_run, tmp_path: Path, capsys) -> None:
    kfold = ["--protocol", "subject-kfold", "--folds", "5", "--fold", "2"]
    out = tmp_path / "new" / "fold.csv"
    report = said(capsys, "split", tiny_run.records, *kfold, "--out", out)
    clips = {clip.clip_id: clip for clip in corpus.load(tiny_run.records)}
    table = rows(out)
    assert [row["clip_id"] for row in table if row["part"] == "test"] == sorted(
        row["clip_id"] for row in table if row["part"] == "test"
    )
    assert {row["clip_id"] for row in table} == set(clips)
    for row in table:
        one = clips[row["clip_id"]]
        assert (row["subject"], row["emotion"], row["recording"]) == (
            one.subject, one.emotion, one.recording
        )  # fmt: skip
    assert report["clips"] == Counter(row["part"] for row in table)
    assert report["subjects"] == {"train": 7, "validation": 1, "test": 2}
    assert sum(report["classes"]["train"].values()) == report["clips"]["train"]
    by_file = ["--protocol", "file", "--protocol.file", out]
    again = said(capsys, "split", tiny_run.records, *by_file)
    assert again["split_sha256"] == report["split_sha256"] and again["notes"] == []
    for words in (kfold, by_file, ["--protocol.name", "subject-kfold", "--protocol.folds", "5",
                                   "--protocol.fold", "2"]):  # fmt: skip
        audited = said(capsys, "audit", tiny_run.records, *words)
        assert audited["split_sha256"] == report["split_sha256"]
        assert audited["subject_overlap"] == 0 and audited["clips"] == report["clips"]
    assert main(["split", str(tiny_run.records), *kfold]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"subject-kfold[2/5]: sha256 {report['split_sha256']}\n")
    assert [line.split() for line in text.splitlines()[1:3]] == [
        ["train", "validation", "test"], ["clips", "42", "6", "12"]
    ]  # fmt: skip


def test_leaks_of_a_file_are_told(tiny_run, tmp_path: Path, capsys) -> None:
    out = tmp_path / "random.csv"
    said(capsys, "split", tiny_run.records, "--protocol", "random", "--out", out)
    words = ["audit", str(tiny_run.records), "--protocol", "file", "--protocol.file", str(out)]
    assert main([*words, "--strict"]) == 4
    assert "100.0 % of test clips show a subject of training" in capsys.readouterr().out


def test_a_run_of_a_file_outlives_the_file(tiny_run, tmp_path: Path, capsys) -> None:
    listed, run = tmp_path / "mine.csv", tmp_path / "run"
    kfold = ["--protocol", "subject-kfold", "--protocol.validation", "0.2"]
    report = said(capsys, "split", tiny_run.records, *kfold, "--out", listed)
    settings = ["--protocol.name", "file", "--protocol.file", str(listed), "--train.epochs", "1"]
    data = ["--data.dir", str(tiny_run.records), "--out", str(run)]
    trained = said(capsys, "train", tiny_run.config, *data, *settings)
    assert trained["split_sha256"] == report["split_sha256"]
    assert trained["protocol"] == "file[mine.csv]" and trained["subject_overlap"] == 0
    listed.unlink()
    again = said(capsys, "evaluate", run)
    assert {k: again[k] for k in ("accuracy", "protocol", "split_sha256")} == {
        k: trained[k] for k in ("accuracy", "protocol", "split_sha256")
    }


def test_every_subject_alone(tiny_run, tmp_path: Path, capsys) -> None:
    """crossval counts the folds itself; each clip is tested by the model that knew all others."""
    out = tmp_path / "loso"
    settings = ["--protocol.name", "loso", "--train.epochs", "1", "--data.dir", tiny_run.records]
    summary = said(capsys, "crossval", tiny_run.config, *settings, "--out", out)
    assert [one["name"] for one in summary["members"]] == [f"fold{i}" for i in range(10)]
    assert summary["settings"][0]["clips"] == 60
    for fold in range(10):
        table = rows(out / f"fold{fold}" / "predictions.csv")
        assert {row["subject"] for row in table} == {f"s{fold}"} and len(table) == 6
        assert rows(out / "members.csv")[fold]["protocol"] == f"loso[{fold}/10 s{fold}]"
    # Its directory is a directory of folds.
    folds = ["--protocol", "file", "--protocol.file", out, "--fold", "3"]
    report = said(capsys, "split", tiny_run.records, *folds)
    metrics = json.loads((out / "fold3" / "metrics.json").read_text())
    assert report["protocol"] == "file[loso 3/10]"
    assert report["split_sha256"] == metrics["split_sha256"]


def test_crossval_counts_the_folds_of_a_table_and_of_lists(tmp_path: Path) -> None:
    from fer_jax.config import Experiment, Protocol
    from fer_jax.training.members import make_members

    for i in range(3):
        (tmp_path / f"split{i}").mkdir()
        (tmp_path / f"split{i}" / "train.csv").write_text("a 0\n")
    for settings, count in (
        ({"name": "published", "published": "ravdess-speech-6fold"}, 6),
        ({"name": "published", "published": "crema-d-5fold"}, 5),
        ({"name": "file", "file": str(tmp_path)}, 3),
        ({"name": "random-kfold", "folds": 4}, 4),
    ):
        members = make_members(Experiment(name="x", protocol=Protocol(**settings)), folds=True)
        assert [one.experiment.protocol.fold for one in members] == list(range(count))
        assert [one.name for one in members] == [f"fold{i}" for i in range(count)]


def test_train_on_one_corpus_and_test_on_another(
    tiny_run, both: str, tmp_path: Path, capsys, fails
) -> None:
    run = tmp_path / "run"
    settings = ["--protocol.name", "cross-corpus", *CROSS, "--train.epochs", "1"]
    words = ["train", tiny_run.config, "--data.dir", both, "--out", run, *settings]
    line = fails(*words)
    assert line.startswith("cross-corpus[tiny to other]: the training part has no clip of disgust,")
    assert line.endswith("which 5 test clips show: choose another split") and not run.exists()
    shown = said(capsys, "split", both, "--protocol", "cross-corpus", *CROSS)
    assert shown["notes"] == [line] and shown["clips"]["test"] == 30
    words += ["--data.labels", "attrah3"]
    found = said(capsys, *words)
    assert found["protocol"] == "cross-corpus[tiny to other]" and found["n"] >= 30
    assert found["subject_overlap"] == 0 and found["ci95_drawn"] == 10
    assert {row["clip_id"].partition("/")[0] for row in rows(run / "predictions.csv")} == {"other"}
    # The same records in another order are the same run; each alone are other records.
    a, b = both.split(",")
    assert said(capsys, "train", tiny_run.config, "--data.dir", f"{b},{a}", "--out", run,
                *settings, "--data.labels", "attrah3")["accuracy"] == found["accuracy"]  # fmt: skip
    said(capsys, "evaluate", tiny_run.dir, both, "--labels", "attrah3")
    assert (tiny_run.dir / "evaluations" / "records+records2").is_dir()
    shutil.rmtree(tiny_run.dir / "evaluations" / "records+records2")
    audited = said(capsys, "audit", both, "--protocol", "loco", "--fold", "1")
    assert audited["protocol"] == "loco[1/2 tiny]" and audited["clips"]["test"] == 60
    assert said(capsys, "inspect", both)["clips"] == 90


def test_mistakes(tiny_run, both: str, tmp_path: Path, fails) -> None:
    records = tiny_run.records
    for words, message in (
        (["--protocol", "kfold"], "protocol.name"),
        (["--folds", "x"], "protocol.folds"),
        (["--protocol.fold", "10", "--protocol", "random-kfold"], "fold 10 of 10 does not exist"),
        (["--protocol.flod", "1"], "did you mean --protocol.fold"),
        (["--train.epochs", "1"], "unknown argument --train.epochs"),
        (["--data.labels", "crema"], "did you mean 'crema6'"),
        (["--protocol", "published"], "--protocol.published: one of crema-d-5fold"),
        (["--protocol", "file", "--protocol.file", tmp_path / "no"], "no does not exist"),
    ):
        for command in ("split", "audit"):
            assert message in fails(command, records, *words)
    crossed = ["crossval", tiny_run.config, "--out", tmp_path / "out"]
    line = fails(*crossed, "--data.dir", records, "--protocol.name", "loco")
    assert "needs several corpora" in line
    assert "no data" in fails(*crossed, "--protocol.name", "loso")
    assert "has no folds" in fails(*crossed, "--protocol.name", "actors")
    assert not (tmp_path / "out").exists()
    assert "does not exist" in fails("inspect", f"{records},{tmp_path / 'absent'}")
