"""A bucket by fsspec: listing, fetching, putting, and errors that say what to do."""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fer_jax.errors import UserError

#: How a bucket's path begins, and who lends the access. memory:// is fsspec's own, for tests.
_SCHEMES = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "memory": "fsspec"}
_URL = re.compile(rf"({'|'.join(_SCHEMES)}):/+(.+)")
_SIGN_IN = {
    "s3": "`aws configure`, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "`gcloud auth application-default login`",
}
#: What this machine's disk refuses, which says so itself.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


def url_of(path: str | os.PathLike[str]) -> str:
    """A bucket's path as its URL, "" if it is a path of this machine.

    `Path` drops one of the slashes of gs://, which is put back.
    """
    found = _URL.fullmatch(os.fspath(path))
    return f"{found[1]}://{found[2].rstrip('/')}" if found else ""


class Bucket:
    """What lies below a URL, by names relative to it; "" is the URL itself, where it is a file.

    Raises:
      UserError: the package is not installed; and from every method, the bucket cannot be reached.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        # It logs the traceback of every attempt; what matters is raised at the end.
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
        try:
            import fsspec

            with self._reaching():
                self._fs, self._root = fsspec.core.url_to_fs(url)
        except ImportError:
            package = _SCHEMES[url.partition(":")[0]]
            raise UserError(f"{url} needs {package}: pip install 'fer-jax[cloud]'") from None

    def files(self) -> dict[str, tuple[int, str]]:
        """Size and version by name; none if there is nothing there."""
        with self._reaching():
            self._fs.invalidate_cache()
            found = self._fs.find(self._root, detail=True)
            if found.get(self._root) == {}:  # It is a file.
                found = {self._root: self._fs.info(self._root)}
        files = {
            path.removeprefix(self._root).lstrip("/"): (int(info["size"]), _version(info))
            for path, info in found.items()
            if info["type"] == "file" and not path.endswith("/")
        }
        if len(files) > 1:  # An empty object that stands for the directory.
            files.pop("", None)
        return files

    def read(self, name: str) -> bytes:
        with self._reaching():
            return self._fs.cat_file(self._place(name))

    def probe(self) -> None:
        """Writes beside the place and takes it back: better refused now than after hours."""
        with self._reaching():
            self._fs.pipe_file(f"{self._root}.fer-jax", b"may this be written?\n")
            with suppress(FileNotFoundError):  # Another process of the job was here.
                self._fs.rm_file(f"{self._root}.fer-jax")

    def fetch(self, name: str, path: Path) -> None:
        """A file to this machine, piece by piece."""
        with self._reaching():
            self._fs.get_file(self._place(name), str(path))

    def put(self, path: Path, name: str) -> None:
        """A file to the bucket, where it appears whole or not at all."""
        with self._reaching():
            self._fs.put_file(str(path), self._place(name))

    def delete(self, name: str) -> None:
        with self._reaching(), suppress(FileNotFoundError):
            self._fs.rm_file(self._place(name))

    def _place(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """One line with the remedy for every error: each library has dozens of its own."""
        try:
            yield
        except (UserError, ImportError):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _DISK:
                raise
            said = " ".join(str(error).split())[:300]
            raise UserError(
                f"cannot reach {self.url} ({type(error).__name__}: {said}): {self._remedy(error)}"
            ) from error

    def _remedy(self, error: Exception) -> str:
        said = f"{type(error).__name__} {error}".lower()
        sign_in = _SIGN_IN["s3" if self.url.startswith("s3:") else "gs"]
        if any(word in said for word in ("credential", "anonymous", "unauthorized")):
            return f"sign in: {sign_in}"
        if isinstance(error, PermissionError) or "forbidden" in said or "denied" in said:
            return f"ask the bucket's owner for access, or use another account: {sign_in}"
        if isinstance(error, FileNotFoundError) or "not exist" in said or "no such" in said:
            return "no such bucket or object: check the name, or make the bucket"
        return "check the network and the bucket's name, and repeat the command"


def _version(info: dict[str, Any]) -> str:
    """What changes whenever a file of a bucket does."""
    keys = ("ETag", "etag", "md5Hash", "LastModified", "created")
    return str(next((info[key] for key in keys if info.get(key)), ""))
