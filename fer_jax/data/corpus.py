"""A record directory, or several, as a sequence of clips."""

from __future__ import annotations

import hashlib
import os
import threading
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, overload

import numpy as np

from fer_jax import storage
from fer_jax.data.extracted import Extracted
from fer_jax.data.manifest import check_manifest, file_sha256, read_json, read_manifest
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
        self.info = read_json(dir / "dataset_info.json")
        notes = dir / "metadata.json"
        self.metadata = read_json(notes) if notes.is_file() else {}
        features = read_json(dir / "features.json")
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
        return clip.replace(extracted=self._features(which, i, clip.clip_id))

    def _features(self, which: int, i: int, clip_id: str) -> np.ndarray:
        assert self.extracted is not None
        return self.extracted.values(which, i, clip_id)

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
    def parts(self) -> tuple[Corpus, ...]:
        """The record directories that this is made of, in their order."""
        return (self,)

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
            manifest = read_manifest(path) or {}
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
            problems += check_manifest(path, self.shard_lengths[which])
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


class Joined(Corpus):
    """The clips of several record directories, one after the other. Made by `load`.

    dir is all their names, as `load` takes them; info is {}. stored_streams are those that all of
    them hold, image_shapes and metadata what is the same in all. extracted is the first's: the
    features of all come from one network.

    Args:
      parts: at least two, with the same streams.

    Raises:
      UserError: their pictures differ in size, or their features come from several networks.
    """

    def __init__(self, parts: Sequence[Corpus]) -> None:
        self._parts, first = tuple(parts), parts[0]
        self.dir = Path(",".join(str(part.dir) for part in parts))
        self.name = "+".join(part.name for part in parts)
        self.info = {}
        self.metadata = _agreed([part.metadata for part in parts])
        self.streams = first.streams
        self.stored_streams = tuple(
            stream
            for stream in first.stored_streams
            if all(stream in part.stored_streams for part in parts)
        )
        self.image_shapes = _agreed([part.image_shapes for part in parts])
        for name in (n for n in self.streams if n in IMAGES and n not in self.image_shapes):
            sizes = (f"{'x'.join(map(str, p.image_shapes[name]))} in {p.dir}" for p in parts)
            raise UserError(
                f"{name} differ in size: {', '.join(sizes)}; preprocess into new directories with "
                "one --crop-size and --crop-color"
            )
        self.extracted = first.extracted
        made = {part.extracted.facts["weights_sha256"] for part in parts if part.extracted}
        if self.extracted is not None and len(made) > 1:
            raise UserError(
                f"{self.extracted.features} come from different networks in {self.dir}: make them "
                "with `fer-jax extract` and one run"
            )
        self.shards = [path for part in parts for path in part.shards]
        self.shard_lengths = [length for part in parts for length in part.shard_lengths]
        self._ends = list(accumulate(self.shard_lengths))
        self._starts = list(accumulate((len(part.shards) for part in parts), initial=0))
        self._opened, self._lock = {}, threading.Lock()

    def _features(self, which: int, i: int, clip_id: str) -> np.ndarray:
        part = bisect_right(self._starts, which) - 1
        return self._parts[part]._features(which - self._starts[part], i, clip_id)

    @property
    def parts(self) -> tuple[Corpus, ...]:
        return self._parts

    @property
    def data_sha256(self) -> str:
        """SHA-256 over those of the directories, whatever their order."""
        text = "\n".join(sorted(part.data_sha256 for part in self._parts))
        return hashlib.sha256(text.encode()).hexdigest()

    def scan(self, problems: list[str]) -> Iterator[Clip]:
        """Every intact clip of each directory, with all the streams that it holds there."""
        seen: dict[str, Path] = {}
        for part in self._parts:
            for clip in part.scan(problems):
                if seen.setdefault(clip.clip_id, part.dir) != part.dir:
                    problems.append(f"{part.dir}: {clip.clip_id} is in {seen[clip.clip_id]} too")
                yield clip


def directories(dir: str | os.PathLike[str]) -> list[Path]:
    """The record directories that a command's DIR, or a config's data.dir, names.

    One in a bucket is brought to this machine.

    Raises:
      UserError: one is named twice, or a bucket cannot be reached.
    """
    names = [name.strip() for name in os.fspath(dir).split(",") if name.strip()]
    if len(names) < 2 or Path(dir).exists():
        return [storage.local(dir)]
    paths = [storage.local(name) for name in names]
    for path in paths:
        if [other.resolve() for other in paths].count(path.resolve()) > 1:
            raise UserError(f"{dir} names {path} twice")
    return paths


def load(dir: str | os.PathLike[str], streams: Sequence[str] | None = None) -> Corpus:
    """The clips of a record directory, or of several as one.

    Args:
      dir: what `fer-jax preprocess` wrote; several with commas between them: "crema-d,ravdess".
      streams: the optional streams to decode (see `fer_jax.records.OPTIONAL`) and "extracted/..."
        features to read; others are None in the clips. None decodes all that the records hold, of
        several directories all that each of them holds.

    Raises:
      UserError: `dir` is absent, no record directory or incomplete, or lacks a stream, or several
        do not go together.
    """
    parts = [_load(path, streams) for path in directories(dir)]
    if len(parts) == 1:
        return parts[0]
    if streams is None:
        common = set.intersection(*(set(part.stored_streams) for part in parts))
        shapes = _agreed([part.image_shapes for part in parts])
        wanted = [s for s in OPTIONAL if s in common and (s not in IMAGES or s in shapes)]
        parts = [_load(part.dir, wanted) for part in parts]
    return Joined(parts)


def _agreed(mappings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is the same in all of them, also within mappings that they hold."""
    first, *others = mappings
    found = {}
    for key, value in first.items():
        values = [other.get(key) for other in others]
        if all(isinstance(one, dict) for one in (value, *values)):
            found[key] = _agreed([one for one in (value, *values) if one is not None])
        elif all(one == value for one in values):
            found[key] = value
    return found


def _load(path: Path, streams: Sequence[str] | None) -> Corpus:
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


def _shard_paths(dir: Path, info: dict[str, Any], split: dict[str, Any]) -> list[Path]:
    """The shards by the directory's own template: TFDS's SequentialWriter has another than we."""
    if info.get("fileFormat", "tfrecord") != "tfrecord":
        raise ValueError(info["fileFormat"])
    template = split.get("filepathTemplate", FILE_TEMPLATE)
    count = len(split["shardLengths"])
    return [dir / shard_name(info["name"], i, count, template) for i in range(count)]
