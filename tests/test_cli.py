"""The command line: help, exit codes, JSON, and what it does with our own bugs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fer_jax.cli import main
from fer_jax.parser import make_parser

COMMANDS = (
    "demo", "generate", "preprocess", "inspect", "audit", "split", "importance", "train",
    "crossval", "sweep", "plan", "launch", "evaluate", "compare", "predict", "export", "extract",
    "models", "reproduce", "bench", "doctor",
)  # fmt: skip


def tree(path: Path) -> dict[str, bytes]:
    """Every file below a directory and what it holds."""
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


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


# Failures that are not about a value.


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
