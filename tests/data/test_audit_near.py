"""Near duplicates: every planted one is found, and nothing else."""

import io
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
from PIL import Image

from fer_jax.config import Protocol
from fer_jax.data.audit import Identities, audit
from fer_jax.data.protocols import Split, make_split
from fer_jax.records import Clip
from preprocessing.generate import crema_d, ravdess

#: Planted of each kind.
PLANTED = 500
#: Of the generated takes.
FPS = 30.0
EMOTIONS = ("happy", "sad", "angry", "fear", "disgust", "neutral")
#: Error of dlib's points on a picture that was encoded again, in sizes of the face (root mean
#: square; 0.02 to 0.03 on a face of 100 pixels, measured).
JITTER = 0.02


def _smooth(rng: np.random.Generator, frames: int, *shape: int) -> np.ndarray:
    """[frames, *shape]: random curves of some three waves, variance 1."""
    time = np.arange(frames)[:, None] / 60
    rate = rng.uniform(0.3, 2, (5, *shape)).reshape(5, -1)
    phase = rng.uniform(0, 2 * np.pi, rate.shape)
    waves = np.sin(2 * np.pi * rate[:, None] * time + phase[:, None])
    return waves.mean(0).reshape(frames, *shape) * 10**0.5


class People:
    """Faces that differ by person, expressions that differ by emotion, takes that differ by chance.

    Points are complex x + iy, pixels of a picture in which a face has a size of 50.
    """

    def __init__(self, count: int, seed: int = 0):
        self.rng = rng = np.random.default_rng(seed)
        angle, radius = rng.uniform(0, 2 * np.pi, 68), rng.uniform(0.3, 1.4, 68)
        mean = 50 * radius * np.exp(1j * angle)
        mean[36:42] += 20 * (-1 - 1j) - mean[36:42].mean()
        mean[42:48] += 20 * (1 - 1j) - mean[42:48].mean()
        self.faces = mean + 2 * self._noise(count, 68)
        self.acting = {word: 1.5 * self._noise(68) for word in EMOTIONS}

    def _noise(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape) + 1j * self.rng.standard_normal(shape)

    def take(self, person: int, emotion: str, frames: int) -> np.ndarray:
        """complex[frames, 68]: the head sways and nods, the emotion comes and goes."""
        rng = self.rng
        apex = np.exp(-(((np.arange(frames) / frames - rng.uniform(0.4, 0.6)) / 0.25) ** 2))
        face = self.faces[person] + apex[:, None] * rng.uniform(0.7, 1.2) * self.acting[emotion]
        turn = np.exp(1j * 0.02 * _smooth(rng, frames, 1))
        sway = 2.5 * (_smooth(rng, frames, 1) + 1j * _smooth(rng, frames, 1))
        modes = self.rng.standard_normal((4, 68)) * 0.5  # Talking, and turning out of the plane.
        return 160 + 120j + turn * (face + _smooth(rng, frames, 4) @ modes) + sway

    def seen(self, points: np.ndarray, jitter: float = JITTER) -> np.ndarray:
        """f32[T, 68, 2]: what a detector makes of them, in whole pixels."""
        size = np.sqrt(np.mean(np.abs(points - points.mean(1, keepdims=True)) ** 2))
        noisy = points + jitter * size * self._noise(*points.shape) / 2**0.5
        return np.round(np.stack([noisy.real, noisy.imag], -1)).astype(np.float32)


def landmark_clip(name: str, points: np.ndarray, fps: float = FPS, **fields) -> Clip:
    frames = len(points)
    return Clip(
        **{
            "clip_id": f"people/{name}", "corpus": "people", "fps": fps,
            "frame_index": np.arange(frames, dtype=np.int32),
            "time_ms": (np.arange(frames) * 1000 / fps).astype(np.float32),
            "face_found": np.ones(frames, bool), "box": np.zeros((frames, 4), np.float32),
            "landmarks68": points, **fields,
        }
    )  # fmt: skip


def split_of(clips: list[Clip]) -> Split:
    """By the clips' own parts."""
    parts = {
        part: np.array([i for i, clip in enumerate(clips) if clip.split == part], np.int64)
        for part in ("train", "validation", "test")
    }
    return Split("planted", clip_ids=tuple(clip.clip_id for clip in clips), **parts)


