"""Trees with the real names and nothing in them, against the counts that are published."""

from __future__ import annotations

import csv
import itertools
import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from fer_jax.errors import UserError
from fer_jax.labels import CORPUS_WORDS
from fer_jax.records import Clip
from preprocessing import corpora
from preprocessing.coverage import compare_with_published


def _touch(root, *names):
    for folder in {Path(name).parent for name in names}:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / name).touch()


def _scan(name, root):
    findings = corpora.Findings()
    return list(corpora.scan(name, root, findings)), findings


def _differences(name, clips):
    return compare_with_published(
        corpora.published(name, clips), clips, corpora.listing(name, clips)
    )


def _emotions(clips):
    return Counter(clip.emotion for clip in clips)


def test_savee_is_480_clips_of_4_men(tmp_path):
    numbers = {"a": 15, "d": 15, "f": 15, "h": 15, "n": 30, "sa": 15, "su": 15}
    names = [f"{code}{n}" for code, last in numbers.items() for n in range(1, last + 1)]
    men = ("DC", "JE", "JK", "KL")
    _touch(tmp_path, *(f"AudioVisualClip/{man}/{name}.avi" for man in men for name in names))
    _touch(tmp_path, "AudioData/DC/a01.wav", "AudioVisualClip/DC/n31.avi", "KL/x1.avi", "a1.avi")
    clips, findings = _scan("savee", tmp_path)
    assert _emotions(clips) == {
        "anger": 60, "disgust": 60, "fear": 60, "happiness": 60, "neutral": 120, "sadness": 60,
        "surprise": 60,
    }  # fmt: skip
    assert len(clips) == 480 and {clip.subject for clip in clips} == set(men)
    # Each sentence is read by all of them.
    assert set(Counter(clip.statement for clip in clips).values()) == {4}
    assert not _differences("savee", clips)
    assert findings.notes() == ["left out (1): files of audio only (.wav)"]
    assert len(findings.rejected) == 3
    flat = tmp_path / "flat"
    _touch(flat, "JK_su03.mp4")
    assert [clip.clip_id for clip in _scan("savee", flat)[0]] == ["savee/JK_su03"]


def test_jaffe_is_213_images_of_10_women(tmp_path):
    # How many takes a woman has of an expression, where that is not three.
    takes = {("KA", "FE"): "1234", ("KA", "HA"): "1234", ("KL", "DI"): "1234", ("KM", "HA"): "1234",
             ("KM", "SA"): "1235", ("YM", "FE"): "1234", ("KM", "DI"): "13", ("NM", "DI"): "13",
             ("KR", "HA"): "12"}  # fmt: skip
    women = ["KA", "KL", "KM", "KR", "MK", "NA", "NM", "TM", "UY", "YM"]
    codes = ["AN", "DI", "FE", "HA", "NE", "SA", "SU"]
    names = [
        f"{woman}.{code}{take}"
        for woman, code in itertools.product(women, codes)
        for take in takes.get((woman, code), "123")
    ]
    _touch(tmp_path, *(f"jaffe/{name}.{n}.tiff" for n, name in enumerate(names, 1)), "jaffe/README")
    clips, findings = _scan("jaffe", tmp_path)
    assert len(clips) == 213 and len({clip.subject for clip in clips}) == 10
    assert _emotions(clips) == {
        "anger": 30, "disgust": 29, "fear": 32, "happiness": 31, "neutral": 30, "sadness": 31,
        "surprise": 30,
    }  # fmt: skip
    assert not _differences("jaffe", clips) and not findings.rejected
    other = tmp_path / "other"
    _touch(other, "KA.AN1.39.tiff", "KA.AN1.39.jpg", "XX.AN1.1.tiff", "KM.DI2.21.tiff", "me.png")
    clips, findings = _scan("jaffe", other)
    assert [clip.clip_id for clip in clips] == ["jaffe/KA.AN1", "jaffe/KM.DI2"]
    assert len(findings.rejected) == 3
    assert _differences("jaffe", clips)[1:] == [
        "subjects without a clip (8): KL, KR, MK and 5 more",
        "clips missing of subjects that are here (44): jaffe/KA.AN2, jaffe/KA.AN3, jaffe/KA.DI1 "
        "and 41 more",
        "clips that the publisher does not list (1): jaffe/KM.DI2",
    ]


