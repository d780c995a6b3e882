"""`fer-jax launch`: what it says, refuses and runs."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from fer_jax.cli import main
from launch.machines import parse_machines

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "configs/landmarks_lstm.py"
CLOUD = ("--data", "gs://bucket/records", "--run", "gs://bucket/run")


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    ("name", "kind", "chips", "hosts", "accelerator"),
    [  # Google Cloud's tables of each generation's types.
        ("v5e:1x1", "tpu", 1, 1, "v5litepod-1"),
        ("v5e:2x4", "tpu", 8, 1, "v5litepod-8"),
        ("v5e:16x16", "tpu", 256, 64, "v5litepod-256"),
        ("v6e:8x8", "tpu", 64, 16, "v6e-64"),
        ("v5p:2x2x1", "tpu", 4, 1, "v5p-8"),
        ("v5p:4x4x4", "tpu", 64, 16, "v5p-128"),
        ("v4:2x2x2", "tpu", 8, 2, "v4-16"),
        ("h100x8", "gpu", 8, 1, "H100"),
        ("A100x16", "gpu", 16, 2, "A100-80GB"),
        ("a100-40gbx1", "gpu", 1, 1, "A100"),
    ],
)
def test_machines(name: str, kind: str, chips: int, hosts: int, accelerator: str) -> None:
    found = parse_machines(name)
    assert (found.kind, found.chips, found.hosts, found.accelerator) == (
        kind, chips, hosts, accelerator,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((CONFIG, "--topology", "v5e:3x3", *CLOUD), "no topology 'v5e:3x3': give one of v5e"),
        ((CONFIG, "--topology", "v5p:4x4", *CLOUD), "no topology"),
        ((CONFIG, "--topology", "h100x12", *CLOUD), "no topology"),
        ((CONFIG, *CLOUD), "what does it run on? Give --topology"),
        ((CONFIG, "--topology", "v5e:4x4", *CLOUD, "--train.epoch", "3"),
         "unknown config key --train.epoch; did you mean --train.epochs?"),
        ((CONFIG, "--topology", "v5e:4x4", *CLOUD, "--train.epochs", "many"), "--train.epochs"),
        (("configs/landmark_lstm.py", "--topology", "v5e:4x4", *CLOUD), "no config file"),
        ((CONFIG, "--topology", "v5e:4x4", *CLOUD[2:]), "no data: give a record directory"),
        ((CONFIG, "--topology", "v5e:4x4", *CLOUD[:2]), "the machines are given back afterwards"),
        ((CONFIG, "--topology", "v5e:4x4", "--data", "records", *CLOUD[2:]), "--data records"),
        ((CONFIG, "--topology", "v5e:2x2", "--trials", "9", *CLOUD), "a sweep runs on GPUs"),
        ((CONFIG, "--topology", "h100x16", "--trials", "9", *CLOUD), "2 machines share a study"),
        ((CONFIG, "--topology", "h100x16", "--folds", *CLOUD), "one program on one machine"),
        ((CONFIG, "--topology", "h100x8", "--trials", "9", "--storage",
          "postgresql://me:secret@db/x", *CLOUD), "--storage holds a password"),
        ((CONFIG, "--topology", "h100x8", "--seeds", "a", *CLOUD), "--seeds a: give whole numbers"),
        ((CONFIG, "--topology", "h100x8", "--name", "7", *CLOUD), "--name 7"),
        ((), "give a config, or --preprocess"),
        (("--preprocess", "crema-d", "--raw", "gs://b/raw"), "--preprocess needs --raw"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(fails, words: tuple[str, ...], said: str) -> None:
    assert said in fails("launch", "skypilot", *words, "--dry-run")


def test_mistakes_of_other_launchers(fails, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    gcloud = ("launch", "gcloud", CONFIG, *CLOUD, "--dry-run", "--topology")
    assert "gcloud trains on TPUs" in fails(*gcloud, "h100x8")
    assert "in which zone?" in fails(*gcloud, "v5e:4x4")
    assert "Slurm has GPUs" in fails("launch", "slurm", CONFIG, *CLOUD, "--topology", "v5e:4x4")
    assert "below" in fails("launch", "container", CONFIG, "--data", "a", "--run", "/b")
    monkeypatch.chdir(tmp_path)
    config = ROOT / CONFIG
    line = fails("launch", "skypilot", config, *CLOUD, "--topology", "h100x8", "--dry-run")
    assert "is not below" in line


@pytest.mark.parametrize(
    ("launcher", "topology", "tool"),
    [("skypilot", "h100x8", "sky"), ("gcloud", "v5e:4x4", "gcloud"), ("slurm", "h100x8", "sbatch"),
     ("container", "h100x8", "docker")],
)  # fmt: skip
def test_a_missing_tool(fails, monkeypatch, launcher: str, topology: str, tool: str) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    words = ("launch", launcher, CONFIG, "--topology", topology, "--zone", "z", *CLOUD)
    before = set(ROOT.glob("launched/*"))
    line = fails(*words)
    assert line.startswith(f"{tool} is not installed: ")
    assert set(ROOT.glob("launched/*")) == before


def test_what_is_shown_is_what_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """--dry-run names the files' text and commands that a run without it writes and starts."""
    tools = tmp_path / "tools"
    tools.mkdir()
    log = tmp_path / "ran"
    for name, code in (("sky", 0), ("docker", 0), ("sbatch", 7)):
        (tools / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {log}\nexit {code}\n')
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    work = tmp_path / "work"
    (work / "requirements").mkdir(parents=True)
    (work / "requirements" / "gpu.txt").touch()
    (work / "my.py").write_text((ROOT / CONFIG).read_text())
    monkeypatch.chdir(work)
    words = ["launch", "skypilot", "my.py", "--topology", "h100x8", "--spot", *CLOUD, "--json"]
    assert main([*words, "--dry-run"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert not (work / "launched").exists()
    assert not log.exists()
    assert main([*words[:-1], "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert all(part in text for part in shown["files"].values())
    assert shlex.join(shown["commands"][0]) in text

    assert main(words) == 0
    ran = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert ran == shown
    assert {str(p.relative_to(work)): p.read_text() for p in work.glob("launched/*/*")} == (
        shown["files"]
    )
    assert log.read_text().splitlines() == [shlex.join(one) for one in shown["commands"]]

    log.unlink()
    assert main(["launch", "container", "my.py", "--data", "records", "--json"]) == 0
    first, second = log.read_text().splitlines()
    assert first.startswith("docker build --file ")
    assert second.endswith(
        "fer-jax:0.1.0-gpu train my.py --data.dir records --out "
        f"runs/{json.loads(capsys.readouterr().out.splitlines()[-1])['name']}"
    )
    words = ["launch", "slurm", "my.py", "--data", "records", "--topology", "h100x8"]
    assert main(words) == 2
    assert "` ended with 7: what it says above is the reason" in capsys.readouterr().err


def test_the_same_command_is_the_same_run(capsys) -> None:
    """A job that is launched again goes on with its run; another config's has another."""

    def name(*words: str) -> str:
        command = ["launch", "slurm", CONFIG, "--data", "r", "--topology", "h100x8", "--json"]
        assert main([*command, "--dry-run", *words]) == 0
        return json.loads(capsys.readouterr().out)["name"]

    assert name() == name()
    assert name() != name("--optim.lr", "0.1")
    assert name("--seeds", "0,1") != name("--folds")
    assert name("--name", "Mine_1") == "mine-1"
