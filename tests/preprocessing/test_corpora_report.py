"""What a build says of a corpus: missing, extra, known to be bad, left out on request."""

from __future__ import annotations

from collections import Counter

import cv2
import numpy as np
import pytest

from fer_jax.cli import main
from fer_jax.data.corpus import load
from fer_jax.errors import UserError
from fer_jax.parser import records
from preprocessing import corpora
from preprocessing.build import make_recipe, preprocess
from preprocessing.corpora import crema_d
from preprocessing.coverage import compare_with_published

#: The four whose pictures their publisher calls wrong.
BAD = ("1064_IEO_DIS_MD", "1064_TIE_SAD_XX", "1076_MTI_NEU_XX", "1076_MTI_SAD_XX")


def _crema(root, names):
    root.mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / f"{name}.flv").touch()
    return list(corpora.scan("crema-d", root))


@pytest.fixture(scope="module")
def names(shared):
    return (shared / "papers/folds/crema_d_clip_names.txt").read_text().split()


def test_crema_d_by_its_rule_is_the_published_list(names):
    assert [clip.recording for clip in crema_d.listing([])] == list(
        dict.fromkeys(clip.recording for clip in crema_d.listing([]))
    )
    assert {clip.recording for clip in crema_d.listing([])} == set(names)
    assert corpora.published("crema-d", []) == Counter(("", name.split("_")[2]) for name in names)


def test_crema_d_in_part_names_who_and_what_is_missing(tmp_path, names):
    here = [name for name in names if not name.startswith(("1002", "1091", "1003_D"))]
    clips = _crema(tmp_path, [*here, "1008_WSI_ANG_XX", "1040_DFA_HAP_LO"])
    listing = corpora.listing("crema-d", clips)
    notes = compare_with_published(corpora.published("crema-d", clips), clips, listing)
    first, *rest = notes
    assert first.startswith(f"{len(clips):,} clips here, 7,442 published; they differ in ANG ")
    assert rest == [
        "subjects without a clip (2): 1002, 1091",
        "clips missing of subjects that are here (6): crema-d/1003_DFA_ANG_XX, "
        "crema-d/1003_DFA_DIS_XX, crema-d/1003_DFA_FEA_XX and 3 more",
        "clips that the publisher does not list (2): crema-d/1008_WSI_ANG_XX, "
        "crema-d/1040_DFA_HAP_LO",
    ]


def test_known_bad_clips_of_crema_d(tmp_path, names):
    rows = crema_d.known_bad()
    assert {row["clip"] for row in rows} <= set(names)
    assert len({row["clip"] for row in rows}) == len(rows)
    assert len(rows) == 33 and all(
        row["problem"] and row["source"] and row["since"].isdigit() for row in rows
    )
    assert tuple(row["clip"] for row in rows if row["pictures"] == "bad") == BAD
    assert {row["pictures"] for row in rows} == {"bad", "good"}
    # One of them and one whose sound alone suffered.
    clips = _crema(tmp_path, [BAD[1], "1091_IWW_FEA_XX"])
    (note,) = corpora.notes("crema-d", clips)
    assert note.endswith("faulty (1; --exclude leaves them out): 1064_TIE_SAD_XX: no duration")
    assert not corpora.notes("crema-d", clips[1:])


def test_ravdess_in_part_names_files(tmp_path):
    stems = [
        c.clip_id.partition("/")[2] for c in corpora.listing("ravdess", _one_ravdess(tmp_path))
    ]
    assert len(stems) == 1440
    for stem in stems[4:]:
        (tmp_path / f"{stem}.mp4").touch()
    clips = list(corpora.scan("ravdess", tmp_path))
    listing = corpora.listing("ravdess", clips)
    notes = compare_with_published(corpora.published("ravdess", clips), clips, listing)
    assert notes[0].endswith("they differ in neutral 93 of 96")
    assert notes[1] == (
        "clips missing of subjects that are here (3): ravdess/02-01-01-01-01-01-02, "
        "ravdess/02-01-01-01-01-01-03, ravdess/02-01-01-01-01-01-04"
    )
    (tmp_path / "02-02-01-01-01-01-18.mp4").touch()
    clips = list(corpora.scan("ravdess", tmp_path))
    listing = corpora.listing("ravdess", clips)
    assert len(listing) == 2452
    assert (
        "does not list (1): ravdess/02-02-01-01-01-01-18"
        in compare_with_published({}, clips, listing)[-1]
    )


