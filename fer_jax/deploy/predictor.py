"""A trained recogniser at work: clips in, emotions out, whatever computes it."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from fer_jax.config import Data
from fer_jax.data import images
from fer_jax.data.samples import ClipSamples, Shapes, streams_of
from fer_jax.data.sequences import sample_length
from fer_jax.deploy.artifact import FACTS, Export, in_memory, is_export, open_arrays, open_export
from fer_jax.deploy.recogniser import FRAME_MASK, reads
from fer_jax.deploy.trained import extractor_of, in_float32, recogniser_of
from fer_jax.errors import UserError
from fer_jax.evaluation.embed import Embedder
from fer_jax.evaluation.inference import Sample, data_of, each, make_inference, samples_of
from fer_jax.records import IMAGES, OUTPUTS, Clip
from fer_jax.training import loop

#: Options of the training records' recipe that a file is extracted with, beside sizes and colour.
_HOW = ("crop_format", "crop_quality", "frontal_symmetry", "max_faces")
#: Samples that an export computes at once, at most.
_BATCH = 32


class Predictor(ABC):
    """A trained recogniser, ready to predict clips.

    Attributes:
      classes: K names, in the order of every probability.
      streams: the clip streams that it reads, e.g. "landmarks68".
    """

    def __init__(self, data: Data, facts: Mapping[str, Any], classes: Iterable[str]) -> None:
        self.data = data
        self._recipe = facts["recipe"]
        self._shapes: Shapes = {k: tuple(v) for k, v in facts["image_shapes"].items()}
        self._windows = data.length == "windows"
        self.classes: tuple[str, ...] = tuple(classes)
        self.streams = streams_of(data)

    def clip(self, clip: Clip) -> np.ndarray:
        """The verdict on a whole clip, f32[K]: evaluation's number, the mean of its samples.

        Raises:
          UserError: the clip lacks a stream that the model reads, shows no face, or is shorter
            than a window.
        """
        found = self.samples(clip, self.data)
        if not len(found.rows):
            raise UserError(
                f"{clip.clip_id}: the model reads windows of {self.data.frames} frames, and "
                f"there are {len(found.usable)} with a face{_part(self.data)}: give a longer clip"
            )
        return np.mean(self._infer(each(found)), axis=0)

    def frames(self, clip: Clip) -> np.ndarray:
        """What the recogniser says at each frame, f32[T, K]; NaN where there is no face.

        A model of single frames is asked frame by frame. A sequence model sees, at each frame,
        the last `data.frames` frames with a face up to it: what it would say of a live stream.

        Raises:
          UserError: the clip lacks a stream that the model reads, or shows no face.
        """
        found = self.samples(clip, self.frame_by_frame)
        out = np.full((clip.frames, len(self.classes)), np.nan, np.float32)
        ends = range(1, len(found.usable) + 1)
        out[found.usable] = self._infer(self.window(found, end) for end in ends)
        return out

    @abstractmethod
    def stream(self) -> Stream:
        """A stream of frames that begins now; any number of them may go on side by side."""

    @abstractmethod
    def samples(self, clip: Clip, data: Data) -> ClipSamples:
        """The samples of a clip, with what `_infer` reads as streams.

        Args:
          data: `self.data` or `self.frame_by_frame`.
        """

    @abstractmethod
    def _infer(self, samples: Iterable[Sample]) -> np.ndarray:
        """Probabilities f32[N, K]."""

    @property
    def frame_by_frame(self) -> Data:
        """One sample a usable frame, whatever the model's own length policy."""
        return dataclasses.replace(self.data, length="frames", keep=(0.0, 1.0))

    def window(self, found: ClipSamples, end: int) -> Sample:
        """The sample of the last `data.frames` of the first `end` usable frames."""
        length = sample_length(self.data.length, self.data.frames)
        place = np.arange(max(0, end - length), end)
        missing = length - len(place)
        # A model of whole windows sees the first frame repeated until there are enough.
        rows = np.pad(place, (missing, 0) if self._windows else (0, missing), mode="edge")
        mask = (np.arange(length) < len(place)) | self._windows
        return {name: values[rows] for name, values in found.streams.items()}, mask

    def _shapes_of(self, clip: Clip) -> Shapes:
        """Of the clip's images: those of other records may have another size."""
        shapes = dict(self._shapes)
        for name in IMAGES:
            if first := next(filter(None, getattr(clip, name) or ()), None):
                shapes[name] = images.stored_shape(first)
        return shapes

    @property
    def sources(self) -> tuple[str, ...]:
        """The streams of a clip that the model reads where it has to extract features itself."""
        return self.streams

    def extraction(self) -> dict[str, Any]:
        """Options of `preprocessing.extract.Recipe` that give a file the streams it needs, as the
        training records have them.

        Records of ready face crops were not aligned; a file shows more than a face, so it is.
        """
        recipe = self._recipe
        outputs = {OUTPUTS[name] for name in self.sources}
        if outputs & set(IMAGES):
            # Pictures are cut by the points of whichever detectors were at work.
            outputs |= {"landmarks", "blendshapes"} & set(recipe.get("outputs", ()))
        options = {name: recipe[name] for name in _HOW if name in recipe}
        for name, option in (("crops", "crop_size"), ("frontal", "frontal_size")):
            if name in self._shapes:
                options[option], _, channels = self._shapes[name]
                options["crop_color"] = "gray" if channels == 1 else "rgb"
        return {**options, "align": "face", "outputs": tuple(sorted(outputs))}


