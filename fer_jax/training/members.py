"""Members of a population: runs of one program, which differ in numbers, seeds and splits only."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from fer_jax.config import Experiment, Given, differences, override, with_values
from fer_jax.data import protocols
from fer_jax.errors import UserError
from fer_jax.models.layers.dropout import rate_values
from fer_jax.training.job import open_corpus

#: Numbers of the config that a compiled program is given where members differ in them.
NUMBERS = (
    "optim.lr", "optim.lr_low", "optim.decay", "optim.weight_decay",
    "model.dropout", "model.input_dropout", "model.kernel_l2",
    "model.rnn.dropout", "model.rnn.input_dropout", "model.cnn.dropout",
    "train.loss.label_smoothing", "train.loss.focal_gamma", "train.loss.focal_alpha",
    "train.loss.emotion", "train.loss.landmarks",
)  # fmt: skip
#: Of which a setting has several runs.
_REPEATS = ("protocol.fold", "train.seed")
#: What differs outside the program: which samples, in which order, from which parameters, and how
#: their classes weigh.
_OUTSIDE = ("train.seed", "train.loss.class_weights", "protocol", "reported", "name")


@dataclass(frozen=True)
class Member:
    """One run of a population.

    Attributes:
      name: of its directory.
      setting: what is varied in it beside fold and seed, "" if nothing.
    """

    name: str
    experiment: Experiment
    setting: str = ""


def make_members(
    experiment: Experiment,
    *,
    folds: bool = False,
    seeds: Sequence[int] = (),
    vary: Sequence[tuple[str, Sequence[str]]] = (),
) -> list[Member]:
    """Every combination of folds, seeds and values of a config.

    Args:
      folds: every fold of a protocol with folds (see `protocols.fold_count`).
      seeds: of `train.seed`; empty leaves the config's.
      vary: a dotted key and its values, as on a command line.

    Raises:
      UserError: a protocol without folds, or whose folds cannot be counted, a key or value that
        does not exist, a key that members of one program cannot differ in, or two members that are
        the same.
    """
    axes: list[list[tuple[str, str, str]]] = []
    if folds:
        protocol = experiment.protocol
        if not protocols.has_folds(protocol):
            raise UserError(
                f"protocol {protocol.name} has no folds: add --protocol.name subject-kfold (or "
                "random-kfold) and --protocol.folds, or --protocol.name loso"
            )
        count = protocols.fold_count(protocol, lambda: open_corpus(experiment.data, ()))
        axes.append([("protocol.fold", str(i), f"fold{i}") for i in range(count)])
    if seeds:
        axes.append([("train.seed", str(seed), f"seed{seed}") for seed in seeds])
    for key, values in vary:
        name = key.rpartition(".")[2]
        axes.append([(key, value, f"{name}-{_plain(value)}") for value in values])
    members = []
    for choice in product(*axes):
        changed = override(experiment, [(key, value) for key, value, _ in choice])
        setting = "_".join(part for key, _, part in choice if key not in _REPEATS)
        name = "_".join(part for _, _, part in choice) or "run"
        members.append(Member(name, changed, setting))
    names = [member.name for member in members]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two runs are called {name}: give every value once")
    varied(members)
    return members


def _plain(value: str) -> str:
    """A value as a part of a file's name."""
    return re.sub(r"[^\w.+-]+", "-", value).strip("-")


def may_differ(key: str) -> bool:
    """Whether members of one program may differ in a key of the config."""
    return key in NUMBERS or any(key == part or key.startswith(f"{part}.") for part in _OUTSIDE)


def varied(members: Sequence[Member]) -> tuple[str, ...]:
    """The `NUMBERS` that members differ in.

    Raises:
      UserError: they differ in something else.
    """
    differ = differences([member.experiment for member in members])
    for key in differ:
        if not may_differ(key):
            raise UserError(
                f"--{key} cannot differ within one program, which can vary protocol.*, train.seed, "
                f"train.loss.class_weights, {', '.join(NUMBERS)}: run the command once a value"
            )
    return tuple(key for key in differ if key in NUMBERS)


def numbers_of(experiment: Experiment, keys: Sequence[str]) -> dict[str, Any]:
    """What a program is given for `keys`: f32[], and for rates what dropout computes with."""
    found: dict[str, Any] = {}
    for key in keys:
        value: Any = experiment
        for part in key.split("."):
            value = getattr(value, part)
        if not key.endswith("dropout"):
            found[key] = np.float32(value)
        elif isinstance(value, tuple):
            found[key] = tuple(map(rate_values, value))
        else:
            found[key] = rate_values(value)
    return found


def with_numbers(experiment: Experiment, numbers: Mapping[str, Any]) -> Experiment:
    """`experiment` with what `numbers_of` gave, as arrays of a traced program."""

    def given(key: str, value: Any) -> Any:
        if not key.startswith("model."):
            return value
        if isinstance(value[0] if isinstance(value, tuple) else None, tuple):
            return tuple(map(Given, value))
        return Given(value)

    return with_values(experiment, {key: given(key, value) for key, value in numbers.items()})
