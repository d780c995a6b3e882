"""How Optuna chooses the next trial, and when it gives one up.

Samplers are seeded by the trial's number: a sweep that was stopped goes on as if it had not been,
and the trials of `random` and `grid` are the same whoever trains them in whatever order.
"""

from __future__ import annotations

from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from fer_jax.sweep.space import Space, combinations, distributions


class _Grid(BaseSampler):
    """The trial's number says which combination it has."""

    def __init__(self, space: Space):
        self._distributions, self._all = distributions(space), combinations(space)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._distributions

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._all[trial.number % len(self._all)]

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        raise AssertionError("every parameter is of the grid")


def make_sampler(name: str, space: Space, seed: int, number: int) -> BaseSampler:
    """The sampler of trial `number`.

    Raises:
      UserError: a grid of a space with ranges.
    """
    if name == "grid":
        return _Grid(space)
    own = (seed * 1_000_003 + number) % 2**32
    if name == "random":
        return RandomSampler(seed=own)
    # Trials that still run count as bad ones, so that those beside them look elsewhere.
    return TPESampler(seed=own, constant_liar=True)


def make_pruner(name: str, epochs: int) -> optuna.pruners.BasePruner:
    if name == "none":
        return optuna.pruners.NopPruner()
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=epochs)
    return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=0)
