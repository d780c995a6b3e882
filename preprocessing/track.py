"""Which face is the clip's subject when several are seen, and in which frames it is missing."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

#: Two boxes of one face in neighbouring frames overlap at least this much.
SAME_FACE_IOU = 0.3
#: A track that has not been seen for more frames than this ends.
LONGEST_GAP = 30
#: A track that broke is taken up again within this many face widths, at up to this size ratio.
REJOIN_WIDTHS = 2.0
REJOIN_SIZE_RATIO = 2.0


@dataclass(eq=False)
class Face:
    """One face in one frame. Fields that no detector filled are None.

    Attributes:
      box: f32[4], left, top, right, bottom in source pixels; may reach over the picture's edge.
      landmarks68: f32[68, 2], source pixels.
      landmarks478: f32[478, 3], x and y in source pixels, z in the scale of x.
      blendshapes: f32[52].
      pose: f32[4, 4].
      score: how sure the detectors are; 0 is the edge of being a face, 1 a sure face for each.
      crop_matrix: f64[2, 3], source pixels to the pixels of the crop.
      crop, frontal: encoded images.
      place: in the `preprocessing.spool` that holds the other fields.
    """

    box: np.ndarray
    score: float = 1.0
    landmarks68: np.ndarray | None = None
    landmarks478: np.ndarray | None = None
    blendshapes: np.ndarray | None = None
    pose: np.ndarray | None = None
    crop_matrix: np.ndarray | None = None
    crop: bytes | None = None
    frontal: bytes | None = None
    place: int = 0

    @property
    def prominence(self) -> float:
        """Width times score: of two faces the subject is the larger, of doubtful ones the surer."""
        return _width(self.box) * self.score


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes f32[4]."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return float(shared / (_area(a) + _area(b) - shared))


def match(a: Sequence[np.ndarray], b: Sequence[np.ndarray], least: float) -> list[tuple[int, int]]:
    """Pairs (index in a, index in b) of boxes that overlap, best first, each box used once."""
    pairs = sorted((-iou(x, y), i, j) for i, x in enumerate(a) for j, y in enumerate(b))
    taken_a, taken_b, result = set(), set(), []
    for score, i, j in pairs:
        if -score >= least and i not in taken_a and j not in taken_b:
            taken_a.add(i)
            taken_b.add(j)
            result.append((i, j))
    return result


def _area(box: np.ndarray) -> float:
    return float(box[2] - box[0]) * float(box[3] - box[1])


def _width(box: np.ndarray) -> float:
    return float(box[2] - box[0])


@dataclass(eq=False)
class _Track:
    faces: dict[int, Face] = field(default_factory=dict)

    @property
    def last(self) -> tuple[int, Face]:
        return next(reversed(self.faces.items()))

    @property
    def weight(self) -> float:
        """Summed over the frames: large and persistent beats large or persistent."""
        return sum(face.prominence for face in self.faces.values())


class Tracker:
    """Links the faces of successive frames into tracks and names the subject's.

    A face continues the track whose last box it overlaps best. The subject is the track with the
    greatest sum, over its frames, of face width times score. Where that track breaks (a turned
    head, a quick move, a long gap) other tracks are joined to it if they share no frame with it
    and lie near its end in place and size; that they show the same person is assumed, not
    checked. The result depends on boxes and scores alone.
    """

    def __init__(self) -> None:
        self._tracks: list[_Track] = []
        self._active: list[_Track] = []

    def add(self, t: int, faces: Sequence[Face]) -> None:
        """The faces of frame `t`; frames come in ascending order."""
        self._active = [track for track in self._active if t - track.last[0] <= LONGEST_GAP]
        boxes = [track.last[1].box for track in self._active]
        continued = {j: i for i, j in match(boxes, [f.box for f in faces], SAME_FACE_IOU)}
        for j, face in enumerate(faces):
            if j in continued:
                track = self._active[continued[j]]
            else:
                track = _Track()
                self._tracks.append(track)
                self._active.append(track)
            track.faces[t] = face

    def subject(self) -> dict[int, Face]:
        """Frame -> the subject's face, ascending; empty if no face was ever seen."""
        # Stable: of equal tracks the one that began first.
        waiting = sorted(self._tracks, key=lambda track: -track.weight)
        if not waiting:
            return {}
        chosen = waiting.pop(0).faces
        while True:
            frames = list(chosen)
            joined = next((k for k in waiting if _continues(chosen, frames, k.faces)), None)
            if joined is None:
                return chosen
            waiting.remove(joined)
            chosen = dict(sorted((chosen | joined.faces).items()))


def _continues(chosen: dict[int, Face], frames: list[int], other: dict[int, Face]) -> bool:
    """Whether a track fits into a gap of the chosen faces (whose ascending frames are given)."""
    if not chosen.keys().isdisjoint(other):
        return False
    start, end = next(iter(other)), next(reversed(other))
    before, after = bisect_left(frames, start) - 1, bisect_left(frames, end)
    return (before >= 0 and _near(chosen[frames[before]].box, other[start].box)) or (
        after < len(frames) and _near(chosen[frames[after]].box, other[end].box)
    )


def _near(a: np.ndarray, b: np.ndarray) -> bool:
    small, large = sorted((_width(a), _width(b)))
    if small <= 0 or large > REJOIN_SIZE_RATIO * small:
        return False
    offset = (a[:2] + a[2:] - b[:2] - b[2:]) / 2
    return float(np.hypot(*offset)) <= REJOIN_WIDTHS * large
