"""Prediction: the same numbers as evaluation, and files as people have them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from fer_jax.errors import UserError


@pytest.fixture(scope="module")
def predictor(tiny_run):
    import fer_jax

    return fer_jax.load(tiny_run.dir)


@pytest.fixture(scope="module")
def clips(tiny_run) -> dict:
    from fer_jax.data import corpus

    return {clip.clip_id: clip for clip in corpus.load(tiny_run.records)}


def rows(path: str | Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_clips_verdict_is_evaluations_number(predictor, clips, tiny_run) -> None:
    table = rows(tiny_run.dir / "predictions.csv")
    assert len(table) == 18
    assert predictor.classes == ("neutral", "happy", "sad")
    for row in table:
        expected = [float(row[f"p_{name}"]) for name in predictor.classes]
        found = predictor.clip(clips[row["clip_id"]])
        np.testing.assert_allclose(found, expected, atol=2e-6)


def part_of(clip, frames: np.ndarray):
    """The clip as if it had these frames only."""
    names = ("frame_index", "time_ms", "face_found", "box", "landmarks68")
    return clip.replace(**{name: getattr(clip, name)[frames] for name in names})


def test_a_frames_verdict_is_that_of_the_frames_before(predictor, clips) -> None:
    clip = clips["tiny/004"]
    found = predictor.frames(clip)
    assert found.shape == (clip.frames, 3)
    np.testing.assert_array_equal(np.isnan(found).all(1), ~clip.face_found)
    assert not clip.face_found.all()
    for t in np.flatnonzero(clip.face_found):
        # data.frames is 5: the last five with a face, up to this one.
        usable = np.flatnonzero(clip.face_found[: t + 1])[-5:]
        np.testing.assert_array_equal(found[t], predictor.clip(part_of(clip, usable)))


def test_clips_that_cannot_be_judged(predictor, clips) -> None:
    clip = clips["tiny/004"]
    with pytest.raises(UserError, match=r"tiny/004 has no landmarks68: .*--outputs landmarks"):
        predictor.clip(clip.replace(landmarks68=None))
    faceless = clip.replace(landmarks68=np.full_like(clip.landmarks68, np.nan))
    for judge in (predictor.clip, predictor.frames):
        with pytest.raises(UserError, match="tiny/004: no face found in any of its 9 frames"):
            judge(faceless)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A portrait as a picture and as videos, with and without a face, and what is neither."""
    import cv2
    from skimage import data

    root = tmp_path_factory.mktemp("files")
    portrait = cv2.cvtColor(data.astronaut()[20:260, 110:350], cv2.COLOR_RGB2BGR)
    black = np.zeros_like(portrait)
    for name, frames in {
        "a/my.clip.mp4": [portrait] * 4 + [black] * 2,
        "b/my.clip.mp4": [portrait] * 2,
        "faceless.mp4": [black] * 3,
    }.items():
        (root / name).parent.mkdir(exist_ok=True)
        fourcc = cv2.VideoWriter.fourcc(*"mp4v")
        writer = cv2.VideoWriter(str(root / name), fourcc, 25.0, portrait.shape[1::-1])
        for frame in frames:
            writer.write(frame)
        writer.release()
    cv2.imwrite(str(root / "picture.jpg"), portrait)
    (root / "notes.txt").write_text("not a video\n")
    (root / "empty.mp4").touch()
    return root


@pytest.fixture(scope="module")
def predicted(tiny_run, files: Path, tmp_path_factory: pytest.TempPathFactory):
    from fer_jax.deploy.predict import predict_files

    out = tmp_path_factory.mktemp("out") / "new"
    names = ["a/my.clip.mp4", "notes.txt", "b/my.clip.mp4", "faceless.mp4", "picture.jpg"]
    told: list[tuple[int, int, str]] = []
    report = predict_files(
        tiny_run.dir, [files / name for name in names], out, on_progress=lambda *a: told.append(a)
    )
    return report, out, told


