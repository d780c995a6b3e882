"""A synthetic subject, and a frame of their moving face.

Muscles are the action units of Ekman and Friesen's Facial Action Coding System (1978): each is a
few Gaussian blobs at dlib's landmarks that pull the skin their way. A frame is one backward warp of
the subject's neutral picture by the sum of the active ones, then the head's pose, light and noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from preprocessing.synthesize_portrait import CANVAS, MIRROR, Portrait, grid, warp

#: A blob: where (landmarks, or means of some) on the picture's left half; which way it pulls (x
#: positive towards the midline, y down) and how wide it is, in eye distances. The right half is
#: its mirror image.
Blob = tuple[tuple[int | tuple[int, ...], ...], float, float, float]

#: Pull at full activation. AU26 has the mouth's corners only: `_open_jaw` parts the lips.
ACTION_UNITS: Mapping[str, tuple[Blob, ...]] = {
    "AU1 inner brow raiser": (((21,), 0.02, -0.15, 0.17), ((20,), 0, -0.06, 0.16)),
    "AU2 outer brow raiser": (((17, 18, 19), 0, -0.13, 0.16),),
    "AU4 brow lowerer": (((20, 21), 0.09, 0.10, 0.18), ((18, 19), 0.03, 0.05, 0.18)),
    "AU5 upper lid raiser": (((37, 38), 0, -0.06, 0.08), ((40, 41), 0, 0.02, 0.08)),
    "AU6 cheek raiser": ((((2, 31),), 0, -0.10, 0.28), ((40, 41), 0, -0.04, 0.10)),
    "AU7 lid tightener": (((37, 38), 0, 0.04, 0.09), ((40, 41), 0, -0.035, 0.09)),
    "AU9 nose wrinkler": (((31,), 0, -0.10, 0.17), ((21, 27), 0.03, 0.05, 0.18)),
    "AU10 upper lip raiser": (((49, 50, 51), 0, -0.12, 0.16), ((31,), 0, -0.03, 0.15)),
    "AU12 lip corner puller": (((48,), -0.17, -0.17, 0.24), (((3, 48),), -0.04, -0.05, 0.25)),
    "AU15 lip corner depressor": (((48,), -0.02, 0.17, 0.21),),
    "AU17 chin raiser": (((57, 58), 0, -0.07, 0.18), ((7, 8), 0, -0.05, 0.25)),
    "AU18 lip pucker": (((48,), 0.12, 0, 0.20),),
    "AU20 lip stretcher": (((48,), -0.19, 0.09, 0.23),),
    "AU24 lip pressor": (
        ((50, 51), 0, 0.055, 0.11), ((57, 58), 0, -0.055, 0.11), ((48,), 0.06, 0, 0.2),
    ),
    "AU26 jaw drop": (((48,), 0.03, 0.20, 0.20),),
    "AU43 eye closure": (((37, 38), 0, 0.11, 0.10), ((40, 41), 0, -0.02, 0.09)),
}  # fmt: skip
UNITS = tuple(name.split()[0] for name in ACTION_UNITS)

#: How heads differ, at one standard step.
_IDENTITY: tuple[tuple[Blob, ...], ...] = (
    (((1, 2, 3, 4), -0.10, 0, 0.38),),  # width of the face
    (((4, 5, 6), -0.10, 0, 0.30),),  # width of the jaw
    (((7, 8), 0, 0.12, 0.36),),  # length of the chin
    ((((37, 38, 40, 41),), -0.05, 0, 0.26),),  # distance of the eyes
    (((37, 38), 0, -0.02, 0.10), ((40, 41), 0, 0.02, 0.10)),  # size of the eyes
    (((18, 19, 20), 0, -0.04, 0.22),),  # height of the brows
    (((30, 33), 0, 0.07, 0.26),),  # length of the nose
    (((31,), -0.05, 0, 0.16),),  # width of the nose
    (((48,), -0.045, 0, 0.20),),  # width of the mouth
    (((62, 66), 0, 0.05, 0.28),),  # height of the mouth
    (((50, 51), 0, -0.03, 0.12), ((57, 58), 0, 0.03, 0.13)),  # fullness of the lips
)
#: Share of the eye distance that the jaw drops at full activation of AU26.
_JAW_DROP = 0.45
#: Displacement fields live on a coarser grid; they are smooth.
_FIELD = 128


@dataclass(frozen=True, eq=False)
class Subject:
    """A person who can be filmed.

    Attributes:
      portrait: their neutral face.
      layers: u8[C, C, 4], its image and alpha.
      fields: f32[A, 2, G, G, 2], displacement in pixels by unit and side.
      parallax: f32[G, G], how near a point of the head is, for small turns of the head.
      light: f32[C, C, 3], what the lamp does to every place of the frame.
      background: f32[C, C, 3], the wall behind them.
    """

    portrait: Portrait
    layers: np.ndarray
    fields: np.ndarray
    parallax: np.ndarray
    light: np.ndarray
    background: np.ndarray


@dataclass(frozen=True)
class Pose:
    """Where the head is: shift and turns in eye distances, roll in radians."""

    x: float = 0.0
    y: float = 0.0
    scale: float = 1.0
    roll: float = 0.0
    yaw: float = 0.0
    pitch: float = 0.0


def make_subject(portrait: Portrait, rng: np.random.Generator) -> Subject:
    """A new person: another shape, colours, light and wall, all drawn from `rng`."""
    if rng.random() < 0.5:
        portrait = portrait.mirrored()
    portrait = _recolour(_reshape(portrait, rng), rng)
    unit = portrait.eye_distance
    pixels = _field_grid()
    fields = np.stack([_pull(blobs, portrait.landmarks, unit) for blobs in ACTION_UNITS.values()])
    away = np.square((pixels - portrait.landmarks[30]) / unit).sum(-1)
    return Subject(
        portrait=portrait,
        layers=np.dstack((portrait.image, portrait.alpha)),
        fields=fields,
        parallax=np.exp(-away / (2 * 0.75**2)).astype(np.float32),
        light=_light(rng),
        background=_background(rng),
    )


def render(
    subject: Subject,
    action: Mapping[str, tuple[float, float]],
    pose: Pose,
    brightness: float,
    size: int,
) -> np.ndarray:
    """One frame, without sensor noise.

    Args:
      action: activation (0 to about 1) of the left and right side by unit, e.g. "AU12".
      brightness: gain of the lamp, 1 is normal.
      size: side of the square frame in pixels.

    Returns:
      f32[size, size, 3], RGB in 0 to 255.
    """
    portrait, unit = subject.portrait, subject.portrait.eye_distance
    field = subject.parallax[..., None] * np.array([pose.yaw * unit, pose.pitch * unit], np.float32)
    for name, sides in action.items():
        for side, amount in enumerate(sides):
            if amount:
                field += np.float32(amount) * subject.fields[UNITS.index(name), side]
    source = grid() - cv2.resize(field, (CANVAS, CANVAS), interpolation=cv2.INTER_LINEAR)
    seam = _mouth_line(portrait.landmarks, field)
    drop = float(sum(action.get("AU26", (0, 0)))) / 2 * _JAW_DROP * unit
    source, mouth = _open_jaw(source, seam, drop, portrait)
    view = _view(portrait.landmarks, pose, unit, size)

    def film(layer: np.ndarray) -> np.ndarray:
        return cv2.warpAffine(layer, view, (size, size), flags=cv2.INTER_LINEAR)

    where = cv2.warpAffine(
        source, view, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    person = warp(subject.layers, where).astype(np.float32)
    alpha = person[..., 3:] / 255
    person = person[..., :3]
    if mouth is not None:
        inside = film(mouth)
        person = person * (1 - inside[..., 3:]) + inside[..., :3]
    light, background = (_fit(layer, size) for layer in (subject.light, subject.background))
    frame = (person * alpha + background * (1 - alpha)) * light * np.float32(brightness)
    return np.clip(frame, 0, 255)


def _field_grid() -> np.ndarray:
    step = CANVAS / _FIELD
    y, x = np.mgrid[:_FIELD, :_FIELD]
    return ((np.stack((x, y), -1) + 0.5) * step - 0.5).astype(np.float32)


def _fit(layer: np.ndarray, size: int) -> np.ndarray:
    return cv2.resize(layer, (size, size), interpolation=cv2.INTER_LINEAR)


def _near(points: np.ndarray, centres: Sequence[int | tuple[int, ...]], width: float) -> np.ndarray:
    """f32[G, G], soft union of blobs: neighbours merge into a plateau instead of adding up."""
    pixels = _field_grid()
    outside = np.ones(pixels.shape[:2], np.float32)
    for centre in centres:
        at = points[list(np.atleast_1d(centre))].mean(0)
        outside *= 1 - np.exp(-np.square((pixels - at) / width).sum(-1) / 2)
    return 1 - outside


def _pull(blobs: Sequence[Blob], landmarks: np.ndarray, unit: float) -> np.ndarray:
    """f32[2, G, G, 2], displacement in pixels by a unit's left and right side."""
    field = np.zeros((_FIELD, _FIELD, 2), np.float32)
    eyes = _near(landmarks, range(36, 48), 0.09 * unit)
    for centres, inward, down, width in blobs:
        left = _near(landmarks, centres, width * unit)
        right = _near(landmarks[MIRROR], centres, width * unit)
        # A brow that rises leaves the eye behind, one that sinks weighs on it.
        at_eyes = any(36 <= point < 48 for centre in centres for point in np.atleast_1d(centre))
        free = 1 if at_eyes or down > 0 else 1 - 0.8 * eyes
        field[..., 0] += inward * unit * (left - right) * free
        field[..., 1] += down * unit * (1 - (1 - left) * (1 - right)) * free
    middle = landmarks[27:31, 0].mean()
    is_left = 1 / (1 + np.exp((_field_grid()[..., :1] - middle) / (0.08 * unit)))
    return np.stack((field * is_left, field * (1 - is_left))).astype(np.float32)


