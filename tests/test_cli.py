"""The command line: help, exit codes, JSON, and one line for every mistake of the user's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fer_jax.cli import main, make_parser

COMMANDS = ("demo", "preprocess", "inspect", "audit", "train", "evaluate", "predict", "doctor")


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]):
    """Runs a command that must end with one line on stderr and exit code 2; returns the line."""

    def run(*words: object) -> str:
        assert main([str(word) for word in words]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.endswith("\n")
        lines = err.splitlines()
        assert len(lines) == 1, err
        assert lines[0].startswith("fer-jax: ")
        assert "Traceback" not in err
        return lines[0].removeprefix("fer-jax: ")

    return run


def tree(path: Path) -> dict[str, bytes]:
    """Every file below a directory and what it holds."""
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder corpus of two faceless pictures."""
    import cv2
    import numpy as np

    for name in ("happy/a.png", "sad/b.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True)
        cv2.imwrite(str(path), np.zeros((64, 64, 3), np.uint8))
    return tmp_path / "images"


@pytest.fixture
def records(tiny_run, tmp_path: Path) -> Path:
    """A copy of the records, to damage."""
    shutil.copytree(tiny_run.records, tmp_path / "records")
    return tmp_path / "records"


def shard_of(records: Path) -> Path:
    return next(p for p in records.iterdir() if ".tfrecord-" in p.name and p.suffix != ".json")


# Help.


def test_the_commands_are_these() -> None:
    assert tuple(make_parser()._subparsers._group_actions[0].choices) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "--json" in out
    example = out.split("Example:\n")[1].strip()
    assert example.startswith(f"fer-jax {command}")
    # What it shows can be typed.
    make_parser().parse_known_args(example.split()[1:])


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    import fer_jax

    for words in (["--help"], ["--version"]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
    out = capsys.readouterr().out
    assert all(command in out for command in COMMANDS)
    assert out.endswith(f"fer-jax {fer_jax.__version__}\n")


# Mistakes in what was typed.


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "COMMAND"),
        (["trian"], "trian"),
        (["train"], "CONFIG"),
        (["inspect", "x", "--chek"], "--chek"),
        (["inspect", "x", "y"], "y"),
        (["preprocess", "fer2013"], "RAW"),
        (["preprocess", "fer2013", "a", "b", "--limit", "few"], "few"),
        (["evaluate", "run", "--split", "tset"], "tset"),
        (["predict", "run"], "FILE"),
    ],
)
def test_wrong_words(fails, words: list[str], message: str) -> None:
    line = fails(*words)
    assert message in line
    assert "--help" in line


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


def test_a_missing_extra_is_named(fails, images: Path, tmp_path: Path, monkeypatch) -> None:
    import preprocessing.build

    def without(*args: object, **options: object) -> None:
        raise ModuleNotFoundError("No module named 'dlib'", name="dlib")

    monkeypatch.setattr(preprocessing.build, "preprocess", without)
    line = fails("preprocess", "folder", images, tmp_path / "out")
    assert line == "dlib is not installed: pip install 'fer-jax[preprocess]'"


def test_our_own_bugs_are_not_hidden(images: Path, tmp_path: Path, monkeypatch) -> None:
    import preprocessing.build

    for error in (ModuleNotFoundError("x", name="x"), FileNotFoundError(2, "x"), KeyError("x")):

        def broken(*args: object, error: Exception = error, **options: object) -> None:
            raise error

        monkeypatch.setattr(preprocessing.build, "preprocess", broken)
        with pytest.raises(type(error)):
            main(["preprocess", "folder", str(images), str(tmp_path / "out")])


# What is printed.


def json_of(capsys: pytest.CaptureFixture[str]) -> dict:
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert isinstance(found, dict)
    return found


