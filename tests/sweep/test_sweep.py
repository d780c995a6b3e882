"""A sweep from its command to its results; what fails, dies or is stopped in between."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path

import optuna
import pytest

from fer_jax.cli import main
from fer_jax.config import load_config
from fer_jax.executors import WorkerDied
from fer_jax.sweep import driver, worker
from fer_jax.sweep.study import Address, FileOwnership, open_storage
from fer_jax.training import loop
from fer_jax.training.run_directory import History

SPACE = ("--space", "optim.lr=0.01,0.003,1e-4,1e30", "--space", "train.seed=int:1:50")
OVER = {"complete", "pruned", "failed"}


def words(config: Path, out: Path, *more: object) -> list[str]:
    given = ("sweep", config, "--out", out, *SPACE, "--sampler", "random", "--json", *more)
    return [str(word) for word in given]


@pytest.fixture(scope="module")
def swept(toy: Path, engine, tmp_path_factory) -> tuple[Path, dict]:
    """Ten trials, some of which diverge, and what was printed last."""
    out = tmp_path_factory.mktemp("swept") / "sweep"
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        patch.setattr(driver, "start_engine", lambda plan: engine(worker.run_trials))
        assert main(words(toy, out, "--trials", 10)) == 0
    return out, json.loads(said.getvalue().splitlines()[-1])


def test_every_trial_comes_to_an_end(swept, rows) -> None:
    out, said = swept
    found = rows(out)
    assert [int(row["trial"]) for row in found] == list(range(10))
    assert {row["state"] for row in found} == OVER
    assert (
        said["trials"] == {state: sum(row["state"] == state for row in found) for state in OVER}
        and said["objective"] == "validation/accuracy"
    )
    for row in found:
        run = Path(row["run"])
        assert run == out / "trials" / f"{int(row['trial']):04d}"
        if row["optim.lr"] == "1e30":
            assert row["state"] == "failed"
            assert row["reason"].startswith("the loss is not finite in epoch 1: lower --optim.lr")
        else:
            lines = History(run).read()
            assert [line["epoch"] for line in lines] == list(range(1, int(row["epochs"]) + 1))
            experiment = load_config(run / "config.json")
            assert experiment.train.seed == int(row["train.seed"])
            values = [line["validation/accuracy"] for line in lines]
            if row["state"] == "complete":
                assert len(lines) == 3 and float(row["value"]) == max(values)
            else:  # The median of the complete ones' best so far was better.
                assert len(lines) < 3 and float(row["value"]) == values[-1]


def test_the_best_can_be_trained_again(swept, rows, tmp_path: Path) -> None:
    out, said = swept
    complete = [row for row in rows(out) if row["state"] == "complete"]
    assert said["best"]["value"] == max(float(row["value"]) for row in complete)
    assert said["best"]["command"] == f"fer-jax train {out / 'best.json'}"
    again = loop.train(load_config(out / "best.json"), tmp_path / "again")
    assert again["best"] == said["best"]["value"]


def test_the_page_shows_it(swept) -> None:
    out, said = swept
    page = (out / "report.html").read_text()
    assert page.count("<svg") >= 2 and "http://" not in page.replace("http://www.w3.org", "")
    assert f"{said['best']['value']:.4f}" in page
    assert "the loss is not finite" in page
    assert "The test\npart played no role" in page


def test_repeated_it_has_nothing_to_do_and_then_goes_on(
    swept, toy, here, rows, tmp_path, capsys, fails
) -> None:
    out, _ = swept
    before = (out / "trials.csv").read_text()
    assert main(words(toy, out, "--trials", 10)) == 0
    assert here == [] and (out / "trials.csv").read_text() == before
    assert main(words(toy, out, "--trials", 11, "--pruner", "none")) == 0
    assert [len(engine.done) for engine in here] == [1]
    assert (out / "trials.csv").read_text().splitlines()[:11] == before.splitlines()
    capsys.readouterr()
    line = fails("sweep", toy, "--out", out, "--space", "optim.lr=1,2")
    assert "searches another space (optim.lr, train.seed differ)" in line
    line = fails(*words(toy, out, "--train.epochs", "4"))
    assert "another config (train.epochs 3 -> 4)" in line
    line = fails(*words(toy, out, "--objective", "validation/loss"))
    assert "train.monitor 'validation/accuracy' -> 'validation/loss'" in line


def test_a_population_does_the_same(swept, toy, here, rows, tmp_path: Path) -> None:
    """Dense networks on one device, a member a lane: to the bit."""
    alone = rows(swept[0])[:10]
    more = ("--trials", 10, "--engine", "population", "--workers", 10, "--pruner", "none")
    assert main(words(toy, tmp_path / "all", *more)) == 0
    assert len(here[0].done) == 1 and len(here[0].done[0].trials) == 10
    for one, row in zip(alone, rows(tmp_path / "all"), strict=True):
        assert [row[key] for key in ("optim.lr", "train.seed")] == [
            one[key] for key in ("optim.lr", "train.seed")
        ]
        assert row["run"] == str(tmp_path / f"all/trials/wave0000/{int(row['trial']):04d}")
        assert (row["state"] == "failed") == (one["state"] == "failed")
        if one["state"] == "complete":
            assert row["value"] == one["value"]


def test_a_population_is_pruned_and_a_program_each_structure(toy, here, rows, tmp_path) -> None:
    out = tmp_path / "sweep"
    given = ["sweep", toy, "--out", out, "--space", "optim.lr=0.01,1e-3,1e-5", "--space",
             "model.units=4,6", "--sampler", "grid", "--engine", "population", "--pruner",
             "hyperband", "--train.epochs", 4]  # fmt: skip
    assert main([str(word) for word in given]) == 0
    found = rows(out)
    assert len(found) == 6  # All combinations, though 30 trials are the default.
    assert sorted((row["optim.lr"], row["model.units"]) for row in found) == sorted(
        (rate, units) for rate in ("0.01", "1e-3", "1e-5") for units in "46"
    )
    waves = {row["model.units"]: Path(row["run"]).parent.name for row in found}
    assert len(set(waves.values())) == 2
    pruned = [row for row in found if row["state"] == "pruned"]
    assert pruned
    for row in pruned:
        assert int(row["epochs"]) < 4 == len(History(Path(found[0]["run"])).read())


def test_a_driver_that_stopped_is_gone_on_with(toy, here, rows, tmp_path, monkeypatch) -> None:
    """Its trials keep number, parameters and the epochs that they had."""
    out, train, began = tmp_path / "sweep", loop.train, []

    def stopping(experiment, run, on_progress):
        def note(epoch, epochs, text):
            began.append((run.name, epoch))
            if began[-2:] == [("0002", 1), ("0002", 2)] and began.count(("0002", 2)) == 1:
                raise KeyboardInterrupt
            on_progress(epoch, epochs, text)

        return train(experiment, run, on_progress=note)

    monkeypatch.setattr(loop, "train", stopping)
    more = ("--trials", 4, "--pruner", "none", "--seed", 4)
    assert main(words(toy, out, *more)) == 130
    address = Address(str(out / "study.journal"), "sweep")
    study = optuna.load_study(study_name="sweep", storage=open_storage(address))
    assert [trial.state.name for trial in study.trials][2:] == ["WAITING"]
    parameters = study.trials[2].params
    assert main(words(toy, out, *more)) == 0
    row = rows(out)[2]
    assert row["state"] == "complete"
    assert [row["optim.lr"], int(row["train.seed"])] == list(parameters.values())
    # Stopped before the second epoch was saved: that one alone is trained again.
    assert [epoch for run, epoch in began if run == "0002"] == [1, 2, 2, 3]
    assert [line["epoch"] for line in History(Path(row["run"])).read()] == [1, 2, 3]


def test_what_becomes_of_trials_whose_worker_dies(toy, here, rows, tmp_path, monkeypatch) -> None:
    """A lost machine is not the trial's fault, and three deaths are."""
    run, deaths = worker.run_trials, {0: 2, 1: 3, 2: 5}

    def dying(job):
        number = job.trials[0].number
        if deaths.get(number):
            deaths[number] -= 1
            raise WorkerDied("SIGKILL", 9, machine_lost=number == 2)
        return run(job)

    monkeypatch.setattr(worker, "run_trials", dying)
    out = tmp_path / "sweep"
    assert main(words(toy, out, "--trials", 3, "--seed", 4)) == 0
    found = rows(out)
    assert [row["state"] for row in found] == ["complete", "failed", "complete"]
    assert found[1]["reason"] == "its worker died 3 times (SIGKILL): out of memory?"


