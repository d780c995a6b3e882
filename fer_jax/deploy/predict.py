"""A trained recogniser: clips in, emotions out; and its use on video and image files."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_jax.config import Data
from fer_jax.data import images
from fer_jax.data.samples import ClipSamples, Shapes, streams_of
from fer_jax.data.sequences import sample_length
from fer_jax.errors import UserError
from fer_jax.evaluation.embed import Embedder, weights_sha256
from fer_jax.evaluation.inference import Sample, data_of, each, make_inference, samples_of
from fer_jax.records import IMAGES, OUTPUTS, Clip
from fer_jax.training import loop
from fer_jax.training.run_directory import write_text

if TYPE_CHECKING:
    from preprocessing.video import Frame


#: Options of the training records' recipe that a file is extracted with, beside sizes and colour.
_HOW = ("crop_format", "crop_quality", "frontal_symmetry", "max_faces")


class Predictor:
    """The best checkpoint of a run, ready to predict clips.

    Attributes:
      classes: K names, in the order of every probability.
      streams: the clip streams that it reads, e.g. "landmarks68".
    """

    def __init__(self, loaded: loop.LoadedRun) -> None:
        # What a network is to find (landmarks) is not there to be read.
        self._data = dataclasses.replace(data_of(loaded), landmarks=False)
        self._facts = loaded.facts
        self._shapes: Shapes = {k: tuple(v) for k, v in loaded.facts["image_shapes"].items()}
        self._infer = make_inference(loaded)
        self._windows = self._data.length == "windows"
        self.classes: tuple[str, ...] = tuple(loaded.classes)
        self.streams = streams_of(self._data)

    def clip(self, clip: Clip) -> np.ndarray:
        """The verdict on a whole clip, f32[K]: evaluation's number, the mean of its samples.

        Raises:
          UserError: the clip lacks a stream that the model reads, shows no face, or is shorter
            than a window.
        """
        found = self._samples(clip, self._data)
        if not len(found.rows):
            raise UserError(
                f"{clip.clip_id}: the model reads windows of {self._data.frames} frames, and "
                f"there are {len(found.usable)} with a face{_part(self._data)}: give a longer clip"
            )
        return np.mean(self._infer(each(found)).probabilities, axis=0)

    def frames(self, clip: Clip) -> np.ndarray:
        """What the recogniser says at each frame, f32[T, K]; NaN where there is no face.

        A model of single frames is asked frame by frame. A sequence model sees, at each frame,
        the last `data.frames` frames with a face up to it: what it would say of a live stream.

        Raises:
          UserError: the clip lacks a stream that the model reads, or shows no face.
        """
        # One sample a usable frame, whatever the model's own length policy.
        every = dataclasses.replace(self._data, length="frames", keep=(0.0, 1.0))
        found = self._samples(clip, every)
        length = sample_length(self._data.length, self._data.frames)

        def sample(end: int) -> Sample:
            place = np.arange(max(0, end - length), end)
            missing = length - len(place)
            # A model of whole windows sees the first frame repeated until there are enough.
            rows = np.pad(place, (missing, 0) if self._windows else (0, missing), mode="edge")
            mask = (np.arange(length) < len(place)) | self._windows
            return {name: values[rows] for name, values in found.streams.items()}, mask

        out = np.full((clip.frames, len(self.classes)), np.nan, np.float32)
        ends = range(1, len(found.usable) + 1)
        out[found.usable] = self._infer(map(sample, ends)).probabilities
        return out

    def _samples(self, clip: Clip, data: Data) -> ClipSamples:
        # A clip of other records may store its images in another size.
        shapes = dict(self._shapes)
        for name in IMAGES:
            if first := next(filter(None, getattr(clip, name) or ()), None):
                shapes[name] = images.stored_shape(first)
        extracts = self._facts["extracted"] and clip.extracted is None
        for name in self._sources if extracts else self.streams:
            if not name.startswith("extracted/") and getattr(clip, name) is None:
                raise UserError(
                    f"{clip.clip_id} has no {name}: extract it with `--outputs {OUTPUTS[name]}`"
                )
        if extracts:
            (values,) = self._embedder.embed([clip], shapes)
            clip = clip.replace(extracted=values)
        found = samples_of(clip, data, shapes)
        if not len(found.usable):
            raise UserError(
                f"{clip.clip_id}: no face found in any of its {clip.frames} frames{_part(data)}"
            )
        return found

    @cached_property
    def _embedder(self) -> Embedder:
        """The network whose features the model reads, to make those of other clips.

        Raises:
          UserError: it is not where it was, or is another by now.
        """
        made, features = self._facts["extracted"], self._data.features
        if not (Path(made["run"]) / "config.json").is_file():
            raise UserError(
                f"the model reads {features}, made by the network of {made['run']}, which is not "
                "there any more: put it back"
            )
        source = loop.load_run(made["run"])
        if weights_sha256(source) != made["weights_sha256"]:
            raise UserError(
                f"the model reads {features}, and {made['run']} holds another network than the one "
                "that made them: put that back, or extract and train again"
            )
        return Embedder(source)

    @property
    def _sources(self) -> tuple[str, ...]:
        """The streams of a clip that the model reads where it has to extract features itself."""
        direct = [name for name in self.streams if not name.startswith("extracted/")]
        through = self._embedder.streams if self._facts["extracted"] else ()
        return tuple(dict.fromkeys([*direct, *through]))

    def extraction(self) -> dict[str, Any]:
        """Options of `preprocessing.extract.Recipe` that give a file the streams it needs, as the
        training records have them.

        Records of ready face crops were not aligned; a file shows more than a face, so it is.
        """
        recipe = self._facts["recipe"]
        outputs = {OUTPUTS[name] for name in self._sources}
        if outputs & set(IMAGES):
            # Pictures are cut by the points of whichever detectors were at work.
            outputs |= {"landmarks", "blendshapes"} & set(recipe.get("outputs", ()))
        options = {name: recipe[name] for name in _HOW if name in recipe}
        for name, option in (("crops", "crop_size"), ("frontal", "frontal_size")):
            if name in self._shapes:
                options[option], _, channels = self._shapes[name]
                options["crop_color"] = "gray" if channels == 1 else "rgb"
        return {**options, "align": "face", "outputs": tuple(sorted(outputs))}


def _part(data: Data) -> str:
    """Where a model looks that does not look at all of a clip."""
    first, last = data.keep
    return "" if (first, last) == (0, 1) else f" from {first:.0%} to {last:.0%} of the clip"


def load_predictor(run: str | Path) -> Predictor:
    """The predictor of a run directory (see `fer_jax.load`)."""
    return Predictor(loop.load_run(run))


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
      run: a run directory.
      files: videos or images.
      out: where to write; None is `<run>/predictions`.
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
    out = Path(run) / "predictions" if out is None else Path(out)
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
