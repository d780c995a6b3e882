"""A trained recogniser: clips in, emotions out; and its use on video and image files."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fer_jax.data.batches import ClipSequences, clip_sequences
from fer_jax.data.geometry import stream_of
from fer_jax.data.sequences import sample_length
from fer_jax.errors import UserError
from fer_jax.evaluation.inference import make_inference
from fer_jax.records import Clip
from fer_jax.training import loop
from fer_jax.training.run_directory import write_text

#: What preprocessing must extract for a stream.
OUTPUT_OF = {"landmarks68": "landmarks", "blendshapes": "blendshapes"}


class Predictor:
    """The best checkpoint of a run, ready to predict clips.

    Attributes:
      classes: K names, in the order of every probability.
      stream: the clip stream that it reads, e.g. "landmarks68".
    """

    def __init__(self, loaded: loop.LoadedRun):
        self._data = loaded.experiment.data
        self._infer = make_inference(loaded)
        self.classes: tuple[str, ...] = tuple(loaded.classes)
        self.stream = stream_of(self._data.features)

    def clip(self, clip: Clip) -> np.ndarray:
        """The verdict on a whole clip, f32[K]: evaluation's number, the mean of its samples.

        Raises:
          UserError: the clip lacks the stream that the model reads, or shows no face.
        """
        found = clip_sequences(clip, self._data)
        self._check(clip, found)
        return np.mean(self._infer(zip(found.raw, found.frame_mask, strict=True)), axis=0)

    def frames(self, clip: Clip) -> np.ndarray:
        """What the recogniser says at each frame, f32[T, K]; NaN where there is no face.

        A model of single frames is asked frame by frame. A sequence model sees, at each frame,
        the last `data.frames` frames with a face up to it: what it would say of a live stream.

        Raises:
          UserError: the clip lacks the stream that the model reads, or shows no face.
        """
        # One sample a usable frame, whatever the model's own length policy.
        single = clip_sequences(clip, dataclasses.replace(self._data, length="frames"))
        self._check(clip, single)
        raw, length = single.raw[:, 0], sample_length(self._data.length, self._data.frames)
        out = np.full((clip.frames, len(self.classes)), np.nan, np.float32)
        out[single.frames[:, 0]] = self._infer(
            _padded(raw[max(0, end - length) : end], length) for end in range(1, len(raw) + 1)
        )
        return out

    def _check(self, clip: Clip, found: ClipSequences) -> None:
        if getattr(clip, self.stream) is None:
            raise UserError(
                f"{clip.clip_id} has no {self.stream}: extract it with "
                f"`--outputs {OUTPUT_OF[self.stream]}`"
            )
        if not len(found.raw):
            raise UserError(f"{clip.clip_id}: no face found in any of its {clip.frames} frames")


def _padded(raw: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """A sample of `length` steps: raw f32[T, ...] then zeros, and its mask."""
    short = length - len(raw)
    mask = np.arange(length) < len(raw)
    return np.pad(raw, [(0, short)] + [(0, 0)] * (raw.ndim - 1)), mask


def load_predictor(run: str | Path) -> Predictor:
    """The predictor of a run directory (see `fer_jax.load`)."""
    return Predictor(loop.load_run(run))


def predict_files(
    run: str | Path,
    files: Sequence[Path],
    out: Path | None = None,
    *,
    video: bool = True,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """Predict video and image files.

    Writes `<stem>.frames.csv` (frame, time, face, a probability a class) and an annotated
    `<stem>.mp4` or `.png` for each file, and `clips.csv` for all of them.

    Args:
      run: a run directory.
      files: videos or images.
      out: where to write; None is `<run>/predictions`.
      video: write the annotated copies.
      on_progress: called with frames done, frames in all, file name.

    Returns:
      {"files": [...], "skipped": [...]}: what was said of each file, and what could not be read.

    Raises:
      UserError: the run is not one, a file does not exist, or none of the files could be read.
    """
    from preprocessing.annotate import write_annotated
    from preprocessing.extract import Extractor, NoFaceError, Recipe
    from preprocessing.video import VideoError, probe, read_frames

    absent = [str(path) for path in files if not Path(path).is_file()]
    if absent:
        raise UserError(f"no such file: {', '.join(absent)}")
    predictor = load_predictor(run)
    out = Path(run) / "predictions" if out is None else Path(out)
    out.mkdir(parents=True, exist_ok=True)
    done, skipped = [], []
    recipe = Recipe(outputs=(OUTPUT_OF[predictor.stream],))
    with Extractor(recipe) as extractor:
        for path in map(Path, files):
            try:
                total = max(probe(path).frames, 1)
                frames = _counted(read_frames(path), total, path.name, on_progress)
                clip = extractor.extract(Clip(clip_id=path.stem, corpus="file"), frames)
            except (VideoError, NoFaceError) as error:
                skipped.append({"file": str(path), "reason": str(error)})
                continue
            by_frame, verdict = predictor.frames(clip), predictor.clip(clip)
            stem = _stem(path, [item["frames_csv"] for item in done], out)
            csv_path = out / f"{stem}.frames.csv"
            write_text(csv_path, _frames_csv(clip, by_frame, predictor.classes))
            annotated = (
                write_annotated(out / stem, read_frames(path), clip, by_frame, predictor.classes)
                if video
                else None
            )
            best = int(verdict.argmax())
            done.append(
                {
                    "file": str(path),
                    "predicted": predictor.classes[best],
                    "probability": float(verdict[best]),
                    "probabilities": dict(zip(predictor.classes, map(float, verdict), strict=True)),
                    "frames": clip.frames,
                    "faces": int(np.isfinite(by_frame[:, 0]).sum()),
                    "frames_csv": str(csv_path),
                    "annotated": None if annotated is None else str(annotated),
                }
            )
    if not done:
        reasons = "; ".join(f"{item['file']}: {item['reason']}" for item in skipped)
        raise UserError(f"nothing could be predicted: {reasons}")
    write_text(out / "clips.csv", _clips_csv(done, predictor.classes))
    return {"files": done, "skipped": skipped}


def _stem(path: Path, taken: Sequence[str], out: Path) -> str:
    """The name that a file's results go by: its own, numbered where two files share it."""
    stem, number = path.stem, 1
    while str(out / f"{stem}.frames.csv") in taken:
        number += 1
        stem = f"{path.stem}-{number}"
    return stem


def _counted(
    frames: Any, total: int, name: str, on_progress: Callable[[int, int, str], None] | None
) -> Iterator[Any]:
    for count, frame in enumerate(frames, 1):
        if on_progress is not None:
            on_progress(count, max(total, count), name)
        yield frame


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


def _clips_csv(done: Sequence[dict[str, Any]], classes: Sequence[str]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["file", "predicted", "frames", "faces", *(f"p_{name}" for name in classes)])
    for item in done:
        table.writerow(
            [item["file"], item["predicted"], item["frames"], item["faces"],
             *(f"{item['probabilities'][name]:.6f}" for name in classes)]
        )  # fmt: skip
    return text.getvalue()
