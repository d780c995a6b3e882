"""Splits that files list: read back what was written, and lists in the style of MAE-DFER."""

from __future__ import annotations

from pathlib import Path

import pytest

from fer_jax.config import Protocol
from fer_jax.data.protocols import Index, fold_count, has_folds, make_split, read_split, save_split
from fer_jax.errors import UserError
from fer_jax.records import Clip

EMOTIONS = ("ANG", "DIS", "FEA", "HAP")


def make_clips(subjects=6):
    return [
        Clip(
            clip_id=f"crema-d/10{s:02d}_DFA_{e}_XX", corpus="crema-d", subject=f"10{s:02d}",
            emotion=e, recording=f"10{s:02d}_DFA_{e}",
        )
        for s in range(1, subjects + 1)
        for e in EMOTIONS
    ]  # fmt: skip


def write_lists(folder: Path, clips, tested, **parts):
    """MAE-DFER's files: the path of a clip's frames, a blank, the number of its class."""
    folder.mkdir(parents=True)
    parts = {"test": [c for c in clips if c.subject in tested], **parts}
    parts.setdefault("train", [c for c in clips if c.subject not in tested])
    for part, members in parts.items():
        lines = [
            f"/mnt/data 1/CREMA-D/face_aligned/{c.clip_id[8:]} {EMOTIONS.index(c.emotion)}\n"
            for c in members
        ]
        (folder / f"{part}.csv").write_text("".join(lines))
    return folder


def split_of(clips, path, **settings):
    return make_split(clips, Protocol(name="file", file=str(path), **settings))


def names(split, part):
    return [split.clip_ids[i] for i in getattr(split, part)]


@pytest.mark.parametrize("validation", [0, 0.2])
@pytest.mark.parametrize("whole", [False, True])
def test_what_was_written_is_read_back(tmp_path: Path, validation, whole) -> None:
    clips = make_clips()
    copies = [c.replace(clip_id=f"{c.clip_id}+aug1", augmentation="flip") for c in clips]
    clips = [*copies, *clips]
    split = make_split(clips, Protocol(name="subject", validation=validation, test=0.3))
    path = tmp_path / "mine.csv"
    save_split(path, split, Index(clips) if whole else None)
    again = split_of(clips, path)
    assert again.sha256 == split.sha256 and again.notes == ()
    assert again.name == "file[mine.csv]" and not has_folds(Protocol(name="file", file=str(path)))
    text = path.read_text().splitlines()
    if whole:
        assert text[0] == f"# subject, sha256 {split.sha256}"
        assert text[1] == "part,clip_id,subject,emotion,recording"
        assert text[2].startswith("train,crema-d/10") and text[2].count(",") == 4
    assert read_split(path) == [
        (part, name) for part in ("train", "validation", "test") for name in names(split, part)
    ]


def test_a_changed_file_says_that_it_is_another_split(tmp_path: Path) -> None:
    clips = make_clips()
    save_split(tmp_path / "a.csv", make_split(clips, Protocol(name="random")), Index(clips))
    text = (tmp_path / "a.csv").read_text()
    (tmp_path / "a.csv").write_text(text.replace("\ntrain,", "\nvalidation,", 1))
    (note,) = split_of(clips, tmp_path / "a.csv").notes
    assert note.startswith("file[a.csv] is not the split that the file was written of")


def test_lists_of_folds(tmp_path: Path) -> None:
    clips = make_clips()
    for fold, tested in enumerate((("1001", "1002"), ("1003", "1004"), ("1005", "1006")), 1):
        write_lists(tmp_path / f"split{fold:02d}", clips, tested)
    protocol = Protocol(name="file", file=str(tmp_path))
    assert has_folds(protocol) and fold_count(protocol, list) == 3
    for fold in range(3):
        split = split_of(clips, tmp_path, fold=fold, validation=0)
        assert split.name == f"file[{tmp_path.name} {fold}/3]" and split.notes == ()
        tested = {f"10{2 * fold + i:02d}" for i in (1, 2)}
        assert {clips[i].subject for i in split.test} == tested
        assert len(split.test) == 8 and len(split.train) == 16 and not len(split.validation)
    held = split_of(clips, tmp_path, fold=1)  # A tenth of the other subjects, at least one.
    assert len({clips[i].subject for i in held.validation}) == 1
    assert len(held.validation) == 4 and len(held.train) == 12
    alone = split_of(clips, tmp_path / "split02", validation=0)
    assert alone.sha256 == split_of(clips, tmp_path, fold=1, validation=0).sha256
    with pytest.raises(UserError, match="fold 3 of 3 does not exist"):
        split_of(clips, tmp_path, fold=3)