def _lacking(clip: Clip, names: Iterable[str]) -> None:
    """Raises:
    UserError: the clip lacks one of these streams.
    """
    for name in names:
        if not name.startswith("extracted/") and getattr(clip, name) is None:
            raise UserError(
                f"{clip.clip_id} has no {name}: extract it with `--outputs {OUTPUTS[name]}`"
            )


def _with_a_face(found: ClipSamples, clip: Clip, data: Data) -> ClipSamples:
    """Raises:
    UserError: no frame of the clip can be read.
    """
    if not len(found.usable):
        raise UserError(
            f"{clip.clip_id}: no face found in any of its {clip.frames} frames{_part(data)}"
        )
    return found


def _part(data: Data) -> str:
    """Where a model looks that does not look at all of a clip."""
    first, last = data.keep
    return "" if (first, last) == (0, 1) else f" from {first:.0%} to {last:.0%} of the clip"


class RunPredictor(Predictor):
    """The best checkpoint of a run, in the precision that it trained in."""

    def __init__(self, loaded: loop.LoadedRun, run: Path, *, exact: bool = False) -> None:
        """Args:
        run: its directory.
        exact: compute in float32, whatever the run trained in.
        """
        self._run = run
        self.loaded = in_float32(loaded) if exact else loaded
        self._exact = exact
        self._inference = make_inference(self.loaded)
        # What a network is to find (landmarks) is not there to be read.
        data = dataclasses.replace(data_of(loaded), landmarks=False)
        super().__init__(data, loaded.facts, loaded.classes)

    def samples(self, clip: Clip, data: Data) -> ClipSamples:
        """Streams as `Samples.streams` has them."""
        shapes = self._shapes_of(clip)
        extracts = self.loaded.facts["extracted"] and clip.extracted is None
        _lacking(clip, self.sources if extracts else self.streams)
        if extracts:
            (values,) = self._embedder.embed([clip], shapes)
            clip = clip.replace(extracted=values)
        return _with_a_face(samples_of(clip, data, shapes), clip, data)

    def _infer(self, samples: Iterable[Sample]) -> np.ndarray:
        return np.asarray(self._inference(samples).probabilities)

    def stream(self) -> Stream:
        """In float32, whatever the run trained in."""
        return Stream(self._recogniser)

    @cached_property
    def _recogniser(self) -> Export:
        return in_memory(recogniser_of(self._run, self.loaded))

    @cached_property
    def _embedder(self) -> Embedder:
        """The network whose features the model reads, to make those of other clips.

        Raises:
          UserError: it is not where it was, or is another by now.
        """
        source = extractor_of(self.loaded)
        assert source is not None, "only asked for where there is one"
        return Embedder(in_float32(source) if self._exact else source)

    @property
    def sources(self) -> tuple[str, ...]:
        direct = [name for name in self.streams if not name.startswith("extracted/")]
        through = self._embedder.streams if self.loaded.facts["extracted"] else ()
        return tuple(dict.fromkeys([*direct, *through]))


