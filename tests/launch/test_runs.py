"""The scripts run to their end, with stand-ins for gcloud, Slurm and FER-JAX, which refuse options
that the real ones do not have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fer_jax.cli import main

ROOT = Path(__file__).resolve().parents[2]
GRAMMAR = Path(__file__).with_name("grammar.json")
CONFIG = "configs/landmarks_lstm.py"

#: A Google Cloud of one TPU with two machines, whose homes are directories. `says` holds what the
#: TPU's states are at each look; in state SUSPENDED its machines are gone.
GCLOUD = """
import json, os, shutil, subprocess, sys
from pathlib import Path

cloud = Path(os.environ["CLOUD"])
words = sys.argv[1:]
grammar = json.loads(Path(os.environ["GRAMMAR"]).read_text())["gcloud"]
command = next(c for c in grammar["commands"] if words[: len(c.split())] == c.split())
kinds = grammar["everywhere"] | grammar["commands"][command]
options, names = {}, []
for word in words[len(command.split()):]:
    if word.startswith("--"):
        name, equals, value = word.partition("=")
        if name not in kinds or bool(equals) != (kinds[name] != "switch"):
            sys.exit(f"gcloud has no {word}")
        options[name] = value
    else:
        names.append(word)
with open(cloud / "log", "a") as file:
    file.write(json.dumps([command, names, options]) + "\\n")
if command == "config get":
    print("faces")
    sys.exit()
what = command.split()[-1]
assert options["--zone"] == "us-west4-a" and options["--project"] == "faces", options
state = cloud / "state"
if what == "create":
    assert not state.exists()
    state.write_text("WAITING_FOR_RESOURCES")
    for worker in range(2):
        (cloud / f"worker{worker}").mkdir()
elif what == "describe":
    if not state.exists():
        sys.exit("not found")
    print(state.read_text())
    if state.read_text() == "WAITING_FOR_RESOURCES":
        state.write_text("ACTIVE")
elif what == "delete":
    state.unlink()
    for worker in range(2):
        shutil.rmtree(cloud / f"worker{worker}")
else:
    if state.read_text() != "ACTIVE":
        sys.exit(255)
    workers = (0, 1) if options["--worker"] == "all" else (int(options["--worker"]),)
    for worker in workers:
        home = cloud / f"worker{worker}"
        if what == "scp":
            for name in names[:-1]:
                shutil.copy(name, home)
        else:
            env = {**os.environ, "HOME": str(home)}
            done = subprocess.run(["bash", "-c", options["--command"]], cwd=home, env=env)
            if done.returncode:
                sys.exit(done.returncode)
"""
#: Notes what it installs, and installs a FER-JAX that does what `plan` says at each start.
UV = """#!/bin/bash
echo "$HOME uv $*" >> "$CLOUD/uv"
mkdir -p "$HOME/fer-jax-venv/bin"
cp "$CLOUD/fer-jax" "$HOME/fer-jax-venv/bin/fer-jax"
"""
FER_JAX = """#!/bin/bash
echo "$(basename "$HOME") fer-jax $*" >> "$CLOUD/trained"
[ "$(basename "$HOME")" = worker0 ] || exit 0
echo "epoch 1"
read -r first < "$CLOUD/plan"
sed -i 1d "$CLOUD/plan"
if [ "$first" = preempted ]; then
  echo SUSPENDED > "$CLOUD/state"
  sleep 0.2
  exit 1
fi
exit "$first"
"""


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder at the head of the PATH; `sleep` takes no time."""
    folder = tmp_path / "tools"
    folder.mkdir()
    program(folder / "sleep", "#!/bin/bash\nexec /bin/sleep 0.1\n")
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("CLOUD", str(tmp_path))
    monkeypatch.setenv("GRAMMAR", str(GRAMMAR))
    return folder


