"""`fer-jax importance`, and runs on the distances that it or they themselves chose."""

from __future__ import annotations

import csv
import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from fer_jax import config
from fer_jax.cli import main
from fer_jax.training import loop
from fer_jax.training.members import make_members
from fer_jax.training.population import train_population

QUICK = ["--frames", "200", "--trees", "20"]
CHOSEN = ["--data.importance.frames", "120", "--data.importance.trees", "10"]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def chosen(tiny_run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lists chosen by every clip, as paper 1 chose them."""
    out = tmp_path_factory.mktemp("importance") / "out"
    words = ["importance", str(tiny_run.records), "--everything", "--out", str(out)]
    assert main([*words, *QUICK, "--threshold", "0.002,0.004"]) == 0
    return out


def test_lists_are_what_is_above_a_threshold(tiny_run, tmp_path: Path, capsys) -> None:
    words = ["importance", str(tiny_run.records), "--out", str(tmp_path), "--json", *QUICK]
    assert main(words) == 0
    said = json.loads(capsys.readouterr().out)
    table = rows(tmp_path / "importances.csv")
    assert len(table) == 2278 and [row["rank"] for row in table[:2]] == ["1", "2"]
    means = np.array([float(row["mean"]) for row in table])
    assert (np.diff(means) <= 0).all()
    each = np.array([[float(row[name]) for name in ("rf", "et", "ada")] for row in table])
    np.testing.assert_allclose(each.sum(0), 1, rtol=1e-6)
    np.testing.assert_allclose(each.mean(1), means, rtol=1e-6)
    assert [one["threshold"] for one in said["thresholds"]] == [0.0009, 0.001, 0.002]
    for one in said["thresholds"]:
        listed = rows(Path(one["file"]))
        assert len(listed) == one["pairs"] == (means > one["threshold"]).sum() > 0
        pairs = [(row["i"], row["j"]) for row in listed]
        assert pairs == [(row["i"], row["j"]) for row in table[: len(pairs)]]
    assert said["top"][0]["mean"] == pytest.approx(means[0])
    # Nothing but the training part was looked at.
    from fer_jax.data import corpus, protocols

    clips = corpus.load(tiny_run.records, streams=())
    split = protocols.make_split(clips, config.Protocol())
    train = {split.clip_ids[index] for index in split.train}
    assert {row["clip_id"] for row in rows(tmp_path / "clips.csv")} == train
    root = ET.parse(tmp_path / "face.svg").getroot()
    assert root.tag.endswith("svg")


def test_a_run_on_a_list_keeps_it_and_says_that_it_leaks(
    tiny_run, chosen: Path, tmp_path: Path, capsys
) -> None:
    lists = tmp_path / "lists"
    shutil.copytree(chosen, lists)
    best = max(lists.glob("pairs-*.csv"), key=lambda path: int(path.stem.partition("-")[2]))
    run, features = tmp_path / "run", f"pairs/{best}"
    words = ["train", str(tiny_run.config), "--data.dir", str(tiny_run.records)]
    assert main([*words, "--out", str(run), "--data.features", features]) == 0
    shutil.rmtree(lists)
    loaded = loop.load_run(run)
    assert len(loaded.statistics["pairs"]) == int(best.stem.partition("-")[2])
    before = (run / "predictions.csv").read_text()
    assert main(["evaluate", str(run), "--json"]) == 0
    assert (run / "predictions.csv").read_text() == before
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "100.0 % of test clips were used for statistics" in said["audit"]


def test_folds_choose_their_own_distances_in_one_population(tiny_run, tmp_path: Path) -> None:
    folded = [("protocol.name", "subject-kfold"), ("protocol.folds", "3"), ("train.epochs", "2")]
    keys = [("data.dir", str(tiny_run.records)), ("data.features", "importance-9")]
    keys += [
        (key.removeprefix("--"), value)
        for key, value in zip(CHOSEN[::2], CHOSEN[1::2], strict=True)
    ]
    experiment = config.load_config(str(tiny_run.config), [*folded, *keys])
    members = make_members(experiment, folds=True)
    notes: list[str] = []
    train_population(members, tmp_path / "all", on_note=notes.append)
    assert any("importance of distances: 30/30 trees" in note for note in notes)
    chosen = [loop.load_run(tmp_path / "all" / member.name).statistics for member in members]
    lists = {tuple(map(tuple, np.asarray(one["pairs"]).tolist())) for one in chosen}
    assert len(lists) == 3 and all(len(pairs) == 9 for pairs in lists)
    loop.train(members[1].experiment, tmp_path / "alone")
    alone = loop.load_run(tmp_path / "alone")
    beside = loop.load_run(tmp_path / "all" / members[1].name)
    for name in ("pairs", "mean", "std"):
        np.testing.assert_array_equal(alone.statistics[name], beside.statistics[name])
    one, other = (run.variables["params"] for run in (alone, beside))
    import jax

    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_run_that_goes_on_from_another_keeps_its_distances(tiny_run, tmp_path: Path) -> None:
    keys = [("data.dir", str(tiny_run.records)), ("data.features", "importance-9")]
    keys += [("data.importance.frames", "120"), ("data.importance.trees", "10")]
    keys += [("train.epochs", "1")]
    experiment = config.load_config(str(tiny_run.config), keys)
    loop.train(experiment, tmp_path / "one")
    further = [("train.init.run", str(tmp_path / "one")), ("data.importance.seed", "7")]
    found = loop.train(config.override(experiment, further), tmp_path / "two")
    assert any("the distances are those" in note for note in found["notes"])
    one, two = (loop.load_run(tmp_path / name).statistics["pairs"] for name in ("one", "two"))
    np.testing.assert_array_equal(one, two)


def test_mistakes(tiny_run, tmp_path: Path, fails) -> None:
    words = ["importance", tiny_run.records, "--out", tmp_path / "out"]
    assert "numbers between 0 and 1" in fails(*words, "--threshold", "half")
    assert "data.importance.frames" in fails(*words, "--frames", "none")
    assert "protocol.name" in fails(*words, "--protocol", "nothing")
    missing = fails(
        "train", tiny_run.config, "--data.dir", tiny_run.records, "--out", tmp_path / "run",
        "--data.features", "pairs/nowhere-5",
    )  # fmt: skip
    assert "there is no nowhere-5.csv" in missing