def test_json_is_the_last_line(tiny_run, capsys: pytest.CaptureFixture[str]) -> None:
    records = str(tiny_run.records)
    assert main(["inspect", records, "--check", "--json"]) == 0
    assert json_of(capsys)["problems"] == []
    assert main(["audit", records, "--protocol", "random-kfold", "--json"]) == 0
    found = json_of(capsys)
    assert found.keys() >= {
        "verdict", "subject_overlap", "twin_overlap", "near_duplicates", "statement_overlap",
        "statistics_outside_train",
    }  # fmt: skip
    assert found["subject_overlap"] == 1.0
    assert main(["audit", records, "--protocol", "random-kfold", "--strict"]) == 4
    assert capsys.readouterr().out.startswith("leaks: 100.0 % of test clips show a subject")
    assert main(["audit", records, "--strict"]) == 0
    assert capsys.readouterr().out.startswith("clean")
    metrics = json.loads((tiny_run.dir / "metrics.json").read_text())
    assert json.loads(tiny_run.printed.splitlines()[-1])["accuracy"] == metrics["accuracy"]


def test_a_finished_run_is_found_finished(tiny_run, capsys) -> None:
    """The command that was typed, repeated: nothing is trained, nothing changes."""
    before = tree(tiny_run.dir)
    words = ["train", str(tiny_run.config), "--out", str(tiny_run.dir)]
    assert main([*words, "--data.dir", str(tiny_run.records)]) == 0
    out, err = capsys.readouterr()
    assert "is finished: nothing to train" in out
    assert str(tiny_run.dir / "report.html") in out
    assert "Traceback" not in err
    after = tree(tiny_run.dir)
    changed = {name for name in before if before[name] != after.get(name)}
    assert changed <= {"config.json"}


def test_some_files_cannot_be_predicted(tiny_run, tmp_path: Path, capsys) -> None:
    import cv2
    from skimage import data

    portrait = cv2.cvtColor(data.astronaut()[20:260, 110:350], cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(tmp_path / "face.png"), portrait)
    (tmp_path / "notes.txt").write_text("hello\n")
    files = [str(tmp_path / name) for name in ("notes.txt", "face.png")]
    words = ["predict", str(tiny_run.dir), *files, "--out", str(tmp_path / "out"), "--no-video"]
    assert main([*words, "--json"]) == 3
    found = json_of(capsys)
    assert [item["file"] for item in found["files"]] == files[1:]
    assert [item["file"] for item in found["skipped"]] == files[:1]
    assert main(words) == 3
    out = capsys.readouterr().out
    assert "notes.txt: skipped, not a video" in out
    assert "face in 1 of 1 frames" in out


def test_ctrl_c_is_one_line(tiny_run, images: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    import preprocessing.build
    from fer_jax.training import interrupts, loop

    train = ["train", str(tiny_run.config), "--out", str(tiny_run.dir)]
    build = ["preprocess", "folder", str(images), str(tmp_path / "out")]
    trained = interrupts.Interrupted("stopped in epoch 2 of 4; the same command goes on there", 2)
    built = preprocessing.build.Interrupted("interrupted: 3 of 5 shards are finished")
    for words, where, name, error, line in (
        (train, loop, "train", trained, f"interrupted: {trained}"),
        (train, loop, "train", KeyboardInterrupt(), "interrupted; repeat the command to go on"),
        (build, preprocessing.build, "preprocess", built, str(built)),
    ):

        def stop(*args: object, error: BaseException = error, **options: object) -> None:
            raise error

        monkeypatch.setattr(where, name, stop)
        assert main(words) == 130
        out, err = capsys.readouterr()
        assert (out, err) == ("", f"fer-jax: {line}\n")


# As a process.


def run_process(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fer_jax.cli", *map(str, words)],
        capture_output=True, text=True, timeout=120, check=False,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip


def test_as_a_process(tiny_run, tmp_path: Path) -> None:
    done = run_process("inspect", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"fer-jax: {tmp_path} is not a record directory")
    assert len(done.stderr.splitlines()) == 1
    done = run_process("inspect", tiny_run.records, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["clips"] == 60
