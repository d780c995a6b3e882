"""What does the extractor cost beside the bare detectors?

    python -m benchmarks.preprocess_faces --json --images 2000

Two comparisons, each taken in turns so that a busy machine is as bad for one as for the other:

* `ratio_bare_loop`: images a second of an `Extractor` (blendshapes, 478 points, pose and a grey
  48 pixel PNG, as for FER2013) over a loop that only calls MediaPipe and reads the 52 scores.
  `ratio_bare_loop_with_pose` is over the same loop when MediaPipe computes the pose there too.
* `ratio_full_search`: speed of the dlib detector and landmarks following a face through a video
  over detecting in every full frame at native size; and how far apart the landmarks lie, in eye
  distances (dlib's points are whole pixels).

Images come from a FER2013 csv or a folder of images, else from a portrait; the video is given, or
the portrait moves through a 1280x720 picture.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import race
from fer_jax.records import Clip
from preprocessing.crops import eye_centres
from preprocessing.extract import FULL_SEARCH_EVERY, Extractor, NoFaceError, Recipe
from preprocessing.faces_dlib import DlibFaces
from preprocessing.faces_mediapipe import import_mediapipe
from preprocessing.model_files import landmarker_path
from preprocessing.video import Frame, is_image, read_frames

FER2013 = Path("../shared/data/fer2013")
RECIPE = Recipe(
    outputs=("blendshapes", "crops"),
    align="none",
    crop_size=48,
    crop_color="gray",
    crop_format="png",
    max_faces=1,
)


def _portrait() -> np.ndarray:
    from skimage import data

    return np.ascontiguousarray(data.astronaut())


def _csv_images(path: Path) -> Iterator[np.ndarray]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", newline="") as file:
        for row in csv.DictReader(file):
            pixels = np.array(row["pixels"].split(), np.uint8).reshape(48, 48, 1)
            yield np.repeat(pixels, 3, 2)


def load_images(source: Path | None, count: int) -> list[np.ndarray]:
    """Up to `count` images u8[H, W, 3]."""
    import cv2

    if source is None:
        head = _portrait()[20:240, 120:340]
        rng = np.random.default_rng(0)
        small = cv2.resize(head, (48, 48), interpolation=cv2.INTER_AREA).astype(int)
        noisy = (small + rng.integers(-8, 9, small.shape) for _ in range(count))
        return [np.clip(image, 0, 255).astype(np.uint8) for image in noisy]
    if source.is_dir():
        tables = sorted([*source.glob("fer2013.csv"), *source.glob("fer2013.csv.gz")])
        if not tables:
            paths = sorted(path for path in source.rglob("*") if is_image(path))
            return [next(read_frames(path)).image for path in paths[:count]]
        source = tables[0]
    return list(islice(_csv_images(source), count))


def make_landmarker(pose: bool, faces: int = 1) -> Any:
    """MediaPipe's own landmarker, without and with the pose that we store too."""
    _, vision, base = import_mediapipe()
    options = vision.FaceLandmarkerOptions(
        base_options=base.BaseOptions(model_asset_path=str(landmarker_path())),
        num_faces=faces,
        output_face_blendshapes=True,
        output_facial_transformation_matrixes=pose,
    )
    return vision.FaceLandmarker.create_from_options(options)


def scores(landmarker: Any, image: np.ndarray) -> list[float]:
    """The 52 scores of the first face, by MediaPipe alone; none without a face."""
    mediapipe, _, _ = import_mediapipe()
    picture = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=image)
    faces = landmarker.detect(picture).face_blendshapes
    return [shape.score for shape in faces[0]] if faces else []


