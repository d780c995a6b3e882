"""The loop of a sweep: takes trials from the study and has workers train them.

Several drivers may share a study. One that is stopped or killed leaves its trials to the others, or
to the next that is started; they go on from their checkpoints.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from fer_jax.errors import UserError
from fer_jax.executors import Engine, Outcome, WorkerDied, make_engine
from fer_jax.machine import available_cores, has_tpu, visible_gpus
from fer_jax.sweep import space as spaces
from fer_jax.sweep.plan import Plan, structure
from fer_jax.sweep.samplers import make_sampler
from fer_jax.sweep.study import Ownership, finish, suggest
from fer_jax.sweep.table import Table
from fer_jax.sweep.worker import Job, Trial, run_trials
from fer_jax.training.interrupts import Interrupted, Interrupts

#: Trials of a population, unless the user says how many.
_TOGETHER = 16
#: Times that a trial's worker may die before the trial is given up.
_DEATHS = 3
#: Trials that may fail before one has come to the end of an epoch.
_FALSE_STARTS = 3
_POLL_S = 0.5
_WAVE = "wave"


def start_engine(plan: Plan) -> Engine:
    """The processes, here or on a cluster, that train the plan's trials.

    Raises:
      UserError: more workers than GPUs, Ray not installed, no Ray cluster.
    """
    plan.out.mkdir(parents=True, exist_ok=True)
    log = str(plan.out / "workers.log")
    if plan.engine == "ray":
        return make_engine("ray", run_trials, plan.workers or None, gpus=True)
    if plan.engine == "population":  # One process, which has every device.
        return make_engine("local", run_trials, 1, log)
    gpus = visible_gpus()
    if not gpus:
        count = plan.workers or (1 if has_tpu() else available_cores())
        return make_engine("local", run_trials, count, log)
    if plan.workers > len(gpus):
        raise UserError(
            f"--workers {plan.workers}: a worker has a GPU of its own, and there are {len(gpus)}"
        )
    environments = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus]
    return make_engine(
        "local", run_trials, plan.workers or len(gpus), log, environments=environments
    )


class Driver:
    """A sweep under way in this process."""

    def __init__(self, plan: Plan, study: optuna.Study, ownership: Ownership):
        self._plan, self._study, self._own = plan, study, ownership
        self._distributions = spaces.distributions(plan.space)
        self._jobs: list[Job] = []
        self._deaths: Counter[tuple[int, ...]] = Counter()

    def run(self, make: Callable[[], Engine], table: Table, interrupts: Interrupts) -> None:
        """Until as many trials are over as were asked for.

        Args:
          make: an engine; only called if there is something to train.

        Raises:
          UserError: the first trials all fail before the end of an epoch, or a run's directory
            stays in use.
          Interrupted: Ctrl-C or SIGTERM.
        """
        trials = self._study.get_trials(deepcopy=False)
        table(trials)
        if self._over(trials):
            return
        try:
            with make() as engine:
                while not self._over(trials):
                    _check_start(trials)
                    for job in self._next_jobs(engine.workers):
                        engine.submit(job)
                    for outcome in engine.wait(_POLL_S):
                        self._ended(engine, outcome)
                    if not self._jobs:
                        time.sleep(_POLL_S)  # Other drivers have what is left.
                    if interrupts.signum:
                        raise Interrupted("the same command goes on", interrupts.signum)
                    trials = self._study.get_trials(deepcopy=False)
                    table(trials)
        finally:  # The workers have ended: who goes on need not wait to learn it.
            self._give_back()

    def _over(self, trials: Sequence[FrozenTrial]) -> bool:
        return sum(trial.state.is_finished() for trial in trials) >= self._plan.trials

    def _next_jobs(self, workers: int) -> list[Job]:
        """What the workers that have nothing to do are given."""
        if self._plan.engine != "population":
            free = workers - len(self._jobs)
            taken = self._take(free) if free > 0 else []
            jobs = [self._job((trial,)) for trial in taken]
        else:
            jobs = [] if self._jobs else self._waves()
        self._jobs += jobs
        return jobs

    def _take(self, most: int) -> list[Trial]:
        """Makes trials ours: those that nobody has any more, then new ones.

        Of a population all are taken that its program was at.
        """
        plan, study, storage = self._plan, self._study, self._study._storage
        taken: list[FrozenTrial] = []
        with self._own.lock():
            trials = study.get_trials(deepcopy=False)
            lost = self._own.lost([t for t in trials if t.state == TrialState.RUNNING])
            for trial_id in lost:
                storage.set_trial_state_values(trial_id, state=TrialState.WAITING)
            waves: set[str] = set()
            for trial in trials:
                if trial.state != TrialState.WAITING and trial._trial_id not in lost:
                    continue
                wave = trial.user_attrs.get(_WAVE, "")
                if len(taken) < most or wave in waves:
                    storage.set_trial_state_values(trial._trial_id, state=TrialState.RUNNING)
                    taken.append(self._complete(trial._trial_id, trial.number))
                    waves |= {wave} - {""}
            count = len(trials)
            while len(taken) < most and count < plan.trials:
                trial_id = storage.create_new_trial(study._study_id)
                taken.append(self._complete(trial_id, count))
                count += 1
        return [self._trial(trial) for trial in taken]

    def _complete(self, trial_id: int, number: int) -> FrozenTrial:
        """A trial of ours with all its parameters."""
        plan, study = self._plan, self._study
        self._own.take(trial_id)
        study.sampler = make_sampler(plan.sampler, plan.space, plan.seed, number)
        suggest(optuna.trial.Trial(study, trial_id), self._distributions)
        return study._storage.get_trial(trial_id)

    def _trial(self, trial: FrozenTrial) -> Trial:
        experiment = self._plan.experiment_of(trial.params).to_json()
        wave = trial.user_attrs.get(_WAVE, "") if self._plan.engine == "population" else ""
        run = self._plan.out / "trials" / wave / f"{trial.number:04d}"
        return Trial(trial._trial_id, trial.number, experiment, trial.params, str(run))

    def _waves(self) -> list[Job]:
        """Populations of the next trials: those go together that one program can train."""
        plan, storage = self._plan, self._study._storage
        together: dict[tuple[str, str], list[Trial]] = {}
        for trial in self._take(plan.workers or _TOGETHER):
            wave = storage.get_trial(trial.trial_id).user_attrs.get(_WAVE, "")
            together.setdefault((wave, structure(plan, trial.values)), []).append(trial)
        jobs = []
        for (wave, _), trials in together.items():
            if not wave:
                wave = f"wave{trials[0].number:04d}"
                for trial in trials:
                    storage.set_trial_user_attr(trial.trial_id, _WAVE, wave)
                trials = [self._trial(storage.get_trial(trial.trial_id)) for trial in trials]
            out = str(plan.out / "trials" / wave)
            jobs.append(self._job(tuple(trials), out))
        return jobs

    def _job(self, trials: tuple[Trial, ...], population: str = "") -> Job:
        plan = self._plan
        return Job(plan.address, plan.pruner, trials, population, plan.lanes, os.getcwd())

    def _ended(self, engine: Engine, outcome: Outcome) -> None:
        """The worker put down what became of the trials, unless it died."""
        job: Job = outcome.job
        if isinstance(outcome.error, WorkerDied):
            numbers = tuple(trial.number for trial in job.trials)
            self._deaths[numbers] += not outcome.error.machine_lost
            if self._deaths[numbers] < _DEATHS:
                engine.submit(job)
                return
            reason = f"its worker died {_DEATHS} times ({outcome.error})"
            reason += ": out of memory?" if outcome.error.signal == 9 else ""
            for trial in job.trials:
                epochs = len(self._study._storage.get_trial(trial.trial_id).intermediate_values)
                result = {"reason": reason, "run": trial.run, "epochs": epochs}
                finish(self._study, trial.trial_id, result)
        elif outcome.error is not None:
            raise outcome.error
        self._jobs.remove(job)
        for trial in job.trials:
            self._own.release(trial.trial_id)

    def _give_back(self) -> None:
        storage = self._study._storage
        with self._own.lock():
            for trial in (trial for job in self._jobs for trial in job.trials):
                self._own.release(trial.trial_id)
                if storage.get_trial(trial.trial_id).state == TrialState.RUNNING:
                    storage.set_trial_state_values(trial.trial_id, state=TrialState.WAITING)


def _check_start(trials: Sequence[FrozenTrial]) -> None:
    """Raises:
    UserError: the first trials failed, and no other has come to the end of an epoch.
    """
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    begun = any(trial.intermediate_values for trial in trials)
    if len(failed) >= _FALSE_STARTS and not begun:
        reason = failed[0].user_attrs.get("reason", "unknown")
        raise UserError(f"the first {len(failed)} trials failed: {reason}")
