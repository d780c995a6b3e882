"""The directories of a build: what may be written where, and by one build at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fer_jax.errors import UserError

#: What determines the records; the mark of a directory that a build began.
BUILD = "build.json"
QUARANTINE = "quarantine.csv"
#: Lock, progress and log of a build at work.
WORK = ".build"


def check_places(raw: Path, out: Path) -> None:
    """Refuse an OUT that a build must not write into.

    Raises:
      UserError: OUT is a file, lies in RAW or around it, or holds something else.
    """
    real_raw, real_out = raw.resolve(), out.resolve()
    if real_out == real_raw or (real_raw.is_dir() and real_raw in real_out.parents):
        raise UserError(f"{out} lies in the raw corpus {raw}; give a directory outside of it")
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out} is a file; give a directory for the records")
    others = {path.name for path in out.iterdir()} - {WORK, QUARANTINE}
    if others and BUILD not in others:
        raise UserError(
            f"{out} is not empty and no build of records (it holds {min(others)}); "
            "give a new directory"
        )


@contextmanager
def lock(out: Path) -> Iterator[Path]:
    """Make `out` and keep other builds away from it; yields the directory for work in progress.

    Raises:
      UserError: another build is at work in `out`, or `out` cannot be written.
    """
    work = out / WORK
    path = work / "lock"
    created = not out.exists()
    while True:
        try:
            work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write {out}: {error.strerror}") from error
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            continue  # Another build ended between these two lines, and removed its directory.
        except OSError as error:
            raise UserError(f"cannot write {out}: {error.strerror}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise UserError(
                f"another build is at work in {out}; wait for it, or give another directory"
            ) from error
        except OSError as error:
            # Some cluster file systems have no locks. A lock only saves the work of a second
            # build: shards appear whole, and are the same whoever writes them.
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                os.close(handle)
                raise
        # Who held the lock before removes its file at the end: is ours still the one with the name?
        if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
            break
        os.close(handle)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if created and not any(out.iterdir()):
            out.rmdir()
        os.close(handle)
