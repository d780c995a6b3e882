"""A machine that dies while it uploads, and one with an empty disk that goes on: as uninterrupted.

The bucket is S3 by a server of its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")

ROOT = Path(__file__).resolve().parents[2]
#: `fer-jax`, killed in the middle of the third checkpoint's upload. Each is uploaded in its turn:
#: else the third might be passed over.
PROGRAM = """
import os, signal, sys, time
from fer_jax import storage
from fer_jax.cli import main
from fer_jax.storage.bucket import Bucket

put, changed = Bucket.put, storage.changed
steps, files = [], []

def counted(self, path, name):
    put(self, path, name)
    folder, _, rest = name.partition("/")
    if folder == "checkpoints":
        step = rest.split("/")[0]
        if step not in steps:
            steps.append(step)
            files.clear()
        files.append(rest)
        if len(steps) == 3 and len(files) == 4:
            os.kill(os.getpid(), signal.SIGKILL)

def uploaded(path):
    changed(path)
    for mirror in storage._mirrors.values():
        while mirror._pending or mirror._uploading:
            time.sleep(0.01)

if "--die" in sys.argv:
    sys.argv.remove("--die")
    Bucket.put, storage.changed = counted, uploaded
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A file system of an S3 server on this machine, with a bucket "faces"."""
    import s3fs

    server = moto_server.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    fs = s3fs.S3FileSystem(skip_instance_cache=True)
    fs.mkdirs("faces", exist_ok=True)
    yield fs
    server.stop()


def outcome(run: Path) -> tuple:
    from fer_jax.training import checkpoint

    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    for line in lines:  # Without what the clock says.
        for name in [name for name in line if name.startswith(("seconds", "speed/"))]:
            del line[name]
    step, problems = checkpoint.find_intact(run / "checkpoints")
    assert not problems
    items = checkpoint.read(run / "checkpoints", step, dict.fromkeys(("state", "best", "meta")))
    items["meta"]["facts"].pop("notes")  # Where the run went on.
    return lines, step, items


def test_killed_while_uploading(s3, tiny_run, tmp_path: Path) -> None:
    s3.put(f"{tiny_run.records}/", "faces/records/", recursive=True)

    def train(disk: str, *words: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-c", PROGRAM, "train", str(tiny_run.config), "--data.dir",
             "s3://faces/records", "--out", "s3://faces/runs/one", *words],
            env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path / disk)},
            capture_output=True, text=True, timeout=240,
        )  # fmt: skip

    killed = train("first", "--die")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    s3.invalidate_cache()
    steps = {name.split("/")[4] for name in s3.find("faces/runs/one/checkpoints")}
    sealed = {step for step in steps if s3.exists(f"faces/runs/one/checkpoints/{step}/SHA256SUMS")}
    assert len(steps) == len(sealed) + 1

    again = train("second")
    assert again.returncode == 0, again.stderr
    assert "went on after epoch 2 of 4" in again.stdout
    assert "run: s3://faces/runs/one" in again.stdout
    s3.invalidate_cache()
    s3.get("faces/runs/one/", str(tmp_path / "run"), recursive=True)
    jax.tree.map(np.testing.assert_array_equal, outcome(tmp_path / "run"), outcome(tiny_run.dir))
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 1


@pytest.mark.exhaustive
def test_two_processes(s3, tiny_run, tmp_path: Path) -> None:
    """Each has a copy of the run in the bucket; killed, both go on with empty disks."""
    import socket

    s3.put(f"{tiny_run.records}/", "faces/records/", recursive=True)
    url = "s3://faces/runs/two"

    def start(disk: str, *words: str) -> list[subprocess.Popen]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-c", PROGRAM, "train", str(tiny_run.config), "--data.dir",
                   "s3://faces/records", "--out", url, "--parallel.devices", "2"]  # fmt: skip
        return [
            subprocess.Popen(
                [*command, *(words if rank == 0 else ())], text=True, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": str(ROOT),
                     "XDG_CACHE_HOME": str(tmp_path / disk),
                     "FER_JAX_COORDINATOR": f"127.0.0.1:{port}", "FER_JAX_PROCESSES": "2",
                     "FER_JAX_PROCESS": str(rank)},
            )
            for rank in range(2)
        ]  # fmt: skip

    killed = start("first", "--die")
    said = killed[0].communicate(timeout=240)
    killed[1].kill()  # Its host is gone, too.
    killed[1].communicate()
    assert killed[0].returncode == -signal.SIGKILL, said
    again = [process.communicate(timeout=240) for process in start("second")]
    assert f"run: {url}" in again[0][0], again
    assert "went on after epoch 2 of 4" in again[0][0]
    s3.invalidate_cache()
    s3.get("faces/runs/two/", str(tmp_path / "run"), recursive=True)
    _, step, items = outcome(tmp_path / "run")
    expected = outcome(tiny_run.dir)
    assert step == expected[1]
    # Two devices add up in another order than one.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        items["best"]["params"], expected[2]["best"]["params"],
    )  # fmt: skip


def test_no_such_bucket_and_no_credentials(s3, fails, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    line = fails(
        "train", ROOT / "configs" / "landmarks_lstm.py", "--out", "s3://nobodys-bucket/run"
    )
    assert line.startswith("cannot reach s3://nobodys-bucket/run (")
    assert line.endswith("no such bucket or object: check the name, or make the bucket")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    s3fs.S3FileSystem.clear_instance_cache()
    line = fails("inspect", "s3://faces/records")
    assert "sign in: `aws configure`" in line
