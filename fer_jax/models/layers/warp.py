"""What joins the stages of a Deep Alignment Network: a similarity transform that normalises a face,
the image under it, and a heat map of its landmarks.

Points are (x, y), x to the right, in pixels, and row vectors: p becomes p A + t. Source:
docs/reproduction.md 4.2 (Kowalski et al. 2017, section 3.2).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

_FAR = 1e12
"""A squared distance above that of any two pixels: outside the patch."""


class Similarity(NamedTuple):
    """Rotation, uniform scale and shift of the plane: p A + t with A = [[a, b], [-b, a]]."""

    matrix: jax.Array
    """A, f[..., 2, 2]."""
    offset: jax.Array
    """t, f[..., 2]."""

    def apply(self, points: jax.Array) -> jax.Array:
        """f[..., N, 2] -> f[..., N, 2]."""
        return _turn(points, self.matrix) + self.offset[..., None, :]

    def inverse(self) -> Similarity:
        """The transform that undoes this one: A^-1 and -t A^-1."""
        matrix = jnp.swapaxes(self.matrix, -1, -2)
        squares = jnp.sum(jnp.square(self.matrix[..., 0, :]), axis=-1)[..., None, None]
        matrix = matrix / jnp.maximum(squares, 1e-12)
        return Similarity(matrix, -_turn(self.offset[..., None, :], matrix)[..., 0, :])


def _turn(points: jax.Array, matrix: jax.Array) -> jax.Array:
    """points @ matrix, in full precision: accelerators round what a matmul reads."""
    x, y = points[..., 0, None], points[..., 1, None]
    return x * matrix[..., None, 0, :] + y * matrix[..., None, 1, :]


def similarity(points: jax.Array, target: jax.Array) -> Similarity:
    """The least-squares fit of f[..., N, 2] to f[..., N, 2].

    Points that all coincide are shrunk to the middle of the target.
    """
    middle, target_middle = jnp.mean(points, axis=-2), jnp.mean(target, axis=-2)
    s, d = points - middle[..., None, :], target - target_middle[..., None, :]
    squares = jnp.sum(jnp.square(s), axis=(-1, -2))
    squares = jnp.maximum(squares, 1e-6)
    a = jnp.sum(s * d, axis=(-1, -2)) / squares
    b = jnp.sum(s[..., 0] * d[..., 1] - s[..., 1] * d[..., 0], axis=-1) / squares
    matrix = jnp.stack([jnp.stack([a, b], axis=-1), jnp.stack([-b, a], axis=-1)], axis=-2)
    return Similarity(matrix, target_middle - _turn(middle[..., None, :], matrix)[..., 0, :])


def warp_image(image: jax.Array, transform: Similarity) -> jax.Array:
    """The image under the transform: what was at p is at p A + t, read bilinearly.

    A pixel that comes from outside repeats the edge. As in the sources the edge is one pixel
    early: coordinates are clipped to the size - 2, which leaves each a neighbour to mix with.

    Args:
      image: f[B, H, W, C].
      transform: of B images, float32 whatever the image is.
    """
    height, width = image.shape[1:3]
    back = transform.inverse()
    grid = jnp.stack(jnp.meshgrid(jnp.arange(width), jnp.arange(height)), axis=-1)
    source = back.apply(grid.reshape(1, -1, 2).astype(back.matrix.dtype))
    source = source.reshape(-1, height, width, 2)
    x = jnp.clip(source[..., 0], 0, width - 2)
    y = jnp.clip(source[..., 1], 0, height - 2)
    column, row = x.astype(jnp.int32), y.astype(jnp.int32)
    right, down = (x - column)[..., None], (y - row)[..., None]

    def corners(image: jax.Array, row: jax.Array, column: jax.Array) -> list[jax.Array]:
        return [
            image.at[row + i, column + j].get(mode="promise_in_bounds")
            for i in (0, 1)
            for j in (0, 1)
        ]

    here, beside, below, across = jax.vmap(corners)(image, row, column)
    mixed = (1 - down) * ((1 - right) * here + right * beside)
    mixed += down * ((1 - right) * below + right * across)
    return mixed.astype(image.dtype)


def heat_map(landmarks: jax.Array, size: int, patch: int = 16) -> jax.Array:
    """H(q) = max_i 1 / (1 + |q - s_i|) over the landmarks whose patch holds the pixel q, else 0.

    A patch is a square of `patch` pixels that begins patch // 2 before its landmark's integer part
    (-8 to 7 for 16: EmotionalDAN's code; DAN's own ends at 8). Landmarks are first moved so far
    inside that their patch lies in the image. Gradients reach them through the distances, not
    through the choice of pixels.

    Args:
      landmarks: f[B, L, 2], pixels.
      size: side of the image, pixels.
      patch: side of the patch, at most size - 1.

    Returns:
      f[B, size, size].
    """
    half = patch // 2
    points = jnp.clip(jnp.swapaxes(landmarks, 0, 1), half, size - 1 - half)[:, :, None, :]
    pixel = jnp.arange(size, dtype=points.dtype)[None, None, :, None]
    place = pixel - lax.stop_gradient(jnp.trunc(points))
    inside = (place >= -half) & (place < patch - half)
    squares = jnp.where(inside, jnp.square(pixel - points), _FAR)
    nearest = _nearest(squares[..., 1], squares[..., 0])
    # The root's slope at 0 is infinite.
    return jnp.where(nearest < _FAR, 1 / (1 + jnp.sqrt(nearest + 1e-12)), 0)


@jax.custom_vjp
def _nearest(rows: jax.Array, columns: jax.Array) -> jax.Array:
    """min_i of rows[i, b, y] + columns[i, b, x]: f[L, B, H] and f[L, B, W] to f[B, H, W].

    One landmark after another over the whole image: without the scatter that patches would take,
    which TPUs are slow at, and still far below a hundredth of the network's time on a CPU.
    """

    def step(least, landmark):
        return jnp.minimum(least, _sums(landmark)), None

    return lax.scan(step, _sums((rows[0], columns[0])), (rows[1:], columns[1:]))[0]


def _sums(landmark: tuple[jax.Array, jax.Array]) -> jax.Array:
    row, column = landmark
    return row[:, :, None] + column[:, None, :]


def _nearest_forward(rows, columns):
    least = _nearest(rows, columns)
    return least, (rows, columns, least)


def _nearest_backward(kept, slope):
    rows, columns, least = kept
    # The sums may come out a rounding apart from the forward pass's.
    limit = least * (1 + 1e-6)

    def step(left, landmark):
        hit = _sums(landmark) <= limit
        taken = jnp.where(hit, left, 0)
        return left - taken, (jnp.sum(taken, axis=2), jnp.sum(taken, axis=1))

    return lax.scan(step, slope, (rows, columns))[1]


_nearest.defvjp(_nearest_forward, _nearest_backward)
