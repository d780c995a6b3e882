"""Paired tests against SciPy, published examples and simulation; the command on runs."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from fer_jax.cli import main
from fer_jax.errors import UserError
from fer_jax.evaluation.compare import System, Verdict, compare, load_systems
from fer_jax.evaluation.confidence import holm, mcnemar, paired_differences


@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 6), (3, 3), (1, 7), (25, 14), (480, 400)])
def test_mid_p_is_the_exact_test_less_half_of_what_was_seen(b: int, c: int) -> None:
    exact = stats.binomtest(b, b + c).pvalue if b + c else 1.0
    # Half of the probability of what was seen, in both tails; equal counts have one.
    seen = stats.binom.pmf(b, b + c, 0.5)
    wanted = 1.0 if b == c else exact - seen
    assert mcnemar(b, c) == pytest.approx(wanted, rel=1e-9)
    assert mcnemar(b, c) == mcnemar(c, b)


def test_mid_p_of_a_published_example() -> None:
    """Fagerland et al. 2013, bronchial hyperresponsiveness: 1 and 7; mid-p 0.0391."""
    assert mcnemar(1, 7) == pytest.approx(0.0390625)


def test_holms_correction() -> None:
    """R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.8]) == [0.8] and holm([0.6, 0.7]) == [1.0, 1.0]


def systems_of(rng, subjects: int, clips: int, rates: tuple[float, float], classes: int = 4):
    """Truth, two systems' predictions and subjects; some subjects are hard for both."""
    cluster = np.repeat(np.arange(subjects), clips)
    truth = rng.integers(0, classes, len(cluster))
    hard = rng.normal(0, 0.15, subjects)[cluster]
    draw = rng.random(len(cluster))  # What is hard for one is hard for the other.
    predicted = [
        np.where(0.7 * draw + 0.3 * rng.random(len(cluster)) < rate + hard, truth,
                 (truth + rng.integers(1, classes, len(cluster))) % classes)
        for rate in rates
    ]  # fmt: skip
    return truth, predicted, [f"s{i}" for i in cluster]