def found_in(clips: list[Clip]) -> tuple[set[str], dict]:
    """The test clips that have a near duplicate in training, by a look at the pairs themselves."""
    identities = Identities(clips)
    report = audit(identities, split_of(clips))
    content = {c.clip_id: identities[i].keys["near_duplicates"] for i, c in enumerate(clips)}
    near = identities.near(())
    train = {content[c.clip_id] for c in clips if c.split == "train"}
    test = [c.clip_id for c in clips if c.split == "test"]
    found = {
        c for c in test
        if content[c] in train or any(o in train for o, _ in near.get(content[c], ()))
    }  # fmt: skip
    assert report["parts"]["near_duplicates"]["train-test"]["clips"] == len(found)
    return found, report


def copies_of(people: People, points: np.ndarray) -> Iterator[tuple[str, np.ndarray, float]]:
    """What the same video's landmarks are after it was encoded again and changed otherwise."""
    rng, frames = people.rng, len(points)
    yield "encoded", people.seen(points), FPS
    yield "resized", people.seen(points * rng.uniform(0.5, 2)), FPS
    yield "shifted", people.seen(points + complex(*rng.integers(-6, 7, 2))), FPS
    cut = rng.uniform(0, 0.3)
    front = rng.uniform(0, cut)
    part = points[int(front * frames) : frames - int((cut - front) * frames)]
    yield "trimmed", people.seen(part), FPS
    kept = np.round(np.arange(0, frames - 1, 1.2)).astype(int)
    yield "slower", people.seen(points[kept]), FPS / 1.2


def test_every_planted_copy_of_a_track_is_found_and_no_other_take():
    """Other takes are of the same people with the same emotions; copies are new detections."""
    people = People(50)
    clips, planted = [], []
    for i in range(PLANTED):
        person, emotion = i % 50, EMOTIONS[i // 50 % 6]
        takes = [people.take(person, emotion, int(people.rng.integers(60, 110))) for _ in range(2)]
        clips.append(landmark_clip(f"{i}", people.seen(takes[0]), split="train"))
        clips.append(landmark_clip(f"{i}-other", people.seen(takes[1]), split="test"))
        for kind, points, fps in copies_of(people, takes[0]):
            planted.append(f"people/{i}-{kind}")
            clips.append(landmark_clip(f"{i}-{kind}", points, fps, split="test"))
    found, report = found_in(clips)
    assert len(planted) == 5 * PLANTED
    assert found == set(planted)
    assert report["near_duplicates"] == 5 / 6 and report["exact_duplicates"] == 0
    assert "83.3 % of test clips have a copy in training (0.0 % an exact one)" in report["verdict"]
    assert all(0 < pair["distance"] <= 1 for pair in report["pairs"])


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE)


def moved(image: np.ndarray, dx: float, dy: float) -> np.ndarray:
    matrix = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
    return cv2.warpAffine(image, matrix, image.shape[::-1], borderMode=cv2.BORDER_REPLICATE)


#: Of images of 48 x 48, as FER2013's.
CHANGES: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "jpeg 20": lambda image, rng: jpeg(image, 20),
    "jpeg 50": lambda image, rng: jpeg(image, 50),
    "jpeg 90": lambda image, rng: jpeg(image, 90),
    "half": lambda image, rng: cv2.resize(image, (24, 24), interpolation=cv2.INTER_AREA),
    "double": lambda image, rng: cv2.resize(image, (96, 96), interpolation=cv2.INTER_CUBIC),
    "shifted": lambda image, rng: jpeg(moved(image, *rng.uniform(-1.5, 1.5, 2)), 50),
    "cropped": lambda image, rng: cv2.resize(image[1:-1, 1:-1], (48, 48)),
}


def image_clip(name: str, image: np.ndarray, **fields) -> Clip:
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "PNG")
    return Clip(
        **{
            "clip_id": f"images/{name}", "corpus": "images", "frame_index": np.zeros(1, np.int32),
            "time_ms": np.zeros(1, np.float32), "face_found": np.ones(1, bool),
            "box": np.zeros((1, 4), np.float32), "crops": (encoded.getvalue(),), **fields,
        }
    )  # fmt: skip


