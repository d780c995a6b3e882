"""Augmented copies against Keras's own layers."""

from __future__ import annotations

import re

import numpy as np
import pytest

from fer_jax.records import Clip
from preprocessing.augment import augment_image, make_copies


@pytest.fixture(scope="module")
def smooth():
    y, x = np.mgrid[:48, :48] / 47
    image = np.stack([255 * x, 255 * y, 127 + 120 * np.sin(7 * x) * np.cos(5 * y)], -1)
    return np.round(image).astype(np.uint8)


@pytest.mark.parametrize("flip", [0, 1])
@pytest.mark.parametrize("degrees", [-36.0, -12.5, 0.0, 7.25, 36.0])
def test_equals_keras(smooth, flip, degrees):
    import keras

    turned = augment_image(smooth, f"hflip={flip} rotate={degrees:.2f}")
    # What RandomRotation does with its angle, about the centre of the picture.
    angle = np.deg2rad(degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    centre = 47 / 2
    dx = centre - (cos * centre - sin * centre)
    dy = centre - (sin * centre + cos * centre)
    image = smooth[:, ::-1] if flip else smooth
    want = keras.ops.image.affine_transform(
        image.astype(np.float32),
        np.array([cos, -sin, dx, sin, cos, dy, 0, 0], np.float32),
        interpolation="bilinear",
        fill_mode="reflect",
    )
    difference = np.abs(turned.astype(float) - np.asarray(want))
    # OpenCV samples at 1/32 of a pixel and rounds to whole levels.
    assert difference.mean() < 0.5 and difference.max() < 4


def test_copies_follow_from_the_name_and_cover_the_range():
    clips = [Clip(clip_id=f"fer2013/fer{n:07d}", corpus="fer2013") for n in range(1000)]
    copies = [copy for clip in clips for copy in make_copies(clip, 2)]
    again = [copy for clip in clips for copy in make_copies(clip, 2)]
    assert [c.augmentation for c in copies] == [c.augmentation for c in again]
    assert len({copy.augmentation for copy in copies}) > 1800
    matches = [re.fullmatch(r"hflip=([01]) rotate=(-?\d+\.\d\d)", c.augmentation) for c in copies]
    flips = np.array([int(m[1]) for m in matches])
    degrees = np.array([float(m[2]) for m in matches])
    assert 0.45 < flips.mean() < 0.55
    assert -36 <= degrees.min() < -35 and 35 < degrees.max() <= 36
    assert abs(degrees.mean()) < 2 and abs(degrees.std() - 72 / 12**0.5) < 1
