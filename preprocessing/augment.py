"""Augmented copies of training images, as paper 5 (Attrah 2024) makes them.

Horizontal flip with probability 0.5, then a rotation of up to 36 degrees either way, bilinear, with
the picture reflected at its edges: Keras RandomFlip and RandomRotation(0.1), fill "reflect". The
copy is made before any face is looked for, so its landmarks and scores are those of the turned
face. What a copy looks like follows from its name alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np

from fer_jax.records import Clip
from preprocessing.video import Frame

MAX_DEGREES = 36.0


def make_copies(clip: Clip, count: int) -> Iterator[Clip]:
    """`count` copies of an image clip, named "<clip_id>+aug<k>", k from 1.

    `augmentation` says what is done, e.g. "hflip=1 rotate=-12.50" (degrees counter-clockwise).
    """
    for k in range(1, count + 1):
        clip_id = f"{clip.clip_id}+aug{k}"
        seed = int.from_bytes(hashlib.sha256(clip_id.encode()).digest()[:8], "little")
        rng = np.random.default_rng(seed)
        flip = int(rng.random() < 0.5)
        degrees = rng.uniform(-MAX_DEGREES, MAX_DEGREES)
        yield clip.replace(clip_id=clip_id, augmentation=f"hflip={flip} rotate={degrees:.2f}")


def augment_image(image: np.ndarray, augmentation: str) -> np.ndarray:
    """The image u8[H, W, C] flipped and turned as `augmentation` says, about its centre."""
    import cv2

    settings = dict(item.split("=") for item in augmentation.split())
    if int(settings["hflip"]):
        image = image[:, ::-1]
    height, width = image.shape[:2]
    centre = ((width - 1) / 2, (height - 1) / 2)
    matrix = cv2.getRotationMatrix2D(centre, float(settings["rotate"]), 1.0)
    return cv2.warpAffine(
        np.ascontiguousarray(image),
        matrix,
        (width, height),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )


def augment_frames(frames: Iterable[Frame], augmentation: str) -> Iterator[Frame]:
    """The frames with `augment_image` done to each."""
    for frame in frames:
        yield Frame(frame.index, frame.time_ms, augment_image(frame.image, augmentation))
