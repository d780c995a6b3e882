"""Random changes of training samples, inside the jitted step.

One draw of parameters serves everything that shows a sample's face: its images, its landmarks and
its blendshape scores. What is switched off is not computed.
"""

from __future__ import annotations

from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fer_jax.config import Augment
from fer_jax.data.geometry import blendshape_names

#: The landmark that takes each of the 68 landmarks' place in a mirror, an involution; from
#: EmotionalDAN's DataSetPre.py (docs/reproduction.md 4.4).
MIRROR_68 = (
    16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0,  # jaw
    26, 25, 24, 23, 22, 21, 20, 19, 18, 17,  # brows
    27, 28, 29, 30, 35, 34, 33, 32, 31,  # nose
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,  # eyes
    54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65,  # mouth
)  # fmt: skip

#: What the draws fold into a key, so that they share no random number with a network's dropout.
_DRAW, _MIXUP = 0x64726177, 0x6D697875
#: Zhong et al. 2020: share of the image that is erased, and height to width of the rectangle.
_ERASE_AREA, _ERASE_ASPECT = (0.02, 0.4), (0.3, 1 / 0.3)


class Draw(NamedTuple):
    """What is done to each frame of B samples; T' is 1 where one draw serves all frames. A pytree.

    Whatever is not switched on is drawn all the same, and not looked at.

    Attributes:
      flip: bool[B, T'], mirrored.
      linear: f32[B, T', 2, 2], from a pixel's place to where its value comes from, both (x, y)
        relative to the image's centre. The flip is in it.
      shift: f32[B, T', 2], what is added there, as shares of the sides.
      brightness: f32[B, T'], what is added to pixels.
      contrast: f32[B, T'], how much pixels are stretched about their mean.
      erase: f32[B, T', 4], left, top, width and height of what is erased, as shares of the sides;
        width 0 erases nothing.
    """

    flip: jax.Array
    linear: jax.Array
    shift: jax.Array
    brightness: jax.Array
    contrast: jax.Array
    erase: jax.Array


def draw(keys: jax.Array, settings: Augment, frames: int, step_key: jax.Array) -> Draw:
    """Draws the changes of B samples.

    A sample's draw depends on its key alone, or on the step's where `settings.per` is "batch": it
    is the same wherever the sample lies, and switching one change on leaves the others' draws.

    Args:
      keys: one key a sample, [B].
      frames: T; each frame has a draw of its own where `settings.per` is "frame".
      step_key: a key that all samples of a step share.
    """
    count = frames if settings.per == "frame" else 1

    def uniform(key: jax.Array) -> jax.Array:
        return jax.random.uniform(jax.random.fold_in(key, _DRAW), (count, 14))

    if settings.per == "batch":
        shares = jnp.broadcast_to(uniform(step_key)[None], (keys.shape[0], count, 14))
    else:
        shares = jax.vmap(uniform)(keys)
    (flip, turn, shear, zoom_y, zoom_x, shift_y, shift_x, brightness, contrast, erase, area, aspect,
     left, top) = jnp.moveaxis(shares, -1, 0)  # fmt: skip
    flipped = jnp.logical_and(flip < 0.5, settings.flip)
    linear, shift = _affine(
        flipped,
        _either_way(turn, np.deg2rad(settings.rotation_degrees)),
        _either_way(shear, settings.shear),
        1 + _either_way(zoom_y, settings.zoom),
        1 + _either_way(zoom_x, settings.zoom),
        _either_way(shift_y, settings.shift),
        _either_way(shift_x, settings.shift),
    )
    return Draw(
        flip=flipped,
        linear=linear,
        shift=shift,
        brightness=_either_way(brightness, settings.brightness),
        contrast=1 + _either_way(contrast, settings.contrast),
        erase=_rectangle(erase < settings.erase, area, aspect, left, top),
    )


def _either_way(share: jax.Array, most: float) -> jax.Array:
    """Uniform in -most .. most of a uniform in 0 .. 1."""
    return most * (2 * share - 1)


