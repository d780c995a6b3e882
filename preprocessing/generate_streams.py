"""Generated people whose best recogniser is known.

What a person shows in a clip is a point z of K dimensions, one an emotion:

    z = separation e_k + s + d_k + c

e_k is the emotion's axis; s is how the subject differs from others whatever is felt, d_k how the
subject shows this emotion, c this one take; each is Gaussian with a deviation of its own. Frame t
of T shows

    x_t = face + identity + (t + 1) / T * B z + noise_t

as 68 landmarks (or 52 scores, through a logistic function); the columns of B are orthonormal, and
the subject's identity lies across them. So all that a clip says of its emotion is one Gaussian z,
whose deviation is known for a subject that nobody saw before, and smaller for one that training
saw: `best_accuracy` is what nobody can beat. Twins show the same frames.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np

from fer_jax.labels import CANONICAL, canonical, make_label_space
from preprocessing.crops import crop_matrix, eye_centres

#: Side of the square that the face fills in the source, pixels: scaled to the face box, landmarks
#: come out as they are here.
SIDE = 224
#: Points that emotions move: brows, eyes, mouth.
_MOVING = (*range(17, 27), *range(36, 68))
#: Draws of `best_accuracy`.
_DRAWS = 400_000
_CHUNK = 50_000


@dataclass(frozen=True)
class Truth:
    """What the people are like. Lengths are pixels of the face's 224, over all landmarks together.

    Attributes:
      separation: from an emotion's axis's origin to the emotion.
      subject: deviation of s, on each axis.
      style: deviation of d_k.
      take: deviation of c.
      identity: deviation of each coordinate of a face at rest.
      noise: deviation of each coordinate in each frame.
    """

    separation: float = 50.0
    subject: float = 6.0
    style: float = 2.0
    take: float = 18.0
    identity: float = 1.0
    noise: float = 1.0

    def deviation(self, frames: np.ndarray, known_subject: bool = False) -> np.ndarray:
        """Of z in a clip of so many frames, about the emotion's mean (known: the subject's own)."""
        spread = self.take**2 + (0 if known_subject else self.subject**2 + self.style**2)
        return np.sqrt(spread + self.noise**2 / _energy(frames))


def _energy(frames: np.ndarray) -> np.ndarray:
    """Sum of ((t + 1) / T)^2 over T frames."""
    frames = np.asarray(frames, np.float64)
    return (frames + 1) * (2 * frames + 1) / (6 * frames)


class Best(NamedTuple):
    """An accuracy that was computed by drawing, with its standard error."""

    accuracy: float
    standard_error: float


def best_accuracy(
    emotions: Mapping[str, int],
    frames: Mapping[int, int],
    truth: Truth,
    *,
    labels: str = "auto",
    known_subject: bool = False,
    seed: int = 0,
) -> Best:
    """What the best classifier of single clips reaches, which knows `truth` and how frequent
    emotions are.

    It is of clips whose subject it never saw, or knows entirely. Whoever sees a twin can do better.
    Of streams that lose something (pictures) it is a bound.

    Args:
      emotions: clips of each emotion, by the corpus's word.
      frames: clips of each length.
      labels: a label space of `fer_jax.labels`; emotions that it leaves out are not asked for.
    """
    space = make_label_space(labels, emotions)
    words = [word for word in emotions if space.index(word) is not None]
    place = [_axis(word) for word in words]
    merge = np.zeros((len(words), len(space.classes)))
    for row, word in enumerate(words):
        merge[row, space.index(word)] = 1
    share = np.array([emotions[word] for word in words], float)
    share /= share.sum()
    lengths, counts = np.array(list(frames)), np.array(list(frames.values()), float)
    deviations = truth.deviation(lengths, known_subject)
    rng, right = np.random.default_rng(seed), 0
    for _ in range(_DRAWS // _CHUNK):
        k = rng.choice(len(words), _CHUNK, p=share)
        deviation = rng.choice(deviations, _CHUNK, p=counts / counts.sum())[:, None]
        means = np.zeros((_CHUNK, len(words), len(CANONICAL)))
        means[:, range(len(words)), place] = truth.separation
        if known_subject:
            means += truth.style * rng.standard_normal(means.shape)
        z = means[np.arange(_CHUNK), k] + deviation * rng.standard_normal((_CHUNK, len(CANONICAL)))
        squares = ((z[:, None] - means) ** 2).sum(-1)
        likelihood = np.log(share) - squares / (2 * deviation**2)
        likelihood = np.exp(likelihood - likelihood.max(1, keepdims=True))
        right += int(((likelihood @ merge).argmax(1) == merge.argmax(1)[k]).sum())
    accuracy = right / _DRAWS
    return Best(accuracy, float(np.sqrt(accuracy * (1 - accuracy) / _DRAWS)))


def _axis(word: str) -> int:
    return CANONICAL.index(canonical(word))


def random_of(what: str, name: str, seed: int) -> np.random.Generator:
    """A stream of its own for every purpose and name, in whatever order they are asked for."""
    return np.random.default_rng([zlib.crc32(f"{what}/{name}".encode()), seed])


def expression(truth: Truth, subject: str, take: str, emotion: str, seed: int) -> np.ndarray:
    """z of a take, f64[9]."""
    axis = _axis(emotion)
    count = len(CANONICAL)
    z = truth.subject * random_of("subject", subject, seed).standard_normal(count)
    z += truth.style * random_of(f"style {axis}", subject, seed).standard_normal(count)
    z += truth.take * random_of("take", take, seed).standard_normal(count)
    z[axis] += truth.separation
    return z


@cache
def _directions(moved: int, size: int) -> np.ndarray:
    """f64[9, size]: orthonormal, zero but for the first `moved` numbers."""
    matrix = random_of("directions", str(size), 0).standard_normal((moved, len(CANONICAL)))
    found = np.zeros((len(CANONICAL), size))
    found[:, :moved] = np.linalg.qr(matrix)[0].T
    return found


@cache
def landmark_directions() -> np.ndarray:
    """B, f64[9, 68, 2]: how emotions move landmarks."""
    found = np.zeros((len(CANONICAL), 68, 2))
    moved = 2 * len(_MOVING)
    found[:, list(_MOVING)] = _directions(moved, moved).reshape(len(CANONICAL), -1, 2)
    return found


def _shown(
    rest: np.ndarray, directions: np.ndarray, who: np.random.Generator, noise: np.random.Generator,
    truth: Truth, z: np.ndarray, frames: int,
) -> np.ndarray:  # fmt: skip
    """f64[frames, ...], x_t, of a face at rest [...] and directions [9, ...]."""
    flat = directions.reshape(len(directions), -1)
    identity = truth.identity * who.standard_normal(flat.shape[1])
    identity -= flat.T @ (flat @ identity)
    grown = np.arange(1, frames + 1) / frames
    still = rest.reshape(-1) + identity
    found = still + grown[:, None] * (z @ flat)
    found += truth.noise * noise.standard_normal(found.shape)
    return found.reshape(frames, *rest.shape)


def landmarks(
    truth: Truth, subject: str, take: str, z: np.ndarray, frames: int, seed: int
) -> np.ndarray:
    """f64[frames, 68, 2], in pixels of the face's own square."""
    who, noise = random_of("identity", subject, seed), random_of("noise", take, seed)
    return _shown(face_at_rest(), landmark_directions(), who, noise, truth, z, frames)


