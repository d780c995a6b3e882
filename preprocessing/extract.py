"""From the frames of a clip to its streams, in one pass and without keeping frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from fer_jax.errors import UserError
from fer_jax.records import Clip
from preprocessing.crops import aligned_crop, encode_crop, whole_crop
from preprocessing.faces_dlib import DlibFaces
from preprocessing.faces_mediapipe import MediaPipeFaces
from preprocessing.track import Face, Tracker, match
from preprocessing.video import Frame, VideoError

#: Raise it when what is extracted changes: shards of another version are not resumed.
EXTRACTION_VERSION = 1
OUTPUTS = ("landmarks", "blendshapes", "crops")
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
        MediaPipe) and "crops".
      crop_size: side of a crop, pixels.
      crop_color: "rgb" or "gray".
      crop_format: "jpeg" or "png".
      crop_quality: of a JPEG, 1 to 100.
      align: "face" cuts crops by the eyes (see `preprocessing.crops`), "none" stretches the whole
        picture, for corpora whose pictures are face crops already.
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
    max_faces: int = 4

    def __post_init__(self) -> None:
        unknown = [name for name in self.outputs if name not in OUTPUTS]
        if unknown or not self.outputs:
            got = repr(unknown[0]) if unknown else "nothing"
            raise UserError(f"outputs: {got}, choose from {', '.join(OUTPUTS)}")
        # One order, so that equal recipes are equal.
        ordered = tuple(name for name in OUTPUTS if name in self.outputs)
        object.__setattr__(self, "outputs", ordered)
        for name, known in (
            ("crop_color", ("rgb", "gray")),
            ("crop_format", ("jpeg", "png")),
            ("align", ("face", "none")),
        ):
            if getattr(self, name) not in known:
                raise UserError(f"{name}: {getattr(self, name)!r}, choose from {', '.join(known)}")
        for name, low, high in (
            ("crop_size", 16, 1024),
            ("crop_quality", 1, 100),
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
        return self.crops_faces and not self.uses_mediapipe

    @property
    def crops_faces(self) -> bool:
        return "crops" in self.outputs and self.align == "face"

    @property
    def crop_shape(self) -> tuple[int, int, int] | None:
        """Shape (H, W, C) of a decoded crop, None without crops."""
        if "crops" not in self.outputs:
            return None
        return (self.crop_size, self.crop_size, 3 if self.crop_color == "rgb" else 1)

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

    def extract(self, clip: Clip, frames: Iterable[Frame]) -> Clip:
        """The clip with its frames' times and streams filled in.

        Every frame of the source is kept. A frame without the subject's face is NaN in every
        stream and False in face_found; a frame that one detector missed and the other did not is
        NaN in the missed streams only. fps is the mean rate, duration_ms counts the last frame.

        Args:
          clip: identity and labels; T = 0.
          frames: in order, read once; none is kept.

        Raises:
          NoFaceError: no face in any frame.
          VideoError: no frames, or frames of different sizes.
        """
        tracker = Tracker()
        index: list[int] = []
        times: list[float] = []
        whole: list[bytes | None] = []
        hints: list[np.ndarray] = []
        shape = (0, 0, 0)
        for t, frame in enumerate(frames):
            image = np.ascontiguousarray(frame.image)
            if t == 0:
                shape = image.shape
            elif image.shape != shape:
                raise VideoError(f"frame {frame.index} is {image.shape}, the first is {shape}")
            index.append(frame.index)
            times.append(frame.time_ms)
            faces, hints = self._faces(image, () if t % FULL_SEARCH_EVERY == 0 else hints)
            whole.append(self._crop(image, faces))
            tracker.add(t, faces)
        if not index:
            raise VideoError("no frames")
        subject = tracker.subject()
        if not subject:
            raise NoFaceError(f"no face found in {len(index)} frame(s)")
        return clip.replace(
            **_timing(times),
            width=shape[1],
            height=shape[0],
            frame_index=np.array(index, np.int32),
            time_ms=np.array(times, np.float32),
            **self._streams(subject, whole),
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

    def _crop(self, image: np.ndarray, faces: list[Face]) -> bytes | None:
        """Gives each face its aligned crop, or returns the crop of the whole picture."""
        recipe = self.recipe
        if "crops" not in recipe.outputs or not faces:
            return None
        how = recipe.crop_color, recipe.crop_format, recipe.crop_quality
        if recipe.align == "none":
            return encode_crop(whole_crop(image, recipe.crop_size), *how)
        for face in faces:
            points = face.landmarks68 if face.landmarks68 is not None else face.landmarks478
            assert points is not None, "each detector gives landmarks"
            face.crop = encode_crop(aligned_crop(image, points, recipe.crop_size), *how)
        return None

    def _streams(self, subject: dict[int, Face], whole: list[bytes | None]) -> dict:
        frames = len(whole)
        found = np.zeros(frames, bool)
        found[list(subject)] = True

        def stream(name: str, *shape: int) -> np.ndarray:
            values = np.full((frames, *shape), np.nan, np.float32)
            for t, face in subject.items():
                value = getattr(face, name)
                if value is not None:
                    values[t] = value
            return values

        streams: dict = {"face_found": found, "box": stream("box", 4)}
        if "landmarks" in self.recipe.outputs:
            streams["landmarks68"] = stream("landmarks68", 68, 2)
        if "blendshapes" in self.recipe.outputs:
            streams["landmarks478"] = stream("landmarks478", 478, 3)
            streams["blendshapes"] = stream("blendshapes", 52)
            streams["pose"] = stream("pose", 4, 4)
        if self.recipe.crops_faces:
            streams["crops"] = tuple(
                subject[t].crop if t in subject else None for t in range(frames)
            )
        elif "crops" in self.recipe.outputs:
            streams["crops"] = tuple(
                crop if seen else None for crop, seen in zip(whole, found, strict=True)
            )
        return streams


def _timing(times: list[float]) -> dict[str, float]:
    span = times[-1] - times[0]
    if len(times) < 2 or span <= 0:
        return {"fps": 0.0, "duration_ms": 0.0}
    interval = span / (len(times) - 1)
    return {"fps": 1000 / interval, "duration_ms": span + interval}
