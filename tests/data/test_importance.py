"""Importances against scikit-learn, and whether they find what was planted."""

from __future__ import annotations

import numpy as np
import pytest

from fer_jax.config import Data, Importance
from fer_jax.data import importance
from fer_jax.data.geometry import compute, landmark_pairs
from fer_jax.data.samples import Samples
from fer_jax.data.statistics import fit_statistics
from fer_jax.errors import UserError

SMALL = Importance(frames=150, trees=30, seed=3)
#: The corners of the mouth, and the inner ends of the brows.
PLANTED = {(48, 54), (21, 22)}


@pytest.fixture(scope="module")
def samples() -> Samples:
    """300 frames, two a sample, of three emotions: two move the mouth's width or the brows."""
    rng = np.random.default_rng(5)
    label = np.arange(150) % 3
    raw = rng.uniform(0, 224, (68, 2)) + rng.normal(0, 6, (300, 68, 2))
    frame = np.repeat(label, 2)
    middle = np.float32([112, 150])
    for emotion, (i, j) in enumerate(sorted(PLANTED)):
        # Both ends move with a noise of their own, apart by what the emotion wants.
        apart = np.where(frame == emotion, 60, 20) + rng.normal(0, 4, 300)
        centre = middle + rng.normal(0, 12, (300, 2)) + 40 * emotion
        turned = rng.uniform(0, np.pi, 300)
        way = np.stack([np.cos(turned), np.sin(turned)], -1) * apart[:, None] / 2
        raw[:, i], raw[:, j] = centre - way, centre + way
    rows = np.arange(300, dtype=np.int32).reshape(150, 2)
    mask = np.ones((150, 2), bool)
    return Samples(
        {"raw": raw.astype(np.float32)}, rows, mask, label, np.arange(150), np.ones(150, np.float32)
    )


def test_importances_are_scikit_learns(samples: Samples) -> None:
    """Table 2 of paper 1, each ensemble grown at once by scikit-learn itself."""
    from sklearn.ensemble import AdaBoostClassifier, ExtraTreesClassifier, RandomForestClassifier

    found = importance.distance_importances(samples, SMALL)
    frames, label = importance.draw_frames(samples, SMALL)
    assert len(set(frames.tolist())) == 150 and (label == samples.label[frames // 2]).all()
    values = np.asarray(compute("distances-2278", samples.streams["raw"][frames]))
    ensembles = (
        RandomForestClassifier(
            30, max_depth=6, min_samples_leaf=2, max_features="sqrt", random_state=3
        ),
        ExtraTreesClassifier(30, max_depth=8, min_samples_leaf=2, random_state=3),
        AdaBoostClassifier(n_estimators=30, learning_rate=0.75, random_state=3),
    )
    for column, ensemble in enumerate(ensembles):
        wanted = ensemble.fit(values, label).feature_importances_
        np.testing.assert_allclose(found[:, column], wanted, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(found.sum(axis=0), 1)


def test_planted_distances_come_first(samples: Samples) -> None:
    found = importance.distance_importances(samples, Importance(frames=300, trees=100))
    best = landmark_pairs("distances-2278")[importance.ranking(found)[:2]]
    assert {(int(i), int(j)) for i, j in best} == PLANTED


def test_trees_are_counted(samples: Samples) -> None:
    told: list[tuple[int, int]] = []
    importance.distance_importances(samples, SMALL, lambda *now: told.append(now))
    done = [now for now, _ in told]
    assert done == sorted(done) and told[-1] == (90, 90) and len(told) > 30


def test_features_are_the_best_pairs_of_the_training_set(samples: Samples) -> None:
    data = Data(features="importance-7", importance=SMALL)
    found = fit_statistics(samples, data)
    ranked = importance.ranking(importance.distance_importances(samples, SMALL))
    np.testing.assert_array_equal(found["pairs"], landmark_pairs("distances-2278")[ranked[:7]])
    everything = np.asarray(compute("distances-2278", samples.streams["raw"]), np.float64)
    np.testing.assert_allclose(found["mean"], everything[:, ranked[:7]].mean(0), rtol=1e-5)
    np.testing.assert_allclose(found["std"], everything[:, ranked[:7]].std(0), rtol=1e-4)


def test_pairs_of_a_file(samples: Samples, tmp_path) -> None:
    path = tmp_path / "pairs-3.csv"
    path.write_text("i,j,mean\n9,24,0.014\n0,1,0.01\n5,67,0.002\n")
    data = Data(features=f"pairs/{path}")
    assert data.features == f"pairs/{tmp_path}/pairs-3"
    found = fit_statistics(samples, data)
    assert found["pairs"].tolist() == [[9, 24], [0, 1], [5, 67]]
    assert importance.looked_at(data.features) is None
    (tmp_path / importance.CLIPS).write_text("clip_id\na/1\na/2\n")
    assert importance.looked_at(data.features) == {"a/1", "a/2"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("i,j\n1,2\n", "lists 1 different pairs, 1 in all; its name says 2"),
        ("i,j\n1,2\n1,2\n", "lists 1 different pairs, 2 in all"),
        ("i,j\n1,2\n3,3\n", r"\(3, 3\) is no pair"),
        ("i,j\n1,2\n3,68\n", r"\(3, 68\) is no pair"),
        ("a,b\n1,2\n", "give columns i and j"),
        ("i,j\n1,x\n", "give columns i and j"),
        (None, "there is no"),
    ],
)
def test_a_wrong_list_is_refused(tmp_path, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / "mine-2.csv").write_text(text)
    with pytest.raises(UserError, match=said):
        importance.read_pairs(f"pairs/{tmp_path}/mine-2")


@pytest.mark.parametrize("name", ["importance-2279", "pairs/x-9999"])
def test_no_more_than_all_distances(name: str) -> None:
    with pytest.raises(ValueError, match="68 landmarks have 2278 distances"):
        Data(features=name)


def test_one_emotion_is_not_enough(samples: Samples) -> None:
    alone = samples.of_clips(np.flatnonzero(samples.label == 1))
    with pytest.raises(UserError, match="one emotion only"):
        importance.distance_importances(alone, SMALL)
