"""Pictures of faces as a network's input: decoded on the host, prepared and scaled in the step."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax.config import Data
from fer_jax.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from fer_jax.data.frames import Frames

#: Red, green and blue in a gray value (ITU-R BT.601), as OpenCV and Pillow convert.
_LUMA = (0.299, 0.587, 0.114)
#: torchvision's mean and standard deviation of ImageNet, RGB of 0-1.
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: VGG-Face's mean colour, BGR of 0-255 (docs/reproduction.md 3.1).
_VGG_FACE_MEAN = (93.5940, 104.7624, 129.1863)
#: Images that a thread decodes before it asks for more.
_DECODED_AT_ONCE = 64
#: Numbers in a chunk of prepared images for the statistics: 64 MB of float32.
_CHUNK_NUMBERS = 2**24
#: A deviation below this is rounding: a 0-1 pixel of a million images that changes once has more.
_LEAST_STD = 1e-6


class ImageStatistics(NamedTuple):
    """Mean f32[S, S, C] and standard deviation f32[S, S, C] of a stream's 0-1 training images."""

    mean: jax.Array | np.ndarray
    std: jax.Array | np.ndarray


def decode(images: Sequence[bytes], shape: tuple[int, int, int]) -> np.ndarray:
    """Decodes PNG or JPEG images of one size, in threads.

    Args:
      images: M encoded images.
      shape: H, W, C; colours become gray where C is 1, gray becomes RGB where it is 3.

    Returns:
      u8[M, H, W, C].

    Raises:
      UserError: an image is damaged or of another size; it is named by its place in `images`.
    """
    pixels = np.empty((len(images), *shape), np.uint8)
    starts = range(0, len(images), _DECODED_AT_ONCE)

    def decode_some(start: int) -> None:
        for i in range(start, min(start + _DECODED_AT_ONCE, len(images))):
            pixels[i] = decode_one(images[i], shape, f"image {i}")

    if len(starts) <= 1:
        for start in starts:
            decode_some(start)
        return pixels
    with ThreadPoolExecutor(min(len(starts), os.cpu_count() or 1)) as pool:
        for _ in pool.map(decode_some, starts):  # Raises what the first of them raised.
            pass
    return pixels


def stored_shape(encoded: bytes) -> tuple[int, int, int]:
    """H, W, C of an encoded image, from its header; C is 1 for gray, 3 for all else.

    Raises:
      UserError: it is damaged.
    """
    with _opened(encoded, "an image") as image:
        return image.height, image.width, 1 if image.mode == "L" else 3


def decode_one(encoded: bytes, shape: tuple[int, int, int], name: str) -> np.ndarray:
    """One image of `decode`, which messages call `name`."""
    height, width, channels = shape
    with _opened(encoded, name) as image:
        if image.size != (width, height):
            raise UserError(
                f"{name} is {image.width}x{image.height} pixels, the records say "
                f"{width}x{height}: preprocess again"
            )
        # Scaling what 8 bits cannot hold would be a guess.
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"{image.mode} pixels, not 8-bit")
        return np.asarray(image.convert("L" if channels == 1 else "RGB")).reshape(shape)


