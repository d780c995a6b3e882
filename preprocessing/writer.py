"""Atomic, durable writing of record shards and of the TFDS files that describe them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fer_jax.errors import UserError
from fer_jax.example import Payload
from fer_jax.records import (
    FILE_TEMPLATE,
    SCHEMA_VERSION,
    SPLIT,
    framed,
    shard_name,
    tfds_features,
)

__all__ = [
    "ShardInfo",
    "remove_unfinished",
    "shard_name",
    "told_when_full",
    "write_dataset_info",
    "write_file",
    "write_json",
    "write_shard",
]

_TEMPORARY = ".tmp"


@dataclass(frozen=True)
class ShardInfo:
    """What was written: number of records, size of the file, its SHA-256 in hexadecimal."""

    records: int
    bytes: int
    sha256: str


@contextmanager
def told_when_full(path: Path) -> Iterator[None]:
    """Turns the error of a full disk into a `UserError` about `path`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"no space left to write {path}; free some and repeat the command: "
            "finished shards are kept"
        ) from error


@contextmanager
def _atomic(path: Path) -> Iterator[BinaryIO]:
    """A file that gets its name when it is complete and on disk, or never."""
    # Not tempfile.mkstemp: it makes files that only their owner may read.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_TEMPORARY}")
    try:
        with told_when_full(path), open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def remove_unfinished(out: Path) -> None:
    """Delete the temporary files of writers that were killed. No writer may be at work in `out`."""
    for path in out.glob(f".*{_TEMPORARY}"):
        path.unlink(missing_ok=True)


def write_file(path: Path, data: bytes) -> None:
    """Write `data` to `path`, all or nothing, on disk on return.

    Raises:
      UserError: the disk is full.
    """
    with _atomic(path) as file:
        file.write(data)


def write_json(path: Path, document: Any) -> None:
    """`write_file` of a JSON document: sorted keys, equal bytes for equal documents."""
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=True, allow_nan=False)
    write_file(path, text.encode() + b"\n")


def write_shard(path: Path, records: Iterable[bytes | Payload]) -> ShardInfo:
    """Write records to a TFRecord file, all or nothing, on disk on return.

    Args:
      path: the shard; an old one is replaced.
      records: payloads, consumed one by one. Whatever the iterator raises leaves no file behind.

    Raises:
      UserError: the disk is full.
    """
    digest = hashlib.sha256()
    count = size = 0
    with _atomic(path) as file:
        for payload in records:
            for piece in framed(payload):
                file.write(piece)
                digest.update(piece)
                size += len(piece)
            count += 1
    return ShardInfo(count, size, digest.hexdigest())


def write_dataset_info(
    out: Path,
    name: str,
    shard_lengths: Sequence[int],
    num_bytes: int,
    streams: Collection[str],
    image_shapes: Mapping[str, tuple[int, int, int]],
    image_format: str,
    metadata: Mapping[str, Any],
) -> None:
    """Write what makes a directory of shards a TFDS directory; its presence says "complete".

    Writes features.json, metadata.json and last dataset_info.json, so that
    `tfds.builder_from_directory(out)` and `fer_jax.data.corpus.load(out)` open it.

    Args:
      out: the directory that holds `shard_name(name, i, len(shard_lengths))` for every i.
      name: of the corpus.
      shard_lengths: clips in each shard; a shard may be empty.
      num_bytes: size of all shards together.
      streams: the optional streams that every clip has.
      image_shapes: (height, width, channels) of each stream of images.
      image_format: "jpeg" or "png".
      metadata: anything else worth knowing, as JSON.

    Raises:
      UserError: the disk is full.
      ValueError: an unknown stream, or images without a shape.
    """
    features = tfds_features(streams, image_shapes, image_format)
    info = {
        "description": "Facial-expression clips, one tf.train.Example a clip, by FER-JAX.",
        "disableShuffling": True,
        "fileFormat": "tfrecord",
        "name": name,
        "splits": [
            {
                "filepathTemplate": FILE_TEMPLATE,
                "name": SPLIT,
                # 64-bit integers are strings in protocol buffers' JSON.
                "numBytes": str(num_bytes),
                "shardLengths": [str(n) for n in shard_lengths],
            }
        ],
        "version": f"{SCHEMA_VERSION}.0.0",
    }
    write_json(out / "features.json", features)
    write_json(out / "metadata.json", metadata)
    write_json(out / "dataset_info.json", info)
