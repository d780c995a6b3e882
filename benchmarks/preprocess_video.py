"""What does preprocessing a video cost beside the detectors alone, and does it scale?

    python -m benchmarks.preprocess_video --json

* `ratio_bare_loop_<output>`: frames a second of an `Extractor`, from the video file to the bytes of
  the record, over a loop that reads the file with OpenCV and calls the detectors alone: dlib at the
  same scale and following the face likewise, MediaPipe with the same options.
  `share_of_detector_<output>`: over the detectors alone on frames in memory.
* `ratio_separate_passes`: the time of each output by itself, added up, over all in one pass.
* `ratio_tutorial`: landmarks and crops over the loop of the tutorials: dlib's detector on the whole
  frame enlarged once, a file for each crop, an array that grows in a list.
* `ratio_scaling`: how much faster more workers are than one, over how much faster as many processes
  of the detector's loop are. `speedup_*` are both; on idle cores `speedup_detector` is the number
  of workers.
* `peak_mib_<frames>`: the peak of a worker's resident memory, every output, for a short and for a
  long video.

`cpu_*` are the same ratios in processor time, which other programs of a busy machine disturb less.
A portrait moves through pictures of 1280x720. Peers take turns; medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import race
from benchmarks.preprocess_faces import make_landmarker, moving_portrait, scores
from fer_jax.executors import make_engine
from fer_jax.records import Clip, encode
from preprocessing.extract import FULL_SEARCH_EVERY, OUTPUTS, Extractor, Recipe
from preprocessing.faces_dlib import DlibFaces
from preprocessing.model_files import dlib68_path
from preprocessing.video import read_frames
from preprocessing.worker import ShardJob, build_shard

SIZE = 1280, 720
ARGUMENTS = {
    "turns": (8, "turns of each peer"),
    "clips": (8, "clips for the scaling"),
    "frames": (150, "frames of each of them"),
    "workers": (2, "processes for the scaling"),
    "rounds": (3, "rounds of the scaling"),
    "short": (500, "frames of the short video for the memory"),
    "long": (5000, "frames of the long one"),
}


def write_video(path: Path, frames: int) -> Path:
    """A video file with a face that moves."""
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    fourcc = cv2.VideoWriter.fourcc(*"mp4v")
    video = cv2.VideoWriter(str(path), fourcc, 25, SIZE)
    for frame in moving_portrait(frames):
        video.write(cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR))
    video.release()
    return path


def dlib_loop(faces: DlibFaces, images: Iterable[np.ndarray]) -> None:
    """The detector and the landmarks alone, as the extractor calls them."""
    hints: list[np.ndarray] = []
    for t, image in enumerate(images):
        hints = [f.box for f in faces.detect(image, hints if t % FULL_SEARCH_EVERY else ())]


def decoded(video: Path) -> Iterator[np.ndarray]:
    """The frames as OpenCV alone reads them, RGB."""
    import cv2

    capture = cv2.VideoCapture(str(video), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    while (image := capture.read()[1]) is not None:
        yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def bare_loop(video: Path, dlib: DlibFaces | None, mediapipe: Any) -> None:
    """Decoding and detectors alone, frame by frame, as the extractor calls them."""
    hints: list[np.ndarray] = []
    for t, image in enumerate(decoded(video)):
        if dlib is not None:
            hints = [f.box for f in dlib.detect(image, hints if t % FULL_SEARCH_EVERY else ())]
        if mediapipe is not None:
            scores(mediapipe, image)


def make_tutorial(video: Path, out: Path) -> Callable[[], None]:
    """Landmarks and crops as a tutorial would have them."""
    import cv2
    import dlib

    detector = dlib.get_frontal_face_detector()  # pyright: ignore[reportAttributeAccessIssue]
    predictor = dlib.shape_predictor(str(dlib68_path()))  # pyright: ignore[reportAttributeAccessIssue]

    def run() -> None:
        capture, landmarks = cv2.VideoCapture(str(video)), []
        while True:
            ok, image = capture.read()
            if not ok:
                break
            gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
            for r in detector(gray, 1):
                shape = predictor(gray, r)
                face = image[max(0, r.top()) : r.bottom(), max(0, r.left()) : r.right()]
                cv2.imwrite(str(out / f"{len(landmarks):05d}.jpg"), cv2.resize(face, (112, 112)))
                landmarks.append(np.array([(p.x, p.y) for p in shape.parts()]))
        np.save(out / "landmarks.npy", np.array(landmarks))

    return run


def in_turns(
    runs: Mapping[str, Callable[[], object]], turns: int
) -> dict[str, tuple[float, float]]:
    """Median seconds and processor seconds of each, after one turn to warm up."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for turn in range(turns + 1):
        for name, run in runs.items():
            begun = time.perf_counter(), time.process_time()
            run()
            ended = time.perf_counter(), time.process_time()
            if turn:
                taken[name].append((ended[0] - begun[0], ended[1] - begun[1]))
    return {
        name: (statistics.median(t for t, _ in times), statistics.median(c for _, c in times))
        for name, times in taken.items()
    }


