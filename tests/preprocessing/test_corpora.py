"""Adapters against the published counts, and against trees and tables with mistakes in them."""

from __future__ import annotations

import csv
import gzip
import itertools
from collections import Counter

import numpy as np
import pytest

from fer_jax.errors import UserError
from preprocessing import corpora


def _touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def _scan(name, root):
    findings = corpora.Findings()
    return list(corpora.scan(name, root, findings)), findings


def _fer_table(path, rows, header="emotion,pixels,Usage", order="epu"):
    """rows: (emotion, pixels, usage) as text or arrays."""
    lines = [header]
    for emotion, pixels, usage in rows:
        text = pixels if isinstance(pixels, str) else " ".join(map(str, pixels.ravel()))
        cells = {"e": str(emotion), "p": text, "u": usage}
        lines.append(",".join(cells[c] for c in order))
    data = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def faces():
    return np.random.default_rng(0).integers(0, 256, (3, 48, 48), np.uint8)


def test_crema_d_agrees_with_the_published_list(tmp_path, shared):
    names = (shared / "papers/folds/crema_d_clip_names.txt").read_text().split()
    _touch(tmp_path, *(f"VideoFlash/{name}.flv" for name in names))
    clips, findings = _scan("crema-d", tmp_path)
    assert [clip.recording for clip in clips] == sorted(names)
    assert Counter(clip.emotion for clip in clips) == {
        "ANG": 1271, "DIS": 1271, "FEA": 1271, "HAP": 1271, "NEU": 1087, "SAD": 1271,
    }  # fmt: skip
    assert len({clip.subject for clip in clips}) == 91
    assert len({clip.statement for clip in clips}) == 12
    assert Counter(clip.intensity for clip in clips) == {
        "XX": 5 * 998 + 1087, "LO": 455, "MD": 455, "HI": 455,
    }  # fmt: skip
    assert not findings.rejected and not findings.ignored
    found = Counter((clip.split, clip.emotion) for clip in clips)
    assert found == corpora.published("crema-d", clips)


def test_crema_d_rejects_other_names_and_second_copies(tmp_path):
    _touch(
        tmp_path, "a/1001_DFA_ANG_X.mp4", "b/1001_IEO_SAD_HI.flv", "c/1001_IEO_SAD_HI.mp4",
        "1092_DFA_ANG_XX.flv", "1000_DFA_ANG_XX.flv", "1001_DFA_SUR_XX.flv", "holiday.mp4",
        "notes.txt", ".DS_Store",
    )  # fmt: skip
    clips, findings = _scan("crema-d", tmp_path)
    assert [(c.clip_id, c.subject, c.statement, c.intensity) for c in clips] == [
        ("crema-d/1001_DFA_ANG_XX", "1001", "DFA", "XX"),
        ("crema-d/1001_IEO_SAD_HI", "1001", "IEO", "HI"),
    ]
    assert sorted(source for source, _ in findings.rejected) == [
        "1000_DFA_ANG_XX.flv", "1001_DFA_SUR_XX.flv", "1092_DFA_ANG_XX.flv",
        "c/1001_IEO_SAD_HI.mp4", "holiday.mp4",
    ]  # fmt: skip
    assert findings.ignored == {".txt": 1}


def _ravdess_names(modality):
    """Every name of the corpus, by the rules that its authors publish."""
    for channel, emotion, intensity, statement, take, actor in itertools.product(
        (1, 2), range(1, 9), (1, 2), (1, 2), (1, 2), range(1, 25)
    ):
        if emotion == 1 and intensity == 2:
            continue  # neutral is never strong
        if channel == 2 and (emotion > 6 or actor == 18):
            continue  # nobody sings disgust or surprise; actor 18 does not sing
        fields = (modality, channel, emotion, intensity, statement, take, actor)
        yield f"Actor_{actor:02d}/" + "-".join(f"{field:02d}" for field in fields) + ".mp4"