def _reshape(portrait: Portrait, rng: np.random.Generator) -> Portrait:
    """The same person with another head."""
    unit = portrait.eye_distance
    field = np.zeros((_FIELD, _FIELD, 2), np.float32)
    for blobs in _IDENTITY:
        amount = np.clip(rng.normal(0, 0.6), -1.2, 1.2)
        field += np.float32(amount) * _pull(blobs, portrait.landmarks, unit).sum(0)
    full = cv2.resize(field, (CANVAS, CANVAS), interpolation=cv2.INTER_LINEAR)
    source = grid() - full
    image, alpha, skin, hair = (
        warp(layer, source)
        for layer in (portrait.image, portrait.alpha, portrait.skin, portrait.hair)
    )
    landmarks = portrait.landmarks + _sample(field, portrait.landmarks)
    return Portrait(image, alpha, skin, hair, landmarks, portrait.teeth)


def _sample(field: np.ndarray, points: np.ndarray) -> np.ndarray:
    """f32[N, 2], a coarse field's value at canvas points."""
    at = ((points + 0.5) * (_FIELD / CANVAS) - 0.5).astype(np.float32)[None]
    return warp(field, at, cv2.INTER_LINEAR)[0]


def _recolour(portrait: Portrait, rng: np.random.Generator) -> Portrait:
    """The same person with other skin, hair and clothes."""
    image = portrait.image.astype(np.float32) / 255
    skin, hair = (layer[..., None] / np.float32(255) for layer in (portrait.skin, portrait.hair))
    clothes = np.clip(1 - skin - hair, 0, 1)

    # Darker skin loses blue most and red least, and keeps its highlights.
    tone = rng.uniform(0, 1)
    gamma = 1 + tone * np.array([0.75, 1.05, 1.25], np.float32) * rng.uniform(0.7, 1)
    skinned = image**gamma

    grey = image.mean(-1, keepdims=True)
    hues = [(1.1, 0.92, 0.66), (0.75, 0.5, 0.3), (0.45, 0.35, 0.28), (0.95, 0.55, 0.3), (1, 1, 1)]
    hue = np.float32(hues[rng.integers(len(hues))]) * np.float32(
        rng.uniform(0.75, 1.15) * rng.uniform(0.97, 1.03, 3)
    )
    haired = grey ** rng.uniform(0.9, 1.2) * hue * 1.1

    turn = rng.uniform(0, 180)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + 2 * turn) % 360
    hsv[..., 1] *= rng.uniform(0.3, 1)
    dressed = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * rng.uniform(0.6, 1.1)

    # Eyes and teeth keep their colour.
    eyes = np.zeros(image.shape[:2], np.float32)
    for eye in (slice(36, 42), slice(42, 48)):
        cv2.fillConvexPoly(eyes, np.round(portrait.landmarks[eye]).astype(np.int32), 1.0)
    eyes = cv2.GaussianBlur(eyes, (0, 0), 1)[..., None]
    skinned = skinned * (1 - eyes) + image * eyes
    result = skinned * skin + haired * hair + dressed * clothes
    teeth = np.clip(portrait.teeth * np.float32(rng.uniform(1, 1.2)), 0, 255)
    image = (np.clip(result, 0, 1) * 255).astype(np.uint8)
    return replace(portrait, image=image, teeth=teeth.astype(np.uint8))


