"""A small corpus of synthetic people who act six emotions, as real video files.

It lets a newcomer, or a test, run the whole way from video to recogniser with nothing to obtain.
Files are named as CREMA-D names its files, so that corpus's adapter reads them. The faces are real
enough for dlib and MediaPipe, the acting is simple: scores on it say that the software works, and
nothing about people.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from multiprocessing import connection, get_context, parent_process
from pathlib import Path

import cv2
import numpy as np

from fer_jax.errors import UserError
from fer_jax.labels import CORPUS_WORDS
from preprocessing.synthesize_face import UNITS, Pose, Subject, make_subject, render
from preprocessing.synthesize_portrait import Portrait, make_portrait
from preprocessing.writer import write_json

#: Raise it when the same seed gives other pictures: older files are not mixed with new ones.
SYNTHESIS_VERSION = 1
EMOTIONS = CORPUS_WORDS["crema-d"]
#: CREMA-D's sentences: take k says sentence k. IEO is the one acted at three levels.
SENTENCES = ("DFA", "IEO", "TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "ITS", "TSI", "WSI")
FIRST_ACTOR, MOST_ACTORS = 1001, 91
_LEVELS: Mapping[str, tuple[float, float]] = {
    "LO": (0.45, 0.65), "MD": (0.65, 0.85), "HI": (0.9, 1.15), "XX": (0.55, 1.1),
}  # fmt: skip
_PARAMETERS = ".synthesis.json"

#: Emotions as action units, at an apex of intensity 1 (after Ekman & Friesen's EMFACS).
#: NEU is what everybody does anyway: talk, blink, move a little.
PROTOTYPES: Mapping[str, Mapping[str, float]] = {
    "ANG": {"AU4": 1.0, "AU7": 0.8, "AU24": 0.9, "AU9": 0.2},
    "DIS": {"AU9": 1.0, "AU10": 0.9, "AU4": 0.4, "AU6": 0.3, "AU15": 0.25, "AU26": 0.15},
    "FEA": {"AU1": 1.0, "AU2": 0.8, "AU4": 0.25, "AU5": 1.0, "AU20": 0.9, "AU26": 0.35},
    "HAP": {"AU12": 1.0, "AU6": 0.8, "AU10": 0.15, "AU26": 0.25},
    "NEU": {},
    "SAD": {"AU1": 0.9, "AU4": 0.3, "AU15": 1.0, "AU17": 0.5},
}


@dataclass(frozen=True)
class Parameters:
    """What decides a clip's pixels, beside who acts what."""

    seed: int
    size: int
    frames: int
    fps: float
    version: int = SYNTHESIS_VERSION


@dataclass(frozen=True)
class Take:
    """One clip: subject number, emotion and take number, all from 0."""

    subject: int
    emotion: int
    number: int

    def name(self, seed: int) -> str:
        """CREMA-D's name of the file, e.g. 1001_IEO_HAP_HI.mp4."""
        sentence, emotion, level = SENTENCES[self.number], EMOTIONS[self.emotion], "XX"
        if sentence == "IEO" and emotion != "NEU":
            rng = _random("level", seed, self.subject, self.emotion)
            level = ("LO", "MD", "HI")[rng.integers(3)]
        return f"{FIRST_ACTOR + self.subject}_{sentence}_{emotion}_{level}.mp4"


