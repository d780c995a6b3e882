"""Prediction by networks of images, of windows and of what another network extracted."""

from __future__ import annotations

import csv
import dataclasses
import io
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

import fer_jax
from fer_jax.data import corpus
from fer_jax.errors import UserError
from fer_jax.records import Clip
from fer_jax.training import loop

SIDE = 24
BGR_MEAN = np.array([93.5940, 104.7624, 129.1863], np.float32)


def prepared(clip: Clip, run: Path, color: str) -> np.ndarray:
    """f32[U, S, S, C] of 0-1: what the network sees of the frames with a face."""
    from fer_jax.data import images

    crops = images.decode([crop for crop in clip.crops or () if crop], (SIDE, SIDE, 3))
    data = loop.load_run(run).experiment.data
    return np.asarray(images.prepare(crops, dataclasses.replace(data, image_color=color)))


def probabilities(run: Path, pixels: np.ndarray) -> np.ndarray:
    """f32[B, K] of samples f32[B, T, S, S, C], straight from the network."""
    loaded = loop.load_run(run)
    batch = {"frames": {"crops": pixels}, "frame_mask": np.ones(pixels.shape[:2], bool)}
    apply = jax.jit(loaded.model.apply, static_argnames="train")
    outputs, _ = apply(loaded.variables, batch, train=False, key=jax.random.key(0))
    return np.asarray(jax.nn.softmax(outputs.logits))