def generated_faces(count: int) -> np.ndarray:
    """u8[n, 48, 48]: ovals with eyes, brows and a mouth, each its own, under its own light."""
    rng = np.random.default_rng(0)
    images = np.empty((count, 48, 48), np.uint8)
    y, x = np.mgrid[:48, :48] / 23.5 - 1
    for image in images:
        light = cv2.resize(rng.uniform(60, 220, (6, 6)).astype(np.float32), (48, 48))
        at = rng.uniform(-0.12, 0.12, (6, 2)) + [
            [-0.35, -0.2], [0.35, -0.2], [-0.35, -0.4], [0.35, -0.4], [0, 0.15], [0, 0.5],
        ]  # fmt: skip
        wide = rng.uniform(0.06, 0.25, (6, 2))
        for (cx, cy), (sx, sy) in zip(at, wide, strict=True):
            light -= rng.uniform(40, 110) * np.exp(-(((x - cx) / sx) ** 2) - ((y - cy) / sy) ** 2)
        light -= rng.uniform(30, 80) * ((x / 0.8) ** 2 + (y / 0.95) ** 2 > rng.uniform(0.8, 1.2))
        texture = cv2.resize(rng.normal(0, 25, (12, 12)).astype(np.float32), (48, 48))
        image[:] = np.clip(light + texture, 0, 255)
    return images


def plant(images: np.ndarray) -> tuple[list[Clip], set[str]]:
    """A copy of each kind of the first images in the test part; the others are alone there."""
    rng = np.random.default_rng(1)
    clips = [image_clip(f"{i}", image, split="train") for i, image in enumerate(images[:PLANTED])]
    planted = set()
    for kind, change in CHANGES.items():
        for i, image in enumerate(images[:PLANTED]):
            clips.append(image_clip(f"{i} {kind}", change(image, rng), split="test"))
            planted.add(clips[-1].clip_id)
    alone = enumerate(images[PLANTED:])
    return clips + [image_clip(f"alone {i}", image, split="test") for i, image in alone], planted


def test_every_planted_copy_of_a_generated_picture_is_found_and_no_other():
    clips, planted = plant(generated_faces(2 * PLANTED))
    assert found_in(clips)[0] == planted


def test_every_planted_copy_of_a_photograph_is_found(shared):
    """FER2013 holds near duplicates of its own: pictures that are none are chosen by another
    measure, the largest correlation of gray values at any shift of up to 2 pixels."""
    import gzip

    path = shared / "data/fer2013/fer2013.csv.gz"
    if not path.is_file():
        pytest.skip(f"no {path}")
    with gzip.open(path, "rt") as file:
        next(file)
        rows = [np.array(next(file).split(",")[1].split(), np.uint8) for _ in range(1400)]
    images = np.stack(rows).reshape(-1, 48, 48)
    images = images[images.std(axis=(1, 2)) > 10]
    same = np.zeros((len(images), len(images)), bool)
    inner = unit(images[:, 2:-2, 2:-2])
    for dy in range(5):
        for dx in range(5):
            same |= inner @ unit(images[:, dy : dy + 44, dx : dx + 44]).T > 0.9
    single = images[(same | same.T).sum(1) == 1]
    assert len(single) > 2 * PLANTED
    clips, planted = plant(single[: 2 * PLANTED])
    assert found_in(clips)[0] == planted


def unit(images: np.ndarray) -> np.ndarray:
    flat = images.reshape(len(images), -1).astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


