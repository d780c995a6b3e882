"""The shape of a network's input, from the config and the records."""

from __future__ import annotations

from collections.abc import Mapping

from fer_jax import models
from fer_jax.config import Data
from fer_jax.data import geometry, sequences
from fer_jax.errors import UserError

CHANNELS = {"gray": 1, "rgb": 3}


def inputs_of(
    data: Data, image_shapes: Mapping[str, tuple[int, ...]] | None = None
) -> models.Inputs:
    """What a network of this config reads.

    Args:
      image_shapes: H, W, C of the stored images by stream, where the config takes them as they are.

    Raises:
      UserError: the config reads nothing, wants principal components of nothing, asks for landmarks
        without the image they lie in, names a stream twice, or its images have no size.
    """
    if data.features == "none" and not data.images:
        raise UserError("the model would see nothing: set data.features or data.images")
    if len(set(data.images)) < len(data.images):
        raise UserError(f"data.images names a stream twice: {', '.join(data.images)}")
    if data.pca and data.features == "none":
        raise UserError("data.pca projects feature vectors: set data.features")
    if data.landmarks and "crops" not in data.images:
        raise UserError("data.landmarks are in pixels of the crop: set data.images=crops")
    side = data.image_size
    if data.images and not side:
        shape = (image_shapes or {}).get(data.images[0])
        if shape is None:
            raise UserError("data.image_size is 0, as stored: set the side of the images")
        side = shape[0]
        if any((image_shapes or {})[name][0] != side for name in data.images):
            raise UserError(
                f"{' and '.join(data.images)} are stored in different sizes: set data.image_size"
            )
    channels = CHANNELS[data.image_color]
    return models.Inputs(
        frames=sequences.sample_length(data.length, data.frames),
        features=data.pca or geometry.dimension(data.features),
        images=data.images,
        image_shape=(side, side, channels) if data.images else (0, 0, 0),
        landmarks=data.landmarks,
    )
