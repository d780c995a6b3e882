"""From a raw corpus to a record directory: shards built in parallel, resumable, the same each time.

OUT holds the shards, a manifest beside each, build.json (what determines the records), quarantine.csv,
coverage.json, and last dataset_info.json: its presence says that the build is complete. Which clips a
shard holds, and in which order, follows from their names alone. So the bytes do not depend on the
number of workers, nor on how often the build was interrupted; repeating the command goes on.

Exit status of the command (`BuildReport.exit_code`): 0 when every clip was written or shows no face;
3 when records were written but some files could not be read (they are listed); 2 (`UserError`) when
nothing could be written or the command itself is wrong.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fer_jax.errors import UserError
from fer_jax.records import SCHEMA_VERSION, Clip
from preprocessing import corpora
from preprocessing.augment import make_copies
from preprocessing.coverage import (
    BuildReport,
    Quarantined,
    Row,
    compare_with_published,
    quarantine_csv,
)
from preprocessing.executors import Engine, WorkerDied, available_cores, make_engine
from preprocessing.extract import Recipe
from preprocessing.worker import ShardJob, build_shard, manifest_path, read_progress
from preprocessing.workspace import BUILD, WORK, check_places, lock
from preprocessing.writer import (
    remove_unfinished,
    shard_name,
    write_dataset_info,
    write_file,
    write_json,
)

IMAGES_PER_SHARD = 1024
VIDEOS_PER_SHARD = 32
#: A frame takes milliseconds. What shows no new one for so long hangs.
STALL_TIMEOUT_S = 60.0
#: A death may be another's fault (a full memory). A clip that is met at a second one is excluded.
DEATHS_BEFORE_EXCLUSION = 2
BYTES_PER_WORKER = 1 << 30
_POLL_S = 0.2

#: Clips gone through, clips in all, quarantined so far.
Progress = Callable[[int, int, int], None]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a build; the message says how far it is and how to go on."""


def make_recipe(corpus: str, outputs: Sequence[str], **options: Any) -> Recipe:
    """The recipe for a corpus: given options, else what suits the corpus, else general defaults.

    Raises:
      UserError: unknown corpus, or an option that does not exist or is out of range.
    """
    return Recipe(outputs=tuple(outputs), **{**corpora.recipe_defaults(corpus), **options})


def preprocess(
    corpus: str,
    raw: Path,
    out: Path,
    *,
    recipe: Recipe,
    workers: int | None = None,
    engine: str = "local",
    clips_per_shard: int | None = None,
    augment: int = 0,
    limit: int | None = None,
    stall_timeout_s: float = STALL_TIMEOUT_S,
    on_progress: Progress | None = None,
) -> BuildReport:
    """Extract a raw corpus into a record directory, or finish one that was begun.

    Args:
      corpus: a key of `corpora.CORPORA`.
      raw: the raw tree (or table); it is only read.
      out: the record directory; new, empty, or begun by the same command.
      recipe: what to extract.
      workers: at most so many processes; None for every core, as far as memory goes.
      engine: "local" or "ray".
      clips_per_shard: None for 1024 images or 32 videos.
      augment: augmented copies to add for each training image (each image of a corpus that has no
        official partition: a copy is used only where its original trains).
      limit: only so many clips, chosen by hash, so from everywhere in the corpus.
      stall_timeout_s: a clip that shows no new frame for so long is quarantined.
      on_progress: called a few times a second.

    Raises:
      UserError: see the message.
      Interrupted: Ctrl-C; finished shards stay.
    """
    started = time.monotonic()
    raw, out = Path(raw).absolute(), Path(out).absolute()
    for name, value, least in (
        ("workers", workers, 1), ("clips_per_shard", clips_per_shard, 1),
        ("augment", augment, 0), ("limit", limit, 1),
    ):  # fmt: skip
        if value is not None and value < least:
            raise UserError(f"{name} is {value}; it must be at least {least}")
    findings = corpora.Findings()
    scanned = list(corpora.scan(corpus, raw, findings))
    check_places(raw, out)
    clips = sorted(scanned, key=_place)[:limit]
    plan = _Plan.make(corpus, recipe, clips, clips_per_shard, augment, limit)
    rejected = [
        Quarantined(f"{corpus}/{source}", source, "malformed", reason)
        for source, reason in findings.rejected
    ]
    notes = [
        *findings.notes(),
        *compare_with_published(corpora.published(corpus, scanned), scanned),
    ]
    with lock(out):
        plan.claim(out)
        manifests = plan.finished(out, raw)
        resumed = len(manifests)
        if resumed < plan.shards:
            (out / "dataset_info.json").unlink(missing_ok=True)
            remove_unfinished(out)
            jobs = plan.jobs(raw, out, stall_timeout_s, skip=manifests)
            count = workers or _default_workers()
            with make_engine(
                engine,
                build_shard,
                min(count, len(jobs)) if engine == "local" else workers,
                str(out / WORK / "workers.log"),
            ) as running:
                try:
                    _run(running, jobs, manifests, len(plan.clips), on_progress)
                except KeyboardInterrupt:
                    raise Interrupted(
                        f"interrupted: {len(manifests)} of {plan.shards} shards are finished; "
                        "repeat the same command to go on"
                    ) from None