def _affine(
    flip: jax.Array,
    turn: jax.Array,
    shear: jax.Array,
    zoom_y: jax.Array,
    zoom_x: jax.Array,
    shift_y: jax.Array,
    shift_x: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Keras's rotation @ shift @ shear @ zoom, then its flip, as `Draw.linear` and `Draw.shift`.

    (row, column) is [[cos, -sin], [sin, cos]] [[1, -sin s], [0, cos s]] diag(zy, zx), as in the
    Keras of 2017 that paper 3 carries along (later ones read the matrices as (x, y)). It maps
    places to where values come from, so a zoom above 1 shrinks the face.
    """
    cos, sin = jnp.cos(turn), jnp.sin(turn)
    mirror = jnp.where(flip, -1.0, 1.0)
    shear_sin, shear_cos = jnp.sin(shear), jnp.cos(shear)
    yy, yx = cos * zoom_y, (-cos * shear_sin - sin * shear_cos) * zoom_x
    xy, xx = sin * zoom_y, (-sin * shear_sin + cos * shear_cos) * zoom_x
    linear = jnp.stack(
        [jnp.stack([xx * mirror, xy], axis=-1), jnp.stack([yx * mirror, yy], axis=-1)], axis=-2
    )
    shift = jnp.stack([sin * shift_y + cos * shift_x, cos * shift_y - sin * shift_x], axis=-1)
    return linear, shift


def _rectangle(
    erased: jax.Array, area: jax.Array, aspect: jax.Array, left: jax.Array, top: jax.Array
) -> jax.Array:
    """`Draw.erase` of uniform numbers.

    Zhong et al. draw again until the rectangle fits into the image; here the aspect is drawn from
    those that fit.
    """
    least, most = _ERASE_AREA
    area = least + (most - least) * area
    low, high = jnp.maximum(_ERASE_ASPECT[0], area), jnp.minimum(_ERASE_ASPECT[1], 1 / area)
    aspect = low + (high - low) * aspect
    height, width = jnp.sqrt(area * aspect), jnp.sqrt(area / aspect)
    place = (left * (1 - width), top * (1 - height), jnp.where(erased, width, 0), height)
    return jnp.stack(place, axis=-1)


def _warps(settings: Augment) -> bool:
    """Whether pixels come to lie between pixels."""
    return any((settings.rotation_degrees, settings.shear, settings.zoom, settings.shift))


def augment_images(images: jax.Array, draw: Draw, settings: Augment) -> jax.Array:
    """Changes images as drawn: moved, then brightness, contrast and erasing.

    All movements are one bilinear resampling about the image's centre; what comes from outside is
    the nearest pixel of the edge, as in Keras's ImageDataGenerator. A flip alone is exact.

    Args:
      images: f32[B, T, H, W, C], normalised.

    Returns:
      f32[B, T, H, W, C].
    """
    if _warps(settings):
        weighed = partial(_warp_weighed, bool(settings.rotation_degrees))
        images = lax.platform_dependent(images, draw, tpu=weighed, default=_warp)
    elif settings.flip:
        images = jnp.where(_per_image(draw.flip), images[:, :, :, ::-1], images)
    if settings.brightness or settings.contrast:
        offset = _per_image(draw.brightness).astype(images.dtype)
        if settings.contrast:
            factor = _per_image(draw.contrast).astype(images.dtype)
            offset += (1 - factor) * jnp.mean(images, axis=(2, 3), keepdims=True)
            images = images * factor
        images = images + offset
    if settings.erase:
        mean = jnp.mean(images, axis=(2, 3), keepdims=True)
        images = jnp.where(_erased(draw.erase, *images.shape[2:4]), mean, images)
    return images


def _per_image(values: jax.Array) -> jax.Array:
    """[B, T'] -> [B, T', 1, 1, 1]."""
    return values[:, :, None, None, None]


def _warp(images: jax.Array, draw: Draw) -> jax.Array:
    """f32[B, T, H, W, C] resampled: four gathers by flat index, which XLA fuses into one loop."""
    height, width = images.shape[2:4]
    x, y = _sources(draw, height, width)
    # The right and lower neighbour of a pixel exist, so that an image of one pixel has them too.
    column = jnp.minimum(x.astype(jnp.int32), max(width - 2, 0))
    row = jnp.minimum(y.astype(jnp.int32), max(height - 2, 0))
    right, down = int(width > 1), width * int(height > 1)
    index = jnp.broadcast_to(row * width + column, images.shape[:4])
    flat = images.reshape(*images.shape[:2], height * width, -1)

    def take(step: int) -> jax.Array:
        def one(pixels: jax.Array, places: jax.Array) -> jax.Array:
            return pixels.at[places + step].get(mode="promise_in_bounds")

        return jax.vmap(jax.vmap(one))(flat, index)

    across = (x - column)[..., None].astype(images.dtype)
    along = (y - row)[..., None].astype(images.dtype)
    upper = take(0) * (1 - across) + take(right) * across
    lower = take(down) * (1 - across) + take(down + right) * across
    return upper * (1 - along) + lower * along


def _warp_weighed(turns: bool, images: jax.Array, draw: Draw) -> jax.Array:
    """As `_warp`, without a gather, which a TPU does pixel by pixel.

    A value is a sum over rows and columns, each weighed by 1 - its distance from the place, or 0:
    first along the columns of every row that it could lie in, then along these rows. Of one picture
    after another, since the weights of one 224 px wide take 45 MB.

    Args:
      turns: there are rotations: columns then depend on the row of the result too.
    """
    *leading, height, width, channels = images.shape
    numbers = np.arange(width * channels)
    own = numbers % channels == np.arange(channels)[:, None, None, None]

    def weigh(places: jax.Array, of: np.ndarray) -> jax.Array:
        """f32[Y, X] -> f32[1, Y, X, len(of)]."""
        away = places[None, :, :, None] - of.astype(np.float32)[None, None, None, :]
        return jnp.maximum(0, 1 - jnp.abs(away))

    def one(picture: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        pixels, linear, shift = picture
        x, y = _sources(draw._replace(linear=linear, shift=shift), height, width)
        columns = jnp.where(own, weigh(x if turns else x[:1], numbers // channels), 0)
        # f32[C, Y or 1, X, rows of the picture], then f32[C, Y, X].
        lines = pixels.reshape(1, 1, 1, height, -1) * columns[:, :, :, None, :]
        return jnp.sum(jnp.sum(lines, axis=-1) * weigh(y, np.arange(height)), axis=-1)

    def each(values: jax.Array) -> jax.Array:
        whole = jnp.broadcast_to(values, (*leading, *values.shape[2:]))
        return whole.reshape(-1, *values.shape[2:])

    pixels = images.reshape(-1, height * width * channels)
    found = lax.map(one, (pixels, each(draw.linear), each(draw.shift)))
    return jnp.moveaxis(found, 1, -1).reshape(images.shape).astype(images.dtype)


def _sources(draw: Draw, height: int, width: int) -> tuple[jax.Array, jax.Array]:
    """f32[..., H, W] x and y that each pixel's value comes from, inside the image."""
    ones = (1,) * (draw.shift.ndim - 1)
    x = (jnp.arange(width, dtype=jnp.float32) - (width - 1) / 2).reshape(*ones, 1, width)
    y = (jnp.arange(height, dtype=jnp.float32) - (height - 1) / 2).reshape(*ones, height, 1)

    def source(axis: int, side: int) -> jax.Array:
        # Products and sums, since a matmul may round its input.
        along_x, along_y = (draw.linear[..., axis, i, None, None] for i in (0, 1))
        shift = draw.shift[..., axis, None, None]
        found = along_x * x + along_y * y + shift * side + (side - 1) / 2
        return jnp.clip(found, 0, side - 1)

    return source(0, width), source(1, height)


def _erased(box: jax.Array, height: int, width: int) -> jax.Array:
    """bool[B, T', H, W, 1], True for pixels whose centre lies in the rectangle."""

    def inside(start: jax.Array, length: jax.Array, side: int) -> jax.Array:
        centre = ((jnp.arange(side) + 0.5) / side)[None, None, :]
        start, length = start[..., None], length[..., None]
        return (centre >= start) & (centre < start + length)

    columns = inside(box[..., 0], box[..., 2], width)[:, :, None, :, None]
    return columns & inside(box[..., 1], box[..., 3], height)[:, :, :, None, None]


def augment_points(points: jax.Array, side: int, draw: Draw, settings: Augment) -> jax.Array:
    """Moves landmarks with the pixels that `augment_images` moves; mirrored ones change names.

    Args:
      points: f32[B, T, 68, 2], x and y in pixels, whose centres are whole numbers. Zeros of padded
        frames move too.
      side: of the square image that the points lie in.

    Returns:
      f32[B, T, 68, 2].
    """
    if settings.flip:
        mirrored = jnp.take(points, np.asarray(MIRROR_68, np.int32), axis=-2, mode="clip")
        points = jnp.where(draw.flip[:, :, None, None], mirrored, points)
    if not _warps(settings):
        if not settings.flip:
            return points
        x = jnp.where(draw.flip[:, :, None], side - 1 - points[..., 0], points[..., 0])
        return jnp.stack([x, points[..., 1]], axis=-1)
    centre = (side - 1) / 2
    away = points - centre - (draw.shift * side)[:, :, None, :]
    linear = draw.linear[:, :, None]
    (xx, xy), (yx, yy) = ([linear[..., i, j] for j in (0, 1)] for i in (0, 1))
    determinant = xx * yy - xy * yx
    x = (yy * away[..., 0] - xy * away[..., 1]) / determinant
    y = (xx * away[..., 1] - yx * away[..., 0]) / determinant
    return jnp.stack([x, y], axis=-1) + centre


def augment_blendshapes(scores: jax.Array, draw: Draw, settings: Augment) -> jax.Array:
    """Scores f32[B, T, 52] of flipped faces: left and right change places, nothing else."""
    if not settings.flip:
        return scores
    mirrored = jnp.take(scores, mirrored_blendshapes(), axis=-1, mode="clip")
    return jnp.where(draw.flip[:, :, None], mirrored, scores)


@cache
def mirrored_blendshapes() -> np.ndarray:
    """i32[52], the score that takes each score's place in a mirror, an involution."""
    names = blendshape_names()
    other = {"Left": "Right", "Right": "Left"}

    def twin(name: str) -> str:
        for side in other:
            if name.endswith(side):
                return name.removesuffix(side) + other[side]
        return name

    return np.asarray([names.index(twin(name)) for name in names], np.int32)


def mixup_share(keys: jax.Array, alpha: float) -> jax.Array:
    """The share of each sample that stays in mixup, Beta(alpha, alpha) (Zhang et al. 2018).

    Args:
      keys: one key a sample, [B].
      alpha: above 0.

    Returns:
      f32[B] in 0 .. 1.
    """

    def one(key: jax.Array) -> jax.Array:
        return jax.random.beta(jax.random.fold_in(key, _MIXUP), alpha, alpha, dtype=jnp.float32)

    return jax.vmap(one)(keys)


def mix(a: jax.Array, b: jax.Array, share: jax.Array) -> jax.Array:
    """share a + (1 - share) b.

    Args:
      a, b: [B, ...], values or one-hot labels.
      share: f32[B], of a.

    Returns:
      [B, ...].
    """
    part = share.reshape(-1, *(1,) * (a.ndim - 1)).astype(a.dtype)
    return part * a + (1 - part) * b
