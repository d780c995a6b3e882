"""Crop geometry on pictures whose eyes are known, and the encodings."""

import io

import numpy as np
import pytest
from PIL import Image

from preprocessing.crops import (
    EYE_DISTANCE,
    EYE_ROW,
    EYES_68,
    EYES_478,
    aligned_crop,
    crop_matrix,
    encode_crop,
    eye_centres,
    whole_crop,
    whole_matrix,
)


def landmarks_of(eyes, count=68):
    """Landmarks whose eye rings have these centres."""
    points = np.zeros((count, 2 if count == 68 else 3), np.float32)
    ring = np.array([[-4, 0], [-2, -2], [2, -2], [4, 0], [2, 2], [-2, 2]], np.float32)
    for centre, indices in zip(eyes, EYES_68 if count == 68 else EYES_478, strict=True):
        points[list(indices), :2] = centre + ring
    return points


def blob_centres(image):
    """Weighted centres (x, y) of what is red and of what is green."""
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.array(
        [
            [(columns * w).sum() / w.sum(), (rows * w).sum() / w.sum()]
            for w in (image[..., 0].astype(float), image[..., 1].astype(float))
        ]
    )


@pytest.mark.parametrize("count", [68, 478])
@pytest.mark.parametrize("degrees", [0, 20, -35, 90])
@pytest.mark.parametrize("distance", [12.0, 36.0, 150.0, 420.0])
def test_eyes_land_where_they_should(degrees, distance, count):
    rows, columns = np.mgrid[:900, :900]
    angle, middle = np.radians(degrees), np.array([430.0, 470.0])
    half = distance / 2 * np.array([np.cos(angle), np.sin(angle)])
    eyes = np.stack([middle - half, middle + half])
    image = np.zeros((900, 900, 3), np.uint8)
    for channel, (x, y) in enumerate(eyes):
        spot = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * (distance / 14) ** 2))
        image[..., channel] = np.round(255 * spot)
    for size in (48, 112, 224):
        matrix = crop_matrix(eye_centres(landmarks_of(eyes, count)), size)
        crop = aligned_crop(image, matrix, size)
        assert crop.shape == (size, size, 3)
        half = EYE_DISTANCE * size / 2
        want = [
            [(size - 1) / 2 - half, EYE_ROW * size],
            [(size - 1) / 2 + half, EYE_ROW * size],
        ]
        np.testing.assert_allclose(blob_centres(crop), want, atol=0.25)


def test_the_transform_is_a_similarity():
    matrix = crop_matrix(np.array([[10.0, 40.0], [70.0, 90.0]]), 112)
    linear = matrix[:, :2]
    scale = EYE_DISTANCE * 112 / np.hypot(60, 50)
    np.testing.assert_allclose(linear @ linear.T, scale**2 * np.eye(2), atol=1e-9)
    assert np.linalg.det(linear) > 0


def test_shrinking_does_not_alias():
    """One-pixel stripes average to grey; sampled points of them would be black and white."""
    image = np.zeros((1200, 1200, 3), np.uint8)
    image[:, ::2] = 255
    crop = aligned_crop(image, crop_matrix(np.array([[400.0, 500.0], [800.0, 500.0]]), 48), 48)
    assert np.abs(crop[:40].astype(int) - 127).max() < 30


def test_outside_the_picture_is_black():
    image = np.full((100, 100, 3), 200, np.uint8)
    crop = aligned_crop(image, crop_matrix(np.array([[5.0, 10.0], [35.0, 10.0]]), 64), 64)
    assert crop[0].max() == 0 and crop[40, 32].min() == 200


def test_coinciding_eyes():
    with pytest.raises(ValueError, match="coincide"):
        crop_matrix(np.zeros((2, 2)), 112)


def test_eye_centres_agree_between_the_landmark_sets():
    eyes = np.array([[10.0, 20.0], [50.0, 25.0]], np.float32)
    for count in (68, 478):
        np.testing.assert_allclose(eye_centres(landmarks_of(eyes, count)), eyes, atol=1e-5)


def test_png_is_exact():
    crop = np.random.default_rng(0).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    data = encode_crop(crop, "rgb", "png", 95)
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(data))), crop)
    grey = np.repeat(crop[..., :1], 3, 2)
    image = Image.open(io.BytesIO(encode_crop(grey, "gray", "png", 95)))
    assert image.mode == "L"
    np.testing.assert_array_equal(np.array(image), crop[..., 0])


def test_jpeg_is_close_and_smaller_at_less_quality():
    rows, columns = np.mgrid[:112, :112]
    crop = np.stack([rows * 2, columns * 2, rows + columns], -1).astype(np.uint8)
    fine, coarse = (encode_crop(crop, "rgb", "jpeg", quality) for quality in (95, 20))
    image = Image.open(io.BytesIO(fine))
    assert image.format == "JPEG" and image.mode == "RGB" and len(coarse) < len(fine)
    assert np.abs(np.array(image).astype(int) - crop).mean() < 3


def test_whole_crop():
    image = np.random.default_rng(0).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    assert whole_crop(image, 48) is image
    halved = whole_crop(image, 24)
    blocks = image.reshape(24, 2, 24, 2, 3).mean((1, 3))
    assert np.abs(halved - blocks).max() <= 0.5
    assert whole_crop(image[:30], 112).shape == (112, 112, 3)


@pytest.mark.parametrize("size", [48, 60, 120, 224])
def test_the_matrix_of_a_whole_picture_says_where_its_points_go(size):
    rows, columns = np.mgrid[:120, :160]
    places = np.array([[30.0, 25.0], [118.0, 90.0]])
    image = np.zeros((120, 160, 3), np.uint8)
    for channel, (x, y) in enumerate(places):
        spot = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 5.0**2))
        image[..., channel] = np.round(255 * spot)
    matrix = whole_matrix(160, 120, size)
    want = places @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(blob_centres(whole_crop(image, size)), want, atol=0.05)
