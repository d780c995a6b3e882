"""What a trained model says of any number of samples, in batches of one compiled shape."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import islice

import jax
import numpy as np

from fer_jax import machine
from fer_jax.config import Data, Experiment
from fer_jax.data.samples import ClipSamples, Samples, Shapes, clip_samples, decoded
from fer_jax.data.stream import read_ahead
from fer_jax.errors import UserError
from fer_jax.models import Model
from fer_jax.records import Clip
from fer_jax.training import distributed
from fer_jax.training.run_directory import LoadedRun
from fer_jax.training.steps import Prediction, make_predictor

Sample = tuple[Mapping[str, np.ndarray], np.ndarray]
"""T frames of each stream (see `Samples.streams`) and frame mask bool[T]."""
#: Bytes of decoded images that a batch may take.
_BUDGET = 64 << 20
#: Of the memory that is free, what pictures may take.
_SHARE = 0.5


def data_of(loaded: LoadedRun) -> Data:
    """How a run reads clips, of whatever records: its images have the side that it trained on."""
    data = loaded.experiment.data
    return dataclasses.replace(data, image_size=loaded.inputs.image_shape[0])


def samples_of(clip: Clip, data: Data, shapes: Shapes) -> ClipSamples:
    """`clip_samples` with the images decoded, u8[U, H, W, C].

    Raises:
      UserError: an image is damaged or not of the stated shape.
    """
    found = clip_samples(clip, data, shapes)
    try:
        return found._replace(streams=decoded(found.streams, shapes))
    except UserError as error:
        raise UserError(f"{clip.clip_id}: {error}") from error


def each(samples: Samples | ClipSamples) -> Iterator[Sample]:
    """The samples one by one."""
    for rows, mask in zip(samples.rows, samples.frame_mask, strict=True):
        yield {name: values[rows] for name, values in samples.streams.items()}, mask


def read_each(samples: Samples) -> Iterator[Sample]:
    """`each`; pictures that would fill the memory are read on the way."""
    if samples.nbytes <= _SHARE * machine.available_memory():
        yield from each(samples.loaded())
        return
    with read_ahead(samples.shown, 0, len(samples)) as shown:
        yield from zip(shown, samples.frame_mask, strict=True)


@dataclasses.dataclass(frozen=True)
class _Program:
    """What a compiled prediction depends on: `key` says it all."""

    key: str
    model: Model = dataclasses.field(compare=False)
    experiment: Experiment = dataclasses.field(compare=False)


@lru_cache(maxsize=8)
def _predictor(program: _Program) -> Callable[..., Prediction]:
    """Runs of one shape share a program: the members of a population compile once."""
    return make_predictor(program.model, program.experiment)


def make_inference(loaded: LoadedRun, batch: int = 128) -> Callable[[Iterable[Sample]], Prediction]:
    """A function from samples, read one batch at a time, to NumPy predictions of all of them.

    A sample's numbers do not depend on the others: padding fills the last batch. Samples of large
    images go in smaller batches.
    """
    experiment = dataclasses.replace(loaded.experiment, data=data_of(loaded))
    document = experiment.to_json()
    decides = [document["model"], document["data"], experiment.train.precision, len(loaded.classes)]
    key = json.dumps([*decides, repr(loaded.inputs)])
    predict = _predictor(_Program(key, loaded.model, experiment))
    batch = _batch_of(loaded, batch)

    def infer(samples: Iterable[Sample]) -> Prediction:
        iterator, out = iter(samples), []
        while part := list(islice(iterator, batch)):
            filled = part + part[:1] * (batch - len(part))
            streams, mask = jax.tree.map(lambda *leaves: np.stack(leaves), *filled)
            found = predict(loaded.variables, loaded.statistics, streams, mask)
            out.append(jax.tree.map(lambda leaf: np.asarray(leaf)[: len(part)], found))
        if not out:
            empty = np.zeros((0, len(loaded.classes)), np.float32)
            return Prediction(empty, empty, empty[:, 0])  # type: ignore[arg-type]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *out)

    return infer


def infer_all(loaded: LoadedRun, samples: Samples, batch: int) -> Prediction | None:
    """Predictions of all samples, but for embeddings; of several processes each does every so many
    of the batches, and the first gets them all: to the bit what it would find alone.

    Returns:
      None in the other processes.
    """
    infer, count = make_inference(loaded, batch), distributed.processes()
    if count == 1:
        return infer(read_each(samples))
    place = np.arange(len(samples))
    whose = place // _batch_of(loaded, batch) % count
    found = infer(read_each(samples.at(place[whose == distributed.process()])))
    every = distributed.arrays_to_first(
        {"probabilities": found.probabilities, "landmark_error": found.landmark_error}
    )
    if not every:
        return None
    order = np.argsort(np.concatenate([place[whose == p] for p in range(count)]))
    parts = {name: np.concatenate([one[name] for one in every])[order] for name in every[0]}
    return Prediction(embedding=np.zeros((len(samples), 0), np.float32), **parts)  # type: ignore[arg-type]


def _batch_of(loaded: LoadedRun, batch: int) -> int:
    """Samples of a batch: fewer of large images."""
    inputs = loaded.inputs
    size = 4 * len(inputs.images) * inputs.frames * int(np.prod(inputs.image_shape))
    return max(1, min(batch, _BUDGET // size)) if size else batch