def test_ravdess_has_2452_recordings_twice(tmp_path):
    _touch(tmp_path, *_ravdess_names(1), *_ravdess_names(2), "03-01-01-01-01-01-01.wav")
    clips, findings = _scan("ravdess", tmp_path)
    assert Counter(clip.emotion for clip in clips) == {
        "neutral": 376, "calm": 752, "happy": 752, "sad": 752, "angry": 752, "fearful": 752,
        "disgust": 384, "surprised": 384,
    }  # fmt: skip
    assert len(clips) == 4904
    assert set(Counter(clip.recording for clip in clips).values()) == {2}
    assert findings.skipped.total() == 1
    assert Counter(("", clip.emotion) for clip in clips) == corpora.published("ravdess", clips)
    one = [clip for clip in clips if "/02-01-" in clip.clip_id]
    assert len(one) == 1440
    assert Counter(("", clip.emotion) for clip in one) == corpora.published("ravdess", one)


def test_ravdess_fields(tmp_path):
    _touch(tmp_path, "02-01-06-02-01-02-12.mp4", "02-01-09-01-01-01-01.mp4", "02-01-06.mp4")
    clips, findings = _scan("ravdess", tmp_path)
    (clip,) = clips
    assert (clip.emotion, clip.intensity, clip.statement) == ("fearful", "strong", "kids")
    assert (clip.subject, clip.recording) == ("12", "01-06-02-01-02-12")
    assert len(findings.rejected) == 2


def test_fer2013_agrees_with_the_published_counts(shared):
    clips, findings = _scan("fer2013", shared / "data/fer2013")
    assert Counter(clip.split for clip in clips) == {
        "train": 28709, "validation": 3589, "test": 3589,
    }  # fmt: skip
    found = Counter((clip.split, clip.emotion) for clip in clips)
    assert found == corpora.published("fer2013", clips)
    assert not findings.rejected
    # FER+ is joined by row: its annotators agree with the label of the same picture.
    happy = [c for c in clips if c.emotion == "happy" and np.isfinite(c.votes).all()]
    assert np.mean([clip.votes.argmax() == 1 for clip in happy]) > 0.9
    with gzip.open(shared / "data/fer2013/fer2013.csv.gz", "rt") as file:
        rows = list(itertools.islice(csv.DictReader(file), 200))
    read = corpora.open_frames("fer2013", shared / "data/fer2013")
    for clip, row in zip(clips[:200:20], rows[::20], strict=True):
        (frame,) = read(clip)
        want = np.array([int(n) for n in row["pixels"].split()]).reshape(48, 48)
        np.testing.assert_array_equal(frame.image, np.repeat(want[..., None], 3, 2))


@pytest.mark.parametrize(
    ("name", "header", "order"),
    [
        ("fer2013.csv", "emotion,pixels,Usage", "epu"),
        ("fer2013.csv.gz", "emotion,pixels,Usage", "epu"),
        ("icml_face_data.csv", "emotion, Usage, pixels", "eup"),
    ],
)
def test_fer2013_tables(tmp_path, faces, name, header, order):
    usages = ("Training", "PublicTest", "PrivateTest")
    _fer_table(tmp_path / name, zip((3, 4, 6), faces, usages, strict=True), header, order)
    for root in (tmp_path, tmp_path / name):
        clips, _ = _scan("fer2013", root)
        assert [(c.clip_id, c.emotion, c.split, c.source) for c in clips] == [
            ("fer2013/fer0000000", "happy", "train", f"{name}#0"),
            ("fer2013/fer0000001", "sad", "validation", f"{name}#1"),
            ("fer2013/fer0000002", "neutral", "test", f"{name}#2"),
        ]
        read = corpora.open_frames("fer2013", root)
        for clip, face in zip(clips, faces, strict=True):
            (frame,) = read(clip)
            np.testing.assert_array_equal(frame.image[..., 1], face)


