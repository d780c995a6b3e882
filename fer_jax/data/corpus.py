"""A record directory as a sequence of clips."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, overload

from fer_jax.data.extracted import Extracted
from fer_jax.data.tfrecord import REMEDY, Shard
from fer_jax.errors import UserError
from fer_jax.records import (
    FILE_TEMPLATE,
    IMAGES,
    OPTIONAL,
    OUTPUTS,
    SPLIT,
    Clip,
    decode,
    shard_name,
)

#: More shards than this are opened for each read: a process may hold 1024 files by default.
_KEEP_OPEN = 256


class Corpus(Sequence[Clip]):
    """The clips of a record directory: read lazily, in any order, by any number of threads.

    Made by `load`.

    Attributes:
      dir: the record directory.
      name: of the corpus.
      streams: the optional streams that its clips are decoded with.
      extracted: the features that lie beside the records and its clips have; None without.
      stored_streams: the optional streams that the directory holds.
      info: dataset_info.json.
      metadata: metadata.json: what preprocessing noted, {} if it noted nothing.
      image_shapes: (height, width, channels) of each stored stream of images.
      shards: the paths of the shards.
      shard_lengths: clips in each of them.
    """

    def __init__(self, dir: Path, streams: Sequence[str] | None) -> None:
        self.dir = dir
        self.info = _read_json(dir / "dataset_info.json")
        notes = dir / "metadata.json"
        self.metadata = _read_json(notes) if notes.is_file() else {}
        features = _read_json(dir / "features.json")
        try:
            split = next(s for s in self.info["splits"] if s["name"] == SPLIT)
            self.name: str = self.info["name"]
            self.shard_lengths = [int(n) for n in split["shardLengths"]]
            self.shards = _shard_paths(dir, self.info, split)
            schema = features["featuresDict"]["features"]
            self.stored_streams = tuple(n for n in OPTIONAL if n in schema)
            self.image_shapes: dict[str, tuple[int, int, int]] = {}
            for name in (n for n in IMAGES if n in schema):
                image = schema[name]["sequence"]["feature"]["image"]
                height, width, channels = (int(n) for n in image["shape"]["dimensions"])
                self.image_shapes[name] = height, width, channels
            if "clip_id" not in schema:
                raise KeyError("clip_id")
        except (AttributeError, LookupError, StopIteration, TypeError, ValueError):
            raise UserError(
                f"{dir} is a TFDS directory, but not of FER-JAX clips; make one with "
                f"`fer-jax preprocess CORPUS RAW OUT`"
            ) from None
        wanted = self.stored_streams if streams is None else tuple(streams)
        extracted = [s for s in wanted if s.startswith("extracted/")]
        self.streams = tuple(s for s in wanted if s not in extracted)
        if absent := [s for s in self.streams if s not in self.stored_streams]:
            held = ", ".join(self.stored_streams) or "no stream"
            needed = sorted({OUTPUTS[s] for s in (*self.streams,) if s in OUTPUTS})
            raise UserError(
                f"{dir} has no {', '.join(absent)} (it holds {held}): preprocess into a new "
                f"directory with --outputs {','.join(needed)}"
            )
        count = len(self.shard_lengths)
        self._ends = list(accumulate(self.shard_lengths))
        if missing := [path.name for path in self.shards if not path.is_file()]:
            raise UserError(
                f"{dir}: {len(missing)} of {count} shards are missing, first {missing[0]}; "
                "repeat the preprocess command: finished shards are kept"
            )
        self.extracted = Extracted(dir, extracted[0], self.shards) if extracted else None
        if self.extracted is not None:
            self.extracted.of(self._records_sha256)
        self._opened: dict[int, Shard] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> list[Clip]: ...
    def __getitem__(self, index: int | slice) -> Clip | list[Clip]:
        """One clip, or the clips of a slice.

        Raises:
          UserError: the shard is damaged.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        which = bisect_right(self._ends, position)
        return self._clip(which, position - self._ends[which] + self.shard_lengths[which])

    def __iter__(self) -> Iterator[Clip]:
        for which, length in enumerate(self.shard_lengths):
            for i in range(length):
                yield self._clip(which, i)

    def _clip(self, which: int, i: int, streams: Sequence[str] | None = None) -> Clip:
        payload = self._shard(which)[i]
        try:
            clip = decode(payload, self.streams if streams is None else streams)
        except UserError as error:
            raise UserError(f"{self.shards[which]}, record {i}: {error}") from error
        if self.extracted is None:
            return clip
        return clip.replace(extracted=self.extracted.values(which, i, clip.clip_id))

    def _shard(self, which: int) -> Shard:
        shard = self._opened.get(which)
        if shard is None:
            with self._lock:
                shard = self._opened.get(which)
                if shard is None:
                    path, want = self.shards[which], self.shard_lengths[which]
                    shard = Shard(path, keep_open=len(self.shards) <= _KEEP_OPEN)
                    if len(shard) != want:
                        raise UserError(
                            f"{path}: holds {len(shard)} records, dataset_info.json says {want}: "
                            f"it was cut or exchanged; {REMEDY}"
                        )
                    self._opened[which] = shard
        return shard

    def __reduce__(self) -> tuple[Any, ...]:
        extracted = [] if self.extracted is None else [self.extracted.features]
        return load, (self.dir, [*self.streams, *extracted])

    @property
    def data_sha256(self) -> str:
        """What the records are: SHA-256 over every shard's name and SHA-256, in hexadecimal.

        A shard's sum is taken from its manifest if that fits the shard's size, else computed. With
        extracted features, what they are counts too.
        """
        records = self._records_sha256
        return records if self.extracted is None else self.extracted.digest(records)

    @cached_property
    def _records_sha256(self) -> str:
        digest = hashlib.sha256()
        for path in self.shards:
            manifest = _manifest(path) or {}
            stated = manifest.get("sha256")
            if not stated or manifest.get("bytes") != path.stat().st_size:
                stated = file_sha256(path)
            digest.update(f"{path.name} {stated}\n".encode())
        return digest.hexdigest()

    def scan(self, problems: list[str]) -> Iterator[Clip]:
        """Every intact clip with all its streams; what is wrong is appended to `problems`.

        Verifies both checksums of every record, the schema, the number of records, that clip ids
        are unique and, where a shard has a manifest, its size and SHA-256.
        """
        seen: set[str] = set()
        for which, path in enumerate(self.shards):
            problems += _check_manifest(path, self.shard_lengths[which])
            try:
                self._shard(which)
            except UserError as error:
                problems.append(str(error))
                continue
            for i in range(self.shard_lengths[which]):
                try:
                    clip = self._clip(which, i, self.stored_streams)
                except UserError as error:
                    problems.append(str(error))
                    continue
                where = f"{path}, record {i} ({clip.clip_id})"
                if clip.clip_id in seen:
                    problems.append(f"{where}: the clip is there twice")
                if clip.streams != self.stored_streams:
                    lacking = ", ".join(s for s in self.stored_streams if s not in clip.streams)
                    problems.append(f"{where}: has no {lacking}, which features.json promises")
                seen.add(clip.clip_id)
                yield clip

    def check(self) -> list[str]:
        """Read everything; one line for each problem, none when the directory is intact."""
        problems: list[str] = []
        for _ in self.scan(problems):
            pass
        return problems