def test_an_error_of_ours_and_lack_of_memory_are_reasons_too(
    toy, here, rows, tmp_path, monkeypatch
) -> None:
    train, raised = loop.train, [RuntimeError("RESOURCE_EXHAUSTED: 9 GB"), KeyError("odd")]
    monkeypatch.setattr(
        loop, "train", lambda *a, **k: train(*a, **k) if not raised else _raise(raised.pop(0))
    )
    out = tmp_path / "sweep"
    assert main(words(toy, out, "--trials", 3, "--seed", 4)) == 0
    found = rows(out)
    assert [row["state"] for row in found] == ["failed", "failed", "complete"]
    assert found[0]["reason"] == "out of memory: RESOURCE_EXHAUSTED: 9 GB"
    assert found[1]["reason"].startswith("KeyError: 'odd'")
    assert "Traceback" in (Path(found[1]["run"]) / "error.txt").read_text()


def _raise(error: Exception) -> None:
    raise error


def test_a_sweep_that_cannot_begin_stops(toy, here, tmp_path, fails, capsys) -> None:
    out = tmp_path / "sweep"
    assert main(words(toy, out, "--data.dir", tmp_path / "nowhere")) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("fer-jax: the first 3 trials failed: ") and "nowhere" in line


def test_a_living_drivers_trials_stay_its_own(tmp_path: Path) -> None:
    storage = open_storage(Address(str(tmp_path / "study.journal"), "x"))
    study = optuna.create_study(study_name="x", storage=storage)
    first, second = (FileOwnership(tmp_path, storage) for _ in range(2))
    trials = [study.ask() for _ in range(3)]
    first.take(trials[0]._trial_id)
    second.take(trials[1]._trial_id)
    with first.lock():  # The third was made by one that died at once.
        assert first.lost(study.trials) == [trials[2]._trial_id]
    second.close()
    with first.lock():
        assert first.lost(study.trials) == [trial._trial_id for trial in trials[1:]]
    first.close()