def test_fer2013_malformed_rows_are_named_by_line(tmp_path, faces):
    good = " ".join(map(str, faces[0].ravel()))
    too_bright = good.replace(good.split()[0], "256", 1)
    rows = [
        (3, good, "Training"), (7, good, "Training"), (3, good[:-9], "Training"),
        (3, good, "Sometimes"), (3, too_bright, "Training"), (3, f"x{good[1:]}", "Training"),
        (4, faces[1], "PublicTest"), ("3,3", good, "Training"),
    ]  # fmt: skip
    _fer_table(tmp_path / "fer2013.csv", rows)
    clips, findings = _scan("fer2013", tmp_path)
    assert [clip.source for clip in clips] == [f"fer2013.csv#{n}" for n in (0, 4, 5, 6)]
    assert [reason.partition(":")[0] for _, reason in findings.rejected] == [
        "line 3", "line 4", "line 5", "line 9",
    ]  # fmt: skip
    read = corpora.open_frames("fer2013", tmp_path)
    for clip, line in ((clips[1], "line 6"), (clips[2], "line 7")):
        with pytest.raises(ValueError, match=f"{line}: a pixel"):
            list(read(clip))
    # The row after the bad ones is still itself.
    np.testing.assert_array_equal(next(read(clips[3])).image[..., 0], faces[1])


def test_fer2013_votes_of_another_table_are_refused(tmp_path, faces):
    _fer_table(tmp_path / "fer2013.csv", [(3, face, "Training") for face in faces])
    votes = tmp_path / "fer2013new.csv"
    header = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,x,NF"
    lines = [header, "Training,fer0.png,0,9,1,0,0,0,0,0,0,0", "Training,,0,0,0,0,0,0,0,0,0,0"]
    votes.write_text("\n".join(lines))
    with pytest.raises(UserError, match="2 rows, the table 3"):
        _scan("fer2013", tmp_path)
    votes.write_text("\n".join([*lines, "PublicTest,fer2.png,0,0,0,0,0,0,0,0,0,10"]))
    with pytest.raises(UserError, match="line 4: Usage PublicTest"):
        _scan("fer2013", tmp_path)
    votes.write_text("\n".join([*lines, "Training,fer2.png,0,0,0,0,0,0,0,0,0,10"]))
    clips, _ = _scan("fer2013", tmp_path)
    assert clips[0].votes.tolist() == [0, 9, 1, 0, 0, 0, 0, 0, 0, 0]
    assert np.isnan(clips[1].votes).all() and clips[2].votes[9] == 10


def test_fer2013_damaged_archive_and_other_table(tmp_path, faces):
    path = tmp_path / "fer2013.csv.gz"
    _fer_table(path, [(3, face, "Training") for face in faces])
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match="damaged"):
        _scan("fer2013", tmp_path)
    path.write_bytes(gzip.compress(b"a,b\n1,2\n"))
    with pytest.raises(UserError, match="no FER2013 table"):
        _scan("fer2013", tmp_path)


def test_fer2013_image_folders(tmp_path):
    _touch(
        tmp_path, "train/angry/Training_1.jpg", "test/happy/PublicTest_2.jpg",
        "test/happy/PrivateTest_3.jpg", "test/odd/PrivateTest_4.jpg",
    )  # fmt: skip
    clips, findings = _scan("fer2013", tmp_path)
    assert [(clip.emotion, clip.split) for clip in clips] == [
        ("happy", "test"), ("happy", "validation"), ("angry", "train"),
    ]  # fmt: skip
    assert [source for source, _ in findings.rejected] == ["test/odd/PrivateTest_4.jpg"]


def test_folder(tmp_path):
    _touch(
        tmp_path, "joy/a.jpg", "joy/a.png", "joy/anna/b.mp4", "joy/anna/day2/c.mp4", "rage/x.MOV",
        "loose.jpg", "joy/readme.txt", ".git/y.jpg",
    )  # fmt: skip
    (tmp_path / "joy" / "loop").symlink_to(tmp_path)
    clips, findings = _scan("folder", tmp_path)
    assert [(c.clip_id, c.emotion, c.subject, c.split) for c in clips] == [
        ("folder/joy/a.jpg", "joy", "", ""),
        ("folder/joy/a.png", "joy", "", ""),
        ("folder/joy/anna/b", "joy", "anna", ""),
        ("folder/joy/anna/day2/c", "joy", "anna", ""),
        ("folder/rage/x", "rage", "", ""),
    ]
    assert [source for source, _ in findings.rejected] == ["loose.jpg"]
    assert findings.ignored == {".txt": 1}
    assert corpora.published("folder", clips) == {}


