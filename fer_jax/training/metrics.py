"""Metrics as sums that devices and batches can add up, and what follows from them.

The sums live on the device; figures are computed once, on the host, in NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Metrics(NamedTuple):
    """Sums over examples. Adding two of them merges them."""

    confusion: jax.Array | np.ndarray
    """f32[K, K], rows are the truth, columns the prediction."""
    loss: jax.Array | np.ndarray
    """f32[], the loss times the examples it is the mean of."""
    count: jax.Array | np.ndarray
    """f32[], examples."""
    landmark_error: jax.Array | np.ndarray
    """f32[], sum of the landmark errors, inter-pupil distances; 0 without landmarks."""


def no_metrics(classes: int) -> Metrics:
    """Metrics of nothing, on the host."""
    zero = np.zeros((), np.float32)
    return Metrics(np.zeros((classes, classes), np.float32), zero, zero, zero)


def confusion(logits: jax.Array, labels: jax.Array, weight: jax.Array) -> jax.Array:
    """f32[K, K] of one batch: logits f32[B, K], labels i32[B], weight f32[B] (0 = padding)."""
    classes = logits.shape[-1]
    truth = jax.nn.one_hot(labels, classes) * weight[:, None]
    predicted = jax.nn.one_hot(jnp.argmax(logits, axis=-1), classes)
    # As a sum: a TPU makes a float32 product of six of bfloat16.
    return jnp.sum(truth[:, :, None] * predicted[:, None, :], axis=0)


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """f64[K, K] of class indices i[N], rows are the truth."""
    matrix = np.zeros((classes, classes))
    np.add.at(matrix, (truth, predicted), 1.0)
    return matrix


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _by_class(matrix: np.ndarray) -> tuple[np.ndarray, ...]:
    """Precision, recall, F1, truths and predictions, each [..., K]."""
    right = np.diagonal(matrix, axis1=-2, axis2=-1)
    support, predicted = matrix.sum(axis=-1), matrix.sum(axis=-2)
    f1 = _ratio(2 * right, support + predicted)
    return _ratio(right, predicted), _ratio(right, support), f1, support, predicted


def scores(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """accuracy, uar and macro_f1, each [...], of confusion matrices [..., K, K].

    Defined as in scikit-learn. uar (unweighted average recall) averages over the classes that
    occur in the truth, as `balanced_accuracy_score`; macro_f1 over the classes that occur in truth
    or prediction, as `f1_score(average="macro")`. A ratio of nothing is 0.
    """
    matrix = np.asarray(confusion, np.float64)
    _, recall, f1, support, predicted = _by_class(matrix)
    right = np.trace(matrix, axis1=-2, axis2=-1)
    return {
        "accuracy": _ratio(right, matrix.sum(axis=(-2, -1))),
        "uar": _ratio(recall.sum(axis=-1), (support > 0).sum(axis=-1)),
        "macro_f1": _ratio(f1.sum(axis=-1), (support + predicted > 0).sum(axis=-1)),
    }


def figures(part: str, counted: Metrics, landmarks: bool) -> dict[str, float]:
    """A line of history's figures of one part, "train" or "validation"; `counted` on the host."""
    values = {name: float(value) for name, value in scores(np.asarray(counted.confusion)).items()}
    values["loss"] = float(counted.loss) / float(counted.count)
    if landmarks:
        values["landmark_error"] = float(counted.landmark_error) / float(counted.count)
    return {f"{part}/{name}": value for name, value in values.items()}


def compute(confusion: np.ndarray, classes: Sequence[str] | None = None) -> dict[str, Any]:
    """The figures of one confusion matrix, ready for JSON.

    Args:
      confusion: [K, K], rows are the truth.
      classes: K names for `per_class`; their indices if None.

    Returns:
      accuracy, uar, macro_f1 (see `scores`), per_class {name: precision, recall, f1, support}, n
      and confusion.
    """
    matrix = np.asarray(confusion, np.float64)
    names = [str(k) for k in range(len(matrix))] if classes is None else list(classes)
    precision, recall, f1, support, _ = _by_class(matrix)
    return {
        **{name: float(value) for name, value in scores(matrix).items()},
        "per_class": {
            name: {
                "precision": float(precision[k]),
                "recall": float(recall[k]),
                "f1": float(f1[k]),
                "support": round(float(support[k])),
            }
            for k, name in enumerate(names)
        },
        "n": round(float(matrix.sum())),
        "confusion": np.rint(matrix).astype(int).tolist(),
    }


def votes(probabilities: np.ndarray, clip: np.ndarray) -> np.ndarray:
    """Clip-level classes by majority of a clip's samples (paper 3); ties go to the likelier class.

    Args:
      probabilities: f[N, K] of the samples.
      clip: i[N], the clip of each sample.

    Returns:
      i[M], for the clips that occur, ascending.
    """
    _, place = np.unique(clip, return_inverse=True)
    probabilities = np.asarray(probabilities, np.float64)
    counts = np.zeros((place.max(initial=-1) + 1, probabilities.shape[1]))
    np.add.at(counts, (place, probabilities.argmax(-1)), 1.0)
    means = np.zeros_like(counts)
    np.add.at(means, place, probabilities)
    # A mean is at most 1, so half of it decides ties only.
    return (counts + means / (2 * counts.sum(-1, keepdims=True))).argmax(-1)


def by_clip(
    probabilities: np.ndarray, clip: np.ndarray, label: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clip-level probabilities: the mean over a clip's samples (sections or frames).

    Args:
      probabilities: f[N, K] of the samples.
      clip: i[N], the clip of each sample.
      label: i[N], the class of each sample; equal for the samples of a clip.

    Returns:
      The M clips that occur, i[M] ascending, their probabilities f64[M, K] and classes i[M].
    """
    clips, first, place = np.unique(clip, return_index=True, return_inverse=True)
    total = np.zeros((len(clips), np.shape(probabilities)[1]))
    np.add.at(total, place, np.asarray(probabilities, np.float64))
    return clips, total / np.bincount(place)[:, None], np.asarray(label)[first]