@pytest.fixture
def tpu(tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs the scripts of a TPU; gives the exit status, what was said and the commands."""
    program(tools / "gcloud", f"#!{sys.executable} -IS\n{GCLOUD}")
    program(tools / "uv", UV)
    program(tmp_path / "fer-jax", FER_JAX)
    monkeypatch.chdir(ROOT)
    words = ["launch", "gcloud", CONFIG, "--topology", "v5e:4x4", "--zone", "us-west4-a", "--spot",
             "--data", "gs://faces/records", "--run", "gs://faces/a run"]  # fmt: skip
    assert main([*words, "--name", "faces", "--out", str(tmp_path / "files")]) == 0

    def run(*plan: str) -> tuple[int, str, list[str]]:
        (tmp_path / "plan").write_text("".join(f"{line}\n" for line in plan))
        done = subprocess.run(
            ["bash", tmp_path / "files" / "run.sh"], capture_output=True, text=True, timeout=120
        )
        log = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
        return done.returncode, done.stdout + done.stderr, [line[0].split()[-1] for line in log]

    return run


def test_a_tpu_that_is_taken_away(tpu, tmp_path: Path) -> None:
    """Preempted once: asked for again, installed again, and the same run goes on to its end."""
    code, said, commands = tpu("preempted", "0")
    assert code == 0, said
    assert commands.count("create") == commands.count("delete") == 2
    assert "taken away: asking for another" in said
    assert "epoch 1" in said
    trained = (tmp_path / "trained").read_text().splitlines()
    line = f"fer-jax train {CONFIG} --data.dir gs://faces/records --out gs://faces/a run"
    assert sorted(trained) == [f"worker0 {line}"] * 2 + [f"worker1 {line}"] * 2
    assert not (tmp_path / "state").exists()
    installed = (tmp_path / "uv").read_text()
    assert installed.count("-r requirements/tpu.txt") == 4


@pytest.mark.parametrize(("plan", "creates"), [("2", 1), ("1", 1), ("143", 2), ("5", 2)])
def test_what_is_tried_again(tpu, tmp_path: Path, plan: str, creates: int) -> None:
    """A mistake and a bug end the job with their status; being asked to stop, or losing a machine,
    does not."""
    code, said, commands = tpu(plan, "0")
    assert code == (0 if creates == 2 else int(plan)), said
    assert commands.count("create") == commands.count("delete") == creates
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("status", [0, 2, 5, 143])
@pytest.mark.parametrize("array", [False, True])
def test_slurm(tools: Path, tmp_path: Path, monkeypatch, status: int, array: bool) -> None:
    monkeypatch.chdir(ROOT)
    words = ["launch", "slurm", CONFIG, "--topology", "h100x8", "--data", "my records"]
    words += ["--seeds", "3,5"] if array else []
    assert main([*words, "--name", "faces", "--out", str(tmp_path / "files")]) == 0
    for name in ("srun", "scontrol"):
        code = status if name == "srun" else 0
        program(tools / name, f'#!/bin/bash\necho {name} "$@" >> "$CLOUD/ran"\nexit {code}\n')
    slurm = {
        "SLURM_JOB_ID": "12",
        "SLURM_RESTART_COUNT": "2",
        "SLURM_ARRAY_JOB_ID": "11",
        "SLURM_ARRAY_TASK_ID": "5",
    }
    file = tmp_path / "files" / f"{'array' if array else 'train'}.sbatch"
    # The PATH that the script sets begins where FER-JAX is installed.
    done = subprocess.run(["bash", file], env={**os.environ, **slurm}, capture_output=True)
    assert done.returncode == status, done.stderr
    first, *rest = (tmp_path / "ran").read_text().splitlines()
    options = first.partition("fer-jax")[0].split()[1:]
    known = json.loads(GRAMMAR.read_text())["slurm"]["srun"]
    assert all(option.partition("=")[0] in known for option in options)
    if array:
        assert first.endswith("--out runs/faces/seed-5 --train.seed 5")
        assert rest == (["scontrol requeue 11_5"] if status in (5, 143) else [])
    else:
        assert "--data.dir my records --out runs/faces" in first
        assert rest == (["scontrol requeue 12"] if status in (5, 143) else [])
