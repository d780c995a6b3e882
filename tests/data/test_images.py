import io

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from fer_jax.config import Data
from fer_jax.data import images
from fer_jax.errors import UserError


def picture(height, width, channels, seed=0):
    """u8[H, W, C]: smooth, so that JPEG keeps it, with some noise."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (5, 5, channels), np.uint8)
    large = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    noise = rng.integers(0, 6, (height, width, channels))
    return np.clip(large.reshape(height, width, channels) + noise, 0, 255).astype(np.uint8)


def encode(pixels, form="PNG"):
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, form)
    return file.getvalue()


@pytest.mark.parametrize("channels", [1, 3])
def test_pngs_come_back_as_they_were_in_their_order(channels):
    wanted = np.stack([picture(12, 10, channels, seed) for seed in range(150)])
    found = images.decode([encode(pixels) for pixels in wanted], (12, 10, channels))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, wanted)


def test_jpegs_are_what_opencv_reads():
    encoded = [encode(picture(24, 32, 3, seed), "JPEG") for seed in range(3)]
    found = images.decode(encoded, (24, 32, 3))
    for image, file in zip(found, encoded, strict=True):
        bgr = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)
        assert np.abs(image.astype(int) - bgr[..., ::-1]).max() <= 2


def test_decoding_changes_colours_as_the_shape_says():
    color, gray = picture(8, 8, 3), picture(8, 8, 1)
    luma = images.decode([encode(color)], (8, 8, 1))[0, ..., 0]
    assert np.abs(luma - color @ np.float64([0.299, 0.587, 0.114])).max() <= 0.51
    repeated = images.decode([encode(gray)], (8, 8, 3))[0]
    np.testing.assert_array_equal(repeated, np.repeat(gray, 3, axis=-1))
    assert images.decode([], (8, 8, 3)).shape == (0, 8, 8, 3)


def broken(kind):
    good = encode(picture(16, 16, 3), "JPEG" if "jpeg" in kind else "PNG")
    return {
        "text": b"no picture",
        "nothing": b"",
        "half a png": good[: len(good) // 2],
        "half a jpeg": good[: len(good) // 2],
        "a flipped bit": good[:60] + bytes([good[60] ^ 64]) + good[61:],
        "16 bits": encode(np.full((16, 16), 40_000, np.uint16)),
        "another format": encode(picture(16, 16, 3), "BMP"),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    ["text", "nothing", "half a png", "half a jpeg", "a flipped bit", "16 bits", "another format"],
)
def test_a_damaged_image_is_named(kind):
    encoded = [encode(picture(16, 16, 3))] * 100 + [broken(kind)]
    with pytest.raises(UserError, match=r"^image 100 is damaged \(.+\): check the records with "):
        images.decode(encoded, (16, 16, 3))


def test_an_image_of_another_size_is_named():
    encoded = [encode(picture(16, 16, 3)), encode(picture(12, 16, 3))]
    with pytest.raises(UserError, match=r"^image 1 is 16x12 pixels, the records say 16x16: "):
        images.decode(encoded, (16, 16, 3))


def test_images_as_stored_are_divided_by_255():
    stored = np.stack([picture(6, 9, 3, seed) for seed in range(4)]).reshape(2, 2, 6, 9, 3)
    found = images.prepare(stored, Data())
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, stored / 255.0, rtol=1e-6)


def test_gray_is_luma():
    stored = picture(20, 20, 3)[None, None]
    found = np.asarray(images.prepare(stored, Data(image_color="gray")))
    assert found.shape == (1, 1, 20, 20, 1)
    wanted = stored @ np.float64([0.299, 0.587, 0.114]) / 255
    np.testing.assert_allclose(found[..., 0], wanted, rtol=1e-6)
    # Pillow and OpenCV round to 8 bits.
    for other in (
        np.asarray(Image.fromarray(stored[0, 0]).convert("L")),
        cv2.cvtColor(stored[0, 0], cv2.COLOR_RGB2GRAY),
    ):
        assert np.abs(found[0, 0, ..., 0] * 255 - other).max() < 0.51


def test_gray_becomes_rgb_by_repetition():
    stored = picture(8, 8, 1)[None, None]
    found = np.asarray(images.prepare(stored, Data(image_size=12)))
    assert found.shape == (1, 1, 12, 12, 3)
    np.testing.assert_array_equal(found, np.repeat(found[..., :1], 3, axis=-1))
    kept = images.prepare(stored, Data(image_color="gray"))
    np.testing.assert_allclose(kept, stored / 255.0, rtol=1e-6)


@pytest.mark.parametrize("size", [32, 71])
def test_enlarging_is_opencvs(size):
    """cv2.resize INTER_LINEAR: pixel centres at (x + 0.5) S' / S - 0.5."""
    stored = picture(32, 24, 3)
    found = jax.jit(lambda x: images.prepare(x, Data(image_size=size)))(stored[None, None])
    wanted = cv2.resize(stored / np.float32(255), (size, size), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(found[0, 0], wanted, atol=2e-6)


@pytest.mark.parametrize("size", [24, 17, 7])
def test_shrinking_is_pillows(size):
    stored = picture(48, 40, 3)
    found = images.prepare(stored[None, None], Data(image_size=size))
    for channel in range(3):
        plane = Image.fromarray(stored[..., channel] / np.float32(255))
        wanted = np.asarray(plane.resize((size, size), Image.Resampling.BILINEAR))
        np.testing.assert_allclose(found[0, 0, ..., channel], wanted, atol=2e-6)


@pytest.fixture(scope="module")
def unit():
    """f32[2, 3, 5, 5, 3] of 0-1."""
    return np.random.default_rng(2).uniform(size=(2, 3, 5, 5, 3)).astype(np.float32)


@pytest.mark.parametrize(("pixels", "mode"), [("-1-1", "tf"), ("imagenet", "torch")])
def test_pixels_are_scaled_as_keras_scales_them(unit, pixels, mode):
    from keras.applications import imagenet_utils

    found = images.normalise(unit, Data(pixels=pixels))
    wanted = imagenet_utils.preprocess_input(unit * 255, data_format="channels_last", mode=mode)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_pixels_of_paper_3_and_vgg_face(unit):
    np.testing.assert_array_equal(images.normalise(unit, Data()), unit)
    found = images.normalise(unit, Data(pixels="1/224"))
    np.testing.assert_allclose(found, unit * 255.0 / 224, rtol=1e-6)
    found = np.asarray(images.normalise(unit, Data(pixels="vgg-face")))
    red, green, blue = np.moveaxis(unit * np.float64(255), -1, 0)
    for channel, wanted in enumerate((blue - 93.5940, green - 104.7624, red - 129.1863)):
        np.testing.assert_allclose(found[..., channel], wanted, atol=3e-5)


def test_standard_is_by_pixel(unit):
    rng = np.random.default_rng(3)
    mean, std = rng.uniform(size=(5, 5, 3)), rng.uniform(0.1, 1, (5, 5, 3))
    scale = jax.jit(lambda *x: images.normalise(x[0], Data(pixels="standard"), *x[1:]))
    np.testing.assert_allclose(scale(unit, mean, std), (unit - mean) / std, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="statistics"):
        images.normalise(unit, Data(pixels="standard"))


@pytest.mark.parametrize("pixels", ["imagenet", "vgg-face"])
def test_gray_has_no_statistics_of_colours(unit, pixels):
    with pytest.raises(UserError, match=f"{pixels} is for colours: set data.image_color=rgb"):
        images.normalise(unit[..., :1], Data(pixels=pixels, image_color="gray"))


@pytest.mark.parametrize(("color", "channels"), [("rgb", 3), ("gray", 1)])
@pytest.mark.parametrize("numbers", [2**24, 250])
def test_statistics_are_those_of_scikit_learn(monkeypatch, color, channels, numbers):
    """In one chunk, and in many of which the last is not full."""
    from sklearn.preprocessing import StandardScaler

    monkeypatch.setattr(images, "_CHUNK_NUMBERS", numbers)
    rng = np.random.default_rng(4)
    stored = rng.integers(0, 256, (23, 4, 4, 3), np.uint8)
    stored[:, 1, 2] = 77  # Never changes.
    stored[:, 3, 3] = 200 + (np.arange(23) == 5)[:, None]  # Hardly ever.
    found = images.fit_image_statistics(stored, Data(image_color=color))
    assert found.mean.dtype == found.std.dtype == np.float32
    assert found.mean.shape == found.std.shape == (4, 4, channels)
    values = stored / 255.0
    if color == "gray":
        values = values @ np.array([[0.299], [0.587], [0.114]])
    wanted = StandardScaler().fit(values.reshape(23, -1))
    np.testing.assert_allclose(found.mean.ravel(), wanted.mean_, rtol=1e-6)
    np.testing.assert_allclose(found.std.ravel(), wanted.scale_, rtol=1e-5)
    assert (found.std[1, 2] == 1).all() and (found.std[3, 3] < 0.001).all()


def test_statistics_are_of_images_as_the_model_sees_them():
    stored = np.stack([picture(12, 12, 1, seed) for seed in range(9)])
    data = Data(image_size=8)
    found = images.fit_image_statistics(stored, data)
    seen = np.asarray(images.prepare(stored, data), np.float64)
    np.testing.assert_allclose(found.mean, seen.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.std, seen.std(0), rtol=1e-5)
    one = images.fit_image_statistics(stored[:1], data)
    np.testing.assert_array_equal(one.std, 1)
    with pytest.raises(ValueError, match="no image"):
        images.fit_image_statistics(stored[:0], data)