def test_folder_with_official_splits(tmp_path):
    _touch(tmp_path, "train/joy/a.jpg", "valid/joy/b.jpg", "Test/joy/anna/c.jpg")
    clips, _ = _scan("folder", tmp_path)
    assert [(c.emotion, c.subject, c.split) for c in clips] == [
        ("joy", "anna", "test"), ("joy", "", "train"), ("joy", "", "validation"),
    ]  # fmt: skip


def test_csv_manifest(tmp_path):
    table = tmp_path / "clips.csv"
    table.write_text(
        "﻿emotion;path;subject;split;start;end;mine\n"
        "joy;a.mp4;anna;Train;;;1\n"
        "\n"
        "rage;a.mp4;anna;dev;1.5;3;2\n",
        encoding="utf-8",
    )
    clips, _ = _scan("csv", table)
    assert [(c.clip_id, c.emotion, c.split, c.recording, c.subject) for c in clips] == [
        ("csv/a.mp4", "joy", "train", "a.mp4", "anna"),
        ("csv/a.mp4#t=1.5,3", "rage", "validation", "a.mp4", "anna"),
    ]
    assert [c.clip_id for c in _scan("csv", tmp_path)[0]] == [c.clip_id for c in clips]


def test_csv_reads_the_named_part_of_a_video(tmp_path, shared):
    video = shared / "data/videos/single_face.mp4"
    table = tmp_path / "clips.csv"
    table.write_text(f"path,emotion,start,end\n{video},joy,,\n{video},joy,0.5,1.25\n")
    whole, part = _scan("csv", table)[0]
    read = corpora.open_frames("csv", table)
    all_frames = list(read(whole))
    frames = list(read(part))
    times = [f.time_ms for f in all_frames if 500 <= f.time_ms < 1250]
    assert [frame.time_ms for frame in frames] == times
    assert 0 < len(frames) < len(all_frames) == 72


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("file,emotion\na.mp4,joy\n", "line 1: needs one column 'path'"),
        ("path,emotion\na.mp4,joy\nb.mp4,\n", "line 3: emotion is empty"),
        ("path,emotion\na.mp4\n", "line 2: 1 cells, the header has 2"),
        ("path,emotion,split\na.mp4,joy,maybe\n", "line 2: unknown split 'maybe'"),
        ("path,emotion,start\na.mp4,joy,soon\n", "line 2: start 'soon'"),
        ("path,emotion,start,end\na.mp4,joy,3,2\n", "line 2: end 2 does not lie after start 3"),
        ("path,emotion\na.mp4,joy\na.mp4,rage\n", "line 3: a.mp4 was on line 2 before"),
    ],
)
def test_csv_mistakes_are_named_by_line(tmp_path, text, message):
    (tmp_path / "clips.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        _scan("csv", tmp_path)


@pytest.mark.parametrize("name", corpora.CORPORA)
def test_missing_and_empty_trees(tmp_path, name):
    with pytest.raises(UserError, match="does not exist"):
        _scan(name, tmp_path / "nowhere")
    with pytest.raises(UserError):
        _scan(name, tmp_path)


def test_a_tree_of_another_corpus_says_what_is_expected(tmp_path):
    _touch(tmp_path, "01-01-01-01-01-01-01.mp4")
    with pytest.raises(UserError, match=r"1001_DFA_ANG_XX\.flv"):
        _scan("crema-d", tmp_path)


def test_unknown_corpus_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'crema-d'"):
        list(corpora.scan("cremad", "."))