def synthesize(
    out: str | Path,
    *,
    subjects: int = 16,
    takes: int = 2,
    seed: int = 0,
    size: int = 256,
    frames: int = 24,
    fps: float = 12.0,
    workers: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write `subjects` x 6 x `takes` mp4 files. Finished files of an earlier call are kept.

    A clip depends on `seed`, `size`, `frames`, `fps` and its own name alone: not on the number of
    workers, nor on how many others there are.

    Args:
      out: directory for the files; made where it is absent.
      subjects: people, 1 to 91.
      takes: clips of each emotion by each person, 1 to 12.
      size: side of the square frames in pixels, even.
      frames: frames of a clip.
      fps: frames a second.
      workers: processes; 1 works in this one.
      on_progress: is told (files that are there, files in all) after each file.

    Returns:
      All files, by name.

    Raises:
      UserError: an argument out of range; `out` holds other videos, or some that were made with
        other parameters; a file cannot be written; dlib's model is absent.
    """
    out = Path(out)
    _check("subjects", subjects, 1, MOST_ACTORS)
    _check("takes", takes, 1, len(SENTENCES))
    _check("size", size, 128, 1024)
    _check("frames", frames, 2, 10_000)
    _check("fps", fps, 1, 120)
    _check("workers", workers, 1, 1024)
    if size % 2:
        raise UserError(f"size {size} is odd; mp4 needs an even one, e.g. {size + 1}")
    if seed < 0:
        raise UserError(f"seed {seed} is negative; give 0 or more")
    parameters = Parameters(seed, size, frames, float(fps))
    _claim(out, parameters)
    wanted = {
        out / take.name(seed): take
        for take in (
            Take(subject, emotion, number)
            for subject in range(subjects)
            for emotion in range(len(EMOTIONS))
            for number in range(takes)
        )
    }
    missing = {path: take for path, take in wanted.items() if not path.exists()}
    if missing:
        kept = len(wanted) - len(missing)
        for done, _ in enumerate(_make_all(missing, parameters, workers), kept + 1):
            if on_progress:
                on_progress(done, len(wanted))
    return sorted(wanted)


def _check(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise UserError(f"{name} {value} is out of range; give {least} to {most}")


def _claim(out: Path, parameters: Parameters) -> None:
    """Make `out` this corpus's directory, or see that it is."""
    note = out / _PARAMETERS
    if not note.exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out} holds something else; give a new or empty directory")
        out.mkdir(parents=True, exist_ok=True)
        write_json(note, asdict(parameters))
        return
    try:
        made = json.loads(note.read_text())
    except ValueError:
        made = {}
    wanted = asdict(parameters)
    differing = [f"{k} {made.get(k)} not {wanted[k]}" for k in wanted if made.get(k) != wanted[k]]
    if differing:
        raise UserError(f"{out} was made with {', '.join(differing)}; give another directory")


def _make_all(missing: Mapping[Path, Take], parameters: Parameters, workers: int) -> Iterator[None]:
    portrait = make_portrait()
    if min(workers, len(missing)) == 1:
        _prepare(portrait, parameters)
        for path, take in missing.items():
            yield _make_clip(path, take)
        return
    # Not `with`: leaving it would finish all clips that wait, also after Ctrl-C.
    pool = ProcessPoolExecutor(
        min(workers, len(missing)), get_context("spawn"), _start_process, (portrait, parameters)
    )
    try:
        futures: list[Future[None]] = [
            pool.submit(_make_clip, path, take) for path, take in missing.items()
        ]
        for future in as_completed(futures):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


class _Worker:
    """What a process keeps from clip to clip."""

    portrait: Portrait
    parameters: Parameters