def load(dir: str | os.PathLike[str], streams: Sequence[str] | None = None) -> Corpus:
    """The clips of a record directory.

    Args:
      dir: what `fer-jax preprocess` wrote.
      streams: the optional streams to decode (see `fer_jax.records.OPTIONAL`) and "extracted/..."
        features to read; others are None in the clips. None decodes all that the records hold.

    Raises:
      UserError: `dir` is absent, no record directory or incomplete, or lacks a stream.
    """
    path = Path(dir)
    if not path.is_dir():
        what = "is a file, not a record directory" if path.exists() else "does not exist"
        raise UserError(f"{path} {what}; make one with `fer-jax preprocess CORPUS RAW {path}`")
    if not (path / "dataset_info.json").is_file():
        if any(path.glob("*.tfrecord-*")):
            raise UserError(
                f"{path} is incomplete: preprocessing did not finish; repeat the preprocess "
                "command: finished shards are kept"
            )
        raise UserError(
            f"{path} is not a record directory: it has no dataset_info.json; make one with "
            "`fer-jax preprocess CORPUS RAW OUT`"
        )
    return Corpus(path, streams)


def _read_json(path: Path) -> dict[str, Any]:
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


def _shard_paths(dir: Path, info: dict[str, Any], split: dict[str, Any]) -> list[Path]:
    """The shards by the directory's own template: TFDS's SequentialWriter has another than we."""
    if info.get("fileFormat", "tfrecord") != "tfrecord":
        raise ValueError(info["fileFormat"])
    template = split.get("filepathTemplate", FILE_TEMPLATE)
    count = len(split["shardLengths"])
    return [dir / shard_name(info["name"], i, count, template) for i in range(count)]


def _manifest(shard: Path) -> dict[str, Any] | None:
    path = shard.with_name(f"{shard.name}.manifest.json")
    return _read_json(path) if path.is_file() else None


def file_sha256(path: Path) -> str:
    """A file's SHA-256 in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_manifest(shard: Path, records: int) -> list[str]:
    try:
        manifest = _manifest(shard)
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
