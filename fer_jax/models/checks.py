"""What networks ask of their input, as one clear line when it is not there."""

from __future__ import annotations

from fer_jax.errors import UserError
from fer_jax.models.model import Inputs


def need_features(name: str, inputs: Inputs) -> int:
    """F, the width of the feature vectors.

    Raises:
      UserError: there are none, or images that would not be looked at.
    """
    if inputs.images:
        raise UserError(f"model {name} reads feature vectors alone: set data.images=[]")
    if not inputs.features:
        raise UserError(f"model {name} reads feature vectors: set data.features (not none)")
    return inputs.features


def need_images(
    name: str, inputs: Inputs, streams: int = 1, *, features: bool = False
) -> tuple[int, int, int]:
    """H, W, C of the images, of which there must be between one and `streams` streams.

    Args:
      features: the network reads feature vectors too, where there are any.

    Raises:
      UserError: there are no images or more streams, or features that would not be looked at.
    """
    if inputs.features and not features:
        raise UserError(f"model {name} reads images alone: set data.features=none")
    if not inputs.images:
        raise UserError(f"model {name} reads images: set data.images=crops (or frontal)")
    if len(inputs.images) > streams:
        raise UserError(
            f"model {name} reads {streams} image stream(s), not {len(inputs.images)} "
            f"({', '.join(inputs.images)}): change data.images"
        )
    return inputs.image_shape


def need_one_frame(name: str, inputs: Inputs) -> None:
    """Raises:
    UserError: samples are sequences.
    """
    if inputs.frames != 1:
        raise UserError(
            f"model {name} reads one frame a sample, not {inputs.frames}: set data.length=frames"
        )


def need_size(name: str, inputs: Inputs, least: int) -> None:
    """Raises:
    UserError: the images are smaller than the network can halve them.
    """
    side = min(inputs.image_shape[:2])
    if side < least:
        raise UserError(
            f"model {name} needs images of at least {least} pixels, not {side}: set "
            f"data.image_size={least}"
        )
