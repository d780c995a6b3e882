"""What one worker process does: build one shard of a record directory.

A shard is clips -> frames -> streams -> records -> file, then its manifest; both appear whole or
not at all, the manifest last. A clip that cannot be read or shows no face is quarantined; the rest
of the shard is written. Before each clip its position goes into a progress file, so that after a
crash the parent knows which clip was at fault.
"""

from __future__ import annotations

import os
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from fer_jax.errors import UserError
from fer_jax.example import Payload
from fer_jax.records import Clip, payload
from preprocessing import corpora
from preprocessing.augment import augment_frames
from preprocessing.coverage import Quarantined, Row
from preprocessing.extract import Extractor, NoFaceError, Recipe
from preprocessing.video import Frame, VideoError
from preprocessing.writer import write_json, write_shard


class Fault(NamedTuple):
    """Why a clip has no record: a kind of `preprocessing.coverage.KINDS`, and in words."""

    kind: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """One shard to build.

    Attributes:
      corpus, raw: the adapter and the raw tree.
      path: the shard's file; its manifest lies beside it.
      clips: what goes into it, in order, T = 0.
      recipe: what to extract.
      build_sha256: of everything that determines the records; kept in the manifest.
      stall_timeout_s: a clip that shows no new frame for so long ends the process.
      progress: file that holds how far the shard is.
      excluded: clip_id -> the fault of a clip that killed a worker before.
    """

    corpus: str
    raw: Path
    path: Path
    clips: tuple[Clip, ...]
    recipe: Recipe
    build_sha256: str
    stall_timeout_s: float
    progress: Path
    excluded: Mapping[str, Fault] = field(default_factory=dict)


def manifest_path(shard: Path) -> Path:
    """The manifest of a shard: counts, checksum, quarantine, coverage."""
    return shard.with_name(f"{shard.name}.manifest.json")


def build_shard(job: ShardJob) -> dict:
    """Build a shard and its manifest, which is returned.

    Raises:
      UserError: a model file is missing, the disk is full: nothing that another clip would mend.
    """
    extractor = _extractor(job.recipe)
    frames_of = _frames_of(job.corpus, job.raw)
    rows: Counter[Row] = Counter()
    quarantined: list[Quarantined] = []
    progress = os.open(job.progress, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)

    def records() -> Iterator[Payload]:
        for position, clip in enumerate(job.clips):
            _report(progress, position, len(quarantined))
            result = job.excluded.get(clip.clip_id) or _extract(extractor, frames_of, clip, job)
            if isinstance(result, Fault):
                rows[Row.of(clip, result.kind)] += 1
                size = corpora.source_size(job.corpus, job.raw, clip)
                quarantined.append(Quarantined(clip.clip_id, clip.source, *result, size))
                continue
            found, record = result
            rows[Row.of(clip, "written")] += 1
            rows[Row.of(clip, "frames")] += found.frames
            rows[Row.of(clip, "frames_with_face")] += int(found.face_found.sum())
            yield record
        _report(progress, len(job.clips), len(quarantined))

    try:
        info = write_shard(job.path, records())
    finally:
        os.close(progress)
    manifest = {
        "build_sha256": job.build_sha256,
        "shard": job.path.name,
        "records": info.records,
        "bytes": info.bytes,
        "sha256": info.sha256,
        "coverage": [[*row, n] for row, n in sorted(rows.items())],
        "quarantined": [list(item) for item in quarantined],
    }
    write_json(manifest_path(job.path), manifest)
    return manifest


def read_progress(path: Path) -> tuple[int, int]:
    """(position, quarantined) of a shard in work; position -1 before its first clip."""
    try:
        text = path.read_text().split()
    except FileNotFoundError:
        return -1, 0
    return (int(text[0]), int(text[1])) if len(text) == 2 else (-1, 0)


def _report(progress: int, position: int, quarantined: int) -> None:
    os.pwrite(progress, f"{position:12d}{quarantined:12d}".encode(), 0)


#: Detectors take seconds to make: a process keeps those of the recipe that it is at.
_held: dict[Recipe, Extractor] = {}


def _extractor(recipe: Recipe) -> Extractor:
    if recipe not in _held:
        for old in _held.values():
            old.close()
        _held.clear()
        _held[recipe] = Extractor(recipe)
    return _held[recipe]


@lru_cache(maxsize=1)
def _frames_of(corpus: str, raw: Path) -> Callable[[Clip], Iterator[Frame]]:
    return corpora.open_frames(corpus, raw)


def _extract(
    extractor: Extractor,
    frames_of: Callable[[Clip], Iterator[Frame]],
    clip: Clip,
    job: ShardJob,
) -> tuple[Clip, Payload] | Fault:
    """The clip with its streams and its record, or why there is none."""
    try:
        with closing(_watched(frames_of, clip, job.stall_timeout_s)) as frames:
            augmentation = clip.augmentation
            found = extractor.extract(
                clip,
                augment_frames(frames, augmentation) if augmentation else frames,
                job.progress.parent,
            )
        return found, payload(found)
    except UserError:
        raise
    except NoFaceError as error:
        return Fault("no_face", str(error))
    except (VideoError, OSError) as error:
        return Fault("unreadable", " ".join(str(error).split()))
    except Exception as error:
        # One odd file in ten thousand must not end the run: it is listed with where it failed.
        place = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
        return Fault("error", " ".join(reason.split()))


def _watched(
    frames_of: Callable[[Clip], Iterator[Frame]], clip: Clip, seconds: float
) -> Generator[Frame, None, None]:
    """The frames of a clip, with an alarm that ends this process when the next one takes too long.

    Native code that hangs runs no Python handler, so SIGALRM keeps its default: death, which the
    parent sees and puts down to this clip.
    """
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        for frame in frames_of(clip):
            signal.setitimer(signal.ITIMER_REAL, seconds)
            yield frame
            del frame  # not held while the next is read
            signal.setitimer(signal.ITIMER_REAL, seconds)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
