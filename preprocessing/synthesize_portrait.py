"""The portrait that every synthetic subject is made from: cut out, smile taken off, parts found.

It is scikit-image's `astronaut` (NASA, public domain), which ships inside the wheel. All pictures
here are on one square canvas, larger than a video frame so that a head can move.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

#: Side of the canvas in pixels, and the square of the portrait that it shows.
CANVAS = 384
_LEFT, _TOP, _SIDE = 75, 0, 300

#: dlib's 68 points seen in a mirror: new point i is old point MIRROR[i].
MIRROR = np.array(
    [*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, *range(35, 30, -1),
     45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,
     *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), 67, 66, 65]
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Portrait:
    """A person with a neutral face, in layers.

    Attributes:
      image: u8[C, C, 3], RGB.
      alpha: u8[C, C], how much of each pixel is the person.
      skin, hair: u8[C, C], how much of it is skin, or hair; the rest is clothes.
      landmarks: f32[68, 2], dlib's points (x, y) on the canvas.
      teeth: u8[h, w, 3], the row of teeth, straightened.
    """

    image: np.ndarray
    alpha: np.ndarray
    skin: np.ndarray
    hair: np.ndarray
    landmarks: np.ndarray
    teeth: np.ndarray

    def mirrored(self) -> Portrait:
        """The person as a mirror shows them."""
        landmarks = self.landmarks[MIRROR] * (-1, 1) + (CANVAS - 1, 0)
        layers = (self.image, self.alpha, self.skin, self.hair)
        image, alpha, skin, hair = (np.ascontiguousarray(layer[:, ::-1]) for layer in layers)
        return Portrait(image, alpha, skin, hair, landmarks.astype(np.float32), self.teeth[:, ::-1])

    @property
    def eye_distance(self) -> float:
        """Pixels between the eyes' centres: the unit of all movements."""
        return _unit(self.landmarks)


@cache
def grid() -> np.ndarray:
    """f32[C, C, 2], each canvas pixel's own x and y. Shared: not to be written to."""
    x, y = np.meshgrid(*[np.arange(CANVAS, dtype=np.float32)] * 2)
    pixels = np.stack((x, y), -1)
    pixels.flags.writeable = False
    return pixels


def warp(layer: np.ndarray, source: np.ndarray, how: int = cv2.INTER_CUBIC) -> np.ndarray:
    """`layer` as seen through `source`, f32[H, W, 2]: where each pixel comes from."""
    return cv2.remap(layer, source, np.empty(0, np.float32), how)


def make_portrait() -> Portrait:
    """Load the portrait, find its face with dlib, separate its parts and neutralise its mouth.

    Raises:
      UserError: dlib's model file is absent or damaged.
    """
    from skimage.data import astronaut

    image = astronaut()[_TOP : _TOP + _SIDE, _LEFT : _LEFT + _SIDE]
    image = cv2.resize(image, (CANVAS, CANVAS), interpolation=cv2.INTER_LANCZOS4)
    smiling = _find_landmarks(image)
    alpha = _cut_out(image, smiling)
    image = _bleed(image, alpha)
    skin, hair = _skin_and_hair(image, alpha, smiling)
    teeth = _straighten_teeth(image, smiling)
    neutral, landmarks = _neutralise(image, smiling)
    return Portrait(neutral, alpha, skin, hair, landmarks, teeth)


def _unit(landmarks: np.ndarray) -> float:
    return float(np.linalg.norm(landmarks[36:42].mean(0) - landmarks[42:48].mean(0)))


def _find_landmarks(image: np.ndarray) -> np.ndarray:
    from preprocessing.faces_dlib import DlibFaces

    landmarks = DlibFaces().detect(image)[0].landmarks68
    assert landmarks is not None
    return landmarks