def test_one_bad_file_does_not_stop_the_others(predicted, files: Path) -> None:
    report, out, _ = predicted
    assert [item["file"] for item in report["files"]] == [
        str(files / name) for name in ("a/my.clip.mp4", "b/my.clip.mp4", "picture.jpg")
    ]
    reasons = {Path(item["file"]).name: item["reason"] for item in report["skipped"]}
    assert reasons.keys() == {"notes.txt", "faceless.mp4"}
    assert "not a video" in reasons["notes.txt"]
    assert "no face found in 3" in reasons["faceless.mp4"]
    assert sorted(path.name for path in out.iterdir()) == [
        "clips.csv", "my.clip-2.frames.csv", "my.clip-2.mp4", "my.clip.frames.csv", "my.clip.mp4",
        "picture.frames.csv", "picture.png",
    ]  # fmt: skip


def test_tables_say_the_same_as_the_report(predicted, predictor) -> None:
    report, out, _ = predicted
    table = rows(out / "clips.csv")
    assert [row["file"] for row in table] == [
        item["file"] for item in (*report["files"], *report["skipped"])
    ]
    for row, item in zip(table, report["files"], strict=False):
        assert row["predicted"] == item["predicted"]
        shares = [float(row[f"p_{name}"]) for name in predictor.classes]
        assert predictor.classes[int(np.argmax(shares))] == item["predicted"]
        assert max(shares) == pytest.approx(item["probability"], abs=1e-6)
        assert sum(item["probabilities"].values()) == pytest.approx(1, abs=1e-6)
    assert [row["skipped"] == "" for row in table] == [True] * 3 + [False] * 2
    frames = rows(report["files"][0]["frames_csv"])
    assert [row["face"] for row in frames] == list("111100")
    assert [row["frame"] for row in frames] == list("012345")
    assert [float(row["time_ms"]) for row in frames] == [0, 40, 80, 120, 160, 200]
    assert frames[4]["predicted"] == frames[4]["p_sad"] == ""
    assert (report["files"][0]["frames"], report["files"][0]["faces"]) == (6, 4)


def test_annotated_copies(predicted) -> None:
    from preprocessing.video import probe

    report, out, _ = predicted
    assert [item["annotated"] for item in report["files"]] == [
        str(out / name) for name in ("my.clip.mp4", "my.clip-2.mp4", "picture.png")
    ]
    video, picture = probe(out / "my.clip.mp4"), probe(out / "picture.png")
    assert (video.frames, video.fps) == (6, 25.0)
    assert video.width == picture.width > 640


def test_progress_counts_both_passes(predicted) -> None:
    told = [entry for entry in predicted[2] if "my.clip" in entry[2]]
    assert told[:6] == [(i, 6, "reading my.clip.mp4") for i in range(1, 7)]
    assert told[6:12] == [(i, 6, "annotating my.clip.mp4") for i in range(1, 7)]


def test_without_video(tiny_run, files: Path, tmp_path: Path) -> None:
    from fer_jax.deploy.predict import predict_files

    report = predict_files(tiny_run.dir, [str(files / "picture.jpg")], tmp_path, video=False)
    assert report["files"][0]["annotated"] is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips.csv", "picture.frames.csv"]


def test_nothing_is_written_where_nothing_can_be_said(
    tiny_run, files: Path, tmp_path: Path
) -> None:
    from fer_jax.deploy.predict import predict_files

    for names, message in (
        (["faceless.mp4", "empty.mp4"], r"nothing could be predicted: .*faceless.*no face.*empty"),
        (["picture.jpg", "absent.mp4"], r"no such file: .*absent\.mp4$"),
        (["a"], r"a is a directory: name its files, as in .*a/\*$"),
    ):
        with pytest.raises(UserError, match=message):
            predict_files(tiny_run.dir, [files / name for name in names], tmp_path / "out")
        assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="is not a run directory"):
        predict_files(tmp_path, [files / "picture.jpg"], tmp_path / "out")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"cannot write .*file"):
        predict_files(tiny_run.dir, [files / "picture.jpg"], tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