FELT = ("N2A", "N2C", "N2D", "N2H", "N2S", "N2Sur")
ACTED = ("H2N2A", "H2N2C", "H2N2D", "S2N2H", "H2N2S", "D2N2Sur")


def test_sase_fe_is_643_clips_of_54_people(tmp_path):
    files = [f"FakeTrue_DB/P{n}/{name}.MP4" for n in range(54) for name in FELT + ACTED]
    _touch(tmp_path, *files[5:])
    clips, findings = _scan("sase-fe", tmp_path)
    assert len(clips) == 643 and not findings.rejected
    assert set(_emotions(clips)) == set(CORPUS_WORDS["sase-fe"])
    assert not corpora.notes("sase-fe", clips)
    # The five are named, as nobody publishes which they are.
    (missing,) = _differences("sase-fe", clips)
    assert missing.startswith("clips missing of subjects that are here (5): sase-fe/P0/N2A, ")
    said = {clip.recording.partition("/")[2]: clip.emotion for clip in clips}
    order = ("Anger", "Contentment", "Disgust", "Happiness", "Sadness", "Surprise")
    assert said == {name: f"{word}_Real" for name, word in zip(FELT, order, strict=True)} | {
        name: f"{word}_Fake" for name, word in zip(ACTED, order, strict=True)
    }


def test_sase_fe_spelled_in_other_ways(tmp_path):
    _touch(tmp_path, "Train/7/D2N2SUR.mp4", "Train/8/d2n2s.MP4", "Val/1_ANGER.mp4", "N2A.MP4")
    clips, findings = _scan("sase-fe", tmp_path)
    assert [clip.clip_id for clip in clips] == ["sase-fe/7/D2N2Sur", "sase-fe/8/D2N2Sur"]
    assert {clip.emotion for clip in clips} == {"Surprise_Fake"}
    assert all("csv manifest" in reason for _, reason in findings.rejected)
    assert corpora.notes("sase-fe", clips) == ["2 clips of 2 people here, 643 of 54 published"]


OULU = [f"P{n:03d}/{word}/{frame:03d}.jpeg" for n in range(1, 81)
        for word in CORPUS_WORDS["oulu-casia"] for frame in (0, 1)]  # fmt: skip


@pytest.fixture(scope="module")
def oulu(tmp_path_factory):
    """OriginalImg of both cameras and all lights, and the crops of one of them."""
    root = tmp_path_factory.mktemp("oulu")
    for camera, light in itertools.product(("VL", "NI"), ("Strong", "Weak", "Dark")):
        _touch(root / "OriginalImg" / camera / light, *OULU)
    _touch(root / "PreProcessImg/VL_Acropped/Strong", *OULU)
    return root


def test_oulu_casia_is_480_sequences_a_light_and_camera(oulu):
    clips, findings = _scan("oulu-casia", oulu)
    assert len(clips) == 2880 and not findings.rejected
    assert set(_emotions(clips).values()) == {480}
    assert Counter(clip.intensity for clip in clips) == dict.fromkeys(
        ("Strong", "Weak", "Dark"), 960
    )
    # Two cameras see one performance.
    assert set(Counter(clip.recording for clip in clips).values()) == {2}
    assert findings.skipped.total() == 480
    assert not _differences("oulu-casia", clips)


@pytest.mark.parametrize("part", ["OriginalImg/VL/Strong", "PreProcessImg"])
def test_oulu_casia_of_one_light_and_camera(oulu, part):
    clips, findings = _scan("oulu-casia", oulu / part)
    assert len(clips) == 480 and not findings.skipped
    assert clips[0].clip_id == "oulu-casia/VL-Strong-P001-Anger"
    assert not _differences("oulu-casia", clips)


def test_oulu_casia_in_part(tmp_path):
    names = [name for name in OULU if not name.startswith(("P010/", "P003/Fear"))]
    _touch(tmp_path / "VL/Weak", *names, "P081/Anger/000.jpeg", "P001/Calm/000.jpeg")
    clips, findings = _scan("oulu-casia", tmp_path)
    assert [source for source, _ in findings.rejected] == [
        "VL/Weak/P001/Calm",
        "VL/Weak/P081/Anger",
    ]
    counts, absent, missing = _differences("oulu-casia", clips)
    assert counts.startswith("473 clips here, 480 published; they differ in Anger 79 of 80, ")
    assert absent == "subjects without a clip (1): P010"
    assert missing.endswith("subjects that are here (1): oulu-casia/VL-Weak-P003-Fear")


