"""What one worker process does: train trials, each alone or several as one population.

After every epoch the trial's figure goes to the study, which says whether to give the trial up. A
trial that was begun before goes on from its checkpoint. What became of it is put down here; only a
worker that died leaves that to its driver.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_jax.errors import BusyError, UserError

if TYPE_CHECKING:
    import optuna

    from fer_jax.sweep.study import Address

#: Seconds in which a process that still has a run's directory must have ended: its machine was
#: given up, or its driver killed.
_RELEASED_S = 60.0


@dataclass(frozen=True)
class Trial:
    """A trial to train.

    Attributes:
      trial_id: of the storage.
      number: in the study.
      experiment: its config, JSON-ready.
      values: what it has of the space.
      run: its run directory.
    """

    trial_id: int
    number: int
    experiment: Mapping[str, Any]
    values: Mapping[str, Any]
    run: str


@dataclass(frozen=True)
class Job:
    """What a worker is given at a time.

    Attributes:
      address, pruner: of the study.
      trials: one, or the members of a population.
      population: the population's directory, "" of a trial alone.
      lanes: see `train_population`.
      directory: what relative names start from, on every machine.
    """

    address: Address
    pruner: str
    trials: tuple[Trial, ...]
    population: str = ""
    lanes: int = 0
    directory: str = "."


def run_trials(job: Job) -> None:
    """Trains the trials of a job to their end, and puts down what became of each."""
    from fer_jax.training.parallel import (
        enable_compilation_cache,
        keep_memory,
        pass_over_libtpu,
        use_every_core,
    )

    os.chdir(job.directory)
    enable_compilation_cache()
    pass_over_libtpu()
    if job.trials[0].experiment["data"]["images"]:
        keep_memory()
    if job.population:
        use_every_core(16 * len(job.trials))
    until = time.monotonic() + _RELEASED_S
    while True:
        try:
            return _train_population(job) if job.population else _train(job, job.trials[0])
        except BusyError:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


@lru_cache(maxsize=4)
def _study(address: Address, pruner: str, epochs: int) -> optuna.Study:
    import optuna

    from fer_jax.sweep.samplers import make_pruner
    from fer_jax.sweep.study import open_storage

    return optuna.load_study(
        study_name=address.name,
        storage=open_storage(address),
        sampler=optuna.samplers.RandomSampler(),  # Chooses nothing here.
        pruner=make_pruner(pruner, epochs),
    )


class _Reporter:
    """Tells the study how trials do."""

    def __init__(self, job: Job):
        settings = job.trials[0].experiment["train"]
        self._epochs, self._objective = settings["epochs"], settings["monitor"]
        self.study = _study(job.address, job.pruner, self._epochs)

    def prunes(self, trial: Trial, line: Mapping[str, Any]) -> bool:
        """Reports an epoch's line of history; True if the trial is to be given up."""
        import optuna

        if self._objective not in line:
            return False
        known = optuna.trial.Trial(self.study, trial.trial_id)
        # An epoch that is trained again after a stop gives the same figure.
        if line["epoch"] not in known.storage.get_trial(trial.trial_id).intermediate_values:
            known.report(line[self._objective], line["epoch"])
        return line["epoch"] < self._epochs and known.should_prune()

    def finish(self, trial: Trial, **result: Any) -> None:
        from fer_jax.sweep.study import finish
        from fer_jax.training.run_directory import History

        lines = History(Path(trial.run)).read()
        seconds = round(sum(line["seconds"] for line in lines), 3)
        known = {"run": trial.run, "epochs": len(lines), "seconds": seconds}
        finish(self.study, trial.trial_id, known | result)


class _Pruned(Exception):
    """The study gave the trial up."""


def _train(job: Job, trial: Trial) -> None:
    from fer_jax.config import from_json
    from fer_jax.training import loop
    from fer_jax.training.run_directory import History

    reporter, run = _Reporter(job), Path(trial.run)

    def on_progress(epoch: int, epochs: int, figures: str) -> None:
        if reporter.prunes(trial, History(run).read()[-1]):
            raise _Pruned

    try:
        summary = loop.train(from_json(trial.experiment), run, on_progress=on_progress)
    except _Pruned:
        reporter.finish(trial, pruned=True)
    except BusyError:
        raise
    except Exception as error:
        reporter.finish(trial, reason=_reason(error, [run]))
    else:
        reporter.finish(trial, value=summary["best"])


def _train_population(job: Job) -> None:
    from fer_jax.config import from_json
    from fer_jax.training.members import Member
    from fer_jax.training.population import train_population
    from fer_jax.training.population_directory import is_over, outcome

    reporter = _Reporter(job)
    members = {Path(trial.run).name: trial for trial in job.trials}
    untold = dict(members)

    def on_epoch(member: Member, line: Mapping[str, Any]) -> str:
        return "pruned" if reporter.prunes(members[member.name], line) else ""

    def on_progress(*_: Any) -> None:
        """What is over counts for the others at once."""
        for name, trial in list(untold.items()):
            if is_over(run := Path(trial.run)):
                found = outcome(Member(name, from_json(trial.experiment)), run)
                if "failed" in found:
                    reporter.finish(trial, reason=found["failed"])
                elif found["finished"] == "pruned":
                    reporter.finish(trial, pruned=True)
                else:
                    reporter.finish(trial, value=found["best"])
                del untold[name]

    try:
        train_population(
            [Member(name, from_json(trial.experiment)) for name, trial in members.items()],
            job.population,
            lanes=job.lanes,
            on_progress=on_progress,
            on_epoch=on_epoch,
        )
        on_progress()
    except BusyError:
        raise
    except Exception as error:
        reason = _reason(error, [Path(trial.run) for trial in untold.values()])
        for trial in untold.values():
            reporter.finish(trial, reason=reason)


def _reason(error: Exception, runs: list[Path]) -> str:
    """One line on why trials failed; what is no mistake of the user's leaves its traceback too.

    Raises:
      Exception: `error`, if it is the study's storage that failed.
    """
    import optuna

    if isinstance(error, optuna.exceptions.OptunaError):
        raise error
    if isinstance(error, UserError):
        return str(error)
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "Out of memory" in text:
        return f"out of memory: {text[:200]}"
    for run in runs:
        run.mkdir(parents=True, exist_ok=True)
        (run / "error.txt").write_text("".join(traceback.format_exception(error)))
    return f"{type(error).__name__}: {text[:200]} (see error.txt in its run directory)"
