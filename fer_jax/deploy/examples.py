"""What an export is checked with: real clips, and what the run's own network says of them.

The reference goes the way of evaluation (`evaluation.inference`): it shares with the exports
neither their inputs nor what they do with them before the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import jax
import numpy as np

from fer_jax.data import batches, corpus, protocols
from fer_jax.data.samples import ClipSamples
from fer_jax.deploy.artifact import Export
from fer_jax.deploy.predictor import ExportPredictor, RunPredictor, stacked
from fer_jax.deploy.recogniser import FRAME_MASK
from fer_jax.errors import UserError
from fer_jax.evaluation.inference import Sample, data_of, each
from fer_jax.records import Clip

BATCHES = (1, 5)
#: Frames that a stream is checked for, at most.
_FRAMES = 32


@dataclass(frozen=True)
class Examples:
    """Inputs of a recogniser and the logits that they must give.

    Attributes:
      clip: 5 samples, [5, T, ...].
      clip_logits: f32[5, K].
      frames: 5 streams of n frames, [5, n, ...].
      stream_logits: f32[5, K] after so many frames.
    """

    clip: Mapping[str, np.ndarray]
    clip_logits: np.ndarray
    frames: Mapping[str, np.ndarray]
    stream_logits: Mapping[int, np.ndarray]

    def largest_difference(self, export: Export) -> float:
        """Of any logit, in batches of 1 and of 5, of whole clips and of streams; the largest
        float32 where an export says nothing finite."""
        found = [0.0]
        for size in BATCHES:
            for start in range(0, max(BATCHES), size):
                part = slice(start, start + size)
                logits = export.run("clip", {k: v[part] for k, v in self.clip.items()})["logits"]
                found.append(_difference(logits, self.clip_logits[part]))
        if "stream" in export.facts["signatures"]:
            found += [self._stream(export, size) for size in BATCHES]
        return max(found)

    def _stream(self, export: Export, size: int) -> float:
        state, worst = export.state(size), 0.0
        for t in range(max(self.stream_logits)):
            frame = {name: values[:size, t] for name, values in self.frames.items()}
            found = export.run("stream", {**frame, **state})
            state = {name: found[f"next_{name}"] for name in state}
            if (logits := self.stream_logits.get(t + 1)) is not None:
                worst = max(worst, _difference(found["logits"], logits[:size]))
        return worst


def _difference(found: np.ndarray, wanted: np.ndarray) -> float:
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return float(np.finfo(np.float32).max)
    return float(np.abs(found - wanted).max())


def make_examples(
    predictor: RunPredictor, reader: ExportPredictor, clips: Iterable[Clip]
) -> Examples:
    """Examples of the first clips that the model can read, five at most.

    Args:
      predictor: of the run, exact.
      reader: of its recogniser, in memory.

    Raises:
      UserError: none of the clips can be read.
    """
    found: list[tuple[ClipSamples, ...]] = []
    reason = "there is none"
    for clip in clips:
        try:
            samples = predictor.samples(clip, predictor.data)
            if len(samples.rows):
                every = predictor.samples(clip, predictor.frame_by_frame)
                inputs = reader.samples(clip, reader.data)
                frames = reader.samples(clip, reader.frame_by_frame)
                found.append((samples, inputs, every, frames))
            else:
                reason = f"{clip.clip_id} is shorter than a window"
        except UserError as error:
            reason = str(error)
        if len(found) == max(BATCHES):
            break
    if not found:
        raise UserError(f"no clip to check the export with: {reason}; give others with --clips")
    # One of each clip, then the second of each; few are taken again.
    both = [list(zip(each(one[0]), each(one[1]), strict=True)) for one in found]
    in_turn = [pair for row in zip_longest(*both) for pair in row if pair is not None]
    picked = [in_turn[i % len(in_turn)] for i in range(max(BATCHES))]
    logits = _Logits(predictor)
    streams = [found[i % len(found)] for i in range(max(BATCHES))]
    length = min(_FRAMES, *(len(every.usable) for _, _, every, _ in streams))
    seen = [frames.streams for *_, frames in streams]
    return Examples(
        clip=stacked(inputs for _, inputs in picked),
        clip_logits=logits([sample for sample, _ in picked]),
        frames={name: np.stack([one[name][:length] for one in seen]) for name in seen[0]},
        stream_logits={
            t: logits([logits.stream_sample(every, t) for _, _, every, _ in streams])
            for t in sorted({1, length})
        },
    )


class _Logits:
    """The run's network on samples, as `training.steps.make_predictor` asks it."""

    def __init__(self, predictor: RunPredictor) -> None:
        self._predictor = predictor
        loaded, data = predictor.loaded, data_of(predictor.loaded)

        def logits(variables, statistics, streams, mask):  # type: ignore[no-untyped-def]
            with jax.default_matmul_precision("highest"):
                batch = batches.make_batch(streams, mask, statistics, data)
                key = jax.random.key(0)
                return loaded.model.apply(variables, batch, train=False, key=key)[0].logits

        self._apply = jax.jit(logits)
        self.recurrent = loaded.experiment.model.name in ("lstm", "gru", "cnn-rnn")
        self.frames = loaded.inputs.frames

    def __call__(self, samples: Sequence[Sample]) -> np.ndarray:
        inputs = stacked(samples)
        mask = inputs.pop(FRAME_MASK)
        loaded = self._predictor.loaded
        return np.asarray(self._apply(loaded.variables, loaded.statistics, inputs, mask))

    def stream_sample(self, found: ClipSamples, t: int) -> Sample:
        """What a stream of t frames must be equal to: for a recurrent network the sample of these
        frames, whatever T is; for another, what `Predictor.frames` shows it."""
        if not self.recurrent or self.frames == 1:
            return self._predictor.window(found, t)
        streams = {name: values[:t] for name, values in found.streams.items()}
        return streams, np.ones(t, bool)


def run_clips(predictor: RunPredictor, run: Path) -> Iterator[Clip]:
    """Clips of the run's own records: of the test part, then of validation.

    Raises:
      UserError: the records are not there any more.
    """
    where = predictor.loaded.experiment.data.dir
    try:
        clips = corpus.load(where, streams=predictor.sources)
    except UserError as error:
        raise UserError(
            f"the export cannot be checked: {error}; give clips with --data DIR or --clips FILE"
        ) from None
    part = {clip_id: name for name, clip_id in protocols.read_split(run / "split.csv")}
    for wanted in ("test", "validation"):
        yield from (clip for clip in clips if part.get(clip.clip_id) == wanted)


def record_clips(predictor: RunPredictor, records: Path) -> Iterator[Clip]:
    """The clips of a record directory.

    Raises:
      UserError: it is none, or lacks a stream.
    """
    yield from corpus.load(records, streams=predictor.sources)


def file_clips(predictor: RunPredictor, files: Iterable[Path]) -> Iterator[Clip]:
    """The clips of videos and images.

    Raises:
      UserError: a file cannot be read.
    """
    from preprocessing.extract import Extractor, NoFaceError, Recipe
    from preprocessing.video import VideoError, read_frames

    with Extractor(Recipe(**predictor.extraction())) as extractor:
        for path in files:
            named = Clip(clip_id=path.stem, corpus="file", source=str(path))
            try:
                yield extractor.extract(named, read_frames(path))
            except (VideoError, NoFaceError) as error:
                raise UserError(f"{path}: {error}") from error