def _one_ravdess(root):
    (root / "02-01-01-01-01-01-01.mp4").touch()
    return list(corpora.scan("ravdess", root))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Three CK+ sequences of a real face that moves, and one of noise, built for landmarks."""
    from skimage import data

    root = tmp_path_factory.mktemp("ck")
    face = cv2.cvtColor(data.astronaut()[0:250, 100:350], cv2.COLOR_RGB2BGR)
    noise = np.random.default_rng(0).integers(0, 255, face.shape, np.uint8)
    for n, (picture, label) in enumerate([(face, 5), (face, 7), (face, 1), (noise, 3)], 1):
        folder = root / "raw/cohn-kanade-images" / f"S00{n}/001"
        folder.mkdir(parents=True)
        for shift, frame in enumerate((1, 2, 4)):
            moved = np.roll(picture, 4 * shift, axis=1)
            cv2.imwrite(str(folder / f"S00{n}_001_0000000{frame}.png"), moved)
        path = root / f"raw/Emotion/S00{n}/001/S00{n}_001_00000004_emotion.txt"
        path.parent.mkdir(parents=True)
        path.write_text(f"{label}.0000000e+00")
    recipe = make_recipe("ck+", ("landmarks",))
    report = preprocess("ck+", root / "raw", root / "out", recipe=recipe, workers=1)
    return root, recipe, report


def test_folders_of_images_become_records(built):
    root, _, report = built
    assert report.exit_code == 0 and report.written == 3
    assert [(item.clip_id, item.kind) for item in report.quarantined] == [
        ("ck+/S004_001", "no_face")
    ]
    assert report.notes[0].startswith("4 clips here, 327 published; they differ in anger 1 of 45")
    clips = sorted(load(root / "out"), key=lambda clip: clip.clip_id)
    assert [(clip.clip_id, clip.emotion, clip.subject, clip.recording) for clip in clips] == [
        ("ck+/S001_001", "happy", "S001", "S001_001"),
        ("ck+/S002_001", "surprise", "S002", "S002_001"),
        ("ck+/S003_001", "anger", "S003", "S003_001"),
    ]
    clip = clips[0]
    np.testing.assert_allclose(clip.time_ms, [0, 1000 / 30, 100], rtol=1e-6)
    assert clip.frames == 3 and clip.face_found.all() and (clip.width, clip.height) == (250, 250)
    # The face moves 4 pixels to the right each time; dlib's detector places it to a few pixels.
    moved = np.diff(clip.landmarks68[..., 0].mean(axis=1))
    np.testing.assert_allclose(moved, 4, atol=2)


def test_excluded_clips_are_not_built_and_are_named(built, tmp_path):
    root, recipe, _ = built
    report = preprocess(
        "ck+", root / "raw", tmp_path / "out", recipe=recipe, workers=1,
        exclude=["S001_001", "ck+/S004_001"],
    )  # fmt: skip
    assert [clip.subject for clip in sorted(load(tmp_path / "out"), key=lambda c: c.clip_id)] == [
        "S002", "S003",
    ]  # fmt: skip
    assert report.scanned == report.written == 2
    assert "excluded on request: S001_001, ck+/S004_001" in report.notes
    for exclude, message in (
        (["S009_001"], "exclude: there is no clip S009_001"),
        (["S001_001", "S002_001", "S003_001", "S004_001"], "that is every clip, 4 of them"),
    ):
        with pytest.raises(UserError, match=message):
            preprocess(
                "ck+", root / "raw", tmp_path / "no", recipe=recipe, exclude=exclude, workers=1
            )


def test_help_names_every_corpus(capsys):
    assert sorted(corpora.CORPORA) == sorted(records.CORPORA)
    with pytest.raises(SystemExit):
        main(["preprocess", "--help"])
    text = "".join(capsys.readouterr().out.split()).replace("-", "")
    for name in corpora.CORPORA:
        assert name.replace("-", "") in text
