"""Evaluation: figures against scikit-learn, the contract's keys, other records, honest splits."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fer_jax.errors import UserError

CONTRACT = {
    "accuracy", "uar", "macro_f1", "confusion", "per_class", "n", "ci95", "protocol",
    "split_sha256", "subject_overlap", "twin_overlap", "data_sha256", "code_version", "hardware",
}  # fmt: skip


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def run(tiny_run, tmp_path: Path) -> Path:
    """A copy of the run, to write into."""
    shutil.copytree(tiny_run.dir, tmp_path / "run")
    return tmp_path / "run"


def test_clip_figures_are_scikit_learns(tiny_run) -> None:
    from sklearn import metrics as sk

    found = json.loads((tiny_run.dir / "metrics.json").read_text())
    table = rows(tiny_run.dir / "predictions.csv")
    truth, predicted = ([row[key] for row in table] for key in ("truth", "predicted"))
    by_clip = found["by_clip"]
    assert by_clip["accuracy"] == pytest.approx(sk.accuracy_score(truth, predicted))
    assert by_clip["uar"] == pytest.approx(sk.balanced_accuracy_score(truth, predicted))
    f1 = sk.f1_score(truth, predicted, average="macro", labels=sorted({*truth, *predicted}))
    assert by_clip["macro_f1"] == pytest.approx(f1)
    expected = sk.confusion_matrix(truth, predicted, labels=found["classes"])
    np.testing.assert_array_equal(by_clip["confusion"], expected)
    for row in table:
        shares = np.array([float(row[f"p_{name}"]) for name in found["classes"]])
        assert shares.sum() == pytest.approx(1, abs=1e-5)
        assert found["classes"][int(shares.argmax())] == row["predicted"]
        assert row["correct"] == str(int(row["truth"] == row["predicted"]))


def test_metrics_hold_what_the_contract_names(tiny_run) -> None:
    found = json.loads((tiny_run.dir / "metrics.json").read_text())
    assert found.keys() >= CONTRACT
    assert json.loads(tiny_run.printed.splitlines()[-1]).items() >= found.items()
    # 3 of 10 subjects, 6 clips each; a clip of 8 to 12 usable frames gives 2 or 3 sections of 5.
    split = rows(tiny_run.dir / "split.csv")
    tested = sorted(row["clip_id"] for row in split if row["part"] == "test")
    assert sorted(row["clip_id"] for row in rows(tiny_run.dir / "predictions.csv")) == tested
    assert found["by_clip"]["n"] == len(tested) == 18
    assert found["n"] == np.sum(found["confusion"]) > 36
    assert found["subject_overlap"] == 0.0
    assert found["twin_overlap"] == 0.0
    assert found["audit"] == "clean"
    assert (found["ci95_clusters"], found["ci95_drawn"]) == ("subject", 3)
    for name, (low, high) in found["ci95"].items():
        assert 0 <= low <= found[name] <= high <= 1
    assert found["reported"] == {"accuracy": 0.9}
    assert "core" in found["hardware"]


def test_evaluating_again_gives_the_same_files(run: Path) -> None:
    from fer_jax.evaluation.evaluate import evaluate

    before = {name: (run / name).read_bytes() for name in ("metrics.json", "predictions.csv")}
    evaluate(run)
    for name, content in before.items():
        assert (run / name).read_bytes() == content, name


def test_other_parts_leave_the_test_figures_alone(run: Path) -> None:
    from fer_jax.evaluation.evaluate import evaluate

    before = (run / "metrics.json").read_bytes()
    found = evaluate(run, split="train")
    assert found["split"] == "train"
    assert found["by_clip"]["n"] == 30
    assert found["subject_overlap"] == 1.0
    assert "reported" not in found
    assert (run / "metrics.json").read_bytes() == before
    assert found.pop("written") == str(run / "evaluations/train")
    assert json.loads((run / "evaluations/train/metrics.json").read_text()) == found


def test_other_records_are_evaluated_whole(run: Path, tmp_path: Path, face_corpus) -> None:
    from fer_jax.evaluation.evaluate import evaluate

    clips = [
        clip.replace(clip_id=f"new/{i}", corpus="new", subject="")
        for i, clip in enumerate(face_corpus.clips(seed=5)[:12])
    ]
    clips[0] = clips[0].replace(emotion="surprise")
    records = face_corpus.write(tmp_path / "new", clips)
    found = evaluate(run, records)
    assert found["protocol"] == "all of tiny"
    assert found["split"] == "all"
    assert found["by_clip"]["n"] == 11
    assert found["left_out"] == {"no_class": 1, "no_face": 0, "too_short": 0}
    assert found["subject_overlap"] is found["twin_overlap"] is found["audit"] is None
    assert found["ci95_clusters"] == "clip"
    assert "reported" not in found
    assert len(rows(run / "evaluations/new/predictions.csv")) == 11


def test_clips_seen_in_training_are_not_tested_on_when_extracted_again(
    run: Path, tmp_path: Path, face_corpus
) -> None:
    from fer_jax.evaluation.evaluate import evaluate

    # The same clips with other content, and one more subject.
    clips = face_corpus.clips(seed=7)
    clips += [clips[0].replace(clip_id="tiny/new", subject="s99", recording="r99")]
    found = evaluate(run, face_corpus.write(tmp_path / "again", clips))
    evaluated = {row["clip_id"] for row in rows(run / "evaluations/again/predictions.csv")}
    part = {row["clip_id"]: row["part"] for row in rows(run / "split.csv")}
    assert evaluated == {c for c, p in part.items() if p == "test"} | {"tiny/new"}
    assert found["protocol"] == "all of tiny that training did not see"
    assert found["subject_overlap"] == 0.0
    clips = [clip for clip in clips if part.get(clip.clip_id) == "train"]
    with pytest.raises(UserError, match="did not see in training"):
        evaluate(run, face_corpus.write(tmp_path / "seen", clips))


def test_changed_records_are_refused(run: Path, tmp_path: Path, face_corpus) -> None:
    from fer_jax.evaluation.evaluate import evaluate

    moved = json.loads((run / "config.json").read_text())
    moved["data"]["dir"] = str(face_corpus.write(tmp_path / "changed", face_corpus.clips(seed=3)))
    (run / "config.json").write_text(json.dumps(moved))
    with pytest.raises(UserError, match="does not hold the records"):
        evaluate(run)


def test_nothing_of_a_known_class(run: Path, tmp_path: Path, face_corpus) -> None:
    from fer_jax.evaluation.evaluate import evaluate

    clips = [c.replace(clip_id=f"x{c.clip_id}", emotion="fear") for c in face_corpus.clips()[:3]]
    with pytest.raises(UserError, match="none of the 3 clips has a class"):
        evaluate(run, face_corpus.write(tmp_path / "fear", clips))
    assert not (run / "evaluations").exists()


def test_one_subject_is_no_sample_of_subjects(run: Path, tmp_path: Path, face_corpus) -> None:
    from fer_jax.evaluation.evaluate import evaluate, render

    clips = [
        clip.replace(clip_id=f"one/{i}", subject="s", recording="")
        for i, clip in enumerate(face_corpus.clips(seed=5)[:12])
    ]
    found = evaluate(run, face_corpus.write(tmp_path / "one", clips))
    assert (found["ci95_clusters"], found["ci95_drawn"]) == ("clip", 12)
    assert "bootstrap over 12 clips" in render(found)


def test_render_shows_the_paper_beside(tiny_run) -> None:
    from fer_jax.evaluation.evaluate import render

    found = json.loads((tiny_run.dir / "metrics.json").read_text())
    text = render(found)
    accuracy = next(line for line in text.splitlines() if line.startswith("accuracy"))
    assert f"{found['accuracy']:.4f}" in accuracy
    assert accuracy.endswith("0.9000")
    assert "0.3333" in text
    assert "3 subjects: so few make them too narrow" in text


def test_classes_can_be_summed_to_coarser_ones(run: Path) -> None:
    """happy, sad, neutral of the run to paper 5's happy, unknown and sad."""
    import csv

    from fer_jax.errors import UserError
    from fer_jax.evaluation.evaluate import evaluate

    evaluate(run)
    found = evaluate(run, labels="attrah3")
    assert found["classes"] == ["happy", "unknown", "sad"]

    def table(path: Path) -> list[dict]:
        with path.open(newline="") as file:
            return list(csv.DictReader(file))

    fine = table(run / "predictions.csv")
    coarse = table(run / "evaluations" / "attrah3" / "predictions.csv")
    for a, b in zip(fine, coarse, strict=True):
        assert b["p_unknown"] == a["p_neutral"] and b["p_happy"] == a["p_happy"]
        assert b["truth"] == {"neutral": "unknown"}.get(a["truth"], a["truth"])
    with pytest.raises(UserError, match=r"oulu6 has no class for neutral"):
        evaluate(run, labels="oulu6")
