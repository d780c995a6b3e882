"""Memory while a clip is gone through: few frames, and of its faces next to nothing."""

from __future__ import annotations

import errno
import json
import tracemalloc
import weakref

import numpy as np
import pytest

from fer_jax import records
from fer_jax.data.tfrecord import Shard
from fer_jax.errors import UserError
from preprocessing import spool
from preprocessing.extract import OUTPUTS, Extractor, Recipe
from preprocessing.spool import Spool
from preprocessing.track import Face
from preprocessing.video import Frame
from preprocessing.worker import ShardJob, build_shard

STREAMS = tuple(records.OUTPUTS)


class TwoPeople:
    """In place of both detectors: a large face and a small one, never the same twice."""

    def __init__(self):
        self.calls = 0
        self.alive = weakref.WeakSet()

    def detect(self, image, hints=()):
        self.calls += 1
        faces = [self._face(40, 200), self._face(280, 90)]
        self.alive.update(faces)
        return faces

    def _face(self, left, side):
        rng = np.random.default_rng([self.calls, side])
        corner = np.array([left, 20], np.float32)
        face = Face(np.concatenate([corner, corner + side]))
        face.landmarks68 = (corner + side * rng.random((68, 2))).astype(np.float32)
        face.landmarks478 = (left + side * rng.random((478, 3))).astype(np.float32)
        face.blendshapes = rng.random(52).astype(np.float32)
        face.pose = np.eye(4, dtype=np.float32)
        return face

    def close(self):
        pass


def faces_of_a_clip(frames, alive=None):
    """Extracts everything from so many frames; the clip and the detector."""
    noise = np.random.default_rng(0).integers(0, 256, (240, 400, 3), np.uint8)
    seen = TwoPeople()

    def stream():
        for t in range(frames):
            image = noise.copy()
            if alive is not None:
                alive.append((weakref.ref(image), len(seen.alive)))
            yield Frame(t, 40.0 * t, image)
            del image

    with Extractor(Recipe(outputs=("landmarks", "crops"))) as extractor:
        # Everything is extracted, as if MediaPipe were there.
        recipe = Recipe(outputs=tuple(n for n in OUTPUTS if n != "frontal"))
        extractor.recipe, extractor._dlib = recipe, seen
        return extractor.extract(records.Clip(clip_id="c/1", corpus="c"), stream()), seen


def test_one_pass_and_few_frames_and_faces_at_a_time():
    alive = []
    clip, seen = faces_of_a_clip(300, alive)
    assert clip.frames == seen.calls == len(alive) == 300
    assert clip.streams == tuple(n for n in records.OPTIONAL if n not in ("votes", "frontal"))
    assert max(faces for _, faces in alive) <= 4
    assert sum(image() is not None for image, _ in alive) == 0
    assert len(seen.alive) == 0
    # Of both people the larger one's streams, as they were seen.
    twin = TwoPeople()
    for t in range(300):
        face, _ = twin.detect(None)
        np.testing.assert_array_equal(clip.landmarks478[t], face.landmarks478)
        np.testing.assert_array_equal(clip.landmarks68[t], face.landmarks68)
    assert len(clip.crops[7]) > 1000 and clip.crops[7] != clip.crops[8]


def test_memory_grows_by_the_numbers_of_the_subject_alone(monkeypatch):
    """Not by pictures, nor by other people: those wait in a file."""
    monkeypatch.setattr(spool, "HELD_BYTES", 1)
    faces_of_a_clip(2)
    peaks = []
    for frames in (100, 500):
        tracemalloc.start()
        clip, _ = faces_of_a_clip(frames)
        written = sum(map(len, records.payload(clip).pieces))
        peaks.append((tracemalloc.get_traced_memory()[1], written))
        tracemalloc.stop()
    growth, of_record = (np.diff(peaks, axis=0)[0] / 400).tolist()
    numbers = 4 * (68 * 2 + 478 * 3 + 52 + 16 + 6 + 4 + 2) + 1
    assert of_record - numbers > 3000  # the crops
    assert growth < numbers + 2000


def test_faces_come_back(tmp_path):
    rng = np.random.default_rng(1)
    held = Spool(STREAMS, tmp_path)
    faces = TwoPeople().detect(None)
    for face in faces:
        face.crop_matrix = rng.random((2, 3))
        face.crop, face.frontal = rng.bytes(5), rng.bytes(700)
    faces[1].landmarks68 = None
    kept = [held.put(face) for face in faces]
    assert kept[1].landmarks478 is None and kept[1].crop is None
    streams = held.streams({1: kept[1], 3: kept[0]}, 4)
    assert sorted(streams) == sorted(STREAMS)
    for name in ("landmarks478", "blendshapes", "pose", "crop_matrix"):
        assert np.isnan(streams[name][[0, 2]]).all()
        want = [np.float32(getattr(faces[i], name)) for i in (1, 0)]
        np.testing.assert_array_equal(streams[name][[1, 3]], want)
    assert np.isnan(streams["landmarks68"][:3]).all()
    assert list(streams["crops"]) == [None, faces[1].crop, None, faces[0].crop]
    assert streams["frontal"][1:] == (faces[1].frontal, None, faces[0].frontal)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_the_users(monkeypatch, tmp_path):
    held = Spool(("landmarks68",), tmp_path)

    class Full:
        def seek(self, place):
            pass

        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            pass

    held._file.close()
    monkeypatch.setattr(held, "_file", Full())
    with pytest.raises(UserError, match=f"no space left to write {tmp_path}"):
        held.put(Face(np.zeros(4, np.float32)))


def test_a_clip_that_no_record_holds_costs_that_clip_alone(tmp_path, monkeypatch):
    import cv2

    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    pictures = {"large": noise, "small": np.zeros_like(noise)}
    for name, picture in pictures.items():
        assert cv2.imwrite(str(tmp_path / f"{name}.png"), picture)
    monkeypatch.setattr("fer_jax.example.LARGEST", 5000)
    job = ShardJob(
        corpus="folder", raw=tmp_path, path=tmp_path / "shard", build_sha256="x",
        clips=tuple(
            records.Clip(clip_id=f"folder/{name}", corpus="folder", source=f"{name}.png")
            for name in pictures
        ),
        recipe=Recipe(outputs=("crops",), align="none", crop_size=64, crop_format="png"),
        stall_timeout_s=60.0, progress=tmp_path / "progress",
    )  # fmt: skip
    manifest = build_shard(job)
    (record,) = Shard(job.path)
    assert records.decode(record).clip_id == "folder/small"
    ((clip_id, _, kind, reason, _),) = manifest["quarantined"]
    assert (clip_id, kind) == ("folder/large", "error")
    assert "do not fit into one record" in reason and "cut the video" in reason
    assert json.dumps(manifest)