def outputs(folder: Path, turns: int) -> dict[str, Any]:
    """Each output, and all, beside their detectors; and landmarks and crops beside the tutorial."""
    frames = FULL_SEARCH_EVERY
    video = write_video(folder / "turn.mp4", frames)
    images = [frame.image for frame in read_frames(video)]
    recipes = {name: (name,) for name in OUTPUTS} | {
        "all": OUTPUTS,
        "landmarks_and_crops": ("landmarks", "crops"),
    }
    extractors = {name: Extractor(Recipe(outputs=chosen)) for name, chosen in recipes.items()}

    def ours(extractor: Extractor) -> None:
        encode(extractor.extract(Clip(clip_id="b/1", corpus="b"), read_frames(video)))

    dlib, mediapipe = DlibFaces(), make_landmarker(True, Recipe().max_faces)
    runs: dict[str, Callable[[], object]] = {
        name: lambda e=extractor: ours(e) for name, extractor in extractors.items()
    }
    bare = {(True, False): (dlib, None), (False, True): (None, mediapipe),
            (True, True): (dlib, mediapipe)}  # fmt: skip
    for (first, second), detectors in bare.items():
        name = "bare" + "_dlib" * first + "_mediapipe" * second
        runs[name] = lambda given=detectors: bare_loop(video, *given)
    runs["read"] = lambda: sum(1 for _ in decoded(video))
    runs["dlib"] = lambda: dlib_loop(dlib, images)
    runs["mediapipe"] = lambda: [scores(mediapipe, image) for image in images]
    runs["tutorial"] = make_tutorial(video, folder)
    with mediapipe:
        taken = in_turns(runs, turns)
    for extractor in extractors.values():
        extractor.close()

    answer: dict[str, Any] = {}
    for kind, way in (("ratio", 0), ("cpu", 1)):
        cost = {name: times[way] for name, times in taken.items()}
        for name, recipe in ((name, e.recipe) for name, e in extractors.items()):
            alone = recipe.uses_dlib * cost["dlib"] + recipe.uses_mediapipe * cost["mediapipe"]
            if name == "landmarks_and_crops":
                continue
            loop = "bare" + "_dlib" * recipe.uses_dlib + "_mediapipe" * recipe.uses_mediapipe
            answer[f"{kind}_bare_loop_{name}"] = round(cost[loop] / cost[name], 3)
            if kind == "ratio":
                answer[f"share_of_detector_{name}"] = round(alone / cost[name], 3)
        separate = sum(cost[name] for name in OUTPUTS)
        answer[f"{kind}_separate_passes"] = round(separate / cost["all"], 3)
        answer[f"{kind}_tutorial"] = round(cost["tutorial"] / cost["landmarks_and_crops"], 3)
    # The networks' operations are not to be had: the roof is the detectors alone.
    answer |= {
        "ours_ms": round(1e3 * taken["all"][0] / frames, 2),
        "share_of_roof": answer["share_of_detector_all"],
    }
    answer["frames_per_s"] = {name: round(frames / times[0], 1) for name, times in taken.items()}
    answer["cpu_ms_a_frame"] = {
        name: round(1e3 * times[1] / frames, 2) for name, times in taken.items()
    }
    return answer