def test_a_network_of_images_is_asked_frame_by_frame(made: SimpleNamespace) -> None:
    predictor, clip = fer_jax.load(made.cnn), corpus.load(made.records)[3]
    assert predictor.streams == ("crops",)
    found = predictor.frames(clip)
    assert found.shape == (7, 2)
    np.testing.assert_array_equal(np.isnan(found).all(1), ~clip.face_found)
    statistics = loop.load_run(made.cnn).statistics
    mean, std = (np.asarray(statistics[f"crops_{name}"])[None] for name in ("mean", "std"))
    pixels = (prepared(clip, made.cnn, "gray") - mean) / std
    wanted = probabilities(made.cnn, pixels[:, None])
    assert np.ptp(wanted[:, 0]) > 1e-3
    np.testing.assert_allclose(found[clip.face_found], wanted, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(predictor.clip(clip), wanted.mean(0), rtol=1e-4, atol=1e-6)


def test_windows(made: SimpleNamespace) -> None:
    predictor, clip = fer_jax.load(made.c3d), corpus.load(made.records)[0]
    pixels = 255 * prepared(clip, made.c3d, "rgb")[..., ::-1] - BGR_MEAN
    # Frames 2 to 6 of 7 are kept: five with a face, of six.
    windows = np.stack([pixels[i : i + 3] for i in (1, 2, 3)])
    wanted = probabilities(made.c3d, windows).mean(0)
    np.testing.assert_allclose(predictor.clip(clip), wanted, rtol=1e-4, atol=1e-6)
    # Frame by frame every face counts; the first is repeated until there are three.
    ends = [pixels[[max(0, i - 2), max(0, i - 1), i]] for i in range(6)]
    found = predictor.frames(clip)
    np.testing.assert_array_equal(np.isnan(found).all(1), ~clip.face_found)
    wanted = probabilities(made.c3d, np.stack(ends))
    assert np.ptp(wanted[:, 0]) > 1e-3
    np.testing.assert_allclose(found[clip.face_found], wanted, rtol=1e-4, atol=1e-6)


def part_of(clip: Clip, frames: list[int]) -> Clip:
    names = ("frame_index", "time_ms", "face_found", "box")
    crops = tuple((clip.crops or ())[t] for t in frames)
    return clip.replace(crops=crops, **{name: getattr(clip, name)[frames] for name in names})


def test_clips_that_a_window_does_not_fit(made: SimpleNamespace) -> None:
    predictor, clip = fer_jax.load(made.c3d), corpus.load(made.records)[0]
    short = part_of(clip, [2, 3, 1, 4])
    assert np.isfinite(predictor.frames(short)).sum() == 6
    with pytest.raises(
        UserError,
        match=r"^noise/0: the model reads windows of 3 frames, and there are 2 with a face "
        r"from 30% to 100% of the clip: give a longer clip$",
    ):
        predictor.clip(short)
    nobody = part_of(clip, [0, 0, 0, 1, 1, 1, 1, 1, 1, 1])
    with pytest.raises(UserError, match=r"no face found in any of its 10 frames from 30% to 100%"):
        predictor.clip(nobody)
    with pytest.raises(UserError, match=r"noise/0: no face found in any of its 2 frames$"):
        predictor.frames(part_of(clip, [1, 1]))
    with pytest.raises(UserError, match="noise/0 has no crops: extract it with `--outputs crops`"):
        predictor.clip(clip.replace(crops=None))


def test_a_model_of_extracted_features_extracts_what_a_clip_lacks(made: SimpleNamespace) -> None:
    predictor = fer_jax.load(made.lstm)
    assert predictor.streams == ("extracted/net-6",)
    records, pictures = (
        corpus.load(made.records, streams=predictor.streams),
        corpus.load(made.records),
    )
    with open(made.lstm / "predictions.csv", newline="") as file:
        table = {row["clip_id"]: row for row in csv.DictReader(file)}
    assert len(table) == 2
    for there, raw in zip(records, pictures, strict=True):
        assert raw.extracted is None and there.crops is None
        verdict = predictor.clip(there)
        np.testing.assert_allclose(predictor.clip(raw), verdict, rtol=1e-5)
        np.testing.assert_allclose(predictor.frames(raw), predictor.frames(there), rtol=1e-5)
        if row := table.get(raw.clip_id):
            listed = [float(row[f"p_{name}"]) for name in predictor.classes]
            np.testing.assert_allclose(verdict, listed, atol=2e-6)
    with pytest.raises(UserError, match="noise/0 has no crops"):
        predictor.clip(pictures[0].replace(crops=None))


def test_sequences_have_no_features_of_a_frame(made: SimpleNamespace, fails) -> None:
    for run, frames in ((made.c3d, 3), (made.lstm, 4)):
        line = fails("extract", run, made.records, "--name", "x")
        assert line.startswith(f"{run.name} reads {frames} frames at once: features of every frame")
    assert [path.name for path in (made.records / "extracted").iterdir()] == ["net-6"]


def test_where_the_features_network_is_gone(made: SimpleNamespace, tmp_path: Path, fails) -> None:
    cnn, kept = made.cnn, tmp_path / "kept"
    (tmp_path / "picture.png").touch()
    words = ("predict", made.lstm, tmp_path / "picture.png")
    reads = "the model reads extracted/net-6, "
    cnn.rename(kept)
    try:
        line = fails(*words)
        assert (
            line == f"{reads}made by the network of {cnn}, which is not there any more: put it back"
        )
        clip = corpus.load(made.records, streams=("extracted/net-6",))[0]
        assert np.isfinite(fer_jax.load(made.lstm).clip(clip)).all()
        shutil.copytree(made.c3d, cnn)
        line = fails(*words)
        assert line.startswith(f"{reads}and {cnn} holds another network than the one")
    finally:
        shutil.rmtree(cnn, ignore_errors=True)
        kept.rename(cnn)


def test_a_clip_of_records_with_larger_images(made: SimpleNamespace) -> None:
    from PIL import Image

    def doubled(encoded: bytes | None) -> bytes | None:
        if encoded is None:
            return None
        file = io.BytesIO()
        image = Image.open(io.BytesIO(encoded))
        image.resize((2 * SIDE, 2 * SIDE), Image.Resampling.NEAREST).save(file, "png")
        return file.getvalue()

    predictor = fer_jax.load(made.c3d)
    clip = corpus.load(made.records)[0]
    larger = clip.replace(crops=tuple(map(doubled, clip.crops)))
    # Shrunk to the size that was trained on, they are nearly the same pictures.
    np.testing.assert_allclose(predictor.clip(larger), predictor.clip(clip), atol=0.02)
    mixed = clip.replace(crops=(*larger.crops[:3], *clip.crops[3:]))
    with pytest.raises(UserError, match=f"{clip.clip_id}: image . is 24x24 pixels, .* say 48x48"):
        predictor.clip(mixed)


def test_a_file_is_extracted_as_the_training_records_were(made: SimpleNamespace) -> None:
    from fer_jax.deploy.predictor import RunPredictor
    from preprocessing.extract import Recipe

    wanted = {
        "outputs": ("crops",), "align": "face", "crop_size": SIDE, "crop_color": "rgb",
        "crop_format": "png", "crop_quality": 90, "frontal_symmetry": "soft", "max_faces": 2,
    }  # fmt: skip
    for run in (made.cnn, made.c3d, made.lstm):
        assert fer_jax.load(run).extraction() == wanted
    loaded = loop.load_run(made.cnn)

    def options(recipe: dict[str, Any], shape: list[int]) -> dict[str, Any]:
        facts = {**loaded.facts, "recipe": recipe, "image_shapes": {"crops": shape}}
        found = RunPredictor(dataclasses.replace(loaded, facts=facts), made.cnn).extraction()
        Recipe(**found)
        return found

    # Records of others say what their pictures are, but not how they were made.
    assert options({}, [48, 48, 1]) == {
        "outputs": ("crops",), "align": "face", "crop_size": 48, "crop_color": "gray"
    }  # fmt: skip
    # Crops are cut by MediaPipe's points only where dlib was not at work.
    both = options({"outputs": ["crops", "blendshapes", "frontal"]}, [32, 32, 3])
    assert both["outputs"] == ("blendshapes", "crops")


@pytest.fixture(scope="module")
def files(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The first frames of real videos with and without a face, and a picture."""
    import cv2

    from preprocessing.video import read_frames

    root = tmp_path_factory.mktemp("files")
    found = {}
    for name, count in (("single_face", 6), ("no_face", 2)):
        frames = read_frames(shared / "data" / "videos" / f"{name}.mp4")
        pictures = [next(frames).image[..., ::-1] for _ in range(count)]
        found[name] = root / f"{name}.mp4"
        writer = cv2.VideoWriter(
            str(found[name]), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, pictures[0].shape[1::-1]
        )
        for picture in pictures:
            writer.write(np.ascontiguousarray(picture))
        writer.release()
        if name == "single_face":
            found["picture"] = root / "picture.png"
            cv2.imwrite(str(found["picture"]), pictures[0])
    return found


@pytest.mark.parametrize("name", ["cnn", "c3d", "lstm"])
def test_real_files(
    made: SimpleNamespace, files: dict[str, Path], tmp_path: Path, name: str
) -> None:
    words = [*files.values(), "--out", tmp_path / "out"]
    code, report = made.fer(
        "predict", getattr(made, name), *words, *(["--no-video"] * (name != "cnn"))
    )
    assert code == 3
    video, *others = report["files"]
    assert (video["frames"], video["faces"]) == (6, 6)
    assert sum(video["probabilities"].values()) == pytest.approx(1, abs=1e-6)
    with open(video["frames_csv"], newline="") as file:
        shares = [float(row["p_sad"]) for row in csv.DictReader(file)]
    assert len(shares) == 6 and len(set(shares)) > 1
    reasons = {Path(item["file"]).stem: item["reason"] for item in report["skipped"]}
    assert "no face" in reasons["no_face"]
    if name == "c3d":
        assert not others and "reads windows of 3 frames, and there are 1" in reasons["picture"]
        return
    assert [(item["frames"], item["faces"]) for item in others] == [(1, 1)]
    if name == "cnn":
        assert sorted(path.suffix for path in (tmp_path / "out").glob("*.??[4g]")) == [
            ".mp4",
            ".png",
        ]
        # A video's verdict is the mean of its frames, the picture's first frame says the same.
        assert np.mean(shares) == pytest.approx(video["probabilities"]["sad"], abs=1e-6)