@contextmanager
def _opened(encoded: bytes, name: str) -> Iterator[Image.Image]:
    """A PNG or JPEG; what is wrong with it is a UserError that calls it `name`."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(encoded), formats=("PNG", "JPEG")) as image:
            yield image
    except UserError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        # Pillow names its own buffer in some messages: that is no help.
        reason = "not a PNG or JPEG" if "cannot identify" in str(error) else error
        raise UserError(
            f"{name} is damaged ({reason}): check the records with `fer-jax inspect DIR --check`"
        ) from error


def prepare(images: jax.Array | np.ndarray, data: Data) -> jax.Array:
    """Images as `data.image_color` and `data.image_size` want them. For jit.

    Pixel centres keep their share of the side, x' = (x + 0.5) S' / S - 0.5: enlarging is OpenCV's
    INTER_LINEAR, shrinking averages over the pixels that fall together, as Pillow's BILINEAR.

    Args:
      images: u8[..., H, W, C], C of 1 or 3 (RGB).

    Returns:
      f32[..., S, S, C'] of 0-1; H and W stay where `data.image_size` is 0.
    """
    return _prepare(images, data.image_size, data.image_color)


def _prepare(images: jax.Array | np.ndarray, size: int, color: str) -> jax.Array:
    *leading, height, width, channels = images.shape
    values = jnp.asarray(images).astype(jnp.float32) / 255
    if color == "gray" and channels == 3:
        # Written out: a matmul may round its input, a sum along three numbers is slow on a CPU.
        red, green, blue = (share * values[..., i : i + 1] for i, share in enumerate(_LUMA))
        values = red + green + blue
    if size and (height, width) != (size, size):
        shape = (*leading, size, size, values.shape[-1])
        values = jax.image.resize(values, shape, "linear", antialias=True)
    if color == "rgb" and channels == 1:
        values = jnp.repeat(values, 3, axis=-1)
    return values


def normalise(
    images: jax.Array,
    data: Data,
    mean: jax.Array | np.ndarray | None = None,
    std: jax.Array | np.ndarray | None = None,
) -> jax.Array:
    """What `data.pixels` makes of 0-1 images. For jit.

    Args:
      images: f32[..., S, S, C] of `prepare`.
      mean, std: f32[S, S, C] of `fit_image_statistics`, which "standard" needs.

    Returns:
      f32[..., S, S, C]: "0-1" as it is; "-1-1" 2x - 1 (Keras's Xception and Inception-V3); "1/224"
      255x / 224 (paper 3); "standard" (x - mean) / std (paper 4); "imagenet" torchvision's, RGB;
      "vgg-face" 255x in BGR minus VGG-Face's mean.

    Raises:
      UserError: gray images with the statistics of colours.
    """
    if data.pixels in ("imagenet", "vgg-face") and images.shape[-1] != 3:
        raise UserError(f"data.pixels={data.pixels} is for colours: set data.image_color=rgb")
    if data.pixels == "-1-1":
        return 2 * images - 1
    if data.pixels == "1/224":
        return images * (255 / 224)
    if data.pixels == "imagenet":
        std_, mean_ = _per_channel(_IMAGENET_STD, images), _per_channel(_IMAGENET_MEAN, images)
        return (images - mean_) / std_
    if data.pixels == "vgg-face":
        return 255 * images[..., ::-1] - _per_channel(_VGG_FACE_MEAN, images)
    if data.pixels == "standard":
        if mean is None or std is None:
            raise ValueError("data.pixels=standard needs the training images' statistics")
        shape = (1,) * (images.ndim - 3) + images.shape[-3:]
        return (images - jnp.reshape(mean, shape)) / jnp.reshape(std, shape)
    return images


def _per_channel(values: tuple[float, ...], images: jax.Array) -> jax.Array:
    return jnp.asarray(values, images.dtype).reshape((1,) * (images.ndim - 1) + (-1,))


def fit_image_statistics(
    images: np.ndarray | Frames, data: Data, used: np.ndarray | None = None
) -> ImageStatistics:
    """Mean and standard deviation of every pixel over the training images (paper 4).

    Images are prepared in chunks on the device and merged by Chan's method in float64. Values are
    taken relative to the first image, which keeps float32 sums exact enough. A pixel that never
    changes gets standard deviation 1, as in scikit-learn.

    Args:
      images: u8[M, H, W, C].
      used: i[n], the training frames, each once; all of them by default.

    Raises:
      ValueError: there is no image.
    """
    used = np.arange(len(images)) if used is None else used
    if not len(used):
        raise ValueError("no image to take statistics of")
    size, color = data.image_size, data.image_color
    first = _prepare(images[used[:1]], size, color)
    rows = min(len(used), max(1, _CHUNK_NUMBERS // first.size))
    count, mean, squares = 0, np.zeros(first.shape[1:]), np.zeros(first.shape[1:])
    for start in range(0, len(used), rows):
        chunk = images[used[start : start + rows]]
        here = len(chunk)
        if here < rows:  # One shape, so that it compiles once.
            chunk = np.concatenate(
                [chunk, np.broadcast_to(chunk[:1], (rows - here, *chunk.shape[1:]))]
            )
        moments = _chunk_moments(chunk, np.arange(rows) < here, first, size, color)
        chunk_mean, chunk_squares = (np.asarray(m, np.float64) for m in moments)
        delta, total = chunk_mean - mean, count + here
        squares += chunk_squares + delta * delta * (count * here / total)
        mean += delta * (here / total)
        count = total
    std = np.sqrt(squares / count)
    std[std < _LEAST_STD] = 1
    return ImageStatistics(
        (mean + np.asarray(first[0], np.float64)).astype(np.float32), std.astype(np.float32)
    )


@partial(jax.jit, static_argnums=(3, 4))
def _chunk_moments(
    images: jax.Array, real: jax.Array, origin: jax.Array, size: int, color: str
) -> tuple[jax.Array, jax.Array]:
    """Mean f32[S, S, C] and sum of squared deviations of the real images, relative to `origin`."""
    mask = real.reshape(-1, 1, 1, 1)
    values = jnp.where(mask, _prepare(images, size, color) - origin, 0)
    mean = jnp.sum(values, axis=0, keepdims=True) / jnp.sum(real)
    return mean[0], jnp.sum(jnp.where(mask, jnp.square(values - mean), 0), axis=0)
