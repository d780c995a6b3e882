"""One clear line for every kind of bad input; exit code 2, nothing lost or half-written."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from fer_jax.cli import main


def tree(path: Path) -> dict[str, bytes]:
    """Every file below a directory and what it holds."""
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.fixture
def records(tiny_run, tmp_path: Path) -> Path:
    """A copy of the records, to damage."""
    shutil.copytree(tiny_run.records, tmp_path / "records")
    return tmp_path / "records"


def shard_of(records: Path) -> Path:
    return next(p for p in records.iterdir() if ".tfrecord-" in p.name and p.suffix != ".json")


# Preprocessing.


def test_unknown_corpus(fails, tmp_path: Path) -> None:
    line = fails("preprocess", "ravdes", tmp_path, tmp_path / "out")
    assert "'ravdes'" in line
    assert "did you mean 'ravdess'?" in line
    assert not (tmp_path / "out").exists()


def test_unknown_options(fails, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for words, message in (
        (["--outputs", "landmark"], "landmark"),
        (["--outputs", ""], "outputs"),
        (["--engine", "lokal"], "lokal"),
        (["--crop-color", "blue"], "blue"),
        (["--crop-size", "0"], "crop_size"),
        (["--align", "nose"], "nose"),
        (["--workers", "0"], "workers"),
        (["--limit", "0"], "limit"),
    ):
        assert message in fails("preprocess", "folder", images, out, *words)
        assert not out.exists(), words


def test_empty_or_absent_folder(fails, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for corpus in ("folder", "crema-d", "ravdess", "fer2013"):
        assert "empty" in fails("preprocess", corpus, tmp_path / "empty", tmp_path / "out")
        assert "absent" in fails("preprocess", corpus, tmp_path / "absent", tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty"]


def test_unknown_label(fails, images: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("path,emotion\nimages/happy/a.png,happy\nimages/sad/b.png,\n")
    line = fails("preprocess", "csv", table, tmp_path / "out")
    assert "table.csv" in line
    assert not (tmp_path / "out").exists()
    (tmp_path / "crema").mkdir()
    (tmp_path / "crema/1001_DFA_XXX_XX.mp4").write_bytes(b"x")
    line = fails("preprocess", "crema-d", tmp_path / "crema", tmp_path / "out2")
    assert "XXX" in line
    assert not list((tmp_path / "out2").glob("*.tfrecord*"))


def test_missing_and_wrong_model_file(
    fails, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    monkeypatch.setenv("FER_JAX_MODELS", str(models))
    (models / "face_landmarker.task").write_bytes(b"not the model")
    out = tmp_path / "out"
    line = fails("preprocess", "folder", images, out, "--outputs", "blendshapes")
    assert "face_landmarker.task" in line
    assert "sha256" in line.lower() or "checksum" in line.lower()
    assert not list(out.glob("*.tfrecord*"))
    (models / "face_landmarker.task").unlink()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    line = fails("preprocess", "folder", images, out, "--outputs", "blendshapes")
    assert "face_landmarker.task" in line
    assert "FER_JAX_MODELS" in line
    assert not list(out.glob("*.tfrecord*"))
    assert not list(tmp_path.rglob("cache/**/*.task*"))


# Records.


@pytest.mark.parametrize("command", ["inspect", "audit"])
def test_not_a_record_directory(fails, command: str, tmp_path: Path) -> None:
    assert "not a record directory" in fails(command, tmp_path)
    assert "does not exist" in fails(command, tmp_path / "absent")
    (tmp_path / "file").touch()
    assert "is a file" in fails(command, tmp_path / "file")


def test_truncated_shard(fails, records: Path, tiny_run) -> None:
    shard = shard_of(records)
    os.truncate(shard, shard.stat().st_size - 5)
    before = tree(records)
    for words in (
        ["audit", records],
        ["train", tiny_run.config, "--data.dir", records, "--out", records.parent / "run"],
    ):
        assert shard.name in fails(*words)
    assert tree(records) == before
    assert not (records.parent / "run/metrics.json").exists()


def test_bit_flipped_shard(fails, records: Path, tiny_run, capsys) -> None:
    shard = shard_of(records)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 4
    shard.write_bytes(content)
    for words in (
        ["audit", records],
        ["evaluate", tiny_run.dir, records],
        ["train", tiny_run.config, "--data.dir", records, "--out", records.parent / "run"],
    ):
        line = fails(*words)
        assert shard.name in line
        assert "byte" in line
    assert main(["inspect", str(records), "--check"]) == 2
    assert shard.name in capsys.readouterr().out


def test_unknown_protocol_and_labels(fails, tiny_run, tmp_path: Path) -> None:
    line = fails("audit", tiny_run.records, "--protocol", "subjects")
    assert "'subject'" in line
    assert "subjects" in line
    assert "fold" in fails("audit", tiny_run.records, "--protocol", "subject-kfold", "--fold", "10")
    words = ["train", tiny_run.config, "--data.dir", tiny_run.records, "--out", tmp_path / "run"]
    assert "did you mean 'fer7'?" in fails(*words, "--data.labels", "fer8")
    assert "did you mean 'happy'?" in fails(*words, "--data.caps", '{"hapy": 3}')
    line = fails(*words, "--data.features", "blendshapes-52")
    assert "has no blendshapes" in line
    assert "--outputs" in line


# Configs and runs.


def test_configs_with_mistakes(fails, tiny_run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for old, new, message in (
        ("epochs=4", "epoch=4", "epoch"),
        ("epochs=4", "epochs='four'", "four"),
        ("def experiment():", "def experiment(:", "SyntaxError"),
        ("Train(epochs", "Trane(epochs", "Trane"),
        ("def experiment():", "def run():", "experiment"),
    ):
        path = tmp_path / "typo.py"
        path.write_text(tiny_run.config.read_text().replace(old, new))
        line = fails("train", path, "--out", out)
        assert "typo.py" in line
        assert message in line
    assert f"did you mean {tmp_path / 'typo.py'}?" in fails(
        "train", tmp_path / "tipo.py", "--out", out
    )
    line = fails("train", tiny_run.config, "--out", out, "--train.epoch", "3")
    assert "did you mean --train.epochs?" in line
    assert "--train.epochs 5" in fails("train", tiny_run.config, "more", "--out", out)
    assert "needs a value" in fails("train", tiny_run.config, "--out", out, "--train.epochs")
    assert "--data.dir" in fails("train", tiny_run.config, "--out", out)
    assert not (out / "checkpoints").exists()


def test_missing_run_and_run_without_checkpoint(fails, tiny_run, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    picture.touch()
    for words in (["evaluate", tmp_path / "absent"], ["predict", tmp_path / "absent", picture]):
        line = fails(*words)
        assert "absent is not a run directory" in line
        assert "fer-jax train" in line
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(tiny_run.dir / "config.json", run)
    for words in (["evaluate", run], ["predict", run, picture]):
        assert "holds no checkpoint" in fails(*words)
    assert [p.name for p in run.iterdir()] == ["config.json"]


def test_damaged_checkpoint(fails, tiny_run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run.dir, run)
    victims = [p for p in run.rglob("checkpoints/*/best/d/*") if p.is_file()]
    assert victims
    for path in victims:
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert "no intact checkpoint" in fails("evaluate", run)


def test_predicting_what_is_no_video(fails, tiny_run, tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("hello\n")
    line = fails("predict", tiny_run.dir, notes, "--out", tmp_path / "out")
    assert "notes.txt: not a video" in line
    line = fails("predict", tiny_run.dir, notes, tmp_path / "absent.mp4")
    assert "no such file" in line
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.txt"]


def test_what_the_file_system_refuses(fails, tiny_run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    words = ["train", tiny_run.config, "--data.dir", tiny_run.records, "--out"]
    for out in (tmp_path / "file", tmp_path / "file/run", tmp_path / ("x" * 300)):
        assert str(out) in fails(*words, out)
    assert str(tmp_path / "file") in fails("demo", tmp_path / "file")
    assert tree(tmp_path) == {"file": b"mine"}
