"""Confidence intervals that respect who is in the data."""

from __future__ import annotations

from collections.abc import Sequence

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
    _, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    count = int(cluster.max()) + 1
    # One confusion matrix a cluster: a resample is a weighted sum of them. Equal ones are drawn
    # together, which changes nothing and makes thousands of single clips K * K kinds.
    confusion = np.zeros((count, classes * classes))
    np.add.at(confusion, (cluster, np.asarray(truth) * classes + np.asarray(predicted)), 1.0)
    kinds, size = np.unique(confusion, axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, size / count, size=resamples).astype(float)
    found = scores((drawn @ kinds).reshape(resamples, classes, classes))
    tail = (1.0 - level) / 2.0
    return {
        name: [float(q) for q in np.quantile(values, (tail, 1.0 - tail))]
        for name, values in found.items()
    }
