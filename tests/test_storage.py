"""Buckets as directories: what is brought, what goes back, and in which order."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from argparse import Namespace
from pathlib import Path

import pytest

from fer_jax import storage
from fer_jax.cli import main
from fer_jax.data import corpus
from fer_jax.errors import UserError
from fer_jax.storage.bucket import Bucket
from fer_jax.training import checkpoint
from fer_jax.training.run_directory import History

fsspec = pytest.importorskip("fsspec")
URL = "memory://bucket/runs/one"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """fsspec's bucket in memory, empty, and a user's cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    yield fs
    fs.store.clear()
    storage._mirrors.clear()


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were fetched."""
    names: list[str] = []
    fetch = Bucket.fetch

    def counted(self: Bucket, name: str, path: Path) -> None:
        fetch(self, name, path)
        names.append(name)

    monkeypatch.setattr(Bucket, "fetch", counted)
    return names


def test_what_is_a_bucket() -> None:
    assert storage.url_of("gs://bucket/records/") == "gs://bucket/records"
    assert storage.url_of(Path("s3://bucket/records")) == "s3://bucket/records"
    assert storage.url_of("records") == storage.url_of("/gs/records") == ""
    assert storage.local("records") == Path("records")


def test_commands_take_buckets(bucket, fetched, tiny_run, tmp_path: Path, capsys) -> None:
    """Evaluating, auditing and dividing in a bucket gives what they give on a disk."""
    bucket.put(f"{tiny_run.dir}/", "/bucket/run/", recursive=True)
    bucket.put(f"{tiny_run.records}/", "/bucket/records/", recursive=True)
    local = tmp_path / "run"
    shutil.copytree(tiny_run.dir, local)
    for run, data in (
        (local, tiny_run.records),
        ("memory://bucket/run", "memory://bucket/records"),
    ):
        words = ["evaluate", str(run), str(data), "--split", "test", "--json"]
        assert main(words) == 0
        out = capsys.readouterr().out
        found = json.loads(out)
        assert found["written"].startswith(str(run))
        found.pop("written")
        if run == local:
            expected = found
    assert found == expected
    stored = json.loads(bucket.cat("/bucket/run/metrics.json"))
    assert stored["accuracy"] == expected["accuracy"]

    split = "memory://bucket/split.csv"
    words = ["split", "memory://bucket/records", "--json", "--protocol"]
    assert main([*words, "subject", "--out", split]) == 0
    assert main([*words, "file", "--protocol.file", split]) == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["out"] == split
    assert first["split_sha256"] == second["split_sha256"]

    before = len(fetched)
    assert main(["audit", "memory://bucket/records", "--out", "memory://bucket/audit"]) == 0
    assert "written: memory://bucket/audit/audit.html" in capsys.readouterr().out
    assert bucket.isfile("/bucket/audit/audit.html")
    assert len(fetched) == before  # The records are there, and have not changed.


def test_records_come_whole_or_not_at_all(
    bucket, fetched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fetching goes on where it was interrupted, refuses damage, and sees what is replaced."""
    shards = {f"c-clips.tfrecord-0000{i}-of-00003": b"shard %d" % i * 100 for i in range(3)}
    for name, content in shards.items():
        stated = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        bucket.pipe(f"/bucket/records/{name}", content)
        bucket.pipe(f"/bucket/records/{name}.manifest.json", json.dumps(stated).encode())
    bucket.pipe("/bucket/records/dataset_info.json", b"{}")
    names = list(shards)
    bucket.pipe(f"/bucket/records/{names[1]}", shards[names[1]][::-1])

    with pytest.raises(UserError, match=f"records/{names[1]} is damaged.*upload the file again"):
        storage.local("memory://bucket/records")
    assert len(fetched) == 7
    bucket.pipe(f"/bucket/records/{names[1]}", shards[names[1]])
    fetched.clear()
    copy = storage.local("memory://bucket/records")
    assert fetched == [names[1]]
    assert {name: (copy / name).read_bytes() for name in shards} == shards

    storage._mirrors.clear()  # The next command.
    (copy / names[2]).write_bytes(b"damaged on this disk")
    bucket.pipe(f"/bucket/records/{names[0]}.manifest.json", b"{}")
    fetched.clear()
    storage.local("memory://bucket/records")
    assert sorted(fetched) == sorted([f"{names[0]}.manifest.json", names[2]])

    storage._mirrors.clear()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Namespace(free=10))
    bucket.pipe("/bucket/records/large", bytes(100))
    with pytest.raises(UserError, match="set XDG_CACHE_HOME to a larger disk"):
        storage.local("memory://bucket/records")


class Killed(BaseException):
    """What stops a process where it stands."""