def _cut_out(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """u8[C, C] alpha of the person: GrabCut started from the face's place."""
    unit = _unit(landmarks)
    x, y = landmarks[27]
    mask = np.full(image.shape[:2], cv2.GC_PR_BGD, np.uint8)
    centre, axes = (int(x), int(y + 0.3 * unit)), (int(1.75 * unit), int(2.3 * unit))
    cv2.ellipse(mask, centre, axes, 0, 0, 360, cv2.GC_PR_FGD, -1)
    neck = int(landmarks[8][1] + 0.1 * unit)
    mask[neck:, 60:-60] = cv2.GC_PR_FGD
    suit = [(0, 384), (10, 290), (70, 265), (130, 225), (225, 245), (285, 335), (350, 384)]
    cv2.fillPoly(mask, [np.array(suit, np.int32)], cv2.GC_FGD)
    cv2.fillConvexPoly(mask, cv2.convexHull(landmarks.astype(np.int32)), cv2.GC_FGD)
    mask[:12] = mask[:180, :70] = mask[:180, -60:] = cv2.GC_BGD
    cv2.setRNGSeed(0)
    model = np.zeros((2, 1, 65))
    unread = (0, 0, 1, 1)
    cv2.grabCut(image, mask, unread, model[0], model[1], 4, cv2.GC_INIT_WITH_MASK)
    person = np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    _, labels = cv2.connectedComponents(person)
    person = (labels == labels[int(y), int(x)]).astype(np.uint8)
    return cv2.GaussianBlur(cv2.erode(person, np.ones((3, 3), np.uint8)) * 255, (0, 0), 1.2)


def _bleed(image: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Carry the person's colours over the edge, so that no old background shines through it."""
    inside = (alpha > 250).astype(np.float32)[..., None]
    weight = cv2.GaussianBlur(inside, (0, 0), 3)[..., None] + 1e-4
    spread = cv2.GaussianBlur(image * inside, (0, 0), 3) / weight
    return np.clip(image * inside + spread * (1 - inside), 0, 255).astype(np.uint8)


def _skin_and_hair(
    image: np.ndarray, alpha: np.ndarray, landmarks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Soft masks by colour (Gaussians in Lab, fitted to cheeks and crown) and by place."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB) * np.array([0.3, 1, 1], np.float32)
    pixels = grid()
    unit = _unit(landmarks)

    def near(centre: np.ndarray, radius: float) -> np.ndarray:
        return np.linalg.norm(pixels - centre, axis=-1) < radius

    def distance(sample: np.ndarray) -> np.ndarray:
        colours = lab[sample]
        inverse = np.linalg.inv(np.cov(colours.T) + 20 * np.eye(3))
        away = lab - colours.mean(0)
        return np.einsum("hwi,ij,hwj->hw", away, inverse, away)

    cheeks = near(landmarks[[2, 31]].mean(0), 0.2 * unit)
    cheeks |= near(landmarks[[14, 35]].mean(0), 0.2 * unit)
    crown = near(landmarks[27] - (0, 1.4 * unit), 0.5 * unit)
    is_skin = distance(cheeks) < distance(crown)
    # The neck lies in shadow; only its warm colour tells it from the suit's black and grey.
    is_skin |= (pixels[..., 1] > landmarks[33][1]) & (lab[..., 1] > 130) & (lab[..., 2] > 135)
    face = np.zeros(image.shape[:2], np.uint8)
    cv2.fillConvexPoly(face, cv2.convexHull(landmarks.astype(np.int32)), 1)
    chin = landmarks[8][1]
    above_collar = pixels[..., 1] < chin + 0.35 * unit
    beside = np.abs(pixels[..., 0] - landmarks[27][0]) < 1.25 * unit
    is_skin = np.maximum(cv2.medianBlur(is_skin.astype(np.uint8), 5), face)
    closed = cv2.morphologyEx(is_skin, cv2.MORPH_CLOSE, np.ones((19, 19), np.uint8))
    is_skin = np.where(pixels[..., 1] > landmarks[33][1], closed, is_skin) * above_collar * beside
    is_hair = (1 - is_skin) * (pixels[..., 1] < landmarks[33][1] + 0.1 * unit)
    soft = [cv2.GaussianBlur(m.astype(np.float32), (0, 0), 2) for m in (is_skin, is_hair)]
    return (soft[0] * 255).astype(np.uint8), (soft[1] * alpha).astype(np.uint8)


def _straighten_teeth(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """u8[12, 64, 3], what stands between the smiling lips."""
    across = np.linspace(landmarks[60][0] + 3, landmarks[64][0] - 3, 64, dtype=np.float32)
    top, bottom = (
        np.interp(across, landmarks[row, 0], landmarks[row, 1]).astype(np.float32)
        for row in ([60, 61, 62, 63, 64], [60, 67, 66, 65, 64])
    )
    down = np.linspace(0.2, 0.85, 12, dtype=np.float32)[:, None]
    rows = top + (bottom - top) * down
    return cv2.remap(image, np.broadcast_to(across, rows.shape).copy(), rows, cv2.INTER_LINEAR)


def _neutralise(image: np.ndarray, smiling: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Close the mouth, bring its corners in and down, and clear the forehead.

    The lips are two sheets that meet at the mouth line. Each has a warp of its own, exact at the
    landmarks, so the teeth between them vanish without a smear.
    """
    unit = _unit(smiling)
    neutral = smiling.copy()
    middle = smiling[[61, 62, 63, 65, 66, 67]].mean(0)
    line = middle[1] + 0.03 * unit
    for i in range(48, 68):
        neutral[i, 0] = middle[0] + 0.82 * (smiling[i, 0] - middle[0])
    neutral[[60, 61, 62, 63, 64, 65, 66, 67], 1] = line
    neutral[[48, 54], 1] = line + 0.01 * unit
    # Upper and lower outlines, from corner to corner: a smile stretches lips thin.
    neutral[[49, 50, 51, 52, 53], 1] = line - unit * np.array([0.09, 0.145, 0.125, 0.145, 0.09])
    neutral[[59, 58, 57, 56, 55], 1] = line + unit * np.array([0.10, 0.165, 0.18, 0.165, 0.10])
    cheeks = np.array([smiling[[i, j]].mean(0) for i, j in ((3, 48), (13, 54), (2, 31), (14, 35))])
    # The fringe goes up a little: detectors mistake its edge for raised brows.
    fringe = smiling[[18, 20, 27, 23, 25]].copy()
    fringe[:, 1] = smiling[17:27, 1].mean() - 0.4 * unit
    still = [*range(0, 17, 2), *range(17, 48, 2), 31, 33, 35]
    pixels = grid()
    maps = []
    for lip in ([48, *range(49, 54), *range(60, 65)], [48, *range(54, 60), 60, *range(64, 68)]):
        if 54 not in lip:
            lip = [*lip, 54]
        to = (neutral[lip], smiling[still], cheeks + (0, 0.05 * unit), fringe - (0, 0.2 * unit))
        to = np.concatenate(to)
        source = np.concatenate((smiling[lip], smiling[still], cheeks, fringe))
        maps.append(pixels + _interpolate(pixels, to, source - to, 0.3 * unit))
    # Hard seam between the corners, soft beyond them, where both sheets nearly agree.
    beyond = np.maximum(np.abs(pixels[..., 0] - middle[0]) - 0.38 * unit, 0)
    lower = np.clip(0.5 + (pixels[..., 1] - line) / (1 + 0.5 * beyond), 0, 1)[..., None]
    upper_image, lower_image = (warp(image, m) for m in maps)
    closed = upper_image * (1 - lower) + lower_image * lower
    inside = np.clip(1 - np.abs(pixels[..., 0] - middle[0]) / (0.42 * unit), 0, 1) ** 0.3
    shade = 0.45 * inside * np.exp(-(((pixels[..., 1] - line) / (0.022 * unit)) ** 2))
    closed *= 1 - shade[..., None] * np.array([0.75, 1, 1])
    return np.clip(closed, 0, 255).astype(np.uint8), neutral.astype(np.float32)


def _interpolate(
    pixels: np.ndarray, centres: np.ndarray, values: np.ndarray, width: float
) -> np.ndarray:
    """f32[C, C, 2], Gaussian radial basis functions that take `values` at `centres`."""
    between = np.square(centres[:, None] - centres[None]).sum(-1)
    basis = np.exp(-between / (2 * width**2)) + 1e-3 * np.eye(len(centres))
    weights = np.linalg.solve(basis, values)
    field = np.zeros_like(pixels)
    for centre, weight in zip(centres, weights, strict=True):
        near = np.exp(-np.square(pixels - centre).sum(-1) / (2 * width**2))
        field += near[..., None] * weight.astype(np.float32)
    return field.astype(np.float32)
