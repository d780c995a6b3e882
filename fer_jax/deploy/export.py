"""`fer-jax export`: a run's recogniser in formats that run elsewhere, checked on real clips."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fer_jax.deploy import artifact, formats
from fer_jax.deploy.examples import (
    Examples,
    file_clips,
    make_examples,
    record_clips,
    run_clips,
)
from fer_jax.deploy.predictor import ExportPredictor, RunPredictor
from fer_jax.deploy.recogniser import Recogniser
from fer_jax.deploy.trained import recogniser_of
from fer_jax.errors import UserError
from fer_jax.training.run_directory import load_run

#: The largest difference of a logit between an export and the run's own network.
TOLERANCE = 1e-5
#: Of the largest logit: 8 roundings of a float32. It counts where logits are above 10.
_RELATIVE = 1e-6


def export(
    run: str | Path,
    to: Sequence[str],
    out: str | Path | None = None,
    *,
    clips: Sequence[Path] = (),
    data: Path | None = None,
    on_note: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Writes `<out>/<format>/` for each format, after it has been checked.

    An export is written beside its place, read again and asked about real clips, whole and frame by
    frame, one at a time and five at once. It takes its place only if every logit is within
    `tolerance` of what the run's own network says; an earlier export gives way to it.

    Args:
      run: a run directory; its best checkpoint is exported.
      to: names of `formats.FORMATS`.
      out: None is `<run>/export`.
      clips: videos or images to check with; or
      data: a record directory. With neither, the run's own records, of which the test part.
      on_note: called with each line for the user.

    Returns:
      {"exports": [{"format", "path", "max_abs_difference"}], "failed": [the same of those that
      differ by more than "limit"]}.

    Raises:
      UserError: no such run, no best epoch yet, an unknown format, a package that is not installed,
        nothing to check with, or something else lies where an export should.
    """
    run = Path(run)
    out = run / "export" if out is None else Path(out)
    names = list(dict.fromkeys(to))
    if not names:
        raise UserError(f"name a format: --to {','.join(formats.FORMATS)}")
    if clips and data:
        raise UserError("check with --clips or with --data, not both")
    for name in names:
        formats.functions(name)
        _free(out / name)
    loaded = load_run(run)
    recogniser = recogniser_of(run, loaded)
    predictor = RunPredictor(loaded, run, exact=True)
    for note in notes(recogniser):
        on_note(note)
    if clips:
        found = file_clips(predictor, _existing(clips))
    else:
        found = record_clips(predictor, data) if data else run_clips(predictor, run)
    examples = make_examples(predictor, ExportPredictor(artifact.in_memory(recogniser)), found)
    limit, exports, failed = tolerance(examples), [], []
    for name in names:
        with _beside(out / name) as directory:
            worst = _write(recogniser, name, directory, examples)
            said: dict[str, Any] = {"format": name, "path": str(out / name)}
            said["max_abs_difference"] = worst
            if worst <= limit:
                _replace(directory, out / name)
                exports.append(said)
            else:
                failed.append({**said, "limit": limit})
    return {"exports": exports, "failed": failed}


def tolerance(examples: Examples) -> float:
    """How far a logit of an export may be from the run's."""
    return max(TOLERANCE, _RELATIVE * float(np.abs(examples.clip_logits).max()))


def notes(recogniser: Recogniser) -> Iterator[str]:
    """What a user should know of an export before it is used."""
    facts = recogniser.facts
    if not facts["finished"]:
        yield f"training has not finished: this is its best epoch so far, {facts['epoch']}"
    if facts["trained_in"] != "float32":
        yield f"the run trained in {facts['trained_in']}: its exports compute in float32"
    if facts["metrics"] is None:
        yield "this checkpoint is not evaluated: its card has no figures (`fer-jax evaluate RUN`)"


def render(report: dict[str, Any]) -> str:
    lines = [
        f"{one['format']}: {one['path']} (largest difference {one['max_abs_difference']:.1e})"
        for one in report["exports"]
    ]
    lines += [
        f"{one['format']}: not written: a logit differs from the run's own network by "
        f"{one['max_abs_difference']:.1e}, more than {one['limit']:.1e}"
        for one in report["failed"]
    ]
    return "\n".join(lines)


def _existing(files: Sequence[Path]) -> Sequence[Path]:
    if absent := [str(path) for path in files if not path.is_file()]:
        raise UserError(f"no such file: {', '.join(absent)}")
    return files


def _write(recogniser: Recogniser, name: str, directory: Path, examples: Examples) -> float:
    """Writes one format and returns how far what it says is from the run's network."""
    save, _ = formats.functions(name)
    save(recogniser, directory)
    artifact.write_facts(recogniser, name, directory)
    return examples.largest_difference(artifact.open_export(directory))


def _free(place: Path) -> None:
    """Raises:
    UserError: something that is no export of ours lies there.
    """
    ours = artifact.is_export(place) or (place.is_dir() and not any(place.iterdir()))
    if place.exists() and not ours:
        raise UserError(f"{place} is no export of FER-JAX: move it away or give another --out")


@contextmanager
def _beside(place: Path) -> Iterator[Path]:
    """An empty directory to write in, which is gone afterwards unless it was moved."""
    directory = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    made = [path for path in (place.parent, *place.parent.parents) if not path.exists()]
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        for path in made:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def _replace(directory: Path, place: Path) -> None:
    """Moves a finished export to its place, where an earlier one may lie."""
    for path in directory.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
    old = place.with_name(f".{place.name}.{os.getpid()}.old")
    if place.exists():
        place.replace(old)
    directory.replace(place)
    shutil.rmtree(old, ignore_errors=True)
