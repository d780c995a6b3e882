"""Class probabilities of any number of samples, in batches of one compiled shape."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

import numpy as np

from fer_jax.training.run_directory import LoadedRun
from fer_jax.training.steps import make_predictor

Sample = tuple[np.ndarray, np.ndarray]
"""Raw stream f32[T, ...] and frame mask bool[T]."""


def make_inference(loaded: LoadedRun, batch: int = 128) -> Callable[[Iterable[Sample]], np.ndarray]:
    """A function from samples, read one batch at a time, to probabilities f32[N, K].

    A sample's numbers do not depend on the others: padding fills the last batch.
    """
    predict = make_predictor(loaded.model, loaded.experiment.data, loaded.statistics)

    def infer(samples: Iterable[Sample]) -> np.ndarray:
        iterator, out = iter(samples), [np.zeros((0, len(loaded.classes)), np.float32)]
        while part := list(islice(iterator, batch)):
            filled = part + part[:1] * (batch - len(part))
            raw, mask = (np.stack(arrays) for arrays in zip(*filled, strict=True))
            out.append(np.asarray(predict(loaded.variables, raw, mask))[: len(part)])
        return np.concatenate(out)

    return infer
