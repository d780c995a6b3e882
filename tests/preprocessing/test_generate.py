"""Generated corpora: their structure, and whether the best accuracy is what it is said to be."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy import integrate, stats

from fer_jax.data import corpus, images
from fer_jax.data.geometry import scale_landmarks, to_crop
from fer_jax.errors import UserError
from fer_jax.labels import CANONICAL, canonical
from preprocessing import generate
from preprocessing.generate_streams import Truth, best_accuracy, face_at_rest, landmark_directions


def test_structures_are_those_of_the_corpora() -> None:
    clips = list(generate.ravdess())
    assert Counter(clip.emotion for clip in clips) == {
        "neutral": 376, "calm": 752, "happy": 752, "sad": 752, "angry": 752, "fearful": 752,
        "disgust": 384, "surprised": 384,
    }  # fmt: skip
    assert set(Counter(clip.recording for clip in clips).values()) == {2}
    assert len({clip.subject for clip in clips}) == 24
    clips = list(generate.crema_d())
    assert Counter(clip.emotion for clip in clips) == Counter(
        {
            word: 1087 if word == "NEU" else 1271
            for word in ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
        }
    )
    parts = Counter(clip.split for clip in generate.fer2013())
    assert parts == {"train": 28709, "validation": 3589, "test": 3589}
    assert len(list(generate.oulu_casia())) == 480
    for make in (generate.crema_d, generate.ravdess, generate.fer2013, generate.affectnet):
        ids = [clip.clip_id for clip in make()]
        assert len(set(ids)) == len(ids)


def test_a_share_keeps_everybody_and_their_twins() -> None:
    clips = list(generate.chosen(list(generate.ravdess()), 0.25))
    assert len({clip.subject for clip in clips}) == 24
    assert set(Counter(clip.recording for clip in clips).values()) == {2}
    counts = Counter(clip.emotion for clip in clips)
    assert (counts["happy"], counts["surprised"], counts["neutral"]) == (188, 96, 94)


def accuracy_by_integral(separation: float, shares: list[float]) -> float:
    """Of K unit Gaussians on K axes: sum_k p_k int phi(x - d) prod_j Phi(x + ln(p_k / p_j) / d)."""
    total = 0.0
    for k, share in enumerate(shares):
        others = [np.log(share / other) / separation for j, other in enumerate(shares) if j != k]

        def density(x: float, others: list[float] = others) -> float:
            return stats.norm.pdf(x - separation) * np.prod(stats.norm.cdf(x + np.array(others)))

        total += share * integrate.quad(density, -10, 10 + separation)[0]
    return total


@pytest.mark.parametrize("known", [False, True])
def test_the_best_accuracy_is_the_integral(known: bool) -> None:
    truth = Truth(separation=30, subject=9, style=0, take=12, noise=1)
    emotions, frames = {"happy": 400, "sad": 100, "angry": 250, "neutral": 250}, {10: 1}
    found = best_accuracy(emotions, frames, truth, known_subject=known)
    deviation = np.sqrt(
        12**2 + (0 if known else 9**2) + 1 / sum((t / 10) ** 2 for t in range(1, 11))
    )
    wanted = accuracy_by_integral(30 / deviation, [0.4, 0.1, 0.25, 0.25])
    assert abs(found.accuracy - wanted) < 4 * found.standard_error < 0.004


def test_classes_that_are_merged_are_easier() -> None:
    """Paper 5's three classes, by the posterior of each class's emotions together."""
    counts = Counter(clip.emotion for clip in generate.fer2013())
    seven = best_accuracy(counts, {1: 1}, Truth())
    three = best_accuracy(counts, {1: 1}, Truth(), labels="attrah3")
    assert seven.accuracy < three.accuracy < 1
    with_two = best_accuracy({"happy": 1, "sad": 1, "angry": 8}, {1: 1}, Truth(), labels="attrah3")
    assert with_two.accuracy > 0.8


def test_the_best_classifier_reaches_it_on_the_records(tmp_path: Path) -> None:
    """Landmarks, scaled as a run scales them, through the classifier that knows the truth."""
    truth = Truth(separation=40, subject=8, style=3, take=16, identity=2, noise=3)
    out = generate.generate("crema-d", tmp_path / "r", frames=5, scale=0.5, truth=truth, seed=4)
    clips = list(corpus.load(out))
    assert clips[0].streams == ("landmarks68",)
    directions = landmark_directions().reshape(9, -1)
    axes = np.array([CANONICAL.index(canonical(clip.emotion)) for clip in clips])
    known = sorted(set(axes))
    share = np.array([(axes == axis).mean() for axis in known])
    right = []
    for clip, axis in zip(clips, axes, strict=True):
        points = scale_landmarks(clip.landmarks68, clip.box, clip.width, clip.height, "face-box")
        moved = (points - face_at_rest()).reshape(clip.frames, -1) @ directions.T
        grown = np.arange(1, clip.frames + 1) / clip.frames
        z = grown @ moved / (grown**2).sum()
        variance = 16**2 + 8**2 + 3**2 + 3**2 / (grown**2).sum()
        score = 40 * z[known] / variance + np.log(share)
        right.append(known[int(score.argmax())] == axis)
    best = generate.best_of(out)
    by_subject: dict[str, list[bool]] = {}
    for clip, one in zip(clips, right, strict=True):
        by_subject.setdefault(clip.subject, []).append(one)
    means = [np.mean(some) for some in by_subject.values()]
    assert len(means) == 91
    error = np.std(means, ddof=1) / np.sqrt(91)
    assert abs(np.mean(right) - best.accuracy) < 3 * error < 0.05
    assert generate.best_of(out, known_subject=True).accuracy > best.accuracy + 5 * error / 3


def test_twins_show_the_same_and_a_clip_is_its_own(tmp_path: Path) -> None:
    part = generate.generate("ravdess", tmp_path / "part", frames=4, scale=0.05)
    whole = generate.generate("ravdess", tmp_path / "whole", frames=4, scale=0.1)
    by_id = {clip.clip_id: clip for clip in corpus.load(whole)}
    both = [clip for clip in corpus.load(part) if clip.clip_id in by_id]
    assert len(both) > 50
    for clip in both:
        np.testing.assert_array_equal(clip.landmarks68, by_id[clip.clip_id].landmarks68)
        twin = by_id[clip.clip_id.replace("/01-", "/02-")]
        np.testing.assert_array_equal(clip.landmarks68, twin.landmarks68)


def test_pictures_show_the_landmarks(tmp_path: Path) -> None:
    out = generate.generate(
        "oulu-casia", tmp_path / "r", outputs=("landmarks", "crops", "frontal"), scale=0.05,
        frames=3, crop_size=64, crop_color="rgb",
    )  # fmt: skip
    clips = corpus.load(out)
    assert clips.image_shapes == {"crops": (64, 64, 3), "frontal": (64, 64, 3)}
    clip = clips[0]
    pictures = images.decode(clip.crops, (64, 64, 3))
    assert pictures.shape == (clip.frames, 64, 64, 3)
    points = to_crop(clip.landmarks68, clip.crop_matrix, 64, 64)
    # Skin is bright, what lies around the face is dark.
    nose, corner = points[-1, 30].round().astype(int), (2, 2)
    assert pictures[-1][nose[1], nose[0] + 4].mean() > pictures[-1][corner].mean() + 50
    assert not np.array_equal(pictures[0], pictures[-1])


def test_scores(tmp_path: Path) -> None:
    out = generate.generate("fer2013", tmp_path / "r", outputs=("blendshapes",), scale=0.01)
    clips = list(corpus.load(out))
    assert {clip.split for clip in clips} == {"train", "validation", "test"}
    scores = np.concatenate([clip.blendshapes for clip in clips])
    assert scores.shape == (len(clips), 52) and 0 < scores.min() < scores.max() < 1


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="choose crema-d"):
        generate.generate("ck", tmp_path / "r")
    with pytest.raises(UserError, match="choose of landmarks"):
        generate.generate("ravdess", tmp_path / "r", outputs=("pose",))
    with pytest.raises(UserError, match="a share"):
        generate.generate("ravdess", tmp_path / "r", scale=2)
    with pytest.raises(UserError, match="3 subjects: give a number above 0, and one of crema-d"):
        generate.generate("fer2013", tmp_path / "r", subjects=3)
    with pytest.raises(UserError, match="there already"):
        generate.generate("ravdess", tmp_path)
    with pytest.raises(UserError, match="no generated"):
        generate.best_of(tmp_path)


def test_the_command(tmp_path: Path, capsys) -> None:
    import json

    from fer_jax.cli import main

    words = ["generate", "crema-d", str(tmp_path / "r"), "--scale", "0.02", "--frames", "3"]
    assert main([*words, "--subjects", "10", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["best_accuracy"] == generate.best_of(tmp_path / "r").accuracy
    assert said["best_accuracy"] < said["known_subject"] < 1
    assert {clip.subject for clip in corpus.load(tmp_path / "r")} <= {
        str(1001 + i) for i in range(10)
    }
