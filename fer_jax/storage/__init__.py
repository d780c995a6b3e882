"""Buckets: a gs:// or s3:// path stands for a copy of it on this machine's disk.

The rest of the code sees local paths. A directory in a bucket is brought into the user's cache,
file by file, with the checksums of shards and checkpoints verified; repeating that goes on where it
was interrupted, and what has not changed is not fetched again. What a command changes in it goes
back: a run's directory after every sealed checkpoint, in the background, so that a machine with an
empty disk goes on from the bucket as this one would from its disk. Needs the extra `cloud`.
"""

from __future__ import annotations

import os
import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fer_jax.errors import UserError
from fer_jax.storage.bucket import url_of
from fer_jax.storage.mirror import SEAL, SELDOM_S, Mirror

__all__ = ["brought", "changed", "local", "share", "url_of"]

#: Commands that open records by `corpus.load`, which brings them: nothing is written there.
_READING = ("audit", "evaluate", "importance", "inspect", "split")
#: Commands whose output grows for hours without a checkpoint of this process.
_GROWING = ("preprocess", "sweep")

#: The copies of this process, by URL.
_mirrors: dict[str, Mirror] = {}


def local(path: str | os.PathLike[str]) -> Path:
    """The path itself, or the copy of a bucket's path, which is brought up to date once a process.

    Raises:
      UserError: the bucket cannot be reached or holds nothing there, or a file is damaged.
    """
    url = url_of(path)
    if not url:
        return Path(path)
    if url not in _mirrors:
        mirror = Mirror(url, writes=False)
        try:
            mirror.pull()
        finally:
            mirror.release()
        if not mirror.local.exists():
            raise UserError(f"{url} does not exist, or is empty: check the name")
        _mirrors[url] = mirror
    return _mirrors[url].local


def changed(path: Path) -> None:
    """To be called when a file or checkpoint is complete: it goes to its bucket, if it has one."""
    for mirror in _mirrors.values():
        if mirror.writes and path.absolute().is_relative_to(mirror.local):
            mirror.changed(soon=(path / SEAL).is_file())


def share(path: Path, first: bool, meet: Callable[[], None]) -> bool:
    """Of a job of several processes: gives the others what the first has below `path`.

    Each process has a copy of the same bucket's directory, and the first alone writes.

    Args:
      meet: waits for all processes.

    Returns:
      Whether `path` lies in a bucket; if not, nothing is done.
    """
    mirror = next((m for m in _mirrors.values() if m.writes and m.local == path.absolute()), None)
    if mirror is None:
        return False
    if first:
        mirror.flush()
    meet()
    if not first:
        mirror.pull()
    meet()  # Only now may the first replace what the others fetch.
    return True


@contextmanager
def brought(args: Namespace) -> Iterator[Callable[[str], str]]:
    """Bucket paths among a command's arguments become their copies; what it changes goes back.

    Yields:
      what turns the names of copies in a text into those of the bucket.
    """
    mirrors: list[Mirror] = []
    stop = threading.Event()
    watching = threading.Thread(target=_now_and_then, args=(mirrors, stop), daemon=True)

    def bring(name: str, value: Any) -> Any:
        if isinstance(value, list):
            return [bring(name, one) for one in value]
        url = url_of(value) if isinstance(value, Path) else ""
        if not url or (name in ("dir", "data") and args.command in _READING):
            return value
        if url not in _mirrors:
            mirror = Mirror(url, writes=True)
            try:
                if name == "out":
                    mirror.bucket.probe()
                mirror.pull()
            except BaseException:
                mirror.release()
                raise
            mirrors.append(mirror)
            _mirrors[url] = mirror
        return _mirrors[url].local

    def said(text: str) -> str:
        for mirror in _mirrors.values():
            text = text.replace(str(mirror.local), mirror.url)
        return text

    try:
        for name, value in list(vars(args).items()):
            setattr(args, name, bring(name, value))
        if mirrors and args.command in _GROWING:
            watching.start()
        try:
            yield said
        finally:
            stop.set()
            if watching.is_alive():
                watching.join()
    except BaseException as error:
        if isinstance(error, UserError):
            error.args = (said(str(error)),)
        for mirror in mirrors:
            try:
                mirror.close()
            except UserError as second:
                print(f"fer-jax: {second}", file=sys.stderr)
        raise
    else:
        for mirror in mirrors:
            mirror.close()
    finally:
        _mirrors.clear()


def _now_and_then(mirrors: Sequence[Mirror], stop: threading.Event) -> None:
    while not stop.wait(SELDOM_S):
        for mirror in mirrors:
            mirror.changed(soon=True)
