"""Principal components of features: paper 3's PCA of what a CNN extracts from each frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from fer_jax.errors import UserError

#: Rows whose products are summed at once: few rows a time would only move the covariance about.
_ROWS = 1024


class Projection(NamedTuple):
    """(values - mean) @ matrix are principal components. A pytree.

    Attributes:
      mean: f32[F].
      matrix: f32[F, k], orthonormal columns, the largest variance first.
      std: f32[k], standard deviation of each component, 1 where it has none.
    """

    mean: np.ndarray
    matrix: np.ndarray
    std: np.ndarray


def fit_pca(values_in_chunks: Iterable[np.ndarray], components: int) -> Projection:
    """The principal components of all rows, without holding them at once.

    The covariance (of n - 1 degrees of freedom, as scikit-learn's) is summed in float64. The sign
    of a component is that which makes its largest loading positive.

    Args:
      values_in_chunks: f32[n, F] arrays of any n.
      components: k.

    Raises:
      UserError: fewer rows or features than the components need.
    """
    count, mean, scatter = 0, np.zeros(0), np.zeros((0, 0))
    for rows in _in_blocks(values_in_chunks):
        here = len(rows)
        if not count:
            mean, scatter = np.zeros(rows.shape[1]), np.zeros((rows.shape[1],) * 2)
        block_mean = rows.mean(axis=0)
        rows -= block_mean
        scatter += rows.T @ rows
        delta, total = block_mean - mean, count + here
        scatter += np.outer(delta * (count * here / total), delta)
        mean += delta * (here / total)
        count = total
    most = max(0, min(count - 1, len(mean)))
    if not 1 <= components <= most:
        raise UserError(
            f"data.pca={components}: {count} training frames of {len(mean)} features have at most "
            f"{most} principal components: set --data.pca {most} or less"
        )
    variance, vectors = np.linalg.eigh(scatter / (count - 1))
    variance, matrix = variance[::-1][:components], vectors[:, ::-1][:, :components]
    largest = matrix[np.argmax(np.abs(matrix), axis=0), np.arange(components)]
    matrix = matrix * np.sign(largest)
    std = np.sqrt(np.maximum(variance, 0))
    std[std <= 1e-6 * std[0]] = 1  # Below float32's resolution: no variance.
    return Projection(mean.astype(np.float32), matrix.astype(np.float32), std.astype(np.float32))


def _in_blocks(chunks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The chunks' rows in their order as f64[n, F], about _ROWS at once."""
    waiting, rows = [], 0
    for chunk in chunks:
        for start in range(0, len(chunk), _ROWS):
            waiting.append(np.asarray(chunk[start : start + _ROWS], np.float64))
            rows += len(waiting[-1])
            if rows >= _ROWS:
                yield np.concatenate(waiting)
                waiting, rows = [], 0
    if rows:
        yield np.concatenate(waiting)
