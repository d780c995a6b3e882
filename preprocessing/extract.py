"""From the frames of a clip to its streams, in one pass and without keeping frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from fer_jax.errors import UserError
from fer_jax.records import IMAGES, Clip
from fer_jax.records import OUTPUTS as OUTPUT_OF
from preprocessing.crops import (
    aligned_crop,
    crop_matrix,
    encode_crop,
    eye_centres,
    whole_crop,
    whole_matrix,
)
from preprocessing.faces_dlib import DlibFaces
from preprocessing.faces_mediapipe import MediaPipeFaces
from preprocessing.frontalize import SYMMETRIES, Frontalizer
from preprocessing.spool import Spool
from preprocessing.track import Face, Tracker, match
from preprocessing.video import Frame, VideoError

#: Raise it when what is extracted changes: shards of another version are not resumed.
EXTRACTION_VERSION = 3
OUTPUTS = ("landmarks", "blendshapes", "crops", "frontal")
#: A dlib box and the extent of MediaPipe's points overlap by about 0.6 on one face.
SAME_FACE_IOU = 0.25
#: The dlib detector follows boxes and looks at the whole picture every so many frames.
FULL_SEARCH_EVERY = 30


class NoFaceError(ValueError):
    """A clip in which no face was found in any frame."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What to extract; with the clips it determines the bytes of the records.

    Attributes:
      outputs: of "landmarks" (68 points, dlib), "blendshapes" (52 scores, 478 points and pose,
        MediaPipe), "crops" and "frontal" (see `preprocessing.frontalize`; by MediaPipe's points
        where they are extracted and found, else by dlib's).
      crop_size: side of a crop, pixels.
      crop_color: "rgb" or "gray"; of frontal pictures too, as are the next two.
      crop_format: "jpeg" or "png".
      crop_quality: of a JPEG, 1 to 100.
      align: "face" cuts crops by the eyes (see `preprocessing.crops`), "none" stretches the whole
        picture, for corpora whose pictures are face crops already.
      frontal_size: side of a frontal picture, pixels; None for that of a crop.
      frontal_symmetry: "none" or "soft".
      max_faces: most faces looked at in a frame, before the subject is chosen.

    Raises:
      UserError: an option that does not exist or is out of range.
    """

    outputs: tuple[str, ...] = ("landmarks",)
    crop_size: int = 112
    crop_color: str = "rgb"
    crop_format: str = "jpeg"
    crop_quality: int = 95
    align: str = "face"
    frontal_size: int | None = None
    frontal_symmetry: str = "none"
    max_faces: int = 4

    def __post_init__(self) -> None:
        unknown = [name for name in self.outputs if name not in OUTPUTS]
        if unknown or not self.outputs:
            got = repr(unknown[0]) if unknown else "nothing"
            raise UserError(f"outputs: {got}, choose from {', '.join(OUTPUTS)}")
        # One order, so that equal recipes are equal.
        ordered = tuple(name for name in OUTPUTS if name in self.outputs)
        object.__setattr__(self, "outputs", ordered)
        if self.frontal_size is None:
            object.__setattr__(self, "frontal_size", self.crop_size)
        for name, known in (
            ("crop_color", ("rgb", "gray")),
            ("crop_format", ("jpeg", "png")),
            ("align", ("face", "none")),
            ("frontal_symmetry", SYMMETRIES),
        ):
            if getattr(self, name) not in known:
                raise UserError(f"{name}: {getattr(self, name)!r}, choose from {', '.join(known)}")
        for name, low, high in (
            ("crop_size", 16, 1024),
            ("crop_quality", 1, 100),
            ("frontal_size", 16, 1024),
            ("max_faces", 1, 64),
        ):
            if not low <= getattr(self, name) <= high:
                raise UserError(f"{name}: {getattr(self, name)}, choose from {low} to {high}")

    @property
    def uses_mediapipe(self) -> bool:
        return "blendshapes" in self.outputs

    @property
    def uses_dlib(self) -> bool:
        if "landmarks" in self.outputs:
            return True
        aligns = "crops" in self.outputs and self.align == "face"
        return (aligns or "frontal" in self.outputs) and not self.uses_mediapipe

    @property
    def streams(self) -> tuple[str, ...]:
        """The optional streams of the records."""
        return tuple(name for name, output in OUTPUT_OF.items() if output in self.outputs)

    @property
    def image_shapes(self) -> dict[str, tuple[int, int, int]]:
        """Shape (H, W, C) of the decoded images of each stream of images."""
        assert self.frontal_size is not None, "set from crop_size"
        channels = 3 if self.crop_color == "rgb" else 1
        sides = {"crops": self.crop_size, "frontal": self.frontal_size}
        return {name: (sides[name], sides[name], channels) for name in IMAGES
                if name in self.outputs}  # fmt: skip

    def to_json(self) -> dict:
        """Every option and the version of the extraction; equal dicts give equal records."""
        value = dataclasses.asdict(self) | {"version": EXTRACTION_VERSION}
        value["outputs"] = list(self.outputs)
        return value


class Extractor:
    """Holds the detectors that a recipe needs and fills clips; one for each process.

    A context manager: MediaPipe's graph must be closed before the interpreter ends.

    Raises:
      UserError: a model file is missing or damaged.
    """

    def __init__(self, recipe: Recipe) -> None:
        import cv2

        # Parallelism is over shards; threads of OpenCV's own would fight the other workers.
        cv2.setNumThreads(1)
        self.recipe = recipe
        self._dlib = DlibFaces(max_faces=recipe.max_faces) if recipe.uses_dlib else None
        self._mediapipe = (
            MediaPipeFaces(max_faces=recipe.max_faces) if recipe.uses_mediapipe else None
        )
        self._frontalizer = None
        if "frontal" in recipe.outputs:
            side, _, _ = recipe.image_shapes["frontal"]
            self._frontalizer = Frontalizer(side, recipe.frontal_symmetry)

    def __enter__(self) -> Extractor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._mediapipe is not None:
            self._mediapipe.close()

    def extract(self, clip: Clip, frames: Iterable[Frame], folder: Path | None = None) -> Clip:
        """The clip with its frames' times and streams filled in.

        Every frame of the source is kept. A frame without the subject's face is NaN in every
        stream and False in face_found; a frame that one detector missed and the other did not is
        NaN in the missed streams only. fps is the mean rate, duration_ms counts the last frame.

        Args:
          clip: identity and labels; T = 0.
          frames: in order, read once; none is kept.
          folder: where a long clip's images wait; None for the system's place for temporary files.

        Returns:
          The clip. Its images may lie in a file, which goes when the clip does.

        Raises:
          NoFaceError: no face in any frame.
          VideoError: no frames, or frames of different sizes.
          UserError: the disk is full.
        """
        tracker, spool = Tracker(), Spool(self.recipe.streams, folder)
        index: list[int] = []
        times: list[float] = []
        hints: list[np.ndarray] = []
        shape = (0, 0, 0)
        for frame in frames:  # not enumerated, which holds a frame while the next is read
            t = len(index)
            image = np.ascontiguousarray(frame.image)
            if t == 0:
                shape = image.shape
            elif image.shape != shape:
                raise VideoError(f"frame {frame.index} is {image.shape}, the first is {shape}")
            index.append(frame.index)
            times.append(frame.time_ms)
            faces, hints = self._faces(image, () if t % FULL_SEARCH_EVERY == 0 else hints)
            self._picture(image, faces)
            tracker.add(t, [spool.put(face) for face in faces])
            del frame, image
        if not index:
            raise VideoError("no frames")
        subject = tracker.subject()
        if not subject:
            raise NoFaceError(f"no face found in {len(index)} frame(s)")
        found = np.zeros(len(index), bool)
        found[list(subject)] = True
        box = np.full((len(index), 4), np.nan, np.float32)
        box[found] = [face.box for face in subject.values()]
        return clip.replace(
            **_timing(times),
            width=shape[1],
            height=shape[0],
            frame_index=np.array(index, np.int32),
            time_ms=np.array(times, np.float32),
            face_found=found,
            box=box,
            **spool.streams(subject, len(index)),
        )

    def _faces(
        self, image: np.ndarray, hints: Iterable[np.ndarray]
    ) -> tuple[list[Face], list[np.ndarray]]:
        """The faces of a frame, each as every detector sees it, and the dlib boxes to follow."""
        if self._dlib is None and self._mediapipe is None:
            height, width = image.shape[:2]
            return [Face(np.array([0, 0, width, height], np.float32))], []
        faces = self._dlib.detect(image, list(hints)) if self._dlib is not None else []
        boxes = [face.box for face in faces]
        if self._mediapipe is not None:
            others = self._mediapipe.detect(image)
            pairs = {j: i for i, j in match(boxes, [o.box for o in others], SAME_FACE_IOU)}
            for j, other in enumerate(others):
                if j in pairs:
                    face = faces[pairs[j]]
                    face.landmarks478 = other.landmarks478
                    face.blendshapes = other.blendshapes
                    face.pose = other.pose
                    face.score += other.score
                else:
                    faces.append(other)
        return faces, boxes

    def _picture(self, image: np.ndarray, faces: list[Face]) -> None:
        """Gives each face its crop and its frontal picture."""
        recipe = self.recipe
        how = recipe.crop_color, recipe.crop_format, recipe.crop_quality
        size = recipe.crop_size
        if "crops" in recipe.outputs and recipe.align == "none" and faces:
            matrix = whole_matrix(image.shape[1], image.shape[0], size)
            crop = encode_crop(whole_crop(image, size), *how)
            for face in faces:
                face.crop_matrix, face.crop = matrix, crop
        elif "crops" in recipe.outputs:
            for face in faces:
                points = _points(face.landmarks68, face.landmarks478)
                face.crop_matrix = crop_matrix(eye_centres(points), size)
                face.crop = encode_crop(aligned_crop(image, face.crop_matrix, size), *how)
        if self._frontalizer is not None:
            for face in faces:
                points = _points(face.landmarks478, face.landmarks68)
                face.frontal = encode_crop(self._frontalizer.frontalize(image, points), *how)


def _points(first: np.ndarray | None, second: np.ndarray | None) -> np.ndarray:
    points = first if first is not None else second
    assert points is not None, "each detector gives landmarks"
    return points


def _timing(times: list[float]) -> dict[str, float]:
    span = times[-1] - times[0]
    if len(times) < 2 or span <= 0:
        return {"fps": 0.0, "duration_ms": 0.0}
    interval = span / (len(times) - 1)
    return {"fps": 1000 / interval, "duration_ms": span + interval}
