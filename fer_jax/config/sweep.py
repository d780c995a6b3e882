"""The space of a sweep: which keys of a config are searched, and among what.

    def sweep() -> Sweep:
        return Sweep(
            space={
                "optim.lr": log_uniform(1e-5, 1e-2),
                "model.units.1": integers(4, 48, step=4),
                "model.activation": choice("tanh", "selu"),
            },
            fixed={"train.epochs": 25},
            objective="validation/loss",
            trials=30,
        )

A number behind a key that holds a list is one of its places: "model.units.1" is the second layer.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import Field

from fer_jax.config.base import STRICT, validated


@validated(frozen=True, kw_only=True, config=STRICT)
class Uniform:
    """A number between `low` and `high`, or its logarithm."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        _ordered(self.low, self.high, self.log)


@validated(frozen=True, kw_only=True, config=STRICT)
class Integers:
    """A whole number: low, low + step, ... up to `high`, or evenly by logarithm."""

    low: int
    high: int
    step: int = Field(default=1, ge=1)
    log: bool = False

    def __post_init__(self) -> None:
        _ordered(self.low, self.high, self.log)
        if self.log and self.step != 1:
            raise ValueError("whole numbers by logarithm have no step")


@validated(frozen=True, kw_only=True, config=STRICT)
class Choice:
    """One of some values, each as it stands on a command line: "tanh", "0.2", "32,64"."""

    values: tuple[str, ...] = Field(min_length=1)

    def __post_init__(self) -> None:
        if len(set(self.values)) < len(self.values):
            raise ValueError(f"give every value once, not {', '.join(self.values)}")


Values = Uniform | Integers | Choice


def _ordered(low: float, high: float, log: bool) -> None:
    if not low <= high:
        raise ValueError(f"{low:g} is above {high:g}")
    if log and low <= 0:
        raise ValueError(f"a logarithm needs numbers above 0, not {low:g}")


def uniform(low: float, high: float) -> Uniform:
    return Uniform(low=low, high=high)


def log_uniform(low: float, high: float) -> Uniform:
    return Uniform(low=low, high=high, log=True)


def integers(low: int, high: int, *, step: int = 1, log: bool = False) -> Integers:
    return Integers(low=low, high=high, step=step, log=log)


def choice(*values: Any) -> Choice:
    """One of `values`: numbers, words, or tuples of them for a key that holds a list."""
    return Choice(values=tuple(map(as_text, values)))


def as_text(value: Any) -> str:
    """A value as it stands on a command line."""
    if isinstance(value, (tuple, list)):
        return ",".join(map(as_text, value))
    return value if isinstance(value, str) else json.dumps(value)


@validated(frozen=True, kw_only=True, config=STRICT)
class Sweep:
    """What `fer-jax sweep CONFIG` searches, unless the command line says otherwise."""

    space: dict[str, Values]
    """By dotted key."""
    fixed: dict[str, Any] = Field(default_factory=dict)
    """Keys that every trial has in place of the config's."""
    objective: str = ""
    """A figure of the validation part, which becomes every trial's `train.monitor`; "" is the
    config's own."""
    trials: int = Field(default=30, ge=1)
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    pruner: Literal["median", "hyperband", "none"] = "median"