CK = {"anger": 45, "contempt": 18, "disgust": 59, "fear": 25, "happy": 69, "sadness": 28,
      "surprise": 83}  # fmt: skip


@pytest.fixture(scope="module")
def ck(tmp_path_factory):
    """593 sequences of 123 people, 327 of them labelled; three frames each."""
    root = tmp_path_factory.mktemp("ck")
    numbers = ("neutral", "anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise")
    labels = iter(numbers.index(word) for word, n in CK.items() for _ in range(n))
    for n in range(593):
        place = f"S{n % 123 + 1:03d}/{n // 123 + 1:03d}"
        stems = [f"{place.replace('/', '_')}_{frame:08d}" for frame in (1, 2, 9)]
        _touch(root / "cohn-kanade-images" / place, *(f"{stem}.png" for stem in stems))
        _touch(root / "Landmarks" / place, f"{stems[0]}_landmarks.txt")
        if (label := next(labels, None)) is not None:
            _touch(root / "Emotion" / place, f"{stems[-1]}_emotion.txt")
            path = root / "Emotion" / place / f"{stems[-1]}_emotion.txt"
            path.write_text(f"   {label:.7e}\n")
    return root


def test_ck_plus_is_327_labelled_sequences_of_593(ck):
    clips, findings = _scan("ck+", ck)
    assert _emotions(clips) == CK and sum(CK.values()) == 327
    assert findings.skipped == {"sequences without an emotion label": 266}
    assert not findings.rejected and not findings.ignored and not _differences("ck+", clips)
    assert (clips[0].clip_id, clips[0].subject) == ("ck+/S001_001", "S001")
    assert clips[0].source == "cohn-kanade-images/S001/001"


def test_ck_plus_frames_are_peaks_and_neutral_starts(ck):
    clips, _ = _scan("ck+-frames", ck)
    assert _emotions(clips) == CK | {"neutral": 327}
    assert not _differences("ck+-frames", clips)
    first, peak = clips[:2]
    assert [Path(clip.source).name for clip in (first, peak)] == [
        "S001_001_00000001.png", "S001_001_00000009.png",
    ]  # fmt: skip
    assert first.emotion == "neutral" and peak.emotion == "anger"
    assert first.recording == peak.recording == "S001_001" and first.corpus == "ck+"
    # Paper 4 has six emotions.
    assert sum(n for word, n in CK.items() if word != "contempt") == 309


def test_ck_plus_with_mistakes(tmp_path):
    images = tmp_path / "cohn-kanade-images"
    for n in range(1, 5):
        _touch(images, *(f"S005/00{n}/S005_00{n}_0000000{frame}.png" for frame in (1, 2, 3)))
    _touch(images, "anger/S010_004_00000017.png", "holiday.png")
    for n, (last, text) in enumerate([(3, "3.0e+00"), (3, "9.0"), (4, "1.0"), (3, "6")], 1):
        path = tmp_path / f"Emotion/S005/00{n}/S005_00{n}_0000000{last}_emotion.txt"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    _touch(tmp_path, "Emotion/S011/001/S011_001_00000020_emotion.txt")
    clips, findings = _scan("ck+", tmp_path)
    assert [(clip.clip_id, clip.emotion) for clip in clips] == [
        ("ck+/S005_001", "disgust"), ("ck+/S005_004", "sadness"),
    ]  # fmt: skip
    reasons = dict(findings.rejected)
    assert len(reasons) == 4
    assert "'9.0' is no emotion" in reasons["Emotion/S005/002/S005_002_00000003_emotion.txt"]
    assert reasons["cohn-kanade-images/S005/003/S005_003_00000003.png"].endswith(
        "should be S005_003_00000004"
    )
    assert findings.notes() == ["labelled, but not here (1): S011_001"]


