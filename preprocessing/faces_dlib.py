"""Faces and 68 landmarks with dlib: a HOG detector and a regression-tree shape predictor.

The detector's window is 80 pixels and its cost is the area of the picture, so it is given the
smallest picture that will do: around a box from the last frame, scaled so that the face fits the
window; else the whole picture reduced; else the whole picture at a scale that shows small faces.
Landmarks are always found in the picture at its own size.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from preprocessing.model_files import dlib68_path
from preprocessing.track import Face, iou

#: Where a box is followed, the face is scaled to about this side. At 110 the boxes, and so the
#: landmarks, tremble a third more than in a search at native size; at 150 they do not.
TRACK_SIDE = 150
#: The region around a followed box, in sides of the box.
TRACK_REGION = 1.8
#: A followed face overlaps its last box at least this much.
TRACK_IOU = 0.3
#: Longest side of the first whole-picture search.
QUICK_SIDE = 640
#: Longest side of the thorough one: small pictures are enlarged to `FINE_SIDE` (at most
#: `MOST_ENLARGED` times), large ones are searched as they are up to `LARGEST_SIDE`.
FINE_SIDE = 1280
MOST_ENLARGED = 4.0
LARGEST_SIDE = 1920


@functools.cache
def _predictor(path: Path):
    """Read once in a process: it takes a second and 100 MB, and holds no state."""
    import dlib

    return dlib.shape_predictor(str(path))  # pyright: ignore[reportAttributeAccessIssue]


class DlibFaces:
    """Detector and landmarks.

    Args:
      max_faces: most faces returned, the largest.

    Raises:
      UserError: the landmark model is missing or damaged.
    """

    def __init__(self, *, max_faces: int = 4) -> None:
        import dlib

        self._max_faces = max_faces
        self._rectangle = dlib.rectangle  # pyright: ignore[reportAttributeAccessIssue]
        self._detector = dlib.get_frontal_face_detector()  # pyright: ignore[reportAttributeAccessIssue]
        self._predictor = _predictor(dlib68_path())

    def detect(self, image: np.ndarray, hints: Sequence[np.ndarray] = ()) -> list[Face]:
        """The faces of an image, most prominent first.

        Args:
          image: u8[H, W, 3], RGB.
          hints: boxes f32[4] of the faces in the last frame. If each is found again near its
            place nothing else is searched; if one is lost, or without hints, the whole picture.
            Faces from 80 px are found in pictures up to 1920 px, from 40 px up to 640 px.

        Returns:
          Faces with box f32[4] and landmarks68 f32[68, 2] in source pixels.
        """
        import cv2

        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        faces = self._follow(gray, hints) or self._search(gray)
        faces.sort(key=lambda face: (-face.prominence, *face.box))
        faces = faces[: self._max_faces]
        for face in faces:
            face.landmarks68 = self.landmarks(gray, face.box)
        return faces

    def _follow(self, gray: np.ndarray, hints: Sequence[np.ndarray]) -> list[Face]:
        """The hinted faces found again; empty if any is lost."""
        faces: list[Face] = []
        for hint in hints:
            side = max(hint[2] - hint[0], hint[3] - hint[1])
            centre = (hint[:2] + hint[2:]) / 2
            half = TRACK_REGION * side / 2
            # The detector's cells of 8 pixels lie on whole pixels of the picture, at the same
            # places from frame to frame: a face that rests gets a box that rests.
            cell = max(1, round(8 * side / TRACK_SIDE))
            region = (
                *(cell * np.floor((centre - half) / cell)),
                *(cell * np.ceil((centre + half) / cell)),
            )
            found = self._find(gray, 8 / cell, region)
            best = max(found, key=lambda face: iou(face.box, hint), default=None)
            if best is None or iou(best.box, hint) < TRACK_IOU:
                return []
            if all(iou(best.box, face.box) < TRACK_IOU for face in faces):
                faces.append(best)
        return faces

    def _search(self, gray: np.ndarray) -> list[Face]:
        side = max(gray.shape)
        quick = min(1.0, QUICK_SIDE / side)
        fine = min(MOST_ENLARGED, max(FINE_SIDE / side, min(1.0, LARGEST_SIDE / side)))
        return self._find(gray, quick) or self._find(gray, fine)

    def _find(
        self, gray: np.ndarray, scale: float, region: Sequence[float] | None = None
    ) -> list[Face]:
        """What the detector finds in a region at a scale, without landmarks."""
        import cv2

        height, width = gray.shape
        left, top, right, bottom = region or (0, 0, width, height)
        left, top = max(0, int(left)), max(0, int(top))
        part = gray[top : max(0, int(bottom)), left : max(0, int(right))]
        if 0 in part.shape:
            return []
        size = [max(1, round(scale * n)) for n in (part.shape[1], part.shape[0])]
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        part = np.ascontiguousarray(cv2.resize(part, size, interpolation=how))
        found, scores, _ = self._detector.run(part, 0, 0.0)
        faces = []
        for r, score in zip(found, scores, strict=True):
            edges = r.left(), r.top(), r.right() + 1, r.bottom() + 1
            box = np.array(edges) / scale + (left, top, left, top)
            faces.append(Face(box.astype(np.float32), min(1.0, float(score))))
        return faces

    def landmarks(self, gray: np.ndarray, box: np.ndarray) -> np.ndarray:
        """f32[68, 2] in a box f32[4] of a picture u8[H, W]; whole pixels, as dlib gives them."""
        left, top, right, bottom = (round(float(v)) for v in box)
        shape = self._predictor(gray, self._rectangle(left, top, right - 1, bottom - 1))
        return np.array([(p.x, p.y) for p in shape.parts()], np.float32)