def work(job: ShardJob | Path) -> int:
    """A job of a worker: a shard, or the detector's loop over a video. Its peak memory, bytes."""
    if isinstance(job, ShardJob):
        build_shard(job)
    else:
        dlib_loop(DlibFaces(), (frame.image for frame in read_frames(job)))
    return _peak()


def _peak() -> int:
    """VmHWM: unlike getrusage's, not inherited from the process that started this one."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def shard_job(folder: Path, video: Path, chosen: tuple[str, ...]) -> ShardJob:
    """One video as a shard of its own."""
    name = video.stem
    return ShardJob(
        corpus="folder", raw=folder, path=folder / f"{name}.tfrecord",
        clips=(Clip(clip_id=f"folder/{name}", corpus="folder", source=video.name),),
        recipe=Recipe(outputs=chosen), build_sha256="", stall_timeout_s=60.0,
        progress=folder / f"{name}.progress",
    )  # fmt: skip


def scaling(folder: Path, clips: int, frames: int, workers: int, rounds: int) -> dict[str, Any]:
    """One worker beside several, for us and for the detector's loop."""
    videos = [write_video(folder / f"{i}.mp4", frames) for i in range(clips)]
    jobs: dict[str, list[Any]] = {
        "ours": [shard_job(folder, video, ("landmarks", "crops")) for video in videos],
        "detector": list(videos),
    }
    seconds: dict[tuple[str, int], list[float]] = {}
    with make_engine("local", work, 1) as one, make_engine("local", work, workers) as many:
        for turn in range(rounds + 1):
            for name, its in jobs.items():
                for engine, count in ((one, 1), (many, workers)):
                    # In the first turn the workers start and load their models.
                    waiting = its if turn else its[:count]
                    begun = time.perf_counter()
                    _finish(engine, waiting)
                    if turn:
                        taken = time.perf_counter() - begun
                        seconds.setdefault((name, count), []).append(taken)
    median = {key: statistics.median(times) for key, times in seconds.items()}
    speedup = {name: median[name, 1] / median[name, workers] for name in jobs}
    return {
        "ratio_scaling": round(speedup["ours"] / speedup["detector"], 3),
        **{f"speedup_{name}": round(value, 3) for name, value in speedup.items()},
        "workers": workers,
    }


def _finish(engine: Any, jobs: Iterable[Any]) -> list[int]:
    """Every job's value."""
    left = 0
    for job in jobs:
        engine.submit(job)
        left += 1
    values = []
    while len(values) < left:
        for outcome in engine.wait(1.0):
            if outcome.error is not None:
                raise outcome.error
            values.append(outcome.value)
    return values


def memory(folder: Path, lengths: Iterable[int]) -> dict[str, Any]:
    """The peak of a fresh worker for a video of each length."""
    answer = {}
    for frames in lengths:
        video = write_video(folder / f"long{frames}.mp4", frames)
        with make_engine("local", work, 1) as engine:
            (peak,) = _finish(engine, [shard_job(folder, video, OUTPUTS)])
        answer[f"peak_mib_{frames}"] = round(peak / 2**20, 1)
    return answer


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return {
            **outputs(folder, arguments.turns),
            **scaling(
                folder, arguments.clips, arguments.frames, arguments.workers, arguments.rounds
            ),
            **memory(folder, (arguments.short, arguments.long)),
        }


if __name__ == "__main__":
    race.main("preprocess_video", __doc__, measure, ARGUMENTS)
