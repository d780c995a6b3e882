"""The writer: all or nothing, whatever kills it."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fer_jax.data.tfrecord import Shard
from fer_jax.errors import UserError
from preprocessing import writer

ROOT = Path(__file__).resolve().parents[2]


def test_shard_info_says_what_is_on_disk(tmp_path):
    path = tmp_path / writer.shard_name("crema-d", 3, 12)
    assert path.name == "crema-d-clips.tfrecord-00003-of-00012"
    info = writer.write_shard(path, iter([b"one", b"", b"three"]))
    assert info.records == 3
    assert info.bytes == path.stat().st_size == 3 * 16 + 8
    assert info.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert list(Shard(path)) == [b"one", b"", b"three"]


def test_an_error_leaves_the_old_shard_and_nothing_else(tmp_path):
    path = tmp_path / "shard"
    writer.write_shard(path, [b"old"])

    def records():
        yield b"new"
        raise RuntimeError("extraction failed")

    with pytest.raises(RuntimeError, match="extraction failed"):
        writer.write_shard(path, records())
    assert os.listdir(tmp_path) == ["shard"]
    assert list(Shard(path)) == [b"old"]


def test_full_disk_is_the_users_problem(tmp_path, monkeypatch):
    def fsync(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UserError, match=r"no space left to write .*shard; free some and repeat"):
        writer.write_shard(tmp_path / "shard", [b"x"])
    assert os.listdir(tmp_path) == []


def test_contents_reach_the_disk_before_the_name(tmp_path, monkeypatch):
    path, calls = tmp_path / "shard", []

    def fsync(fd, original=os.fsync):
        calls.append("directory" if os.path.isdir(f"/proc/self/fd/{fd}") else os.fstat(fd).st_size)
        original(fd)

    def replace(source, target, original=os.replace):
        calls.append("rename")
        original(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    writer.write_shard(path, [b"12345"])
    assert calls == [21, "rename", "directory"]


def test_written_files_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        writer.write_file(tmp_path / "f", b"x")
    finally:
        os.umask(old)
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o640


SLOW_WRITER = """
import sys, time
from pathlib import Path
from preprocessing import writer

def records():
    for i in range(1000):
        yield bytes(100_000)
        print(i, flush=True)
        time.sleep(0.005)

writer.write_shard(Path(sys.argv[1]), records())
"""


def test_kill_leaves_no_file_with_the_final_name(tmp_path):
    path = tmp_path / "shard"
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_WRITER, path], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    while process.stdout.readline() != "10\n":
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left = os.listdir(tmp_path)
    assert len(left) == 1 and left != ["shard"]
    assert (tmp_path / left[0]).stat().st_size > 0
    writer.remove_unfinished(tmp_path)
    assert os.listdir(tmp_path) == []
    writer.write_shard(path, [b"again"])
    assert list(Shard(path)) == [b"again"]