class ExportPredictor(Predictor):
    """An export, in float32, by whatever its format is computed with."""

    def __init__(self, export: Export) -> None:
        self._export = export
        super().__init__(reads(export.facts), export.facts, export.facts["classes"])

    def samples(self, clip: Clip, data: Data) -> ClipSamples:
        """Streams as the recogniser's inputs are."""
        _lacking(clip, self.streams)
        shapes = self._shapes_of(clip)
        for name in IMAGES:
            read = name in data.images or (name == "crops" and "crop_matrix" in self.streams)
            if read and shapes.get(name) != self._shapes.get(name):
                sizes = ["x".join(map(str, some[name])) for some in (shapes, self._shapes)]
                raise UserError(
                    f"{clip.clip_id}: its {name} are {sizes[0]} pixels and the export reads "
                    f"{sizes[1]}: extract them in that size"
                )
        found = _with_a_face(samples_of(clip, data, shapes), clip, data)
        return found._replace(streams=frame_inputs(clip, found, self._export.inputs("clip")))

    def _infer(self, samples: Iterable[Sample]) -> np.ndarray:
        iterator, out = iter(samples), []
        while part := list(islice(iterator, _BATCH)):
            # Few sizes: some formats compile each.
            size = 1 << (len(part) - 1).bit_length()
            inputs = stacked(part + part[:1] * (size - len(part)))
            out.append(self._export.run("clip", inputs)["probabilities"][: len(part)])
        return np.concatenate(out)

    def stream(self) -> Stream:
        return Stream(self._export)


def frame_inputs(clip: Clip, found: ClipSamples, names: Iterable[str]) -> dict[str, np.ndarray]:
    """A recogniser's inputs of the usable frames of a clip, [U, ...], but for the mask."""

    def of(name: str) -> np.ndarray:
        if name in IMAGES:
            return found.streams[name]
        if name == "frame_size":
            return np.tile(np.array([clip.width, clip.height], np.float32), (len(found.usable), 1))
        return getattr(clip, name)[found.usable]

    return {name: of(name) for name in names if name != FRAME_MASK}


def stacked(samples: Iterable[Sample]) -> dict[str, np.ndarray]:
    """A recogniser's inputs of samples, [B, T, ...]."""
    streams, masks = zip(*samples, strict=True)
    inputs = {name: np.stack([one[name] for one in streams]) for name in streams[0]}
    return {**inputs, FRAME_MASK: np.stack(masks)}


class Stream:
    """Frames in, one after another, and what the recogniser says by then.

    What it says after t frames is what it says of a clip of exactly these t frames (of the last
    `data.frames`, if its network reads windows); a network of single frames forgets each.
    """

    def __init__(self, export: Export) -> None:
        self._export = export
        self._shapes = export.inputs("stream")
        self.reset()

    def reset(self) -> None:
        """Forgets every frame: another face, or another clip."""
        self._state = self._export.state(1)

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """The shape of what `push` takes, by name (`deploy.recogniser.MEANING`)."""
        return {k: shape for k, (shape, _) in self._shapes.items() if k not in self._state}

    def push(self, frame: Mapping[str, Any]) -> np.ndarray:
        """The next frame that shows the face; probabilities f32[K] by then.

        Raises:
          UserError: an input is missing or of another shape.
        """
        inputs = dict(self._state)
        for name, shape in self.inputs.items():
            if name not in frame:
                raise UserError(f"the frame has no {name}: give an array of shape {shape}")
            value = np.asarray(frame[name], self._shapes[name][1])
            if value.shape != shape:
                raise UserError(f"the frame's {name} has shape {value.shape}, not {shape}")
            inputs[name] = value[None]
        found = self._export.run("stream", inputs)
        self._state = {name: found[f"next_{name}"] for name in self._state}
        return found["probabilities"][0]


def load_predictor(path: str | Path) -> Predictor:
    """The predictor of a run directory or of an export (see `fer_jax.load`)."""
    path = Path(path)
    if is_export(path):
        return ExportPredictor(open_export(path))
    if path.suffix == ".safetensors" and path.is_file():
        # Of any export: it describes itself.
        return ExportPredictor(open_arrays(path.parent))
    if inside := sorted(path.glob(f"*/{FACTS}")):
        raise UserError(f"{path} holds exports: name one of them, as in {inside[0].parent}")
    return RunPredictor(loop.load_run(path), path)
