"""Whole runs: resumed equals uninterrupted to the bit, and what the user is told."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from fer_jax import config
from fer_jax.errors import UserError
from fer_jax.training import checkpoint, loop, progress


def change(experiment: config.Experiment, **changes: Any) -> config.Experiment:
    items = [(key.replace("__", "."), json.dumps(value)) for key, value in changes.items()]
    return config.override(experiment, items)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def finished(base: Path, experiment) -> Path:
    """An uninterrupted run, made once. Copy it to change it."""
    run = base / "finished"
    if not run.exists():
        loop.train(experiment, run)
    return run


class Stop(Exception):
    pass


def test_learns_and_says_how(runs, finished: Path, experiment, records: Path) -> None:
    lines = runs.history(finished)
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert lines[-1]["train/loss"] < lines[0]["train/loss"]
    accuracies = [line["validation/accuracy"] for line in lines]
    summary = loop.train(experiment, finished)
    best = int(np.argmax(accuracies))
    assert (summary["best"], summary["best_epoch"]) == (accuracies[best], best + 1)
    assert summary["validation"]["uar"] == lines[best]["validation/uar"]
    assert summary["audit"]["subject_overlap"] == 0
    assert summary["samples"]["train"] == sum(summary["class_counts"].values())
    assert config.load_config(finished / "config.json") == experiment


def test_a_finished_run_is_not_trained_again(finished: Path, experiment, monkeypatch) -> None:
    def forbidden(*_: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(progress, "load_dataset", forbidden)
    summary = loop.train(experiment, finished)
    assert any("is finished" in note for note in summary["notes"])
    assert summary["epochs"] == 3


def test_resumed_after_a_crash_equals_uninterrupted(
    runs, finished: Path, experiment, tmp_path
) -> None:
    def crash(done: int, total: int, note: str) -> None:
        if done == 2:
            raise Stop

    run = tmp_path / "run"
    with pytest.raises(Stop):
        loop.train(experiment, run, crash)
    assert runs.contents(run)["meta"]["progress"]["epoch"] == 1
    assert len(runs.history(run)) == 2  # One line more than the checkpoint knows of.
    summary = loop.train(experiment, run)
    assert any("went on after epoch 1 of 3" in note for note in summary["notes"])
    runs.assert_same(run, finished)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_within_an_epoch_equals_uninterrupted(
    runs, finished: Path, experiment, tmp_path, monkeypatch, signum: int
) -> None:
    """The signal comes after 7 of 15 steps; the rest of epoch 2 is trained by the second run."""
    experiment = change(experiment, train__steps_per_call=1)
    calls = 0
    poll = checkpoint.Checkpoints.poll

    def strike(self: checkpoint.Checkpoints) -> None:
        nonlocal calls
        calls += 1
        if calls == 6:
            signal.raise_signal(signum)
        poll(self)

    monkeypatch.setattr(checkpoint.Checkpoints, "poll", strike)
    run = tmp_path / "run"
    before = signal.getsignal(signum)
    with pytest.raises(loop.Interrupted, match="stopped in epoch 2 of 3") as stopped:
        loop.train(experiment, run)
    assert stopped.value.signum == signum
    assert signal.getsignal(signum) is before
    found = runs.contents(run)
    assert 5 < found["step"] < 10
    assert found["state"]["counted"][2] > 0
    loop.train(experiment, run)
    runs.assert_same(run, finished)


def test_a_second_signal_stops_at_once(experiment, tmp_path, monkeypatch) -> None:
    def strike(self: checkpoint.Checkpoints) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(checkpoint.Checkpoints, "poll", strike)
    with pytest.raises(KeyboardInterrupt, match="stopped at once"):
        loop.train(experiment, tmp_path / "run")


def test_best_parameters_are_those_of_the_best_epoch(
    runs, finished: Path, experiment, tmp_path
) -> None:
    """A run that ends at the best epoch has the same parameters there."""
    best = loop.load_run(finished)
    lines = runs.history(finished)
    accuracies = [line["validation/accuracy"] for line in lines]
    assert best.epoch == int(np.argmax(accuracies)) + 1
    short = change(experiment, train__epochs=best.epoch)
    loop.train(short, tmp_path / "run")
    last = loop.load_run(tmp_path / "run", "last")
    assert last.epoch == best.epoch
    jax.tree.map(np.testing.assert_array_equal, last.variables, best.variables)
    jax.tree.map(np.testing.assert_array_equal, last.statistics, best.statistics)
    assert best.classes == ("neutral", "happy", "sad")


def test_early_stop(experiment, tmp_path) -> None:
    """A learning rate too small to change a decision: the first epoch stays the best."""
    experiment = change(
        experiment, optim__lr=1e-12, train__epochs=50, train__early_stop__patience=3
    )
    summary = loop.train(experiment, tmp_path / "run")
    assert (summary["finished"], summary["epochs"], summary["best_epoch"]) == ("early stop", 4, 1)


def test_evaluate_every(runs, experiment, tmp_path) -> None:
    loop.train(change(experiment, train__evaluate_every=2), tmp_path / "run")
    validated = ["validation/loss" in line for line in runs.history(tmp_path / "run")]
    assert validated == [False, True, True]  # The last epoch always.


def test_a_damaged_checkpoint_costs_an_epoch_not_the_run(
    runs, finished: Path, experiment, tmp_path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(Stop):
        loop.train(change(experiment, checkpoint__keep=2), run, stop_after(3))
    damaged = run / "checkpoints" / str(checkpoint.sealed_steps(run / "checkpoints")[-1])
    victim = next(p for p in sorted((damaged / "state").rglob("*")) if p.is_file())
    victim.write_bytes(victim.read_bytes() + b"\0")
    summary = loop.train(experiment, run)
    assert any("went back to the checkpoint" in note for note in summary["notes"])
    runs.assert_same(run, finished)


def stop_after(epoch: int):
    def stop(done: int, total: int, note: str) -> None:
        if done == epoch:
            raise Stop

    return stop


def test_nothing_to_load_from_damage(finished: Path, experiment, tmp_path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    victim = next(p for p in sorted((run / "checkpoints").rglob("manifest.ocdbt")))
    victim.write_bytes(b"")
    for use in (loop.load_run, lambda path: loop.train(experiment, path)):
        with pytest.raises(UserError, match="no intact checkpoint"):
            use(run)


def test_another_config_names_the_keys(finished: Path, experiment) -> None:
    other = change(experiment, optim__lr=0.5, train__batch=8)
    with pytest.raises(UserError, match=r"optim.lr 0.01 -> 0.5, train.batch 60 -> 8"):
        loop.train(other, finished)


def test_where_it_runs_may_change(finished: Path, experiment, tmp_path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Stop):
        loop.train(experiment, run, stop_after(2))
    summary = loop.train(
        change(experiment, parallel__devices=2, train__steps_per_call=3, checkpoint__keep=4), run
    )
    assert summary["finished"] == "epochs"


def test_other_data_is_refused(experiment, other_records: Path, tmp_path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Stop):
        loop.train(experiment, run, stop_after(2))
    with pytest.raises(UserError, match="does not hold the records that this run began with"):
        loop.train(change(experiment, data__dir=str(other_records)), run)


def test_a_loss_that_explodes(experiment, tmp_path) -> None:
    run = tmp_path / "run"
    with pytest.raises(UserError, match=r"not finite in epoch .*: lower --optim\.lr"):
        loop.train(change(experiment, optim__lr=1e30, optim__name="sgd", train__epochs=20), run)


def test_two_processes_cannot_train_one_run(experiment, tmp_path) -> None:
    def again(*_: Any) -> None:
        with pytest.raises(UserError, match="another process is training"):
            loop.train(experiment, tmp_path / "run")
        raise Stop

    with pytest.raises(Stop):
        loop.train(experiment, tmp_path / "run", again)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data__dir": ""}, "give a record directory with --data.dir"),
        ({"data__dir": "/no/such"}, "/no/such does not exist"),
        ({"protocol__validation": 0.0}, "set --train.monitor train/loss"),
        ({"data__features": "coords-136"}, "landmarks68"),
    ],
)
def test_mistakes_are_explained(experiment, tmp_path, changes, said: str) -> None:
    with pytest.raises(UserError, match=said):
        loop.train(change(experiment, **changes), tmp_path / "run")


def test_without_validation_the_training_loss_chooses(runs, experiment, tmp_path) -> None:
    summary = loop.train(
        change(experiment, protocol__validation=0.0, train__monitor="train/loss"),
        tmp_path / "run",
    )
    losses = [line["train/loss"] for line in runs.history(tmp_path / "run")]
    assert summary["best"] == min(losses)
    assert summary["validation"] == {}


def test_not_a_run_directory(tmp_path) -> None:
    with pytest.raises(UserError, match="is not a run directory"):
        loop.load_run(tmp_path)


def test_tensorboard_events_can_be_read(runs, experiment, tmp_path) -> None:
    from tensorboardX.proto import event_pb2

    from fer_jax.data.tfrecord import Shard

    run = tmp_path / "run"
    loop.train(change(experiment, track__tensorboard=True), run)
    (path,) = (run / "tensorboard").iterdir()
    events = [event_pb2.Event.FromString(record) for record in Shard(path)]
    found = {
        (event.step, value.tag): value.simple_value
        for event in events
        for value in event.summary.value
    }
    for line in runs.history(run):
        wanted = line["validation/accuracy"]
        assert found[line["epoch"], "validation/accuracy"] == pytest.approx(wanted)


def test_a_mistake_before_the_first_epoch_leaves_no_run_directory(tmp_path) -> None:
    experiment = config.from_json({"name": "x", "data": {"dir": str(tmp_path / "absent")}})
    with pytest.raises(UserError, match="does not exist"):
        loop.train(experiment, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="does not exist"):
        loop.train(experiment, tmp_path / "mine")
    assert (tmp_path / "mine").is_dir()


def test_what_a_user_must_know_is_said_before_the_first_epoch(
    experiment: config.Experiment, tmp_path: Path
) -> None:
    from fer_jax.evaluation.evaluate import evaluate

    changed = change(
        config.override(experiment, [("model.name", "lstm")]),
        model__units=[4], data__length="windows", data__frames=6, train__freeze=["lstm_0"],
    )  # fmt: skip
    said: list[str] = []
    epochs: list[list[str]] = []
    summary = loop.train(
        changed, tmp_path / "run", lambda *_: epochs.append(list(said)), on_note=said.append
    )
    short, frozen, where, first = said
    assert where.startswith("input: ") and first.startswith("first step after ")
    # Clips of 5, 6 and 7 frames in turn; those that test are not counted.
    assert "clips are shorter than a window of 6 frames" in short
    assert frozen.startswith("frozen, and random: lstm_0 (3)")
    assert epochs[0] == [short, frozen, where, first]
    assert summary["notes"] == [short, frozen, where]
    assert evaluate(tmp_path / "run")["notes"] == [short, frozen]


def test_emotions_without_a_class_are_named(experiment: config.Experiment) -> None:
    """One of the words has no class in the space; every other clip is used."""
    from fer_jax.data import corpus
    from fer_jax.training.job import load_dataset

    assert load_dataset(experiment).facts["notes"] == []
    facts = load_dataset(config.override(experiment, [("data.labels", "oulu6")])).facts
    clips = list(corpus.load(experiment.data.dir))
    lost = sum(clip.emotion == "neutral" for clip in clips)
    assert lost > 0 and facts["notes"] == [
        f"{lost} clips have no class in oulu6 and are left out: {lost} neutral"
    ]


def test_an_earlier_runs_training_clips_are_looked_for_among_the_test_clips(
    experiment: config.Experiment, tmp_path: Path
) -> None:
    loop.train(change(experiment, train__epochs=1), tmp_path / "first")
    again = change(experiment, train__epochs=1, train__init={"run": str(tmp_path / "first")})
    facts = loop.train(again, tmp_path / "same")
    assert facts["audit"]["source_overlap"] == 0
    other = change(again, protocol__seed=3)
    facts = loop.train(other, tmp_path / "other")
    parts = {}
    for name in ("first", "other"):
        lines = (tmp_path / name / "split.csv").read_text().splitlines()[1:]
        parts[name] = {line.split(",")[1]: line.split(",")[0] for line in lines}
    test = [clip for clip, part in parts["other"].items() if part == "test"]
    hits = [parts["first"][clip] != "test" for clip in test]
    assert facts["audit"]["source_overlap"] == pytest.approx(sum(hits) / len(hits)) and any(hits)
    assert "a network that this one starts from" in facts["audit"]["verdict"]
    # And of the network before that.
    third = change(other, protocol__seed=0, train__init={"run": str(tmp_path / "other")})
    assert loop.train(third, tmp_path / "third")["audit"]["source_overlap"] > 0


def test_a_directory_of_something_else_is_left_alone(
    experiment: config.Experiment, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("mine")
    with pytest.raises(UserError, match="holds files that are no run's"):
        loop.train(experiment, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_what_trains_nothing_is_refused(experiment: config.Experiment, tmp_path: Path) -> None:
    for changes, message in (
        ({"train__accumulate": 61}, r"--train\.accumulate 61 parts of a batch of 60"),
        ({"train__loss__emotion": 0.0}, "are both 0: nothing would be learned"),
    ):
        with pytest.raises(UserError, match=message):
            loop.train(change(experiment, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()
