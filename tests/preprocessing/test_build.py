"""Whole builds of small corpora: same bytes, resumed, quarantined, refused."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fer_jax.data.corpus import load
from fer_jax.errors import UserError
from preprocessing.augment import augment_image
from preprocessing.build import make_recipe, preprocess
from preprocessing.workspace import lock

ROOT = Path(__file__).resolve().parents[2]
USAGES = ("Training", "PublicTest", "PrivateTest")
#: Needs no detector: the whole picture is the crop.
CROPS = make_recipe("fer2013", ("crops",))


@pytest.fixture(scope="session")
def pictures():
    return np.random.default_rng(3).integers(0, 256, (30, 48, 48), np.uint8)


@pytest.fixture(scope="session")
def raw(tmp_path_factory, pictures):
    """FER2013's table with 30 rows: row n has emotion n % 7 and usage n % 3."""
    root = tmp_path_factory.mktemp("raw")
    lines = ["emotion,pixels,Usage"]
    for n, picture in enumerate(pictures):
        lines.append(f"{n % 7},{' '.join(map(str, picture.ravel()))},{USAGES[n % 3]}")
    (root / "fer2013.csv").write_text("\n".join(lines))
    return root


@pytest.fixture(scope="session")
def built(tmp_path_factory, raw):
    out = tmp_path_factory.mktemp("built") / "fer"
    calls = []
    report = preprocess(
        "fer2013", raw, out, recipe=CROPS, workers=1, clips_per_shard=7,
        on_progress=lambda *call: calls.append(call),
    )  # fmt: skip
    return out, report, calls


def digests(out):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in out.iterdir()}


def _copy(source, target):
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def _png(path, value=7):
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((20, 30, 3), value, np.uint8))


