"""A sweep that has been checked: what is searched, how, where, and the study that keeps it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from fer_jax.config import Experiment, from_json
from fer_jax.errors import UserError
from fer_jax.sweep import space as spaces
from fer_jax.sweep.study import (
    Address,
    DatabaseOwnership,
    FileOwnership,
    Ownership,
    open_storage,
)
from fer_jax.training.monitor import direction


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything about a sweep.

    Attributes:
      experiment: what all trials share; its `train.monitor` is the objective.
      space: by dotted key.
      out: the sweep's directory.
      trials: how many in all.
      workers: trials at a time (of a population: in one program); 0 chooses.
      lanes: of a population, see `train_population`; 0 chooses.
      command: what the user typed.
    """

    experiment: Experiment
    space: spaces.Space
    out: Path
    address: Address
    trials: int
    sampler: str
    pruner: str
    seed: int
    engine: str
    workers: int = 0
    lanes: int = 0
    command: str = ""

    @property
    def objective(self) -> str:
        return self.experiment.train.monitor

    @property
    def sign(self) -> float:
        """1 where more is better, -1 where less is."""
        return direction(self.objective)

    def experiment_of(self, values: Mapping[str, Any]) -> Experiment:
        """A trial's config."""
        return spaces.changed(self.experiment, values)


def make_plan(
    experiment: Experiment,
    space: spaces.Space,
    *,
    out: Path | None,
    storage: str,
    study: str,
    trials: int,
    sampler: str,
    **rest: Any,
) -> Plan:
    """The plan of a command line; see `Plan`.

    Args:
      experiment: as `spaces.resolve` gives it.
      out: default: sweeps/<name>-<hash of config and space>.
      storage: a database's URL; "" is a journal file in `out`.
      study: its name; "" is the directory's default name.

    Raises:
      UserError: a grid over ranges, or a population whose trials have nothing in common.
    """
    what = json.dumps([experiment.to_json(), spaces.to_json(space)], sort_keys=True)
    name = f"{experiment.name}-{hashlib.sha256(what.encode()).hexdigest()[:8]}"
    out = out or Path("sweeps") / name
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: give a directory for the sweep")
    if out.is_dir() and any(out.iterdir()) and not (out / "drivers").is_dir():
        raise UserError(f"{out} holds files that are no sweep's: give a directory of its own")
    if sampler == "grid":
        trials = min(trials, len(spaces.combinations(space)))
    # In a directory of its own a journal holds one study; its name need not be known.
    address = Address(
        storage or str(out / "study.journal"), study or (name if storage else "sweep")
    )
    plan = Plan(
        experiment=experiment, space=space, out=out, address=address, trials=trials,
        sampler=sampler, **rest,
    )  # fmt: skip
    if plan.engine == "population":
        _check_population(plan)
    return plan


def structure(plan: Plan, values: Mapping[str, Any]) -> str:
    """What trials of one program must agree in: the values that a program cannot vary."""
    from fer_jax.training.members import may_differ

    return json.dumps({key: value for key, value in values.items() if not may_differ(key)})


def _check_population(plan: Plan) -> None:
    from fer_jax.config import Uniform
    from fer_jax.training.members import may_differ

    for key, values in plan.space.items():
        if isinstance(values, Uniform) and not may_differ(key):
            raise UserError(
                f"--engine population: one program cannot vary {key}, and a range has no two "
                f"trials alike: give a few values, as in --space {key}={values.low:g},"
                f"{values.high:g}, or use --engine local"
            )


def open_study(plan: Plan) -> tuple[optuna.Study, Ownership]:
    """The plan's study, made if it is not there.

    Raises:
      UserError: it is of another config, space or objective; or its database cannot be reached.
    """
    storage = open_storage(plan.address)
    way = "maximize" if plan.sign > 0 else "minimize"
    study = optuna.create_study(
        study_name=plan.address.name,
        storage=storage,
        direction=way,
        load_if_exists=True,
        pruner=optuna.pruners.NopPruner(),  # Workers prune.
    )
    ownership: Ownership = (
        DatabaseOwnership(storage, study)
        if plan.address.in_database
        else FileOwnership(plan.out, storage)
    )
    try:
        with ownership.lock():
            before, space = study.user_attrs, spaces.to_json(plan.space)
            if "space" in before:
                _compare(plan, before, space)
            else:
                study.set_user_attr("config", plan.experiment.to_json())
                study.set_user_attr("space", space)
    except UserError:
        ownership.close()
        raise
    return study, ownership


def _compare(plan: Plan, before: Mapping[str, Any], space: Mapping[str, Any]) -> None:
    from fer_jax.training.run_directory import compare

    different = [
        key for key in {**before["space"], **space} if before["space"].get(key) != space.get(key)
    ]
    if different:
        raise UserError(
            f"the study {plan.address.name} in {plan.address.shown()} searches another space "
            f"({', '.join(different)} differ): undo the change, or choose another --out or --study"
        )
    compare(plan.out, from_json(before["config"]), plan.experiment)