def test_validation_that_is_the_test_is_said(tmp_path: Path) -> None:
    clips = make_clips()
    tested = [c for c in clips if c.subject == "1001"]
    split = split_of(clips, write_lists(tmp_path / "a", clips, ["1001"], val=tested))
    assert names(split, "validation") == names(split, "test")
    assert "4 clips validate and test" in split.notes[0]


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    clips = make_clips()
    write_lists(tmp_path / "a", clips, ["1001"])
    kept = [c for c in clips if c.clip_id[8:] != "1002_DFA_ANG_XX"]
    more = Clip(clip_id="crema-d/1009_TIE_SAD_XX", corpus="crema-d", subject="1009", emotion="SAD")
    split = split_of([*kept, more, more.replace(clip_id="crema-d/1009_b")], tmp_path / "a")
    assert split.notes == (
        f"1 of 24 clips that {tmp_path / 'a'} names are not in the records: "
        "/mnt/data 1/CREMA-D/face_aligned/1002_DFA_ANG_XX",
        f"2 clips of the records are in no part of {tmp_path / 'a'} and are left out",
    )
    swapped = [c.replace(emotion="DIS") if c.clip_id.endswith("1004_DFA_ANG_XX") else c
               for c in clips]  # fmt: skip
    (note,) = split_of(swapped, tmp_path / "a").notes
    assert note.endswith(
        "labels 1 clips otherwise than the records, whose labels are used: crema-d/1004_DFA_ANG_XX"
    )
    save_split(tmp_path / "own.csv", make_split(clips, Protocol(name="random")), Index(clips))
    (note,) = split_of(swapped, tmp_path / "own.csv").notes
    assert "labels 1 clips otherwise" in note


def test_paths_are_matched_by_as_much_as_tells_them_apart(tmp_path: Path) -> None:
    """FERV39k's clips are numbered within scene and emotion; DFEW's numbers have leading zeros."""
    clips = [
        Clip(clip_id=f"folder/{scene}/{emotion}/{i:04d}", corpus="folder", emotion=emotion)
        for scene in ("War", "Crime")
        for emotion in ("Happy", "Sad")
        for i in range(4)
    ]
    (tmp_path / "a").mkdir()
    lines = [f"/data/2_Clips/{c.clip_id[7:]}.mp4 {int('Sad' in c.clip_id)}" for c in clips]
    (tmp_path / "a/train.csv").write_text("\n".join(lines[:12]))
    (tmp_path / "a/test.csv").write_text("\n".join(lines[12:]) + "\n")
    split = split_of(clips, tmp_path / "a", validation=0)
    assert names(split, "train") == sorted(c.clip_id for c in clips[:12])
    assert names(split, "test") == [c.clip_id for c in clips[12:]] and not split.notes
    dfew = [Clip(clip_id=f"dfew/{i}", corpus="dfew", emotion="sad") for i in range(8, 12)]
    (tmp_path / "b").mkdir()
    (tmp_path / "b/train.csv").write_text("/d/00008 1\n/d/00009 1\n/d/00010 1\n")
    (tmp_path / "b/test.csv").write_text("/d/00011.mp4,1\n")
    split = split_of(dfew, tmp_path / "b", validation=0)
    assert names(split, "test") == ["dfew/11"] and len(split.train) == 3


def test_mistakes(tmp_path: Path) -> None:
    clips = make_clips()

    def fails(path, message):
        with pytest.raises(UserError, match=message) as caught:
            split_of(clips, path)
        assert "\n" not in str(caught.value)

    fails("", r"needs --protocol\.file: a CSV with the columns part and clip_id, or a directory")
    fails(tmp_path / "absent", "absent does not exist")
    fails(tmp_path, "holds no lists")
    (tmp_path / "a.csv").write_text("clip,set\nx,train\n")
    fails(tmp_path / "a.csv", "a.csv has no columns part and clip_id")
    (tmp_path / "b.csv").write_text("part,clip_id\ntraining,crema-d/x\n")
    fails(tmp_path / "b.csv", r"b\.csv, line 2: part 'training' is none of train, val")
    (tmp_path / "c.csv").write_text("part,clip_id\n")
    fails(tmp_path / "c.csv", "names no clip")
    (tmp_path / "x.csv").write_bytes(b"part,clip_id\ntrain," + bytes(200_000))
    fails(tmp_path / "x.csv", "x.csv is no CSV")
    (tmp_path / "d.csv").write_text("part,clip_id\ntrain,ravdess/02-01\ntest,ravdess/02-02\n")
    fails(tmp_path / "d.csv", r"only 0 of the 2 clips .*like crema-d/1001_DFA_ANG_XX, not ravdess/")
    first = [c for c in clips if c.subject == "1001"]
    fails(
        write_lists(tmp_path / "e", clips, ["1001"], train=clips),
        "4 clips are in train and in test",
    )
    fails(write_lists(tmp_path / "f", clips, ["1001"], test=[]), "leaves no clip to test on")
    (write_lists(tmp_path / "g", clips, ["1001"]) / "val.csv").write_text("just-a-path\n")
    fails(tmp_path / "g", r"val\.csv, line 1: 'just-a-path' is not like")
    assert len(first) == 4
