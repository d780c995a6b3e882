"""Faces, 478 landmarks, 52 blendshapes and head pose with MediaPipe's face landmarker.

IMAGE mode, each frame on its own: VIDEO mode's results depend on timing and differ from run to
run.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

import numpy as np

from preprocessing.model_files import landmarker_path
from preprocessing.track import Face


class MediaPipeFaces:
    """The landmarker, with MediaPipe's default thresholds of 0.5 (paper 5).

    A context manager. Close it: its own finaliser fails when the interpreter is ending.

    Args:
      max_faces: most faces returned. With 1 MediaPipe returns the face that it is surest of.

    Raises:
      UserError: the model is missing or damaged.
    """

    def __init__(self, *, max_faces: int = 4) -> None:
        path = landmarker_path()
        with _quiet_stderr():
            mediapipe, vision, base = import_mediapipe()
            options = vision.FaceLandmarkerOptions(
                base_options=base.BaseOptions(model_asset_path=str(path)),
                running_mode=vision.RunningMode.IMAGE,
                num_faces=max_faces,
                output_face_blendshapes=True,
                output_facial_transformation_matrixes=True,
            )
            self._landmarker = vision.FaceLandmarker.create_from_options(options)
            self._image = mediapipe.Image
            self._format = mediapipe.ImageFormat.SRGB
            # The graph starts in threads of its own and talks until its first result.
            self.detect(np.zeros((64, 64, 3), np.uint8))

    def __enter__(self) -> MediaPipeFaces:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the graph; a second call does nothing."""
        if self._landmarker is not None:
            self._landmarker.close()
            self._landmarker = None

    def detect(self, image: np.ndarray) -> list[Face]:
        """The faces of an image u8[H, W, 3], RGB, largest first.

        Returns:
          Faces with landmarks478 f32[478, 3] (x, y in source pixels, z in the scale of x),
          blendshapes f32[52] in MediaPipe's order, pose f32[4, 4], and as box the landmarks'
          extent.
        """
        if self._landmarker is None:
            raise RuntimeError("the landmarker is closed")
        height, width = image.shape[:2]
        data = np.ascontiguousarray(image)
        result = self._landmarker.detect(self._image(image_format=self._format, data=data))
        scale = np.array((width, height, width), np.float32)
        faces = []
        for points, shapes, pose in zip(
            result.face_landmarks,
            result.face_blendshapes,
            result.facial_transformation_matrixes,
            strict=True,
        ):
            columns = [p.x for p in points], [p.y for p in points], [p.z for p in points]
            landmarks = np.array(columns, np.float32).T * scale
            low, high = landmarks[:, :2].min(0), landmarks[:, :2].max(0)
            faces.append(
                Face(
                    np.concatenate([low, high]),
                    landmarks478=landmarks,
                    blendshapes=np.array([s.score for s in shapes], np.float32),
                    pose=np.asarray(pose, np.float32),
                )
            )
        faces.sort(key=lambda face: (face.box[0] - face.box[2], *face.box))
        return faces


def import_mediapipe():
    """MediaPipe without TensorFlow.

    It imports TensorFlow, where that is installed, for a decorator of its API docs; that takes
    seconds and, through Keras, JAX, which a worker of preprocessing must not load.
    """
    hide = "tensorflow" not in sys.modules
    if hide:
        sys.modules["tensorflow"] = None  # type: ignore[assignment]
    try:
        import mediapipe
        from mediapipe.tasks.python import vision
        from mediapipe.tasks.python.core import base_options
    finally:
        if hide:
            del sys.modules["tensorflow"]
    return mediapipe, vision, base_options


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Holds back what C++ libraries write to stderr; an exception lets it out again."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as log:
        kept = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            yield
        except BaseException:
            log.seek(0)
            os.write(kept, log.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