def blendshapes(
    truth: Truth, subject: str, take: str, z: np.ndarray, frames: int, seed: int
) -> np.ndarray:
    """f64[frames, 52], scores from 0 to 1: a logistic function of what landmarks would be."""
    who, noise = random_of("score identity", subject, seed), random_of("score noise", take, seed)
    # A separation becomes two units of the logistic function, which loses nothing.
    found = _shown(np.zeros(52), _directions(52, 52), who, noise, truth, z, frames)
    return 1 / (1 + np.exp(1.5 - 2 * found / truth.separation))


@cache
def face_at_rest() -> np.ndarray:
    """f64[68, 2]: dlib's points of a plain face in a square of 224."""
    points = np.zeros((68, 2))
    turn = np.linspace(np.pi, 0, 17)
    points[:17] = np.stack([112 + 80 * np.cos(turn), 96 + 112 * np.sin(turn)], -1)
    rise = np.sin(np.linspace(0, np.pi, 5))
    for start, left in ((17, 44), (22, 128)):
        points[start : start + 5] = np.stack([np.linspace(left, left + 52, 5), 66 - 10 * rise], -1)
    points[27:31] = np.stack([np.full(4, 112), np.linspace(84, 128, 4)], -1)
    points[31:36] = np.stack([np.linspace(96, 128, 5), 138 + 4 * rise], -1)
    for start, middle in ((36, 72), (42, 152)):
        points[start : start + 6] = _ring(6, middle, 86, 14, 6)
    points[48:60] = _ring(12, 112, 168, 30, 12)
    points[60:68] = _ring(8, 112, 168, 22, 3)
    return points


def _ring(count: int, x: float, y: float, width: float, height: float) -> np.ndarray:
    """Points around an ellipse from its left end, over its top."""
    turn = np.pi + np.arange(count) * 2 * np.pi / count
    return np.stack([x + width * np.cos(turn), y + height * np.sin(turn)], -1)


def drawing(size: int, colour: bool) -> tuple[np.ndarray, Callable[[np.ndarray], bytes]]:
    """What draws faces as pictures.

    Returns:
      f64[2, 3], from the face's square to pixels of the picture; and a function from landmarks in
      that square, f[68, 2], to a PNG of side `size`.
    """
    matrix = crop_matrix(eye_centres(face_at_rest()), size)

    def draw(points: np.ndarray) -> bytes:
        shown = points @ matrix[:, :2].T + matrix[:, 2]
        # OpenCV draws to a 16th of a pixel.
        fixed = np.rint(shown * 16).astype(np.int32)
        image = np.full((size, size), 40, np.uint8)
        cv2.fillPoly(image, [fixed[[*range(17), *range(26, 16, -1)]]], 190, cv2.LINE_AA, 4)
        for ring, shade in ((range(36, 42), 250), (range(42, 48), 250), (range(48, 60), 120),
                            (range(60, 68), 30)):  # fmt: skip
            cv2.fillPoly(image, [fixed[list(ring)]], shade, cv2.LINE_AA, 4)
        lines = [fixed[list(one)] for one in (range(17, 22), range(22, 27), range(27, 36))]
        cv2.polylines(image, lines, False, 60, 1, cv2.LINE_AA, 4)
        if colour:
            image = np.stack([image, image * 3 // 4, image // 2], -1)[..., ::-1]
        return cv2.imencode(".png", image)[1].tobytes()

    return matrix, draw