def _light(rng: np.random.Generator) -> np.ndarray:
    """f32[C, C, 3], a lamp from one side, warm or cold."""
    angle = rng.uniform(0, 2 * np.pi)
    across = (grid() / CANVAS - 0.5) @ np.array([np.cos(angle), np.sin(angle)], np.float32)
    warmth = rng.uniform(-0.08, 0.08)
    colour = np.array([1 + warmth, 1, 1 - warmth], np.float32) * rng.uniform(0.85, 1.1)
    return (1 + rng.uniform(0, 0.5) * across)[..., None] * colour


def _background(rng: np.random.Generator) -> np.ndarray:
    """f32[C, C, 3], a wall: one colour, uneven, a little mottled."""
    colour = rng.uniform(40, 210, 3)
    colour = 0.35 * colour + 0.65 * colour.mean()
    cells = rng.normal(0, 1, (6, 6, 1)) * 14 + rng.normal(0, 4, (6, 6, 3))
    wall = cv2.resize(
        (colour + cells).astype(np.float32), (CANVAS, CANVAS), None, 0, 0, cv2.INTER_CUBIC
    )
    return np.clip(wall, 0, 255)


def _view(landmarks: np.ndarray, pose: Pose, unit: float, size: int) -> np.ndarray:
    """f64[2, 3], canvas to frame: the face upright in the frame's middle, then posed."""
    scale = 0.2 * size / unit * pose.scale
    turn = np.array(
        [[np.cos(pose.roll), -np.sin(pose.roll)], [np.sin(pose.roll), np.cos(pose.roll)]]
    )
    linear = scale * turn
    middle = size * np.array([0.5, 0.46]) + scale * unit * np.array([pose.x, pose.y])
    return np.column_stack((linear, middle - linear @ landmarks[28]))


