"""Paper 4's configs on real faces, small: landmarks found by dlib, emotions of the video."""

import numpy as np
import pytest

from fer_jax.training import loop

DAN = {"name": "emotional-dan", "widths": [4, 8, 8, 16], "dense": 16, "patch": 4, "dropout": 0.0}
IMAGE = {"data__image_size": 32, "train__epochs": 25}


def test_first_stage_finds_landmarks(small, learns):
    learns(
        small("emotionaldan2018_stage1", model={**DAN, "stages": 1}, **IMAGE),
        figure="train/landmark_error",
        wanted=0.06,
    )


@pytest.mark.exhaustive
def test_both_stages_learn_the_emotion(small, learns):
    lines = learns(small("emotionaldan2018", model=DAN, **IMAGE))
    assert lines[-1]["train/landmark_error"] < 0.8 * lines[0]["train/landmark_error"]


def test_second_stage_starts_from_the_first(small, tmp_path):
    """Stage by stage: what stage 1 learned is in stage 2's run to the bit, frozen."""
    from fer_jax.models.paths import flatten

    one = small(
        "emotionaldan2018_stage1", model={**DAN, "stages": 1}, data__image_size=32, train__epochs=2
    )
    loop.train(one, tmp_path / "one")
    two = small(
        "emotionaldan2018", model=DAN, data__image_size=32, train__epochs=2,
        train__freeze=["stage1"],
        train__init={"run": str(tmp_path / "one"), "skip": ["stage2", "classifier"]},
    )  # fmt: skip
    summary = loop.train(two, tmp_path / "two")
    assert set(summary["initial"]["random"]) and summary["initial"]["unused"] == []
    before = loop.load_run(tmp_path / "one").variables
    after = loop.load_run(tmp_path / "two", "last").variables
    for kind in ("params", "stats"):
        for path, value in flatten(before[kind]).items():
            if path.startswith("stage1/"):
                np.testing.assert_array_equal(flatten(after[kind])[path], value)


def test_second_stage_keeps_what_the_first_was_relative_to(small, tmp_path):
    one = small(
        "emotionaldan2018_stage1", model={**DAN, "stages": 1}, data__image_size=32, train__epochs=1
    )
    loop.train(one, tmp_path / "one")
    two = small(
        "emotionaldan2018", model=DAN, data__image_size=32, train__epochs=1,
        train__freeze=["stage1"], protocol={"name": "random", "test": 0.5, "validation": 0.0},
        train__init={"run": str(tmp_path / "one"), "skip": ["stage2", "classifier"]},
    )  # fmt: skip
    notes = loop.train(two, tmp_path / "two")["notes"]
    assert f"mean shape and mean pictures are those of {tmp_path / 'one'}" in notes
    before, after = (loop.load_run(tmp_path / name).statistics for name in ("one", "two"))
    assert set(before) == {"mean_shape", "crops_mean", "crops_std"}
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)


def test_three_classes(small):
    from fer_jax.labels import LABEL_SPACES

    space = LABEL_SPACES["affectnet3"]
    assert [space.classes[space.index(w)] for w in ("happy", "anger", "neutral", "surprise")] == [
        "positive", "negative", "neutral", "positive",
    ]  # fmt: skip
    assert small("emotionaldan2018", data__labels="affectnet3").data.labels == "affectnet3"


@pytest.mark.parametrize(
    ("name", "model", "size"),
    [
        ("cnn2", {"name": "small-cnn", "kernels": [5, 3], "widths": [4, 8], "dense": [8]}, 32),
        ("cnn5", {"name": "small-cnn", "kernels": [3] * 5, "widths": [4, 4, 8, 8, 8],
                  "padding": "same", "dense": [8]}, 32),
        pytest.param("inception_v3", {"name": "inception-v3", "width": 0.05}, 75,
                     marks=pytest.mark.exhaustive),
        pytest.param("emotionnet2", {"name": "resnet", "blocks": [1, 1, 1, 1],
                     "widths": [4, 4, 8, 8]}, 32, marks=pytest.mark.exhaustive),
    ],
)  # fmt: skip
def test_baselines(small, learns, name, model, size):
    experiment = small(
        f"emotionaldan2018_{name}", model=model, data__image_size=size, train__epochs=30,
        optim={"lr": 3e-3}, train__batch=16,
    )  # fmt: skip
    # Its 94 convolutions take half a minute to compile again; their kinds are in the others.
    learns(experiment, half=name != "inception_v3")
