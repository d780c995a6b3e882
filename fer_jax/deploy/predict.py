"""A trained recogniser on video and image files: tables and annotated copies."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_jax.deploy.artifact import is_export
from fer_jax.deploy.predictor import Predictor, load_predictor
from fer_jax.errors import UserError
from fer_jax.records import Clip
from fer_jax.training.run_directory import write_text

if TYPE_CHECKING:
    from preprocessing.video import Frame


def predict_files(
    run: str | Path,
    files: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    video: bool = True,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """Predict video and image files.

    Writes `<stem>.frames.csv` (frame, time, face, a probability a class) and an annotated
    `<stem>.mp4` or `.png` for each file, and `clips.csv` for all of them. A file that cannot be
    read, or shows no face, is listed with its reason; the others are predicted all the same.

    Args:
      run: a run directory, or an export of one.
      files: videos or images.
      out: where to write; None is `<run>/predictions`, and `<export>-predictions` of an export.
      video: write the annotated copies.
      on_progress: called with frames done, frames in all, file name.

    Returns:
      {"files": [...], "skipped": [...], "clips_csv": path}: what was said of each file, and why
      nothing could be said of others.

    Raises:
      UserError: the run is not one, a file does not exist, nothing can be written to `out`, or
        none of the files could be predicted.
    """
    from preprocessing.extract import Extractor, NoFaceError, Recipe
    from preprocessing.video import VideoError

    paths = [Path(path) for path in files]
    absent = [str(path) for path in paths if not path.is_file()]
    if absent:
        folders = [name for name in absent if Path(name).is_dir()]
        if folders:
            raise UserError(f"{folders[0]} is a directory: name its files, as in {folders[0]}/*")
        raise UserError(f"no such file: {', '.join(absent)}")
    predictor = load_predictor(run)
    if out is None:
        # An export is whole: nothing is written into it.
        run = Path(run).resolve()
        out = run.with_name(f"{run.name}-predictions") if is_export(run) else run / "predictions"
    out = Path(out)
    done: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    stems: set[str] = set()
    with Extractor(Recipe(**predictor.extraction())) as extractor:
        for path in paths:
            target = out / _free_stem(path, stems)
            try:
                named = Clip(clip_id=path.stem, corpus="file", source=str(path))
                clip = extractor.extract(named, _read(path, "reading", on_progress))
                again = _read(path, "annotating", on_progress) if video else None
                found = _predict_file(predictor, path, clip, target, again)
            except (VideoError, NoFaceError, UserError) as error:
                skipped.append({"file": str(path), "reason": str(error)})
            except OSError as error:
                raise UserError(f"cannot write {target}: {error.strerror or error}") from error
            else:
                done.append(found)
                stems.add(target.name)
    if not done:
        reasons = "; ".join(f"{item['file']}: {item['reason']}" for item in skipped)
        raise UserError(f"nothing could be predicted: {reasons}")
    write_text(out / "clips.csv", _clips_csv(done, skipped, predictor.classes))
    return {"files": done, "skipped": skipped, "clips_csv": str(out / "clips.csv")}


def _free_stem(path: Path, taken: Collection[str]) -> str:
    """The name that a file's results go by: its own, numbered where two files share it."""
    names = (f"{path.stem}-{n}" if n > 1 else path.stem for n in count(1))
    return next(name for name in names if name not in taken)


def _read(
    path: Path, doing: str, on_progress: Callable[[int, int, str], None] | None
) -> Iterator[Frame]:
    """The frames of a file, counted."""
    from preprocessing.video import probe, read_frames

    total = max(probe(path).frames, 1)
    for number, frame in enumerate(read_frames(path), 1):
        if on_progress is not None:
            on_progress(number, max(total, number), f"{doing} {path.name}")
        yield frame


def _predict_file(
    predictor: Predictor,
    path: Path,
    clip: Clip,
    target: Path,
    frames: Iterator[Frame] | None,
) -> dict[str, Any]:
    """Predicts one extracted file and writes its results; the table comes last.

    `frames` are the file's frames, for the annotated copy; None writes none.
    """
    from preprocessing.annotate import write_annotated

    by_frame, verdict = predictor.frames(clip), predictor.clip(clip)
    target.parent.mkdir(parents=True, exist_ok=True)
    annotated = None
    if frames is not None:
        annotated = str(write_annotated(target, frames, clip, by_frame, predictor.classes))
    table = target.with_name(f"{target.name}.frames.csv")
    write_text(table, _frames_csv(clip, by_frame, predictor.classes))
    best = int(verdict.argmax())
    return {
        "file": str(path),
        "predicted": predictor.classes[best],
        "probability": float(verdict[best]),
        "probabilities": dict(zip(predictor.classes, map(float, verdict), strict=True)),
        "frames": clip.frames,
        "faces": int(np.isfinite(by_frame[:, 0]).sum()),
        "frames_csv": str(table),
        "annotated": annotated,
    }


def _frames_csv(clip: Clip, probabilities: np.ndarray, classes: Sequence[str]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["frame", "time_ms", "face", "predicted", *(f"p_{name}" for name in classes)])
    for t in range(clip.frames):
        row = probabilities[t]
        seen = bool(np.isfinite(row).all())
        table.writerow(
            [int(clip.frame_index[t]), f"{clip.time_ms[t]:.1f}", int(seen),
             classes[int(row.argmax())] if seen else "",
             *(f"{p:.6f}" if seen else "" for p in row)]
        )  # fmt: skip
    return text.getvalue()


def _clips_csv(
    done: Sequence[dict[str, Any]], skipped: Sequence[dict[str, str]], classes: Sequence[str]
) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        ["file", "predicted", "frames", "faces", "skipped", *(f"p_{name}" for name in classes)]
    )
    for item in done:
        table.writerow(
            [item["file"], item["predicted"], item["frames"], item["faces"], "",
             *(f"{item['probabilities'][name]:.6f}" for name in classes)]
        )  # fmt: skip
    for item in skipped:
        table.writerow([item["file"], "", "", "", item["reason"], *("" for _ in classes)])
    return text.getvalue()
