"""Metrics against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from fer_jax.training import metrics


@pytest.fixture(
    params=[(5, range(5), range(5)), (5, (0, 1, 4), (0, 2, 4)), (3, (0, 1), (1,))],
    ids=["all classes", "some absent", "one predicted"],
)
def answers(request) -> tuple[int, np.ndarray, np.ndarray]:
    """K classes, truth, prediction; classes may be absent from either."""
    classes, true, guessed = request.param
    rng = np.random.default_rng(classes)
    return classes, rng.choice(list(true), 60), rng.choice(list(guessed), 60)


def test_compute_is_scikit_learn(answers) -> None:
    from sklearn import metrics as sklearn

    classes, truth, predicted = answers
    present = sorted(set(truth))
    matrix = metrics.confusion_matrix(truth, predicted, classes)
    names = [f"c{k}" for k in range(classes)]
    found = metrics.compute(matrix, names)
    labels = range(classes)
    assert found["confusion"] == sklearn.confusion_matrix(truth, predicted, labels=labels).tolist()
    assert found["n"] == 60
    assert found["accuracy"] == pytest.approx(sklearn.accuracy_score(truth, predicted))
    assert found["uar"] == pytest.approx(
        sklearn.recall_score(truth, predicted, labels=present, average="macro")
    )
    assert found["macro_f1"] == pytest.approx(
        sklearn.f1_score(truth, predicted, average="macro", zero_division=0)
    )
    table = sklearn.precision_recall_fscore_support(
        truth, predicted, labels=labels, zero_division=0
    )
    assert list(found["per_class"]) == names
    for row, name in zip(table, ("precision", "recall", "f1", "support"), strict=True):
        np.testing.assert_allclose([c[name] for c in found["per_class"].values()], row)


def test_scores_of_a_stack_are_those_of_each(answers) -> None:
    classes, truth, predicted = answers
    half = [
        metrics.confusion_matrix(truth[p], predicted[p], classes)
        for p in (slice(30), slice(30, 60))
    ]
    stacked = metrics.scores(np.stack(half))
    for i, matrix in enumerate(half):
        for name, value in stacked.items():
            assert value[i] == pytest.approx(metrics.compute(matrix)[name])


def test_nothing_scores_zero() -> None:
    assert [float(v) for v in metrics.scores(np.zeros((3, 3))).values()] == [0, 0, 0]


def test_device_confusion_is_the_host_one_without_padding() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(50, 4)).astype(np.float32)
    labels = rng.integers(0, 4, 50)
    weight = (np.arange(50) < 41).astype(np.float32)
    found = metrics.confusion(logits, labels, weight)
    wanted = metrics.confusion_matrix(labels[:41], logits[:41].argmax(-1), 4)
    np.testing.assert_array_equal(found, wanted)


def test_by_clip_is_the_mean_of_the_samples() -> None:
    rng = np.random.default_rng(4)
    probabilities = rng.dirichlet(np.ones(3), 7)
    clip, label = np.array([9, 2, 9, 5, 2, 9, 5]), np.array([1, 0, 1, 2, 0, 1, 2])
    clips, mean, labels = metrics.by_clip(probabilities, clip, label)
    assert clips.tolist() == [2, 5, 9]
    assert labels.tolist() == [0, 2, 1]
    for row, own in zip(mean, clips, strict=True):
        np.testing.assert_allclose(row, probabilities[clip == own].mean(axis=0))


def test_votes_are_the_majority_and_ties_go_to_the_likelier():
    """Paper 3 votes over a clip's windows; compared with SciPy's mode where there is no tie."""
    from scipy import stats

    rng = np.random.default_rng(4)
    probabilities = rng.dirichlet(np.ones(4), 300)
    clip = rng.integers(0, 40, 300)
    found = metrics.votes(probabilities, clip)
    verdicts = probabilities.argmax(-1)
    checked = 0
    for place, one in enumerate(np.unique(clip)):
        counts = np.bincount(verdicts[clip == one], minlength=4)
        best = np.flatnonzero(counts == counts.max())
        if len(best) == 1:
            assert found[place] == stats.mode(verdicts[clip == one]).mode
            checked += 1
        else:
            total = probabilities[clip == one].sum(0)
            assert found[place] == best[total[best].argmax()]
    assert 10 < checked < len(np.unique(clip))
    assert metrics.votes(np.zeros((0, 3)), np.zeros(0, int)).shape == (0,)