def test_differences_are_scipys_bootstrap_of_subjects() -> None:
    """Subjects have as many clips each, so accuracy is a mean of subjects' means."""
    truth, (a, b), subjects = systems_of(np.random.default_rng(3), 30, 20, (0.7, 0.64))
    found = paired_differences(truth, [a], [b], subjects, 4, resamples=20_000)["accuracy"]
    means = ((a == truth).astype(float) - (b == truth)).reshape(30, 20).mean(1)
    assert found["difference"] == pytest.approx(means.mean())
    # SciPy draws other subjects: the ends agree as far as 20,000 draws say.
    wanted = stats.bootstrap(
        (means,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    )
    low, high = wanted.confidence_interval
    np.testing.assert_allclose(found["ci95"], [low, high], atol=0.002)
    below = (wanted.bootstrap_distribution <= 0).mean()
    assert found["p"] == pytest.approx(2 * min(below, 1 - below), abs=0.005)


def test_differences_are_scikit_learns() -> None:
    from sklearn.metrics import balanced_accuracy_score, f1_score

    truth, (a, b), subjects = systems_of(np.random.default_rng(4), 12, 11, (0.7, 0.5))
    other = np.roll(a, 1)
    found = paired_differences(truth, [a, other], [b], subjects, 4)

    def f1(p):
        return f1_score(truth, p, average="macro")

    wanted = (f1(a) + f1(other)) / 2 - f1(b)
    assert found["macro_f1"]["difference"] == pytest.approx(wanted)
    uar = balanced_accuracy_score
    wanted = (uar(truth, a) + uar(truth, other)) / 2 - uar(truth, b)
    assert found["uar"]["difference"] == pytest.approx(wanted)


def test_a_system_does_not_differ_from_itself() -> None:
    truth, (a, _), subjects = systems_of(np.random.default_rng(5), 12, 11, (0.7, 0.5))
    for one in paired_differences(truth, [a], [a], subjects, 4).values():
        assert one == {"difference": 0.0, "ci95": [0.0, 0.0], "p": 1.0}


def test_chance_is_called_a_difference_as_often_as_it_should() -> None:
    """Two equally good systems, 24 subjects: p is below 0.05 in about 5 % of 300 corpora."""
    rng = np.random.default_rng(6)
    p, missed = [], 0
    for _ in range(300):
        truth, (a, b), subjects = systems_of(rng, 24, 12, (0.6, 0.6))
        found = paired_differences(truth, [a], [b], subjects, 4, resamples=400)["accuracy"]
        p.append(found["p"])
        missed += not found["ci95"][0] <= 0 <= found["ci95"][1]
    # Binomial 95 % limits around 7 %: percentile intervals of 24 clusters are a little narrow.
    assert 0.02 <= np.mean(np.array(p) < 0.05) <= 0.10
    assert missed / 300 <= 0.10


# Systems.


def system(name: str, table: dict[str, tuple[str, str, str]], protocol: str = "subject") -> System:
    pool = {clip: Verdict(*row) for clip, row in table.items()}
    return System(name, ("happy", "sad"), (pool,), frozenset([protocol]))


TABLE = {
    f"c/{i}": (("happy", "sad")[i % 2], ("happy", "sad")[i % 3 % 2], f"s{i % 4}") for i in range(24)
}
RIGHT = {clip: (truth, truth, subject) for clip, (truth, _, subject) in TABLE.items()}


def test_three_systems_are_corrected() -> None:
    wrong = {
        clip: (truth, "sad" if truth == "happy" else "happy", subject)
        for clip, (truth, _, subject) in TABLE.items()
    }
    found = compare([system("a", TABLE), system("b", RIGHT), system("c", wrong, "random")])
    assert [(one["first"], one["second"]) for one in found["pairs"]] == [
        ("a", "b"), ("a", "c"), ("b", "c"),
    ]  # fmt: skip
    assert (found["clips"], found["clusters"], found["drawn"]) == (24, 4, "subject")
    raw = [pair["mcnemar"]["p"] for pair in found["pairs"]]
    assert [pair["mcnemar"]["p_holm"] for pair in found["pairs"]] == holm(raw)
    last = found["pairs"][2]
    assert (last["only_first"], last["only_second"]) == (24, 0)
    assert last["accuracy"]["difference"] == 1.0
    assert any("too few" in note for note in found["notes"])
    assert any("different protocols" in note for note in found["notes"])


def test_other_clips_are_refused_or_left_out() -> None:
    fewer = dict(list(RIGHT.items())[:20])
    with pytest.raises(UserError, match="20 of 24 in common"):
        compare([system("a", TABLE), system("b", fewer)])
    found = compare([system("a", TABLE), system("b", fewer)], common=True)
    assert found["clips"] == 20 and "20 of 24 clips" in found["notes"][0]
    with pytest.raises(UserError, match="no test clip in common"):
        compare([system("a", TABLE), system("b", {"d/1": RIGHT["c/1"]})], common=True)
    other = {**RIGHT, "c/0": ("sad", "sad", "s0")}
    with pytest.raises(UserError, match="of other data"):
        compare([system("a", TABLE), system("b", other)])
    with pytest.raises(UserError, match="named twice"):
        compare([system("a", TABLE), system("a", TABLE)])


# The command.


def predictions(run: Path) -> dict[str, dict[str, str]]:
    with (run / "predictions.csv").open(newline="") as file:
        return {row["clip_id"]: row for row in csv.DictReader(file)}


def test_two_runs(tiny_run, tmp_path: Path, capsys) -> None:
    other = tmp_path / "other"
    words = ["train", str(tiny_run.config), "--data.dir", str(tiny_run.records)]
    assert main([*words, "--out", str(other), "--train.epochs", "1", "--train.seed", "9"]) == 0
    capsys.readouterr()
    words = ["compare", str(tiny_run.dir), str(other), "--out", str(tmp_path / "page")]
    assert main(words) == 0
    assert f"{tiny_run.dir} - {other}:" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    one, two = predictions(tiny_run.dir), predictions(other)
    alone = [clip for clip in one if one[clip]["correct"] == "1" and two[clip]["correct"] == "0"]
    assert said["pairs"][0]["only_first"] == len(alone)
    with (tmp_path / "page" / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["figure"] for row in rows] == ["accuracy", "uar", "macro_f1"]
    assert float(rows[0]["mcnemar_p"]) == said["pairs"][0]["mcnemar"]["p"]
    page = (tmp_path / "page" / "comparison.html").read_text()
    assert "McNemar" in page and str(other) in page


def test_a_populations_settings_and_seeds(tiny_run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["crossval", str(tiny_run.config), "--data.dir", str(tiny_run.records)]
    words += ["--protocol.name", "subject-kfold", "--protocol.folds", "2", "--train.epochs", "1"]
    words += ["--seeds", "1,2", "--vary", "optim.lr", "1e-2", "1e-4", "--out", str(out)]
    assert main(words) == 0
    found = load_systems(out)
    assert [one.name for one in found] == [f"{out}:lr-1e-2", f"{out}:lr-1e-4"]
    assert all(len(one.repeats) == 2 and len(one.repeats[0]) == 60 for one in found)
    report = compare(found)
    summary = json.loads((out / "summary.json").read_text())["settings"]
    for row, setting in zip(report["systems"], summary, strict=True):
        assert row["accuracy"] == pytest.approx(setting["accuracy"]["mean"])
        assert row["ci95"]["accuracy"] == pytest.approx(setting["accuracy"]["ci95"])
    pair = report["pairs"][0]
    assert pair["mcnemar"] is None and pair["only_first"] is None
    first, second = (row["accuracy"] for row in report["systems"])
    assert pair["accuracy"]["difference"] == pytest.approx(first - second)


def test_mistakes(tiny_run, tmp_path: Path, fails) -> None:
    assert "name another run" in fails("compare", tiny_run.dir)
    bare = tmp_path / "bare"
    shutil.copytree(tiny_run.dir, bare)
    (bare / "metrics.json").unlink()
    assert "fer-jax evaluate" in fails("compare", tiny_run.dir, bare)
    (tmp_path / "going").mkdir()
    (tmp_path / "going" / "population.json").write_text("{}")
    assert "is not finished" in fails("compare", tiny_run.dir, tmp_path / "going")