@pytest.mark.parametrize("stream", ["blendshapes", "crops"])
def test_videos_are_told_apart_by_scores_and_by_pictures_alone(stream):
    """Copies that were encoded again and cut; the others are takes of the same people."""
    rng, clips, planted = np.random.default_rng(2), [], set()
    people, faces = People(8), generated_faces(8)
    y, x = np.mgrid[:48, :48].astype(np.float32)

    def take(person: int) -> np.ndarray:
        """[80, ...]: scores, or pictures of a face that sways and moves mouth and brows."""
        track = people.take(person, "happy", 80)
        if stream == "blendshapes":
            return np.abs(track[:, :52].real - track[0, :52].real) / 50
        sway = (track[:, 1] - track[0, 1]) / 5
        moves = [_smooth(rng, 80) for _ in range(4)]
        return np.stack([
            moved(faces[person], s.real, s.imag)
            - sum(
                25 * m * np.exp(-((x - cx) ** 2) / 30 - ((y - cy) ** 2) / 15)
                for m, (cx, cy) in zip(now, ((16, 14), (32, 14), (20, 34), (28, 34)), strict=True)
            )
            for s, *now in zip(sway, *moves, strict=True)
        ])  # fmt: skip

    def clip(name: str, values: np.ndarray, part: str) -> Clip:
        empty = np.zeros((len(values), 68, 2), np.float32)
        made = landmark_clip(name, empty, split=part).replace(landmarks68=None)
        if stream == "blendshapes":
            noisy = values + rng.normal(0, 0.015, values.shape)
            return made.replace(blendshapes=noisy.astype(np.float32))
        images = np.clip(values, 0, 255).astype(np.uint8)
        encoded = [cv2.imencode(".jpg", image, [1, 50])[1].tobytes() for image in images]
        return made.replace(crops=tuple(encoded))

    for i in range(40):
        first, other = take(i % 8), take(i % 8)
        clips += [clip(f"{i}", first, "train"), clip(f"{i}-other", other, "test")]
        clips.append(
            clip(f"{i}-copy", first[int(rng.integers(12)) : 80 - int(rng.integers(12))], "test")
        )
        planted.add(clips[-1].clip_id)
    assert found_in(clips)[0] == planted


def test_a_still_or_faceless_or_empty_clip_is_no_duplicate():
    blank = np.full((48, 48), 90, np.uint8)
    lost = np.full((5, 68, 2), np.nan, np.float32)
    clips = [
        image_clip("a", blank, split="train"), image_clip("b", blank + 1, split="test"),
        landmark_clip("c", lost, split="train"), landmark_clip("d", lost[:4], split="test"),
    ]  # fmt: skip
    assert found_in(clips)[0] == set()


def acted(clips: list[Clip], subjects: int) -> Iterator[Clip]:
    """The clips with tracks of generated people; twins are detections of one take."""
    people, takes = People(subjects), {}
    for clip in clips:
        if clip.recording not in takes:
            person = int(clip.subject) % 1000 - 1
            word = EMOTIONS[sum(map(ord, clip.emotion)) % len(EMOTIONS)]
            takes[clip.recording] = people.take(person, word, int(people.rng.integers(70, 110)))
        made = landmark_clip("", people.seen(takes[clip.recording]), clip.fps)
        names = ("frame_index", "time_ms", "face_found", "box", "landmarks68")
        yield clip.replace(**{name: getattr(made, name) for name in names})


def test_the_published_clean_folds_are_clean():
    """CREMA-D by subject (part of its people), and RAVDESS's speech, video-only, in six folds."""
    some = [clip for clip in crema_d() if int(clip.subject) < 1013]
    speech = [clip for clip in ravdess() if clip.clip_id.startswith("ravdess/02-01-")]
    assert len(speech) == 1440
    for clips, subjects, folds in ((some, 12, 10), (speech, 24, 6)):
        clips = list(acted(clips, subjects))
        identities = Identities(clips)
        for fold in range(folds):
            protocol = Protocol(name="subject-kfold", folds=folds, fold=fold, validation=0.1)
            report = audit(identities, make_split(clips, protocol))
            assert report["verdict"] == "clean"
            assert report["near_duplicates"] == report["subject_overlap"] == 0
            assert report["twin_overlap"] == report["statistics_outside_train"] == 0
        assert not identities.near(())


def test_twins_are_near_duplicates_too():
    """RAVDESS's two copies of a take, as a detector sees each: what its names say, and no more."""
    clips = [clip for clip in ravdess() if clip.subject in ("01", "02", "03", "04")]
    clips = list(acted(clips, 24))
    report = audit(clips, make_split(clips, Protocol(name="random-kfold", validation=0)))
    assert report["near_duplicates"] == report["twin_overlap"] > 0.8