def _start_process(portrait: Portrait, parameters: Parameters) -> None:
    """Leave Ctrl-C to the parent, and go when it goes, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    parent = parent_process()
    assert parent is not None

    def follow() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    _prepare(portrait, parameters)


def _prepare(portrait: Portrait, parameters: Parameters) -> None:
    _Worker.portrait, _Worker.parameters = portrait, parameters
    _subject.cache_clear()


@lru_cache(maxsize=2)
def _subject(number: int) -> Subject:
    return make_subject(_Worker.portrait, _random("subject", _Worker.parameters.seed, number))


def _make_clip(path: Path, take: Take) -> None:
    parameters = _Worker.parameters
    temporary = path.with_name(f".{path.stem}.tmp.mp4")
    size = (parameters.size, parameters.size)
    file = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*"mp4v"), parameters.fps, size)
    try:
        for frame in act(_subject(take.subject), take, path.stem, parameters):
            file.write(np.ascontiguousarray(frame[..., ::-1]))
        file.release()
        # OpenCV does not report a failed write.
        reader = cv2.VideoCapture(str(temporary))
        written = int(reader.get(cv2.CAP_PROP_FRAME_COUNT))
        reader.release()
        if written != parameters.frames:
            raise UserError(f"cannot write {path}: is the disk full, or the directory read-only?")
        os.replace(temporary, path)
    finally:
        file.release()
        temporary.unlink(missing_ok=True)


def act(subject: Subject, take: Take, stem: str, parameters: Parameters) -> Iterator[np.ndarray]:
    """The frames of one clip, u8[size, size, 3], RGB."""
    rng = _random("camera", parameters.seed, take.subject, take.emotion, take.number)
    activation, poses = perform(take, stem, parameters)
    seconds = np.arange(parameters.frames) / parameters.fps
    flicker = 1 + rng.uniform(0.005, 0.02) * _wander(rng, seconds, 3.0)
    grain = rng.uniform(1.0, 3.5)
    for now, pose in enumerate(poses):
        units = {name: tuple(activation[name][:, now]) for name in UNITS}
        frame = render(subject, units, pose, float(flicker[now]), parameters.size)
        frame += np.float32(grain) * rng.standard_normal(frame.shape, np.float32)
        yield np.clip(frame + 0.5, 0, 255).astype(np.uint8)


def perform(
    take: Take, stem: str, parameters: Parameters
) -> tuple[dict[str, np.ndarray], list[Pose]]:
    """How a subject acts an emotion: activation f32[2, T] (sides) by unit, and T poses.

    Everybody has a style of their own: how strongly they act, and which units they favour. A take
    has its own intensity, onset, apex and offset, a touch of another emotion, and the movements
    that come with any emotion: speech, blinks, restlessness.
    """
    style = _random("style", parameters.seed, take.subject)
    favour = {name: float(np.exp(style.normal(0, 0.25))) for name in UNITS}
    lopsided = {name: float(np.clip(style.normal(0, 0.1), -0.25, 0.25)) for name in UNITS}
    expressive, talkative, lively = style.uniform((0.8, 0.4, 0.5), (1.1, 1.0, 1.5))

    rng = _random("acting", parameters.seed, take.subject, take.emotion, take.number)
    seconds = np.arange(parameters.frames) / parameters.fps
    length = parameters.frames / parameters.fps
    strength = rng.uniform(*_LEVELS[stem.rpartition("_")[2]]) * expressive
    other = EMOTIONS[rng.integers(len(EMOTIONS))]
    mixture = {name: strength * v for name, v in PROTOTYPES[EMOTIONS[take.emotion]].items()}
    for name, value in PROTOTYPES[other].items():
        mixture[name] = mixture.get(name, 0.0) + rng.uniform(0, 0.25) * value

    onset, apex = length * rng.uniform((0.0, 0.15), (0.15, 0.4))
    end, offset = length * rng.uniform((0.65, 0.95), (0.9, 1.4))
    activation = {}
    for name in UNITS:
        lag = rng.normal(0, 0.04 * length)
        rise = _ease((seconds - onset - lag) / (apex - onset))
        fall = _ease((seconds - end - lag) / (offset - end + 0.1 * length))
        course = np.minimum(mixture.get(name, 0.0) * favour[name], 1.25) * rise * (1 - fall)
        course = course + 0.08 * _wander(rng, seconds, 1.0)
        sides = np.array([[1 + lopsided[name]], [1 - lopsided[name]]])
        activation[name] = np.maximum(sides * course, 0)

    syllables = np.maximum(_wander(rng, seconds, 3.5), 0) * talkative
    speaking = _ease(seconds / 0.3) * _ease((0.9 * length - seconds) / 0.3)
    activation["AU26"] = activation["AU26"] + 0.22 * syllables * speaking
    lips = 0.3 * _wander(rng, seconds, 2.0) * talkative * speaking
    activation["AU18"] = activation["AU18"] + np.maximum(lips, 0)
    activation["AU20"] = activation["AU20"] + np.maximum(-lips, 0)
    for blink in rng.uniform(0, length, rng.poisson(0.4 * length)):
        activation["AU43"] = activation["AU43"] + 0.9 * np.exp(-(((seconds - blink) / 0.09) ** 2))
    activation["AU43"] = np.minimum(activation["AU43"], 0.9)

    place = rng.uniform(-1, 1, 6) * (0.35, 0.15, 0.06, 0.06, 0.04, 0.03)
    travel = np.array((0.10, 0.07, 0.02, 0.04, 0.05, 0.04))[:, None] * lively
    path = place[:, None] + travel * np.stack([_wander(rng, seconds, 0.6) for _ in place])
    path[2] += 1
    return activation, [Pose(*(float(v) for v in column)) for column in path.T]


def _random(what: str, *numbers: int) -> np.random.Generator:
    """A stream of its own for every purpose and place, in whatever order they are asked for."""
    return np.random.default_rng([zlib.crc32(what.encode()), *numbers])


def _ease(x: np.ndarray) -> np.ndarray:
    """0 up to 1 as x goes from 0 to 1, smoothly."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _wander(rng: np.random.Generator, seconds: np.ndarray, hertz: float) -> np.ndarray:
    """A smooth random course f64[T] of about unit size, with frequencies around `hertz`."""
    rates = hertz * rng.uniform(0.4, 1.4, 3)
    phases = rng.uniform(0, 2 * np.pi, 3)
    return np.sin(2 * np.pi * rates * seconds[:, None] + phases).sum(-1) * 0.6
