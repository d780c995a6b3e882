"""Aligned face crops: eyes level, at fixed places, in a chosen size and colour.

Geometry of a crop of side S (pixel centres at whole numbers, as OpenCV and dlib count): the
centres of the two eyes lie on the row `EYE_ROW` * S, `EYE_DISTANCE` * S apart, symmetric to the
vertical middle. The transform is a similarity: rotation, one scale, translation. At these values
the crop reaches from the forehead to a wide-open jaw and, sideways, a little past the ears. Where
the source has no pixels the crop is black.
"""

from __future__ import annotations

import numpy as np

EYE_ROW = 0.36
EYE_DISTANCE = 0.34

#: The points around each eye, the subject's right eye (left in the picture) first.
EYES_68 = np.arange(36, 48).reshape(2, 6)
#: MediaPipe's points at the same places.
EYES_478 = np.array([[33, 160, 158, 133, 153, 144], [362, 385, 387, 263, 373, 380]])


def eye_centres(landmarks: np.ndarray) -> np.ndarray:
    """Centres of the eyes, f32[2, 2], from f32[68, 2] or f32[478, 2 or 3] landmarks."""
    rings = EYES_68 if len(landmarks) == 68 else EYES_478
    # Not mean(): it takes as long as the rest of a crop's geometry.
    return landmarks.take(rings, 0)[..., :2].sum(1) / 6


def crop_matrix(eyes: np.ndarray, size: int) -> np.ndarray:
    """The similarity transform, f64[2, 3], from source pixels to the pixels of a crop.

    Args:
      eyes: f32[2, 2], eye centres in source pixels, the one on the left of the picture first.
      size: S, the side of the crop.

    Raises:
      ValueError: the eyes coincide.
    """
    eyes = np.asarray(eyes, np.float64)
    across = eyes[1] - eyes[0]
    length = np.hypot(*across)
    if not length > 0:
        raise ValueError("the eyes coincide: no crop can be aligned")
    cos, sin = across / length * (EYE_DISTANCE * size / length)
    linear = np.array([[cos, sin], [-sin, cos]])
    middle = np.array([(size - 1) / 2, EYE_ROW * size])
    shift = middle - linear @ ((eyes[0] + eyes[1]) / 2)
    return np.concatenate([linear, shift[:, None]], 1)


def whole_matrix(width: int, height: int, size: int) -> np.ndarray:
    """The transform, f64[2, 3], that stretches the whole picture as `whole_crop` does.

    The edges of the picture come to lie on the edges of the crop, half a pixel outside the centres
    of the outermost pixels.
    """
    x, y = size / width, size / height
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2]])


def aligned_crop(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """The face, u8[S, S, 3], out of an image u8[H, W, 3], by its `crop_matrix`."""
    import cv2

    # Shrinking: sample a whole multiple of the size, then average, so that nothing aliases.
    factor = max(1, int(1 / np.hypot(matrix[0, 0], matrix[0, 1])))
    matrix = factor * matrix
    matrix[:, 2] += (factor - 1) / 2
    big = cv2.warpAffine(image, matrix, (factor * size, factor * size), flags=cv2.INTER_LINEAR)
    if factor == 1:
        return big
    return cv2.resize(big, (size, size), interpolation=cv2.INTER_AREA)


def whole_crop(image: np.ndarray, size: int) -> np.ndarray:
    """The whole image stretched to u8[S, S, 3], for corpora of ready face crops."""
    import cv2

    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    shrinks = max(height, width) > size
    return cv2.resize(
        image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )


def encode_crop(crop: np.ndarray, color: str, form: str, quality: int) -> bytes:
    """The bytes of a crop u8[S, S, 3] as "jpeg" (of this quality) or "png", in "rgb" or "gray"."""
    import cv2

    to = cv2.COLOR_RGB2GRAY if color == "gray" else cv2.COLOR_RGB2BGR
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if form == "jpeg" else []
    ok, data = cv2.imencode(f".{form}", cv2.cvtColor(crop, to), options)
    if not ok:
        raise RuntimeError(f"OpenCV cannot encode a crop of {crop.shape} as {form}")
    return data.tobytes()
