"""A bucket's directory and its copy on this machine's disk, kept alike.

What the bucket holds is always the state of some moment: the files of a checkpoint go first, then
the list of checksums that makes it count, and only then what it replaces is deleted.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from fer_jax.errors import UserError
from fer_jax.progress import Progress
from fer_jax.storage.bucket import Bucket

#: A file of a checkpoint, which counts only when its directory has its list of checksums.
_CHECKPOINT = re.compile(r"((?:.*/)?checkpoints/[^/]+)/(.+)")
SEAL = "SHA256SUMS"
#: Files at a time: a bucket's latency is long, its bandwidth wide.
_AT_ONCE = 8
#: How often a directory is looked at that changes while it is fetched.
_ATTEMPTS = 5
#: Seconds between uploads that no checkpoint asks for.
SELDOM_S = 15.0
#: Files of at least so many bytes are linked for an upload, not copied: nobody appends to them.
_LARGE = 1 << 24
#: Variables that tell one process of a job from another: each writes into a copy of its own.
_RANKS = (
    "FER_JAX_PROCESS", "JAX_PROCESS_ID", "SLURM_PROCID", "SKYPILOT_NODE_RANK",
    "JOB_COMPLETION_INDEX", "TPU_WORKER_ID",
)  # fmt: skip


class _Known(NamedTuple):
    """A file as bucket and disk held it when they agreed; version None: uploaded from here."""

    size: int
    version: str | None
    mtime_ns: int


class _Staged(NamedTuple):
    """What is to be uploaded: links and copies that nobody changes any more."""

    directory: Path
    files: dict[str, _Known]
    gone: list[str]


class Mirror:
    """A bucket's directory, or file, and its copy.

    Attributes:
      url: in the bucket.
      bucket: what lies there.
      local: the copy; absent while there is nothing in the bucket.
      writes: what changes here goes back. Only one process of a machine may have such a one.

    Raises:
      UserError: a package is not installed, or another process writes.
    """

    def __init__(self, url: str, *, writes: bool) -> None:
        self.url, self.writes = url, writes
        self.bucket = Bucket(url)
        rank = next((os.environ[name] for name in _RANKS if os.environ.get(name)), "0")
        digest = hashlib.sha256(url.encode()).hexdigest()[:12]
        self._home = _cache() / "buckets" / (f"{digest}-{rank}" if writes else digest)
        self._home.mkdir(parents=True, exist_ok=True)
        self.local = self._home / url.rpartition("/")[2]
        self._lock = os.open(self._home / "lock", os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | (fcntl.LOCK_NB if writes else 0))
        except OSError:
            os.close(self._lock)
            raise UserError(
                f"another fer-jax on this machine has {url}: wait for it or stop it"
            ) from None
        self._journal = self._home / "index.jsonl"
        self._known = self._read_journal()
        self._garbage: list[str] = []
        self._turn = threading.Condition()
        self._pending: _Staged | None = None
        self._uploading: dict[str, _Known] = {}
        self._thread: threading.Thread | None = None
        self._over, self._failure, self._last = False, "", -SELDOM_S
        for left in self._home.glob("staged-*"):  # Of a process that was killed.
            shutil.rmtree(left)

    def release(self) -> None:
        """Lets other processes have it."""
        os.close(self._lock)

    # Bringing.

    def pull(self) -> None:
        """Makes the copy what the bucket holds, but for checkpoints that are not complete.

        Where nobody else has changed the bucket since, what was not uploaded any more is kept.

        Raises:
          UserError: the bucket cannot be reached, the disk is too small, or a file is damaged.
        """
        for attempt in range(_ATTEMPTS):
            try:
                return self._pull()
            except UserError as error:
                # Listed, and then replaced by who trains there: look again.
                gone = isinstance(error.__cause__, FileNotFoundError)
                if not gone or attempt == _ATTEMPTS - 1:
                    raise

    def _pull(self) -> None:
        remote = self._listed()
        kept = self.writes and all(
            name in self._known
            and (self._known[name].size, self._known[name].version or version) == (size, version)
            for name, (size, version) in remote.items()
        )
        kept = kept and self._known.keys() <= remote.keys()
        wanted = [n for n, found in remote.items() if not self._is_here(n, found, anyhow=kept)]
        if not kept:
            for name in self._files() if self.local.exists() else ():
                if name not in remote:
                    (self.local / name).unlink()
        need = sum(remote[name][0] for name in wanted)
        if need > (free := shutil.disk_usage(self._home).free):
            raise UserError(
                f"{self.url} needs {need / 1e9:.1f} GB and {_cache()} has {free / 1e9:.1f} GB: set "
                "XDG_CACHE_HOME to a larger disk"
            )
        # What states checksums comes first.
        first = [name for name in wanted if _rank(name)]
        rest = [name for name in wanted if not _rank(name)]
        with (
            ThreadPoolExecutor(_AT_ONCE) as pool,
            Progress(f"fetch {self.url}", "files") as progress,
        ):
            done = 0
            for names in (first, rest):
                for _ in pool.map(lambda n: self._fetch(n, *remote[n]), names):
                    done += 1
                    progress(done, len(wanted))
        if not remote and not kept:
            shutil.rmtree(self.local, ignore_errors=True)
        if not kept:
            self._known = {name: self._known[name] for name in remote}
        self._write_journal()

    def _listed(self) -> dict[str, tuple[int, str]]:
        """Size and version by name of what counts in the bucket."""
        remote = {n: one for n, one in self.bucket.files().items() if not _is_private(n)}
        counts = set[str]()
        for name in remote:
            if (found := _CHECKPOINT.fullmatch(name)) and found[2] == SEAL:
                lines = self.bucket.read(name).decode(errors="replace").splitlines()
                counts |= {name, *(f"{found[1]}/{line.partition('  ')[2]}" for line in lines)}
        self._garbage = [n for n in remote if _CHECKPOINT.fullmatch(n) and n not in counts]
        return {name: one for name, one in remote.items() if name not in self._garbage}

    def _is_here(self, name: str, found: tuple[int, str], anyhow: bool) -> bool:
        path, known = self.local / name, self._known.get(name)
        if known is None or not path.is_file():
            return False
        if anyhow:
            return True
        stat = path.stat()
        return (known.size, known.version) == found and (stat.st_size, stat.st_mtime_ns) == (
            known.size, known.mtime_ns,
        )  # fmt: skip

    def _fetch(self, name: str, size: int, version: str) -> None:
        path = self.local / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        self.bucket.fetch(name, part)
        manifest = path.with_name(f"{path.name}.manifest.json")
        stated = json.loads(manifest.read_bytes()).get("sha256") if manifest.is_file() else None
        # A checkpoint is judged before it is read: an older one may be intact.
        if part.stat().st_size != size or (stated and _sha256(part) != stated):
            part.unlink()
            raise UserError(
                f"{self.url}/{name} is damaged, or was changed just now: repeat the command; if it "
                "says so again, upload the file again"
            )
        part.replace(path)
        self._note(name, _Known(size, version, path.stat().st_mtime_ns))

    # Sending.

    def changed(self, soon: bool) -> None:
        """Uploads in the background what has changed by now, at the latest when closed."""
        if not soon and time.monotonic() - self._last < SELDOM_S:
            return
        self._last = time.monotonic()
        with self._turn:
            staged = self._stage()
            if staged is None:
                return
            if self._pending is not None:  # Not begun: this one holds all of it, or newer.
                shutil.rmtree(self._pending.directory)
            self._pending = staged
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()
            self._turn.notify_all()

    def flush(self) -> None:
        """Uploads what has changed, and waits for it.

        Raises:
          UserError: the bucket does not hold it all.
        """
        self.changed(soon=True)
        with self._turn:
            self._turn.wait_for(lambda: self._pending is None and not self._uploading)
        if self._failure:
            raise UserError(self._failure)

    def close(self) -> None:
        """Uploads what is left and gives the copy free.

        Raises:
          UserError: the bucket does not hold it all; the copy does.
        """
        if self.local.exists() or self._known:
            self.changed(soon=True)
        with self._turn:
            self._over = True
            self._turn.notify_all()
        if self._thread is not None:
            self._thread.join()
            if not self._failure:
                remote = self._listed()
                for name, known in self._known.items():
                    if name in remote and known.version is None:
                        self._known[name] = known._replace(version=remote[name][1])
                self._write_journal()
        self.release()
        if self._failure:
            raise UserError(
                f"{self._failure}; {self.local} holds what is not uploaded, and the same command "
                "goes on with it"
            )

    def _work(self) -> None:
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._pending is not None or self._over)
                staged, self._pending = self._pending, None
                if staged is None:
                    return
                self._uploading = staged.files
            try:
                self._upload(staged)
                self._failure = ""
            except UserError as error:
                self._failure = str(error)
                print(f"fer-jax: note: {error}; the next upload tries again", file=sys.stderr)
            except BaseException as error:
                self._failure = f"{self.url}: {type(error).__name__}: {error}"
                raise
            finally:
                shutil.rmtree(staged.directory, ignore_errors=True)
                with self._turn:
                    self._uploading = {}
                    self._turn.notify_all()
                    if self._failure and self._pending is not None:  # It lacks what just failed.
                        shutil.rmtree(self._pending.directory)
                        self._pending = self._stage()

    def _stage(self) -> _Staged | None:
        """Links and copies of what the bucket does not hold; None if it holds all."""
        known = self._known | self._uploading
        found = self._files()
        # First what makes others count: what comes later can only be newer.
        same = {name: (one.size, one.mtime_ns) for name, one in known.items()}
        new = [n for n in sorted(found, key=_rank, reverse=True) if same.get(n) != found[n]]
        gone = [name for name in known if name not in found]
        if not new and not gone:
            return None
        directory = Path(tempfile.mkdtemp(prefix="staged-", dir=self._home))
        files = {}
        for name in new:
            source, target = self.local / name, directory / (name or "file")
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                stat = source.stat()
                if stat.st_size >= _LARGE or _CHECKPOINT.fullmatch(name):
                    os.link(source, target)
                else:
                    shutil.copyfile(source, target)
            except FileNotFoundError:
                if seal := _CHECKPOINT.fullmatch(
                    name
                ):  # Deleted meanwhile, and what it made count.
                    files.pop(f"{seal[1]}/{SEAL}", None)
                continue
            files[name] = _Known(stat.st_size, None, stat.st_mtime_ns)
        return _Staged(directory, files, gone)

    def _files(self) -> dict[str, tuple[int, int]]:
        """Size and time by name of what counts in the copy."""
        if self.local.is_file():
            stat = self.local.stat()
            return {"": (stat.st_size, stat.st_mtime_ns)}
        found = {}
        for folder, below, names in os.walk(self.local):
            here = Path(folder)
            below[:] = [one for one in below if not _is_private(one)]
            if here.name == "checkpoints":
                below[:] = [one for one in below if (here / one / SEAL).is_file()]
            for one in names:
                name = (here / one).relative_to(self.local).as_posix()
                try:
                    stat = (here / one).stat()
                except FileNotFoundError:
                    continue
                if not _is_private(name):
                    found[name] = stat.st_size, stat.st_mtime_ns
        return found

    def _upload(self, staged: _Staged) -> None:
        self._delete(self._garbage)
        self._garbage = []
        for rank in range(3):
            names = [name for name in staged.files if _rank(name) == rank]
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(lambda name: self._put(name, staged), names))
        self._delete(sorted(staged.gone, key=_rank, reverse=True))

    def _put(self, name: str, staged: _Staged) -> None:
        self.bucket.put(staged.directory / (name or "file"), name)
        self._note(name, staged.files[name])

    def _delete(self, names: Sequence[str]) -> None:
        for name in names:
            self.bucket.delete(name)
            self._note(name, None)

    # What both sides held when they agreed, a line a change.

    def _note(self, name: str, known: _Known | None) -> None:
        with self._turn, open(self._journal, "a") as file:
            file.write(json.dumps([name, known]) + "\n")
            if known is None:
                self._known.pop(name, None)
            else:
                self._known[name] = known

    def _read_journal(self) -> dict[str, _Known]:
        text = self._journal.read_text() if self._journal.is_file() else ""
        found = {}
        for line in text[: text.rfind("\n") + 1].splitlines():
            name, known = json.loads(line)
            found.pop(name, None)
            if known is not None:
                found[name] = _Known(*known)
        return found

    def _write_journal(self) -> None:
        temporary = self._journal.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(item) + "\n" for item in self._known.items()))
        temporary.replace(self._journal)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fer-jax"


def _rank(name: str) -> int:
    """When a file is uploaded: 1 and 2 make others count."""
    last = name.rpartition("/")[2]
    return (
        2 if last == "dataset_info.json" else int(last == SEAL or last.endswith(".manifest.json"))
    )


def _is_private(name: str) -> bool:
    """Locks and files half-written."""
    return any(part.startswith(".") for part in name.split("/")) or "orbax-checkpoint-tmp" in name


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