def bare_loop(images: list[np.ndarray]) -> dict[str, float]:
    """Extractor against MediaPipe's own loop, without and with the pose that we store too."""
    with (
        Extractor(RECIPE) as extractor,
        make_landmarker(False) as plain,
        make_landmarker(True) as posed,
    ):

        def ours(image: np.ndarray) -> bool:
            try:
                extractor.extract(Clip(clip_id="b/1", corpus="b"), [Frame(0, 0.0, image)])
            except NoFaceError:
                return False
            return True

        runs: dict[str, Callable[[np.ndarray], bool]] = {
            "ours": ours,
            "bare": lambda image: bool(scores(plain, image)),
            "posed": lambda image: bool(scores(posed, image)),
        }
        for run in runs.values():
            run(images[0])
        names = list(runs)
        seconds: dict[str, list[float]] = {name: [] for name in names}
        found = dict.fromkeys(names, 0)
        for turn, image in enumerate(images):
            for name in names[turn % 3 :] + names[: turn % 3]:
                begun = time.perf_counter()
                found[name] += runs[name](image)
                seconds[name].append(time.perf_counter() - begun)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "ratio_bare_loop": round(median["bare"] / median["ours"], 3),
        "ratio_bare_loop_with_pose": round(median["posed"] / median["ours"], 3),
        "images": len(images),
        "images_per_s": round(1 / median["ours"], 1),
        "bare_loop_images_per_s": round(1 / median["bare"], 1),
        "share_without_face": round(1 - found["ours"] / len(images), 4),
        "found_differs_by": abs(found["ours"] - found["bare"]),
    }


def moving_portrait(frames: int) -> Iterator[Frame]:
    """The portrait swaying through a 1280x720 picture."""
    import cv2

    portrait = _portrait()
    for t in range(frames):
        angle, scale = 8 * np.sin(t / 9), 1.3 + 0.15 * np.sin(t / 17)
        matrix = cv2.getRotationMatrix2D((224, 120), angle, scale)
        matrix[:, 2] += (400 + 90 * np.sin(t / 13), 180 + 30 * np.cos(t / 7))
        image = cv2.warpAffine(portrait, matrix, (1280, 720), borderValue=(90, 90, 90))
        yield Frame(t, 40.0 * t, image)


def full_search(frames: Iterator[Frame]) -> dict[str, float]:
    """Following a face against searching every full frame at native size."""
    import cv2
    import dlib

    faces = DlibFaces(max_faces=1)
    detector = dlib.get_frontal_face_detector()  # pyright: ignore[reportAttributeAccessIssue]
    hints: list[np.ndarray] = []
    seconds: list[list[float]] = [[], []]
    found, gaps = [0, 0], []
    for t, frame in enumerate(frames):
        image = frame.image
        begun = time.perf_counter()
        followed = faces.detect(image, hints if t % FULL_SEARCH_EVERY else ())
        seconds[0].append(time.perf_counter() - begun)
        hints = [face.box for face in followed]
        begun = time.perf_counter()
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        rectangles, _, _ = detector.run(gray, 0, 0.0)
        searched = None
        if rectangles:  # surest first
            r = rectangles[0]
            edges = r.left(), r.top(), r.right() + 1, r.bottom() + 1
            searched = faces.landmarks(gray, np.array(edges))
        seconds[1].append(time.perf_counter() - begun)
        found[0] += bool(followed)
        found[1] += searched is not None
        if followed and searched is not None:
            distance = np.hypot(*np.subtract(*eye_centres(searched)))
            gaps.append(np.hypot(*(followed[0].landmarks68 - searched).T) / distance)
    # Sums: the search that is repeated every so often belongs to the cost of following.
    mine, theirs = (sum(times) / len(times) for times in seconds)
    result = {
        "ratio_full_search": round(theirs / mine, 2),
        "followed_ms": round(1e3 * mine, 2),
        "full_search_ms": round(1e3 * theirs, 2),
        "frames": len(seconds[0]),
        "frames_found_followed": found[0],
        "frames_found_full_search": found[1],
    }
    if gaps:
        result["landmark_difference_median"] = round(float(np.median(gaps)), 4)
        result["landmark_difference_worst_frame"] = round(float(np.mean(gaps, 1).max()), 4)
    return result


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    source = Path(arguments.source) if arguments.source else None
    if source is None and FER2013.is_dir():
        source = FER2013
    images = load_images(source, arguments.images)
    if not images:
        sys.exit(f"{source}: no images")
    if arguments.video:
        frames = islice(read_frames(arguments.video), arguments.frames)
    else:
        frames = moving_portrait(arguments.frames)
    return {**bare_loop(images), **full_search(frames)}


if __name__ == "__main__":
    race.main(
        "preprocess_faces",
        __doc__,
        measure,
        {
            "images": (1000, "how many images"),
            "source": ("", "FER2013 csv or folder of images, else ../shared's or the portrait"),
            "video": ("", "a video with a face, else a moving portrait"),
            "frames": (150, "most frames of the video"),
        },
    )
