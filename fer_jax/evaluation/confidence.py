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
    2007, "Bootstrapping clustered data", the cluster bootstrap).

    Args:
      truth, predicted: i[N] class indices.
      clusters: N cluster names, e.g. subjects; give each clip its own name where none is known.
      classes: K.
      level: coverage of the interval.

    Returns:
      {"accuracy": [low, high], "uar": ..., "macro_f1": ...}
    """
    _, cluster = np.unique(np.asarray(clusters, dtype=object).astype(str), return_inverse=True)
    count = int(cluster.max()) + 1
    # One confusion matrix a cluster: a resample is then a weighted sum of them.
    confusion = np.zeros((count, classes, classes))
    np.add.at(confusion, (cluster, truth, predicted), 1.0)
    rng = np.random.default_rng(seed)
    drawn = []
    chunk = max(1, 4_000_000 // count)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        weight = rng.multinomial(count, np.full(count, 1.0 / count), size=size).astype(float)
        total = (weight @ confusion.reshape(count, -1)).reshape(size, classes, classes)
        drawn.append(scores(total))
    tail = (1.0 - level) / 2.0
    return {
        name: [
            float(q)
            for q in np.quantile(np.concatenate([d[name] for d in drawn]), (tail, 1.0 - tail))
        ]
        for name in drawn[0]
    }
