"""A build that is killed, interrupted or loses a worker ends in the same bytes as any other."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fer_jax.data.corpus import load

ROOT = Path(__file__).resolve().parents[2]
SHARDS = 12

#: Reading is slowed down in the workers, so that a signal finds them at work.
BUILD = """
import signal, sys, time
from pathlib import Path
from preprocessing import video
from preprocessing.build import Interrupted, make_recipe, preprocess

read_frames = video.read_frames

def slow(path):
    time.sleep(0.05)
    return read_frames(path)

video.read_frames = slow
if __name__ == "__main__":
    # A shell's background jobs ignore Ctrl-C and hand that down; a user's terminal does not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    recipe = make_recipe("folder", ("crops",), align="none", crop_size=16, crop_format="png")
    try:
        preprocess("folder", Path(sys.argv[1]), Path(sys.argv[2]), recipe=recipe, workers=2,
                   clips_per_shard=5)
    except Interrupted as stop:
        print(stop)
        sys.exit(130)
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "build.py"
    path.write_text(BUILD)
    return path


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    import cv2

    root = tmp_path_factory.mktemp("raw")
    rng = np.random.default_rng(0)
    for n in range(5 * SHARDS - 1):
        path = root / ("joy", "rage")[n % 2] / f"{n}.png"
        path.parent.mkdir(exist_ok=True)
        assert cv2.imwrite(str(path), rng.integers(0, 256, (20, 24, 3), np.uint8))
    (root / "joy" / "broken.png").write_text("no picture")
    return root


def _start(script, raw, out):
    return subprocess.Popen(
        [sys.executable, str(script), str(raw), str(out)],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _finish(script, raw, out):
    process = _start(script, raw, out)
    process.communicate(timeout=300)
    assert process.returncode == 0


def _manifests(out):
    return len(list(out.glob("*.manifest.json")))


def _wait_for(condition, process):
    while not condition():
        assert process.poll() is None, "the build ended before it could be disturbed"
        time.sleep(0.005)


def _digests(out):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in out.iterdir()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, script, raw):
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    _finish(script, raw, out)
    assert len(load(out)) == 5 * SHARDS - 1
    return _digests(out)


def test_kill_9_of_everything(script, raw, undisturbed, tmp_path):
    out = tmp_path / "out"
    for goal in (1, 5):
        process = _start(script, raw, out)
        _wait_for(lambda goal=goal: _manifests(out) >= goal, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert goal <= _manifests(out) < SHARDS
        assert not (out / "dataset_info.json").exists()
    kept = {p: p.stat().st_mtime_ns for p in out.glob("*.manifest.json")}
    _finish(script, raw, out)
    assert _digests(out) == undisturbed
    assert all(path.stat().st_mtime_ns == old for path, old in kept.items())


def test_ctrl_c(script, raw, undisturbed, tmp_path):
    out = tmp_path / "out"
    process = _start(script, raw, out)
    _wait_for(lambda: _manifests(out) >= 2, process)
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.startswith("interrupted: ") and "repeat the same command" in said
    assert said.count("\n") == 1
    assert not list(out.glob(".*.tmp")) and not (out / ".build").exists()
    _finish(script, raw, out)
    assert _digests(out) == undisturbed


def _children(pid):
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _workers(pid):
    def is_worker(child):
        try:
            return b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
        except FileNotFoundError:
            return False

    return [child for child in _children(pid) if is_worker(child)]


needs_proc = pytest.mark.skipif(
    not Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").exists(),
    reason="no /proc to find worker processes in",
)


@needs_proc
def test_a_killed_worker_costs_nothing(script, raw, undisturbed, tmp_path):
    out = tmp_path / "out"
    process = _start(script, raw, out)
    _wait_for(lambda: _manifests(out) >= 1, process)
    os.kill(_workers(process.pid)[0], signal.SIGKILL)
    process.communicate(timeout=300)
    assert process.returncode == 0
    assert _digests(out) == undisturbed


@needs_proc
def test_workers_end_with_their_parent(script, raw, tmp_path):
    out = tmp_path / "out"
    process = _start(script, raw, out)
    _wait_for(lambda: _manifests(out) >= 1, process)
    workers = _workers(process.pid)
    assert len(workers) == 2
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline, "a worker outlives its parent"
        time.sleep(0.05)
    assert _manifests(out) < SHARDS