def test_records_hold_the_pictures(built, pictures):
    import cv2

    out, report, calls = built
    corpus = load(out)
    assert corpus.check() == []
    assert sorted(clip.clip_id for clip in corpus) == [f"fer2013/fer{n:07d}" for n in range(30)]
    for clip in corpus:
        n = int(clip.recording[3:])
        image = cv2.imdecode(np.frombuffer(clip.crops[0], np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(image, pictures[n])
        assert clip.split == ("train", "validation", "test")[n % 3]
    assert (report.scanned, report.written, report.shards, report.resumed_shards) == (30, 30, 5, 0)
    assert report.exit_code == 0
    assert calls[-1] == (30, 30, 0)
    assert {p.name for p in out.iterdir() if p.name.startswith(".")} == set()
    assert sum(row["written"] for row in report.table()) == 30
    assert "30 clips here, 35,887 published" in report.render()


def test_shards_differ_by_one_clip_at_most(built):
    assert sorted(load(built[0]).shard_lengths) == [6] * 5


def test_bytes_do_not_depend_on_the_number_of_workers(built, raw, tmp_path):
    preprocess("fer2013", raw, tmp_path / "fer", recipe=CROPS, workers=3, clips_per_shard=7)
    assert digests(tmp_path / "fer") == digests(built[0])


def test_a_finished_build_is_left_alone(built, raw):
    out, first, _ = built
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    again = preprocess("fer2013", raw, out, recipe=CROPS, workers=1, clips_per_shard=7)
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    assert again.resumed_shards == again.shards == 5 and again.processed == 0
    assert again.summary() == first.summary()
    assert "finished before" in again.render()


def test_lost_shards_are_built_again(built, raw, tmp_path):
    out = _copy(built[0], tmp_path / "fer")
    shards = sorted(out.glob("*.tfrecord-*-of-00005"))
    shards[0].unlink()
    shards[1].write_bytes(shards[1].read_bytes()[:-1])
    (out / f"{shards[2].name}.manifest.json").unlink()
    (out / f"{shards[3].name}.manifest.json").write_text('{"build')
    report = preprocess("fer2013", raw, out, recipe=CROPS, workers=2, clips_per_shard=7)
    assert report.resumed_shards == 1
    assert digests(out) == digests(built[0])


def test_another_recipe_or_corpus_is_refused(built, raw, tmp_path):
    out = _copy(built[0], tmp_path / "fer")
    before = digests(out)
    smaller = make_recipe("fer2013", ("crops",), crop_size=32)
    with pytest.raises(UserError, match="built with crop_size 48, not 32"):
        preprocess("fer2013", raw, out, recipe=smaller, clips_per_shard=7)
    with pytest.raises(UserError, match="built with clips_per_shard 7, not 8"):
        preprocess("fer2013", raw, out, recipe=CROPS, clips_per_shard=8)
    lines = (raw / "fer2013.csv").read_text().splitlines()
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "fer2013.csv").write_text("\n".join(lines[:-1]))
    with pytest.raises(UserError, match=r"has changed since .*30 clips then, 29 now"):
        preprocess("fer2013", tmp_path / "raw", out, recipe=CROPS, clips_per_shard=7)
    assert digests(out) == before


def test_limit_takes_clips_by_name(built, raw, tmp_path):
    report = preprocess("fer2013", raw, tmp_path / "fer", recipe=CROPS, workers=1, limit=12)
    assert report.written == report.scanned == 12
    first = [clip.clip_id for clip in load(built[0])][:12]
    assert [clip.clip_id for clip in load(tmp_path / "fer")] == first


def test_what_cannot_be_read_is_listed_and_tried_again_when_it_changes(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    for n in range(6):
        _png(raw / f"joy/{n}.png", n)
    (raw / "joy/empty.png").touch()
    (raw / "rage").mkdir()
    (raw / "rage/text.mp4").write_text("no video")
    whole = (raw / "joy/0.png").read_bytes()
    (raw / "rage/cut.png").write_bytes(whole[: len(whole) // 2])
    (raw / "loose.png").write_bytes(whole)
    (raw / "notes.txt").touch()
    recipe = make_recipe("folder", ("crops",), align="none", crop_size=16)

    def build():
        return preprocess("folder", raw, out, recipe=recipe, workers=2, clips_per_shard=3)

    report = build()
    assert (report.scanned, report.written, report.exit_code) == (9, 6, 3)
    rows = list(csv.DictReader(io.StringIO((out / "quarantine.csv").read_text())))
    assert [(row["source"], row["kind"]) for row in rows] == [
        ("joy/empty.png", "unreadable"), ("loose.png", "malformed"), ("rage/cut.png", "unreadable"),
        ("rage/text.mp4", "unreadable"),
    ]  # fmt: skip
    assert all(row["reason"] for row in rows)
    table = {row["emotion"]: row for row in report.table()}
    assert (table["joy"]["written"], table["joy"]["failed"]) == (6, 1)
    assert (table["rage"]["written"], table["rage"]["failed"]) == (0, 2)
    text = report.render()
    assert "quarantined 4" in text and "3 unreadable" in text and "1 .txt" in text
    assert json.loads((out / "coverage.json").read_text())["quarantined"] == {
        "malformed": 1, "unreadable": 3,
    }  # fmt: skip
    assert load(out).check() == []

    _png(raw / "rage/cut.png")
    report = build()
    assert (report.written, report.resumed_shards) == (7, 2)
    assert load(out).check() == []


def test_faceless_clips_are_ordinary(tmp_path):
    import cv2
    from skimage import data

    raw, out = tmp_path / "raw", tmp_path / "out"
    for n in range(2):
        _png(raw / f"joy/plain{n}.png", 100 + n)
    portrait = cv2.cvtColor(data.astronaut()[:300, 100:400], cv2.COLOR_RGB2BGR)
    assert cv2.imwrite(str(raw / "joy/face.png"), portrait)
    recipe = make_recipe("folder", ("landmarks", "crops"), crop_size=64)
    report = preprocess("folder", raw, out, recipe=recipe, workers=1)
    assert (report.written, report.exit_code) == (1, 0)
    (row,) = report.table()
    assert (row["clips"], row["no_face"], row["failed"]) == (3, 2, 0)
    (clip,) = load(out)
    assert clip.clip_id == "folder/joy/face" and np.isfinite(clip.landmarks68).all()


def test_crops_and_frontal_pictures_are_the_same_from_any_worker(
    tmp_path, landmarker_model, monkeypatch
):
    import cv2
    from skimage import data

    monkeypatch.setenv("FER_JAX_MODELS", str(landmarker_model.parent))
    portrait = cv2.cvtColor(data.astronaut()[:300, 100:400], cv2.COLOR_RGB2BGR)
    (tmp_path / "raw/joy").mkdir(parents=True)
    for n in range(4):
        turn = cv2.getRotationMatrix2D((150, 150), 4 * n, 1)
        turned = cv2.warpAffine(portrait, turn, (300, 300))
        assert cv2.imwrite(str(tmp_path / f"raw/joy/{n}.png"), turned)
    recipe = make_recipe("folder", ("crops", "frontal"), crop_size=48, frontal_symmetry="soft")
    outs = [tmp_path / "one", tmp_path / "two"]
    for workers, out in enumerate(outs, 1):
        report = preprocess(
            "folder", tmp_path / "raw", out, recipe=recipe, workers=workers, clips_per_shard=2
        )
        assert report.written == 4
    assert digests(outs[0]) == digests(outs[1])
    clips = load(outs[0])
    assert clips.check() == []
    assert clips.stored_streams == ("crop_matrix", "crops", "frontal")
    assert clips.image_shapes == {"crops": (48, 48, 3), "frontal": (48, 48, 3)}
    for clip in clips:
        image = cv2.imdecode(np.frombuffer(clip.frontal[0], np.uint8), cv2.IMREAD_UNCHANGED)
        assert image.shape == (48, 48, 3) and np.isfinite(clip.crop_matrix).all()


def test_when_nothing_can_be_written_only_the_list_stays(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    (raw / "joy").mkdir(parents=True)
    (raw / "joy/a.png").write_text("no picture")
    recipe = make_recipe("folder", ("crops",), align="none")
    for _ in range(2):
        with pytest.raises(UserError, match=r"none of the 1 clips .*1 unreadable.*joy/a\.png"):
            preprocess("folder", raw, out, recipe=recipe, workers=1)
        assert [path.name for path in out.iterdir()] == ["quarantine.csv"]


def test_a_missing_model_stops_the_run_and_leaves_nothing(tmp_path, raw, monkeypatch):
    (tmp_path / "models").mkdir()
    (tmp_path / "models/face_landmarker.task").write_text("wrong")
    monkeypatch.setenv("FER_JAX_MODELS", str(tmp_path / "models"))
    recipe = make_recipe("fer2013", ("blendshapes",))
    with pytest.raises(UserError, match=r"face_landmarker\.task has sha256"):
        preprocess("fer2013", raw, tmp_path / "out", recipe=recipe, workers=1)
    assert not (tmp_path / "out").exists()


def test_places_that_are_refused(tmp_path, raw, built):
    def build(out, source=raw, **options):
        preprocess("fer2013", source, out, recipe=CROPS, **options)

    with pytest.raises(UserError, match="lies in the raw corpus"):
        build(raw / "records")
    with pytest.raises(UserError, match="lies in the raw corpus"):
        build(raw)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        build(tmp_path / "file")
    with pytest.raises(UserError, match="cannot write"):
        build(tmp_path / "file" / "out")
    with pytest.raises(UserError, match=r"not empty .*holds file"):
        build(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        build(tmp_path / "out", tmp_path / "nowhere")
    with pytest.raises(UserError, match="unknown engine"):
        build(tmp_path / "out", engine="slurm")
    for name, value in (("workers", 0), ("augment", -1), ("limit", 0), ("clips_per_shard", 0)):
        with pytest.raises(UserError, match=f"{name} is {value}; it must be at least"):
            build(tmp_path / "out", **{name: value})
    assert not (tmp_path / "out").exists()


def test_one_build_at_a_time(built, raw, tmp_path):
    out = _copy(built[0], tmp_path / "fer")
    with lock(out), pytest.raises(UserError, match="another build is at work"):
        preprocess("fer2013", raw, out, recipe=CROPS, clips_per_shard=7)
    report = preprocess("fer2013", raw, out, recipe=CROPS, clips_per_shard=7)
    assert report.resumed_shards == 5


def test_copies_of_training_images(raw, tmp_path, pictures):
    import cv2

    report = preprocess("fer2013", raw, tmp_path / "out", recipe=CROPS, workers=1, augment=2)
    clips = list(load(tmp_path / "out"))
    copies = [clip for clip in clips if clip.augmentation]
    assert (len(clips), len(copies), report.scanned, report.written) == (50, 20, 30, 50)
    assert {clip.split for clip in copies} == {"train"}
    for clip in copies:
        n = int(clip.recording[3:])
        assert clip.clip_id in {f"fer2013/fer{n:07d}+aug{k}" for k in (1, 2)}
        image = cv2.imdecode(np.frombuffer(clip.crops[0], np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(image, augment_image(pictures[n], clip.augmentation))
    assert sum(row["copies"] for row in report.table()) == 20
    assert sum(row["written"] for row in report.table()) == 30


#: Spawned workers run the top of the main script too: there the reader of frames is made to fail.
FAULTY = """
import os, signal, sys, time
from pathlib import Path
from preprocessing import video
from preprocessing.build import make_recipe, preprocess

read_frames = video.read_frames

def faulty(path):
    if Path(path).stem == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    if Path(path).stem == "hangs":
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
        time.sleep(3600)
    if Path(path).stem == "odd":
        raise IndexError("list index out of range")
    if Path(path).stem == "unlucky" and not os.path.exists(sys.argv[3]):
        open(sys.argv[3], "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return read_frames(path)

video.read_frames = faulty
if __name__ == "__main__":
    recipe = make_recipe("folder", ("crops",), align="none", crop_size=16)
    report = preprocess("folder", Path(sys.argv[1]), Path(sys.argv[2]), recipe=recipe, workers=2,
                        clips_per_shard=5, stall_timeout_s=3)
    sys.exit(report.exit_code)
"""


def test_clips_that_kill_or_block_their_worker_are_quarantined(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    for name in ("crashes", "hangs", "odd", "unlucky", *"abcdef"):
        _png(raw / f"joy/{name}.png")
    (tmp_path / "faulty.py").write_text(FAULTY)
    ended = subprocess.run(
        [sys.executable, "faulty.py", str(raw), str(out), str(tmp_path / "died-once")],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 3, ended.stderr
    rows = list(csv.DictReader(io.StringIO((out / "quarantine.csv").read_text())))
    assert [(row["clip_id"], row["kind"]) for row in rows] == [
        ("folder/joy/crashes", "crash"), ("folder/joy/hangs", "timeout"),
        ("folder/joy/odd", "error"),
    ]  # fmt: skip
    assert "SIGSEGV" in rows[0]["reason"] and "3 s" in rows[1]["reason"]
    assert "IndexError: list index out of range (faulty.py:" in rows[2]["reason"]
    # A worker that died once for another reason (lack of memory, say) costs no clip.
    assert (tmp_path / "died-once").exists()
    corpus = load(out)
    assert corpus.check() == []
    assert sorted(c.clip_id[-1] for c in corpus) == ["a", "b", "c", "d", "e", "f", "y"]
