"""Populations: a member is the run alone, whatever else trains, stops or fails beside it."""

from __future__ import annotations

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from fer_jax import config
from fer_jax.training import capacity, loop
from fer_jax.training.members import Member, make_members
from fer_jax.training.population import train_population


@pytest.fixture
def folded(experiment: config.Experiment) -> config.Experiment:
    """Five folds of 56, of 70 clips: the folds' sizes differ."""
    return config.override(
        experiment,
        [("protocol.name", "random-kfold"), ("protocol.folds", "3"), ("train.batch", "16")],
    )


LSTM = [("model.name", "lstm"), ("model.units", "6"), ("data.length", "thin"), ("data.frames", "4")]


@pytest.mark.parametrize(
    ("model", "part_bytes"),
    [([], None), (LSTM, None), (LSTM, 4000)],
    ids=["dense", "lstm", "lstm in parts"],
)
def test_a_member_is_the_run_alone_to_the_bit(
    runs, folded, tmp_path: Path, monkeypatch, model, part_bytes
) -> None:
    if part_bytes:
        monkeypatch.setattr(capacity, "_PART_BYTES", part_bytes)
    vary = [("optim.lr", ["0.01", "0.003"])]
    members = make_members(config.override(folded, model), folds=True, vary=vary)
    found = train_population(members, tmp_path / "all")
    assert [one["name"] for one in found["members"]] == [
        f"fold{fold}_lr-{lr}" for fold in range(3) for lr in ("0.01", "0.003")
    ]
    for member in (members[0], members[3]):
        loop.train(member.experiment, tmp_path / member.name)
        runs.assert_same(tmp_path / "all" / member.name, tmp_path / member.name)


def run_of(members, name: str):
    return next(member for member in members if member.name == name)


def test_more_lanes_than_devices_are_nearly_the_run_alone(runs, folded, tmp_path: Path) -> None:
    vary = [("model.dropout", ["0.0,0.0", "0.4,0.2"]), ("train.loss.label_smoothing", ["0", "0.1"])]
    members = make_members(folded, folds=True, vary=vary)
    train_population(members, tmp_path / "all", lanes=5)
    for name in (
        "fold1_dropout-0.4-0.2_label_smoothing-0.1",
        "fold0_dropout-0.0-0.0_label_smoothing-0",
    ):
        loop.train(run_of(members, name).experiment, tmp_path / name)
        one, alone = runs.contents(tmp_path / "all" / name), runs.contents(tmp_path / name)
        close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)  # noqa: E731
        jax.tree.map(close, one["state"]["params"], alone["state"]["params"])
        for a, b in zip(
            runs.history(tmp_path / "all" / name), runs.history(tmp_path / name), strict=True
        ):
            assert a.keys() == b.keys()
            assert a["validation/loss"] == pytest.approx(b["validation/loss"], rel=1e-4)


def test_devices_share_the_members(runs, folded, tmp_path: Path) -> None:
    """Eight devices, six members: two lanes stay empty."""
    members = make_members(folded, folds=True, seeds=[1, 2])
    for name, devices, mapper in (
        ("one", 1, "shard_map"),
        ("all", 8, "shard_map"),
        ("p", 8, "pmap"),
    ):
        changes = [("parallel.devices", str(devices)), ("parallel.mapper", mapper)]
        again = [Member(m.name, config.override(m.experiment, changes)) for m in members]
        train_population(again, tmp_path / name)
    for member in members:
        for name in ("all", "p"):
            runs.assert_same(tmp_path / "one" / member.name, tmp_path / name / member.name)


class Stop(Exception):
    pass