def test_half_a_line_at_the_journals_end_is_forgotten(tmp_path: Path) -> None:
    address = Address(str(tmp_path / "study.journal"), "x")
    study = optuna.create_study(study_name="x", storage=open_storage(address))
    study.ask()
    with open(address.storage, "a") as file:
        file.write('{"op_code":4,"worker_id":"')
    study.ask()
    open_storage.cache_clear()
    assert len(optuna.load_study(study_name="x", storage=open_storage(address)).trials) == 2


def test_mistakes_are_one_line(toy, tmp_path, fails, monkeypatch) -> None:
    rate = ("--space", "optim.lr=log:1e-4:1e-2")
    new = ("--out", tmp_path / "new")
    assert "did you mean --optim.lr" in fails("sweep", toy, "--space", "optim.rl=1,2")
    assert "nothing to search: add --space" in fails("sweep", toy)
    assert "--sampler grid: optim.lr is a range" in fails("sweep", toy, *rate, "--sampler", "grid")
    line = fails("sweep", toy, *rate, "--objective", "test/accuracy")
    assert "--objective test/accuracy: choose validation/accuracy" in line
    population = fails(
        "sweep", toy, *new, "--space", "train.ema=uniform:0:0.9", "--engine", "population"
    )
    assert "one program cannot vary train.ema" in population
    line = fails("sweep", toy, *rate, *new, "--storage", "sqlite:///study.db")
    assert "give a PostgreSQL URL" in line
    secret = "postgresql://me:secret@127.0.0.1:9/none"
    line = fails("sweep", toy, *rate, *new, "--storage", secret)
    assert line.startswith("cannot reach postgresql://me:***@127.0.0.1:9/none: ")
    assert "secret" not in line
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("x")
    assert "no sweep's" in fails("sweep", toy, *rate, "--out", tmp_path / "other")
    assert "--trials 0: give at least 1" in fails("sweep", toy, *rate, "--trials", 0)
    assert not (tmp_path / "new").exists()
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert fails("sweep", toy, *rate).endswith("pip install 'fer-jax[sweep]'")
