"""Confidence intervals that respect who is in the data, and paired tests between systems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fer_jax.training.metrics import scores


def clustered_intervals(
    truth: np.ndarray,
    predicted: np.ndarray,
    clusters: Sequence[str],
    classes: int,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Percentile bootstrap intervals that draw whole clusters with replacement.

    Clips of one subject are not independent, so subjects are drawn, not clips (Field and Welsh,
    2007, "Bootstrapping clustered data", the cluster bootstrap). With fewer than about ten clusters
    such intervals are too narrow; with one they have no width.

    Args:
      truth, predicted: i[N] class indices, N > 0.
      clusters: N cluster names, e.g. subjects; give each clip its own name where none is known.
      classes: K.
      level: coverage of the interval.
      resamples: how often clusters are drawn.
      seed: of the draws.

    Returns:
      {"accuracy": [low, high], "uar": ..., "macro_f1": ...}
    """
    confusion = _by_cluster(truth, predicted, clusters, classes)
    drawn = _resampled(confusion, resamples, seed)
    return _intervals(scores(drawn.reshape(resamples, classes, classes)), level)


def _by_cluster(
    truth: np.ndarray, predicted: np.ndarray, clusters: Sequence[str], classes: int
) -> np.ndarray:
    """f64[C, K * K], the confusion matrix of each cluster, by name."""
    _, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    confusion = np.zeros((int(cluster.max()) + 1, classes * classes))
    np.add.at(confusion, (cluster, np.asarray(truth) * classes + np.asarray(predicted)), 1.0)
    return confusion


def _resampled(counts: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """f64[R, M], sums of C rows of counts [C, M] drawn with replacement, R times."""
    # A resample is a weighted sum of clusters. Equal ones are drawn together, which changes nothing
    # and makes thousands of single clips a few kinds.
    kinds, size = np.unique(counts, axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(counts), size / len(counts), size=resamples).astype(float)
    return drawn @ kinds


def _intervals(drawn: Mapping[str, np.ndarray], level: float) -> dict[str, list[float]]:
    tail = (1.0 - level) / 2.0
    return {
        name: [float(q) for q in np.quantile(values, (tail, 1.0 - tail))]
        for name, values in drawn.items()
    }


def paired_differences(
    truth: np.ndarray,
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    clusters: Sequence[str],
    classes: int,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """How far two systems are apart on the same clips, by a paired bootstrap of whole clusters.

    A resample draws the same subjects for both systems, so what makes a subject hard for both drops
    out of the difference. p is two-sided: twice the share of resamples on the other side of no
    difference, at least 2 / (resamples + 1) (Davison and Hinkley, 1997, section 4.4, with the
    percentile interval inverted). Few clusters make both too optimistic, as in
    `clustered_intervals`.

    Args:
      truth: i[N] class indices.
      first, second: each system's predictions i[N], one array a repeat (a seed): a system's figure
        is the mean over its repeats.
      clusters, classes, level, resamples, seed: as in `clustered_intervals`.

    Returns:
      {"accuracy": {"difference": first minus second, "ci95": [low, high], "p": p}, "uar": ...,
      "macro_f1": ...}
    """
    tables = [_by_cluster(truth, one, clusters, classes) for one in (*first, *second)]
    shape = (len(tables), classes, classes)

    def differences(counts: np.ndarray) -> dict[str, np.ndarray]:
        found = scores(counts.reshape(*counts.shape[:-1], *shape))
        cut = len(first)
        return {
            name: values[..., :cut].mean(-1) - values[..., cut:].mean(-1)
            for name, values in found.items()
        }

    counts = np.concatenate(tables, axis=1)
    whole = differences(counts.sum(axis=0))
    drawn = differences(_resampled(counts, resamples, seed))
    intervals = _intervals(drawn, level)
    result = {}
    for name, values in drawn.items():
        # Sums of many terms: what is zero may come out a little beside it.
        below, above = (values < 1e-12).sum(), (values > -1e-12).sum()
        result[name] = {
            "difference": float(whole[name]),
            "ci95": intervals[name],
            "p": min(1.0, float(2 * (min(below, above) + 1) / (resamples + 1))),
        }
    return result


def mcnemar(only_first: int, only_second: int) -> float:
    """Mid-p McNemar test of two systems on the same clips.

    It is computed from the binomial distribution at every size, so no approximation for large
    counts is needed; the mid-p version keeps the level where the exact one is too cautious
    (Fagerland, Lydersen and Laake, 2013). It takes clips for independent, which those of one
    subject are not: `paired_differences` is the test that knows of subjects.

    Args:
      only_first, only_second: clips that one system alone gets right.

    Returns:
      the two-sided p value.
    """
    from scipy.stats import binom

    n, least = only_first + only_second, min(only_first, only_second)
    return float(2 * binom.cdf(least, n, 0.5) - binom.pmf(least, n, 0.5))


def holm(p: Sequence[float]) -> list[float]:
    """p values corrected for their number (Holm, 1979): any of them below 0.05 by chance alone has
    a probability of at most 0.05."""
    order = np.argsort(p, kind="stable")
    scaled = np.asarray(p)[order] * np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return corrected.tolist()
