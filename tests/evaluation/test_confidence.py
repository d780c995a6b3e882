"""Cluster bootstrap: against a slow loop, closed forms and known coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from fer_jax.evaluation.confidence import clustered_intervals


def right_and_wrong(right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two-class truth and prediction that agree where `right`."""
    truth = np.arange(len(right)) % 2
    return truth, np.where(right, truth, 1 - truth)


def test_equals_drawing_clusters_in_a_loop() -> None:
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

    rng = np.random.default_rng(0)
    subject = rng.integers(0, 15, 150)
    truth = rng.integers(0, 3, 150)
    hard = rng.uniform(0.1, 0.9, 15)[subject]
    predicted = np.where(rng.random(150) < hard, truth, rng.integers(0, 3, 150))
    found = clustered_intervals(truth, predicted, subject.astype(str).tolist(), 3, resamples=20_000)
    members = [np.flatnonzero(subject == s) for s in range(15)]
    drawn = {"accuracy": [], "uar": [], "macro_f1": []}
    for _ in range(700):
        chosen = np.concatenate([members[s] for s in rng.integers(0, 15, 15)])
        y, p = truth[chosen], predicted[chosen]
        drawn["accuracy"].append(accuracy_score(y, p))
        drawn["uar"].append(balanced_accuracy_score(y, p))
        drawn["macro_f1"].append(f1_score(y, p, average="macro"))
    for name, values in drawn.items():
        np.testing.assert_allclose(found[name], np.quantile(values, (0.025, 0.975)), atol=0.02)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_single_clips_give_the_binomial_interval(level: float) -> None:
    n, right = 400, 300
    truth, predicted = right_and_wrong(np.arange(n) < right)
    clusters = [f"c{i}" for i in range(n)]
    found = clustered_intervals(truth, predicted, clusters, 2, level=level, resamples=20_000)
    exact = binom.ppf([(1 - level) / 2, (1 + level) / 2], n, right / n) / n
    np.testing.assert_allclose(found["accuracy"], exact, atol=1.5 / n)


def test_clips_that_agree_within_a_subject_count_once() -> None:
    # 40 subjects of 10 clips, each always right or always wrong: 40 draws, not 400.
    right = np.repeat(np.arange(40) < 30, 10)
    truth, predicted = right_and_wrong(right)
    subjects = [f"s{i // 10}" for i in range(400)]
    found = clustered_intervals(truth, predicted, subjects, 2, resamples=20_000)["accuracy"]
    np.testing.assert_allclose(found, binom.ppf([0.025, 0.975], 40, 0.75) / 40, atol=1e-9)


def test_covers_the_truth_as_often_as_it_says() -> None:
    # Subjects differ in difficulty (beta), so clips of one subject are correlated.
    rng = np.random.default_rng(1)
    covered = {"subject": 0, "clip": 0}
    trials, subjects, each = 300, 40, 12
    for _ in range(trials):
        right = rng.random((subjects, each)) < rng.beta(1.4, 0.6, (subjects, 1))
        truth, predicted = right_and_wrong(right.ravel())
        names = {
            "subject": np.repeat(np.arange(subjects), each).astype(str),
            "clip": np.arange(subjects * each).astype(str),
        }
        for kind, clusters in names.items():
            low, high = clustered_intervals(truth, predicted, clusters, 2, resamples=400)[
                "accuracy"
            ]
            covered[kind] += low <= 0.7 <= high
    assert 0.90 <= covered["subject"] / trials <= 0.98
    assert covered["clip"] / trials < 0.75


def test_depends_on_neither_order_nor_names() -> None:
    rng = np.random.default_rng(2)
    truth, predicted = rng.integers(0, 4, (2, 90))
    cluster = rng.integers(0, 9, 90)
    order = rng.permutation(90)
    first = clustered_intervals(truth, predicted, [f"a{c}" for c in cluster], 4)
    second = clustered_intervals(
        truth[order], predicted[order], [f"z{8 - c}" for c in cluster[order]], 4
    )
    assert first == second
    assert first != clustered_intervals(truth, predicted, [f"a{c}" for c in cluster], 4, seed=1)


def test_one_cluster_has_no_width() -> None:
    truth, predicted = right_and_wrong(np.arange(10) < 7)
    assert clustered_intervals(truth, predicted, ["s"] * 10, 2)["accuracy"] == [0.7, 0.7]