def _mouth_line(landmarks: np.ndarray, field: np.ndarray) -> np.ndarray:
    """f32[5, 2], where the closed lips meet, left to right, as the active units have moved it."""
    rest = np.stack((
        landmarks[60], landmarks[[61, 67]].mean(0), landmarks[[62, 66]].mean(0),
        landmarks[[63, 65]].mean(0), landmarks[64],
    ))  # fmt: skip
    moved = rest
    for _ in range(3):  # forward displacement d of a backward field: d = field(rest + d)
        moved = rest + _sample(field, moved)
    return moved


def _open_jaw(
    source: np.ndarray, seam: np.ndarray, drop: float, portrait: Portrait
) -> tuple[np.ndarray, np.ndarray | None]:
    """Part the lips along `seam` and lower what is below it.

    Args:
      source: f32[C, C, 2], backward map with the mouth closed.
      drop: pixels between the lips at their middle.

    Returns:
      The map with the mouth open, and the inside of the mouth as premultiplied f32[C, C, 4]
      (None where it is closed).
    """
    if drop < 0.3:
        return source, None
    unit = portrait.eye_distance
    middle, half = float(seam[2, 0]), float(seam[4, 0] - seam[0, 0]) / 2
    line = np.interp(np.arange(CANVAS), seam[:, 0], seam[:, 1]).astype(np.float32)
    top = int(seam[:, 1].min()) - 2
    x, y = grid()[top:, :, 0], grid()[top:, :, 1]
    below = y - line
    # The jaw is wider than the mouth, and what hangs on it follows it less and less.
    wide = half + 0.55 * np.clip(below, 0, unit)
    share = _arch((x - middle) / wide) * np.exp(-np.square(below / (1.3 * unit)) / 2)
    closed = np.where(below > 0, y - drop * share, y)
    opened = source.copy()
    opened[top:] = cv2.remap(source, x, closed, cv2.INTER_LINEAR)

    box = (
        slice(0, int(np.ptp(seam[:, 1]) + drop) + 6),
        slice(int(middle - half), int(middle + half) + 2),
    )
    x, below = x[box], below[box]
    gap = drop * _arch((x - middle) / half)
    alpha = np.clip(below + 0.5, 0, 1) * np.clip(gap - below + 0.5, 0, 1) * (gap > 0.2)
    rows, columns = portrait.teeth.shape[:2]
    depth = 0.11 * unit
    column = ((x - middle) / (2 * half) + 0.5) * (columns - 1)
    row = below / depth * (rows - 1)
    teeth = cv2.remap(
        portrait.teeth, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    # Teeth end in the dark of the mouth, and lie in shade towards its corners.
    shown = 0.9 * np.clip((depth - below) / 1.5, 0, 1) * _arch(0.9 * (x - middle) / half)
    inside = teeth * shown[..., None] + np.array([48, 18, 18], np.float32) * (1 - shown[..., None])
    mouth = np.zeros((CANVAS, CANVAS, 4), np.float32)
    mouth[top:][box] = np.dstack((inside * alpha[..., None], alpha))
    return opened, mouth


def _arch(across: np.ndarray) -> np.ndarray:
    """1 at 0, falling to 0 at -1 and 1."""
    return np.cos(np.pi / 2 * np.clip(across, -1, 1)).astype(np.float32)
