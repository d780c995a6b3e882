"""The JSON files of a record directory: what they say, and whether the shards are as they say."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from fer_jax.data.tfrecord import REMEDY
from fer_jax.errors import UserError


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
      UserError: it cannot be read, or is damaged.
    """
    try:
        document = json.loads(path.read_bytes())
        if not isinstance(document, dict):
            raise ValueError("not an object")
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; repeat the preprocess command: finished "
            "shards are kept"
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}; {REMEDY}") from None
    return document


def read_manifest(shard: Path) -> dict[str, Any] | None:
    """What lies beside a shard; None where nothing does."""
    path = shard.with_name(f"{shard.name}.manifest.json")
    return read_json(path) if path.is_file() else None


def file_sha256(path: Path) -> str:
    """A file's SHA-256 in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_manifest(shard: Path, records: int) -> list[str]:
    """What a shard has otherwise than its manifest says, at most one line."""
    try:
        manifest = read_manifest(shard)
        if manifest is None:
            return []
        size, digest = shard.stat().st_size, file_sha256(shard)
    except UserError as error:
        return [str(error)]
    except OSError as error:
        return [f"cannot read {shard}: {error.strerror}"]
    for key, found in (("records", records), ("bytes", size), ("sha256", digest)):
        if manifest.get(key) != found:
            stated = manifest.get(key)
            return [f"{shard}: its manifest says {key} {stated}, found {found}; {REMEDY}"]
    return []
