"""Emotions of a camera or a video on a small computer: onnxruntime and MediaPipe, nothing else.

    pip install onnxruntime mediapipe
    python small_computer.py stream.onnx --landmarker face_landmarker.task            # the camera
    python small_computer.py stream.onnx --landmarker face_landmarker.task --video FILE

`fer-jax export RUN --to onnx` writes stream.onnx of a recogniser that reads blendshapes; the
landmarker is MediaPipe's own model file. Neither FER-JAX nor JAX is needed: what must be known of
the recogniser (its classes, its inputs, its state) stands in the file's metadata.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import mediapipe
import numpy as np
import onnxruntime
from mediapipe.tasks.python import vision
from mediapipe.tasks.python.core.base_options import BaseOptions

BLENDSHAPES = "blendshapes"


class Recogniser:
    """A stream.onnx of FER-JAX: blendshapes in, probabilities out, one frame after another.

    Attributes:
      classes: the emotions, in the order of the probabilities.
      facts: all that the file says of itself.
    """

    def __init__(self, path: Path) -> None:
        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        metadata = self._session.get_modelmeta().custom_metadata_map
        if metadata.get("signature") != "stream":
            sys.exit(f"{path} is no stream.onnx of FER-JAX: `fer-jax export RUN --to onnx`")
        self.facts = json.loads(metadata["recogniser"])
        self.classes = self.facts["classes"]
        signature = self.facts["signatures"]["stream"]
        shapes, state = signature["inputs"], signature["state"]
        for name, said in shapes.items():
            if name not in (BLENDSHAPES, *state):
                sys.exit(
                    f"{path} reads {name} ({said['meaning']}); this program finds blendshapes only"
                )
        # A stream begins with zeros, and what a frame leaves behind is the next one's.
        self._state = {
            name: np.zeros((1, *shapes[name]["shape"]), shapes[name]["dtype"]) for name in state
        }
        self._names = [output.name for output in self._session.get_outputs()]

    def __call__(self, blendshapes: np.ndarray) -> np.ndarray:
        """Probabilities f32[K] after a frame's f32[52]."""
        inputs = {BLENDSHAPES: blendshapes[None], **self._state}
        found = dict(zip(self._names, self._session.run(self._names, inputs), strict=True))
        self._state = {name: found[f"next_{name}"] for name in self._state}
        return found["probabilities"][0]

    def verdict(self, probabilities: list[np.ndarray]) -> np.ndarray:
        """Of a whole video, f32[K]: a sequence model's last word, or the mean of single frames."""
        single = self.facts["reads"]["length"] == "frames"
        return np.mean(probabilities, axis=0) if single else probabilities[-1]


class Faces:
    """MediaPipe's face landmarker, each frame on its own, as FER-JAX trains with it."""

    def __init__(self, path: Path, most: int) -> None:
        options = vision.FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=str(path)),
            running_mode=vision.RunningMode.IMAGE,
            num_faces=most,
            output_face_blendshapes=True,
        )
        self._landmarker = vision.FaceLandmarker.create_from_options(options)

    def blendshapes(self, picture: np.ndarray) -> np.ndarray | None:
        """f32[52] of the largest face of a picture u8[H, W, 3], BGR; None without a face."""
        data = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=data)
        found = self._landmarker.detect(image)
        if not found.face_landmarks:
            return None

        def area(face: int) -> float:
            points = np.array([(point.x, point.y) for point in found.face_landmarks[face]])
            return float(np.prod(np.ptp(points, axis=0)))

        largest = max(range(len(found.face_landmarks)), key=area)
        scores = found.face_blendshapes[largest]
        return np.array([shape.score for shape in scores], np.float32)

    def close(self) -> None:
        self._landmarker.close()


def pictures(source: int | str) -> Iterator[np.ndarray]:
    """The frames of a camera or a video, u8[H, W, 3], BGR."""
    capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        sys.exit(f"cannot open {f'camera {source}' if isinstance(source, int) else source}")
    try:
        while True:
            ok, picture = capture.read()
            if not ok:
                return
            yield picture
    finally:
        capture.release()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recogniser", type=Path, help="stream.onnx")
    parser.add_argument("--landmarker", type=Path, required=True, help="face_landmarker.task")
    parser.add_argument("--video", help="a file; without it, the camera")
    parser.add_argument("--camera", type=int, default=0, help="the number of the camera")
    arguments = parser.parse_args()
    recogniser = Recogniser(arguments.recogniser)
    faces = Faces(arguments.landmarker, recogniser.facts["recipe"].get("max_faces", 1))
    source = arguments.camera if arguments.video is None else arguments.video
    said: list[np.ndarray] = []
    try:
        for index, picture in enumerate(pictures(source)):
            scores = faces.blendshapes(picture)
            if scores is None:
                print(f"{index}\tno face", flush=True)
                continue
            said.append(recogniser(scores))
            print(f"{index}\t{_words(recogniser.classes, said[-1])}", flush=True)
            if arguments.video is None:
                said = said[-1:]  # A camera has no end.
    except KeyboardInterrupt:
        pass
    finally:
        faces.close()
    if arguments.video is not None:
        if not said:
            sys.exit("no face in any frame")
        print(f"verdict\t{_words(recogniser.classes, recogniser.verdict(said))}")


def _words(classes: list[str], probabilities: np.ndarray) -> str:
    """The likeliest class, and every class's probability."""
    each = " ".join(f"{name}={p:.6f}" for name, p in zip(classes, probabilities, strict=True))
    return f"{classes[int(np.argmax(probabilities))]}\t{each}"


if __name__ == "__main__":
    main()