@pytest.mark.parametrize("name", ["ck+", "oulu-casia"])
def test_a_folder_of_images_is_a_clip_in_order_and_in_time(tmp_path, name):
    folder = "cohn-kanade-images/S005/001" if name == "ck+" else "VL/Weak/P001/Fear"
    stem, suffix = ("S005_001_00000", "png") if name == "ck+" else ("", "jpeg")
    (tmp_path / folder).mkdir(parents=True)
    for number in (4, 2, 11):
        picture = np.full((16, 16, 3), 20 * number, np.uint8)
        cv2.imwrite(str(tmp_path / folder / f"{stem}{number:03d}.{suffix}"), picture)
    _touch(tmp_path / folder, ".DS_Store", "Thumbs.db")
    if name == "ck+":
        _touch(tmp_path, "Emotion/S005/001/S005_001_00000011_emotion.txt")
        (tmp_path / "Emotion/S005/001/S005_001_00000011_emotion.txt").write_text("4.0")
    (clip,), _ = _scan(name, tmp_path)
    assert corpora.source_size(name, tmp_path, clip) == sum(
        path.stat().st_size for path in (tmp_path / folder).iterdir()
    )
    read = corpora.open_frames(name, tmp_path)
    frames = list(read(clip))
    interval = {"ck+": 1000 / 30, "oulu-casia": 40}[name]
    assert [frame.index for frame in frames] == [0, 1, 2]
    np.testing.assert_allclose([f.time_ms for f in frames], [0, 2 * interval, 9 * interval])
    np.testing.assert_allclose([f.image.mean() for f in frames], [40, 80, 220], atol=1)
    (tmp_path / folder / f"{stem}004.{suffix}").write_bytes(b"")
    with pytest.raises(ValueError, match=rf"004\.{suffix}: the file is empty"):
        list(read(clip))
    with pytest.raises(ValueError, match="no such folder"):
        list(read(clip.replace(source="elsewhere")))
    with pytest.raises(ValueError, match="no numbered image"):
        list(read(clip.replace(source="VL" if name == "oulu-casia" else "Emotion")))


ISED = {"happiness": 227, "surprise": 73, "sadness": 48, "disgust": 80}


def _ised(root, rows):
    """rows: (participant, clip, peak, emotion, intensity)"""
    table = np.empty((len(rows), 16), object)
    for row, (person, clip, peak, emotion, intensity) in zip(table, rows, strict=True):
        row[:] = [np.array(["unread"])] * 16
        row[4:8] = [
            f"videos/PS {person}/{clip}.avi", f"peakImages/{person}_{clip}_{peak}.jpg", emotion,
            intensity,
        ]  # fmt: skip
    savemat(root / "ISED_details.mat", {"details": table})