def run_some(args: Namespace, first: int, last: int) -> None:
    """What training does to a run's directory: history, then a sealed checkpoint, one is kept."""
    run = args.out
    directory = run / "checkpoints"
    directory.mkdir(parents=True, exist_ok=True)
    (run / "config.json").write_text("{}")
    history = History(run)
    history.rewind(first)
    for epoch in range(first + 1, last + 1):
        history.append({"epoch": epoch})
        step = directory / str(epoch)
        shutil.rmtree(step, ignore_errors=True)
        (step / "state").mkdir(parents=True)
        for part in range(2):
            (step / "state" / f"part{part}").write_text(f"{epoch} {part}")
        checkpoint.seal(step)
        _delete_older(directory)
    _delete_older(directory)


def _delete_older(directory: Path) -> None:
    for other in checkpoint.sealed_steps(directory)[:-1]:
        shutil.rmtree(directory / str(other))


def restored(run: Path) -> int:
    """The epoch that training would go on from; it and the history must be whole."""
    steps = checkpoint.sealed_steps(run / "checkpoints")
    if not steps:
        return 0
    step, problems = checkpoint.find_intact(run / "checkpoints")
    assert not problems
    assert len(History(run).read()) >= step
    return step


def test_a_machine_may_die_at_any_moment(
    bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """After each number of changes to the bucket: another machine restores a whole state, goes on,
    and leaves what a run without a death leaves."""
    monkeypatch.setattr(storage.mirror, "_AT_ONCE", 1)
    changes = 0
    dies_at = -1

    def counted(method):
        def change(self: Bucket, *args) -> None:
            nonlocal changes
            if changes == dies_at:
                raise Killed
            method(self, *args)
            changes += 1

        return change

    for name in ("put", "delete"):
        monkeypatch.setattr(Bucket, name, counted(getattr(Bucket, name)))

    def command(last: int) -> int:
        args = Namespace(command="train", out=Path(URL))
        with storage.brought(args):
            start = restored(args.out) if args.out.exists() else 0
            run_some(args, start, last)
        return start

    def contents() -> dict[str, bytes]:
        return {name: bucket.cat(name) for name in bucket.find("/bucket/runs")}

    monkeypatch.setattr(storage.threading, "excepthook", lambda _: None)
    monkeypatch.setattr(storage.Mirror, "changed", step_by_step(storage.Mirror.changed))
    assert command(3) == 0
    expected, total = contents(), changes
    assert total > 15
    resumed = set()
    for dies_at in range(total):
        bucket.store.clear()
        changes = 0
        with pytest.raises((UserError, Killed)):
            command(3)
        dies_at, storage._mirrors = -1, {}
        shutil.rmtree(tmp_path / "cache")  # An empty disk.
        resumed.add(command(3))
        assert contents() == expected
    assert resumed == {0, 1, 2, 3}


def step_by_step(changed):
    """`Mirror.changed`, and the upload done at once: each change to the bucket has its place."""

    def wait(self: storage.Mirror, soon: bool) -> None:
        changed(self, soon)
        thread = self._thread
        while (self._pending or self._uploading) and thread and thread.is_alive():
            thread.join(0.002)

    return wait


def test_a_run_that_changes_while_it_is_fetched(bucket, monkeypatch) -> None:
    """Another machine replaces the checkpoint between listing and fetching: the new one comes."""
    args = Namespace(command="train", out=Path(URL))
    with storage.brought(args):
        run_some(args, 0, 1)
    listed, looks = Bucket.files, []

    def replaced(self: Bucket) -> dict:
        found = listed(self)
        looks.append(self.url)
        if len(looks) == 1:
            for name in bucket.find("/bucket/runs/one/checkpoints"):
                content = bucket.cat(name)
                bucket.rm_file(name)
                bucket.pipe(name.replace("/1/", "/2/"), content)
            bucket.pipe("/bucket/runs/one/history.jsonl", b"{}\n{}\n")
        return found

    monkeypatch.setattr(Bucket, "files", replaced)
    assert restored(storage.local(URL)) == 2
    assert len(looks) == 2


def test_who_wins(bucket, tmp_path: Path) -> None:
    """What was not uploaded goes on where nobody else was; else what the bucket holds counts."""
    args = Namespace(command="train", out=Path(URL))
    with storage.brought(args):
        run_some(args, 0, 1)
    copy = args.out
    (copy / "notes.txt").write_text("not uploaded")
    args = Namespace(command="train", out=Path(URL))
    with storage.brought(args):
        assert args.out == copy
    assert bucket.cat("/bucket/runs/one/notes.txt") == b"not uploaded"

    bucket.pipe("/bucket/runs/one/notes.txt", b"another machine's")
    (copy / "notes.txt").write_text("this one's")
    with storage.brought(Namespace(command="train", out=Path(URL))):
        assert (copy / "notes.txt").read_text() == "another machine's"

    bucket.rm("/bucket/runs/one", recursive=True)
    with storage.brought(Namespace(command="train", out=Path(URL))):
        assert not copy.exists()


def test_one_process_writes(bucket) -> None:
    mirror = storage.Mirror(URL, writes=True)
    with (
        pytest.raises(UserError, match="another fer-jax on this machine has memory://bucket"),
        storage.brought(Namespace(command="train", out=Path(URL))),
    ):
        pass
    mirror.close()


def test_what_grows_for_hours_is_uploaded_meanwhile(bucket, monkeypatch) -> None:
    """Preprocessing: a finished shard goes, a half-written one does not."""
    monkeypatch.setattr(storage, "SELDOM_S", 0.02)
    with storage.brought(Namespace(command="preprocess", out=Path(URL), workers=2)):
        out = storage._mirrors[URL].local
        out.mkdir(parents=True)
        (out / ".c-clips.tfrecord-00001-of-00002.tmp").write_bytes(b"half")
        (out / "c-clips.tfrecord-00000-of-00002").write_bytes(b"whole")
        (out / "c-clips.tfrecord-00000-of-00002.manifest.json").write_text("{}")
        until = time.monotonic() + 60
        while len(bucket.find("/bucket/runs/one")) < 2 and time.monotonic() < until:
            time.sleep(0.02)
        assert sorted(bucket.ls("/bucket/runs/one", detail=False)) == [
            "/bucket/runs/one/c-clips.tfrecord-00000-of-00002",
            "/bucket/runs/one/c-clips.tfrecord-00000-of-00002.manifest.json",
        ]


def test_processes_share_a_run(bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first writes; the others get what it has, into copies of their own."""

    def bring(rank: str) -> Path:
        monkeypatch.setenv("FER_JAX_PROCESS", rank)
        args = Namespace(command="train", out=Path(URL))
        places.append(storage.brought(args))
        places[-1].__enter__()
        return args.out

    places, met = [], []
    first = bring("0")
    mine, storage._mirrors = storage._mirrors, {}
    second = bring("1")
    assert first != second
    theirs, storage._mirrors = storage._mirrors, mine
    for last in (1, 2):
        run_some(Namespace(out=first), last - 1, last)
        assert storage.share(first, first=True, meet=lambda: met.append(first))
        storage._mirrors = theirs
        assert storage.share(second, first=False, meet=lambda: met.append(second))
        storage._mirrors = mine
        assert restored(second) == restored(first) == last
    assert met == [first, first, second, second] * 2
    assert not storage.share(Path("runs/one"), first=True, meet=lambda: None)
    for place in places:
        place.__exit__(None, None, None)


def test_a_failed_upload_is_tried_again(bucket, monkeypatch, capsys) -> None:
    put, failing = Bucket.put, True

    def weak(self: Bucket, path: Path, name: str) -> None:
        if failing:
            raise UserError("cannot reach memory://bucket: check the network")
        put(self, path, name)

    monkeypatch.setattr(Bucket, "put", weak)
    monkeypatch.setattr(storage.Mirror, "changed", step_by_step(storage.Mirror.changed))
    args = Namespace(command="train", out=Path(URL))
    with storage.brought(args):
        run_some(args, 0, 1)
        assert "the next upload tries again" in capsys.readouterr().err
        failing = False
        run_some(args, 1, 2)
    assert bucket.cat("/bucket/runs/one/history.jsonl").count(b"\n") == 2

    failing = True
    args = Namespace(command="train", out=Path(URL))
    with (
        pytest.raises(UserError, match="holds what is not uploaded, and the same command goes on"),
        storage.brought(args),
    ):
        run_some(args, 2, 3)
    failing = False
    with storage.brought(Namespace(command="train", out=Path(URL))):
        pass
    assert bucket.cat("/bucket/runs/one/history.jsonl").count(b"\n") == 3


def test_mistakes_are_one_line(
    bucket, fails, tiny_run, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "memory://bucket/none does not exist, or is empty" in fails(
        "inspect", "memory://bucket/none"
    )
    line = fails("evaluate", "memory://bucket/none")
    assert line.startswith("memory://bucket/none is not a run directory")
    words = ("train", tiny_run.config, "--data.dir", tiny_run.records, "--out")
    bucket.pipe("/bucket/theirs/film.mp4", b"film")
    assert main([str(word) for word in (*words, "memory://bucket/theirs")]) == 2
    assert "memory://bucket/theirs holds files that are no run's" in capsys.readouterr().err
    assert bucket.cat("/bucket/theirs/film.mp4") == b"film"

    def refused(*_: object, **__: object) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(type(bucket), "pipe_file", refused)
    line = fails(*words, "memory://bucket/run")
    assert "cannot reach memory://bucket/run (PermissionError: Access Denied)" in line
    assert "ask the bucket's owner" in line
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda _: __import__("no_gcsfs_here"))
    assert fails("inspect", "gs://bucket/records") == (
        "gs://bucket/records needs gcsfs: pip install 'fer-jax[cloud]'"
    )


def test_several_record_directories(bucket, face_corpus, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        clips = face_corpus.clips(6, seed)
        clips = [one.replace(clip_id=f"{name}/{i}") for i, one in enumerate(clips)]
        bucket.put(f"{face_corpus.write(tmp_path / name, clips)}/", f"/x/{name}/", recursive=True)
    found = corpus.load(Path("memory://x/a,memory://x/b"))
    assert len(found) == 12
    assert [part.dir.name for part in found.parts] == ["a", "b"]
