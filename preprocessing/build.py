"""From a raw corpus to a record directory: shards built in parallel, resumable, the same each time.

OUT holds the shards, a manifest beside each, build.json (what determines the records),
quarantine.csv, coverage.json, and last dataset_info.json: its presence says that the build is
complete. Which clips a shard holds, and in which order, follows from their names alone. So the
bytes do not depend on the number of workers, nor on how often the build was interrupted; repeating
the command goes on.

Exit status of the command (`BuildReport.exit_code`): 0 when every clip was written or shows no
face; 3 when records were written but some files could not be read (they are listed); 2
(`UserError`) when nothing could be written or the command itself is wrong.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fer_jax.errors import UserError
from fer_jax.executors import Engine, WorkerDied, make_engine
from fer_jax.machine import default_workers
from fer_jax.records import Clip
from preprocessing import corpora
from preprocessing.coverage import (
    KINDS,
    BuildReport,
    Quarantined,
    Row,
    compare_with_published,
    quarantine_csv,
)
from preprocessing.extract import Recipe
from preprocessing.plan import Plan
from preprocessing.worker import Fault, ShardJob, build_shard, manifest_path, read_progress
from preprocessing.workspace import BUILD, QUARANTINE, check_places, lock
from preprocessing.writer import remove_unfinished, write_dataset_info, write_file, write_json

#: A frame takes milliseconds. What shows no new one for so long hangs.
STALL_TIMEOUT_S = 60.0
#: A death may be another's fault (a full memory). A clip that is met at a second one is excluded.
DEATHS_BEFORE_EXCLUSION = 2
#: Workers that die before their first clip so often in a row show a broken installation.
DEATHS_BEFORE_A_CLIP = 3
#: A worker with every output takes 290 MB on 500 frames of 640x480, 340 on 5,000 of 1280x720.
BYTES_PER_WORKER = 600_000_000
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
    exclude: Collection[str] = (),
    stall_timeout_s: float = STALL_TIMEOUT_S,
    on_progress: Progress | None = None,
) -> BuildReport:
    """Extract a raw corpus into a record directory, or finish one that was begun.

    Args:
      corpus: a key of `corpora.CORPORA`.
      raw: the raw tree (or table); it is only read.
      out: the record directory; new, empty, or begun by the same command.
      recipe: what to extract (see `make_recipe`).
      workers: at most so many processes; None for every core, as far as memory goes.
      engine: "local" or "ray".
      clips_per_shard: None for 1024 images or 32 videos.
      augment: augmented copies to add for each training image (each image of a corpus that has no
        official partition: a copy is used only where its original trains).
      limit: only so many clips, chosen by hash, so from everywhere in the corpus.
      exclude: clips to leave out, by clip_id or what follows the corpus in it.
      stall_timeout_s: a clip that shows no new frame for so long is quarantined.
      on_progress: called a few times a second.

    Raises:
      UserError: see the message.
      Interrupted: Ctrl-C; finished shards stay.
    """
    started = time.monotonic()
    _check_numbers(workers=(workers, 1), augment=(augment, 0), limit=(limit, 1))
    _check_numbers(clips_per_shard=(clips_per_shard, 1), stall_timeout_s=(stall_timeout_s, 1))
    raw, out = Path(raw).absolute(), Path(out).absolute()
    findings = corpora.Findings()
    scanned = list(corpora.scan(corpus, raw, findings))
    check_places(raw, out)
    kept = _without(exclude, scanned)
    plan = Plan.make(
        corpus, recipe, kept, clips_per_shard=clips_per_shard, augment=augment, limit=limit
    )
    with lock(out) as work:
        plan.claim(out)
        try:
            manifests = plan.finished(out, raw)
            jobs = _jobs(plan, raw, out, work, stall_timeout_s, manifests)
            if jobs:
                (out / "dataset_info.json").unlink(missing_ok=True)
                count = workers
                if engine == "local":
                    count = min(workers or default_workers(BYTES_PER_WORKER), len(jobs))
                with make_engine(engine, build_shard, count, str(work / "workers.log")) as running:
                    build = _Build(running, jobs, manifests, len(plan.clips), on_progress)
                    build.run()
        except OSError as error:
            raise UserError(f"cannot write {out}: {error.strerror or error}") from error
        finally:
            remove_unfinished(out)
            if not any(out.glob("*.manifest.json")):
                (out / BUILD).unlink(missing_ok=True)
        report = BuildReport(
            corpus=corpus,
            out=str(out),
            scanned=min(len(kept), limit or len(kept)),
            written=sum(manifest["records"] for manifest in manifests.values()),
            coverage=_coverage(manifests),
            quarantined=_quarantined(corpus, findings, manifests),
            notes=[
                *findings.notes(),
                *([f"excluded on request: {', '.join(sorted(exclude))}"] if exclude else []),
                *corpora.notes(corpus, kept),
                *compare_with_published(
                    corpora.published(corpus, scanned), scanned, corpora.listing(corpus, scanned)
                ),
            ],
            shards=len(plan.shards),
            resumed_shards=len(plan.shards) - len(jobs),
            processed=sum(len(job.clips) for job in jobs),
            seconds=time.monotonic() - started,
        )
        if not report.written:
            _give_up(plan, out, report)
        if not (out / "dataset_info.json").is_file():
            _complete(plan, out, manifests, report)
    return report


def _without(exclude: Collection[str], clips: Sequence[Clip]) -> list[Clip]:
    ids = {clip.clip_id for clip in clips}
    if unknown := {name for name in exclude if not ids & {name, f"{clips[0].corpus}/{name}"}}:
        raise UserError(f"exclude: there is no clip {', '.join(sorted(unknown))}")
    kept = [c for c in clips if not {c.clip_id, c.clip_id.partition("/")[2]} & set(exclude)]
    if not kept:
        raise UserError(f"exclude: that is every clip, {len(clips)} of them; nothing is left")
    return kept


def _check_numbers(**limits: tuple[float | None, int]) -> None:
    for name, (value, least) in limits.items():
        if value is not None and value < least:
            raise UserError(f"{name} is {value}; it must be at least {least}")


def _jobs(
    plan: Plan,
    raw: Path,
    out: Path,
    work: Path,
    stall_timeout_s: float,
    finished: Mapping[str, dict],
) -> list[ShardJob]:
    """The shards that are still to be built."""
    return [
        ShardJob(
            corpus=plan.corpus,
            raw=raw,
            path=out / shard,
            clips=plan.members(i),
            recipe=plan.recipe,
            build_sha256=plan.sha256,
            stall_timeout_s=stall_timeout_s,
            progress=work / f"{shard}.progress",
        )
        for i, shard in enumerate(plan.shards)
        if shard not in finished
    ]


class _Build:
    """Runs jobs to their end, whatever happens to the workers.

    Attributes:
      manifests: of finished shards, by the shard's file name; grows.
    """

    def __init__(
        self,
        engine: Engine,
        jobs: Sequence[ShardJob],
        manifests: dict[str, dict],
        clips: int,
        on_progress: Progress | None,
    ) -> None:
        self.manifests = manifests
        self._engine = engine
        self._pending = {job.path.name: job for job in jobs}
        self._clips = clips
        self._on_progress = on_progress
        self._deaths: Counter[str] = Counter()

    def run(self) -> None:
        """Build every shard.

        Raises:
          Interrupted: Ctrl-C.
          RuntimeError: workers die before they come to a clip.
          Exception: whatever a worker raised that is not about one clip.
        """
        total = len(self.manifests) + len(self._pending)
        try:
            for job in self._pending.values():
                self._engine.submit(job)
            while self._pending:
                self._tell()
                for outcome in self._engine.wait(_POLL_S):
                    if isinstance(outcome.error, WorkerDied):
                        self._after_death(outcome.job, outcome.error)
                    elif outcome.error is not None:
                        raise outcome.error
                    else:
                        self.manifests[outcome.value["shard"]] = outcome.value
                        del self._pending[outcome.value["shard"]]
            self._tell()
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted: {len(self.manifests)} of {total} shards are finished; "
                "repeat the same command to go on"
            ) from None

    def _after_death(self, job: ShardJob, died: WorkerDied) -> None:
        """Queue the shard again, without the clip that killed two workers."""
        position, _ = read_progress(job.progress)
        job.progress.unlink(missing_ok=True)
        if died.machine_lost:  # No clip's fault.
            self._engine.submit(job)
            return
        at_clip = 0 <= position < len(job.clips)
        suspect = job.clips[position].clip_id if at_clip else job.path.name
        self._deaths[suspect] += 1
        if at_clip and self._deaths[suspect] >= DEATHS_BEFORE_EXCLUSION:
            job = replace(job, excluded={**job.excluded, suspect: _fault(job, died)})
        elif not at_clip and self._deaths[suspect] >= DEATHS_BEFORE_A_CLIP:
            log = job.progress.with_name("workers.log")
            tail = log.read_text(errors="replace")[-2000:] if log.is_file() else ""
            raise RuntimeError(f"workers die ({died}) outside of any clip\n{tail}")
        self._pending[job.path.name] = job
        self._engine.submit(job)

    def _tell(self) -> None:
        if self._on_progress is None:
            return
        done = self._clips - sum(len(job.clips) for job in self._pending.values())
        lost = sum(len(manifest["quarantined"]) for manifest in self.manifests.values())
        for job in self._pending.values():
            position, quarantined = read_progress(job.progress)
            done += max(0, position)
            lost += quarantined
        self._on_progress(done, self._clips, lost)


def _fault(job: ShardJob, died: WorkerDied) -> Fault:
    if died.signal == signal.SIGALRM:
        return Fault("timeout", f"no new frame for {job.stall_timeout_s:g} s")
    reason = f"its worker died twice ({died})"
    return Fault("crash", f"{reason}: out of memory?" if died.signal == signal.SIGKILL else reason)


def _coverage(manifests: Mapping[str, dict]) -> Counter[Row]:
    rows: Counter[Row] = Counter()
    for manifest in manifests.values():
        for *row, n in manifest["coverage"]:
            rows[Row(*row)] += n
    return rows


def _quarantined(
    corpus: str, findings: corpora.Findings, manifests: Mapping[str, dict]
) -> list[Quarantined]:
    items = [
        Quarantined(f"{corpus}/{source}", source, "malformed", reason)
        for source, reason in findings.rejected
    ]
    items += [Quarantined(*item) for m in manifests.values() for item in m["quarantined"]]
    return sorted(items, key=lambda item: (item.clip_id, item.source))


def _give_up(plan: Plan, out: Path, report: BuildReport) -> None:
    """Leave nothing but the list of the quarantined.

    Raises:
      UserError: always; it says why there is no record.
    """
    for shard in plan.shards:
        for path in (out / shard, manifest_path(out / shard)):
            path.unlink(missing_ok=True)
    (out / BUILD).unlink(missing_ok=True)
    write_file(out / QUARANTINE, quarantine_csv(report.quarantined))
    counts = Counter(item.kind for item in report.quarantined)
    reasons = ", ".join(f"{n} {KINDS[kind]}" for kind, n in counts.most_common())
    first = report.quarantined[0]
    raise UserError(
        f"none of the {report.scanned} clips could be written ({reasons}); the first: "
        f"{first.source}: {first.reason}; all are listed in {out / QUARANTINE}"
    )


def _complete(plan: Plan, out: Path, manifests: Mapping[str, dict], report: BuildReport) -> None:
    """Write what says that the build is complete."""
    write_file(out / QUARANTINE, quarantine_csv(report.quarantined))
    write_json(out / "coverage.json", report.summary())
    ordered = [manifests[shard] for shard in plan.shards]
    write_dataset_info(
        out,
        plan.name,
        [manifest["records"] for manifest in ordered],
        sum(manifest["bytes"] for manifest in ordered),
        plan.streams,
        plan.recipe.image_shapes,
        plan.recipe.crop_format,
        {"build": plan.identity, "build_sha256": plan.sha256},
    )