def test_ised_is_428_clips_of_50_people(tmp_path):
    labels = [n for n, count in enumerate(ISED.values(), 1) for _ in range(count)]
    rows = [(n % 50 + 1, n // 50 + 1, 30 + n, label, 2) for n, label in enumerate(labels)]
    _ised(tmp_path, rows)
    _touch(tmp_path, *(f"videos/PS {p}/{c}.avi" for p, c, *_ in rows), "videos/PS 1/77.avi")
    _touch(tmp_path, *(f"peakImages/{p}_{c}_{peak}.jpg" for p, c, peak, *_ in rows))
    for name in ("ised", "ised-frames"):
        clips, findings = _scan(name, tmp_path)
        assert _emotions(clips) == ISED and len(clips) == 428
        assert len({clip.subject for clip in clips}) == 50
        assert not _differences(name, clips) and not findings.rejected and not findings.missing
        assert findings.skipped.total() == (name == "ised")
    assert clips[0].source == "peakImages/1_1_30.jpg"
    assert (clips[0].clip_id, clips[0].intensity) == ("ised/1_1", "2")


def test_ised_in_part_and_without_its_table(tmp_path):
    _touch(tmp_path, "videos/PS 2/1.avi")
    with pytest.raises(UserError, match=r"ISED_details\.mat is missing, .*csv manifest"):
        _scan("ised", tmp_path)
    (tmp_path / "ISED_details.mat").write_bytes(b"no table")
    with pytest.raises(UserError, match="cannot read"):
        _scan("ised", tmp_path)
    savemat(tmp_path / "ISED_details.mat", {"numbers": np.zeros((3, 3))})
    with pytest.raises(UserError, match="no table of 8 columns"):
        _scan("ised", tmp_path)
    _ised(tmp_path, [(2, 1, 9, "Sadness", 1), (2, 2, 9, 1.0, 1), (3, 1, 9, "bored", 1)])
    clips, findings = _scan("ised", tmp_path)
    assert [(clip.source, clip.emotion) for clip in clips] == [("videos/PS 2/1.avi", "sadness")]
    assert findings.missing == ["videos/PS 2/2.avi"]
    assert [source for source, _ in findings.rejected] == ["videos/PS 3/1.avi"]


TITLES = ("subDirectory_filePath", "face_x", "face_y", "face_width", "face_height",
          "facial_landmarks", "expression", "valence", "arousal")  # fmt: skip


def test_affectnet_tables(tmp_path):
    lists = tmp_path / "Manually_Annotated_file_lists"
    images = tmp_path / "Manually_Annotated_Images"
    lists.mkdir()
    names = [f"{n // 4}/img{n}.jpg" for n in range(11)]
    _touch(images, *names[:-4], *names[8:])
    rows = [(name, 2, 3, 10, 20, "1;2", n, -0.5, 0.1) for n, name in enumerate(names)]
    with open(lists / "training.csv", "w", newline="") as file:
        csv.writer(file).writerows([TITLES, *rows, ("x.jpg", "NULL"), ("y.jpg", 0, 0)])
    with open(lists / "validation.csv", "w", newline="") as file:
        csv.writer(file).writerows([("val/a.jpg", *rows[6][1:])])
    picture = np.tile(np.arange(64, dtype=np.uint8)[:, None, None], (1, 64, 3))
    _touch(images, "val/a.jpg")
    cv2.imwrite(str(images / "val/a.png"), picture)
    (images / "val/a.png").rename(images / "val/a.jpg")
    clips, findings = _scan("affectnet", tmp_path)
    assert [(clip.emotion, clip.split) for clip in clips] == [
        *((word, "train") for word in CORPUS_WORDS["affectnet"][:7]), ("Anger", "validation"),
    ]  # fmt: skip
    assert clips[5].clip_id == "affectnet/1/img5"
    assert findings.missing == ["Manually_Annotated_Images/1/img7.jpg"]
    assert findings.skipped == {f"images labelled {w}": 1 for w in ("None", "Uncertain", "No-Face")}
    assert [source for source, _ in findings.rejected] == ["training.csv#13", "training.csv#14"]
    # 0.3 of 10 x 20 on each side of (2, 3), as far as the picture goes.
    assert clips[-1].source.endswith("a.jpg#xywh=2,3,10,20")
    (frame,) = corpora.open_frames("affectnet", tmp_path)(clips[-1])
    np.testing.assert_array_equal(frame.image, picture[0:29, 0:15])
    outside = clips[-1].replace(source=clips[-1].source.replace("=2,3", "=90,3"))
    with pytest.raises(ValueError, match="outside of the image"):
        list(corpora.open_frames("affectnet", tmp_path)(outside))


def test_affectnet_annotations(tmp_path):
    for part, label in itertools.product(("train_set", "val_set"), range(8)):
        _touch(tmp_path, f"{part}/images/{label}.jpg")
        (tmp_path / part / "annotations").mkdir(exist_ok=True)
        value = np.array(str(label) if part == "val_set" else label)
        np.save(tmp_path / part / "annotations" / f"{label}_exp.npy", value)
        np.save(tmp_path / part / "annotations" / f"{label}_lnd.npy", np.zeros(136))
    _touch(tmp_path, "train_set/images/8.jpg")
    clips, findings = _scan("affectnet", tmp_path)
    assert [(clip.emotion, clip.split) for clip in clips] == [
        (word, split) for split in ("train", "validation") for word in CORPUS_WORDS["affectnet"]
    ]
    assert clips[8].clip_id == "affectnet/val_set/0"
    assert [source for source, _ in findings.rejected] == ["train_set/images/8.jpg"]
    alone, _ = _scan("affectnet", tmp_path / "val_set")
    assert [(c.clip_id, c.split) for c in alone] == [(c.clip_id, c.split) for c in clips[8:]]


def test_affectnet_counts(shared):
    known = json.loads((shared / "papers/label_maps.json").read_text())["affectnet7_train_counts"]
    words = CORPUS_WORDS["affectnet"]
    clips = [Clip(clip_id=f"affectnet/{w}", corpus="affectnet", emotion=w) for w in words]
    eight = corpora.published("affectnet", clips)
    seven = corpora.published("affectnet", clips[:7])
    assert {word: seven["train", word] for word in words[:7]} == {w: known[w] for w in words[:7]}
    total = {(split, len(c)): sum(n for (s, _), n in c.items() if s == split)
             for c in (seven, eight) for split in ("train", "validation")}  # fmt: skip
    assert total == {("train", 14): known["sum"], ("validation", 14): 3500, ("train", 16): 287651,
                     ("validation", 16): 4000}  # fmt: skip