def test_a_population_that_was_stopped_goes_on_to_the_bit(runs, folded, tmp_path: Path) -> None:
    members = make_members(folded, folds=True, seeds=[1, 2])
    train_population(members, tmp_path / "whole", lanes=2)
    reported: list[int] = []
    for stops in (3, 6, 9):

        def stop(done: int, total: int, standing: str, stops: int = stops) -> None:
            reported.append(done)
            assert total == 3 * 6
            if len(reported) >= stops:
                raise Stop

        with pytest.raises(Stop):
            train_population(members, tmp_path / "part", lanes=2, on_progress=stop)
    notes: list[str] = []
    train_population(members, tmp_path / "part", lanes=2, on_note=notes.append)
    assert notes and notes[0].startswith("went on with")
    for member in members:
        runs.assert_same(tmp_path / "whole" / member.name, tmp_path / "part" / member.name)
    train_population(members, tmp_path / "part", on_note=notes.append)
    assert not (tmp_path / "part" / "checkpoints").exists()


def test_the_field_is_shown(folded, tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    rates = [("optim.lr", ["0.01", "1e30", "1e-30"])]
    members = make_members(config.override(folded, [("train.monitor", "train/loss")]), vary=rates)
    found = train_population(
        members, tmp_path / "all", lanes=2, on_progress=lambda *said: told.append(said)
    )
    assert told[0] == (0, 9, "[...]; 3 waiting")
    # The second fails in its first epoch; the third takes its lane.
    assert told[1][:2] == (1 + 3, 9) and "[3x.]; 1 running, 1 waiting, 1 failed" in told[1][2]
    assert "[6x3]; 2 running, 1 failed" in told[2][2]
    best = found["members"][0]["best"]
    assert told[-1] == (
        9, 9, f"[#x#]; 2 finished, 1 failed; best train/loss {best:.3f} (lr-0.01)"
    )  # fmt: skip
    # Going on with one, the best of those that are over is known.
    shutil.rmtree(tmp_path / "all" / "lr-1e-30")
    del told[:]
    train_population(members, tmp_path / "all", on_progress=lambda *said: told.append(said))
    assert told[0] == (
        6, 9, f"[#x.]; 1 waiting, 1 finished, 1 failed; best train/loss {best:.3f} (lr-0.01)"
    )  # fmt: skip


def test_members_stop_early_and_fail_by_themselves(runs, folded, tmp_path: Path) -> None:
    patient = config.override(
        folded,
        [
            ("train.early_stop.patience", "1"),
            ("train.epochs", "8"),
            ("train.monitor", "train/loss"),
        ],
    )
    members = make_members(patient, vary=[("optim.lr", ["0.01", "1e30", "1e-30"])])
    found = {one["name"]: one for one in train_population(members, tmp_path / "all")["members"]}
    assert "not finite" in found["lr-1e30"]["failed"]
    assert found["lr-1e-30"]["finished"] == "early stop" and found["lr-1e-30"]["epochs"] < 8
    loop.train(members[0].experiment, tmp_path / "alone")
    runs.assert_same(tmp_path / "all" / "lr-0.01", tmp_path / "alone")
    # What failed is not tried again.
    again = train_population(members, tmp_path / "all")["members"]
    assert [one["name"] for one in again if "failed" in one] == ["lr-1e30"]


def test_what_cannot_be_is_one_clear_line(folded, experiment, tmp_path: Path) -> None:
    from fer_jax.errors import UserError

    with pytest.raises(UserError, match=r"has no folds: add --protocol\.name subject-kfold"):
        make_members(experiment, folds=True)
    with pytest.raises(UserError, match=r"--train\.batch cannot differ within one program"):
        make_members(folded, vary=[("train.batch", ["8", "16"])])
    with pytest.raises(UserError, match="two runs are called seed1"):
        make_members(folded, seeds=[1, 1])
    with pytest.raises(UserError, match=r"did you mean --optim\.lr"):
        make_members(folded, vary=[("optim.lrr", ["1"])])
    loop.train(experiment, tmp_path / "single")
    with pytest.raises(UserError, match="holds a single run"):
        train_population(make_members(folded, seeds=[1]), tmp_path / "single")
    train_population(make_members(folded, seeds=[1]), tmp_path / "all")
    other = config.override(folded, [("optim.lr", "0.5")])
    with pytest.raises(UserError, match="of another config"):
        train_population(make_members(other, seeds=[1]), tmp_path / "all")
