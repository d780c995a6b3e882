"""`fer-jax sweep`: from what was typed to the sweep's results."""

from __future__ import annotations

import argparse
import shlex
from contextlib import suppress
from dataclasses import replace
from typing import Any

from fer_jax.config import Sweep, load_config, load_sweep
from fer_jax.errors import UserError


def sweep(args: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    """Runs the sweep of a command line, or goes on with it, and writes its results.

    Raises:
      UserError: a mistake, or none of the trials came to an end.
      Interrupted: stopped on request; the same command goes on.
    """
    from fer_jax.sweep import space as spaces

    for name, least in (("trials", 1), ("workers", 0), ("lanes", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise UserError(f"--{name} {value}: give at least {least}")
    given = load_sweep(args.config) or Sweep(space={})
    searched = replace(
        given,
        space=spaces.parse(args.space) or given.space,
        objective=args.objective or given.objective,
        trials=given.trials if args.trials is None else args.trials,
        sampler=args.sampler or given.sampler,
        pruner=args.pruner or given.pruner,
    )
    typed = {key for key, _ in args.overrides}
    searched = replace(searched, fixed={k: v for k, v in searched.fixed.items() if k not in typed})
    experiment = spaces.resolve(load_config(args.config, args.overrides), searched)
    if not experiment.data.dir:
        raise UserError("which records? add --data.dir DIR (fer-jax preprocess makes them)")
    try:
        import optuna
    except ImportError:
        raise UserError("a sweep needs Optuna: pip install 'fer-jax[sweep]'") from None
    from fer_jax.sweep.driver import Driver, start_engine
    from fer_jax.sweep.plan import make_plan, open_study
    from fer_jax.sweep.results import write_results
    from fer_jax.sweep.table import Table
    from fer_jax.training.interrupts import Interrupted, Interrupts

    plan = make_plan(
        experiment,
        searched.space,
        out=args.out,
        storage=args.storage,
        study=args.study,
        trials=searched.trials,
        sampler=searched.sampler,
        pruner=searched.pruner,
        seed=args.seed,
        engine=args.engine,
        workers=args.workers,
        lanes=args.lanes,
        command=shlex.join(["fer-jax", *args.words]),
    )
    with Interrupts() as interrupts:
        study, ownership = open_study(plan)
        try:
            with Table(experiment.name, plan.objective, plan.sign, plan.trials) as table:
                Driver(plan, study, ownership).run(lambda: start_engine(plan), table, interrupts)
        except optuna.exceptions.StorageInternalError as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0]
            raise UserError(
                f"lost {plan.address.shown()}: {reason}; repeat the command to go on"
            ) from None
        except Interrupted:
            with suppress(UserError):  # Nothing to write yet.
                write_results(plan, study)
            raise
        finally:
            ownership.close()
    report, text = write_results(plan, study)
    return 0, report, text
