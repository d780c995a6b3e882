"""What a sweep searches: from text, checked before anything starts, to a trial's config."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fer_jax.config import (
    Choice,
    Experiment,
    Integers,
    Sweep,
    Uniform,
    choice,
    override,
)
from fer_jax.config.sweep import Values, as_text
from fer_jax.errors import UserError

Space = Mapping[str, Values]

#: What decides how trials are measured, named or run: they share it.
_SHARED = (
    "name", "paper", "reported", "protocol", "parallel", "checkpoint", "track", "data.dir",
    "data.labels", "train.monitor", "train.evaluate_every",
)  # fmt: skip
_FORMS = "log:1e-5:1e-2, uniform:0:0.5, int:16:128:16, logint:8:256 or 32,64,128"
#: Figures that a sweep may search by; the test part is for the trial that it chose.
OBJECTIVES = (
    "validation/accuracy", "validation/uar", "validation/macro_f1", "validation/loss",
    "validation/landmark_error",
)  # fmt: skip


def parse(words: Sequence[str]) -> dict[str, Values]:
    """The space of `--space KEY=SPEC` words.

    SPEC is log:LOW:HIGH, uniform:LOW:HIGH, int:LOW:HIGH[:STEP], logint:LOW:HIGH, or values with
    commas between them (with | between them, if the values are lists).

    Raises:
      UserError: a word that is none of these, or a key given twice.
    """
    space: dict[str, Values] = {}
    for word in words:
        key, equals, text = word.removeprefix("--").partition("=")
        if not equals or not key or not text:
            raise UserError(f"--space {word}: give a key and values, as in optim.lr={_FORMS}")
        if key in space:
            raise UserError(f"--space {key} is given twice")
        try:
            space[key] = _values(text)
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise UserError(f"--space {word}: {reason}") from None
        except ValueError:
            raise UserError(f"--space {word}: give {_FORMS}") from None
    return space


def _values(text: str) -> Values:
    kind, *rest = text.split(":")
    if kind in ("log", "uniform"):
        low, high = map(float, rest)
        return Uniform(low=low, high=high, log=kind == "log")
    if kind in ("int", "logint"):
        low, high, *step = map(int, rest)
        (size,) = step or [1]
        return Integers(low=low, high=high, step=size, log=kind == "logint")
    return choice(*(part.strip() for part in text.split("|" if "|" in text else ",")))


def to_json(space: Space) -> dict[str, Any]:
    """A document that is equal for equal spaces."""
    return TypeAdapter(dict[str, Values]).dump_python(dict(space), mode="json")


def resolve(experiment: Experiment, sweep: Sweep) -> Experiment:
    """The config that all trials share: `experiment` with what the sweep fixes and its objective.

    Raises:
      UserError: a key that does not exist, cannot be searched or whose values are wrong, or an
        objective that is no figure of the validation part.
    """
    if not sweep.space:
        raise UserError(f"nothing to search: add --space optim.lr={_FORMS}, or a sweep() function")
    for key in sweep.space:
        if any(key == part or key.startswith(f"{part}.") for part in _SHARED):
            raise UserError(
                f"--space {key}: trials must share {key}, or they could not be compared"
            )
    objective = sweep.objective or experiment.train.monitor
    if objective not in OBJECTIVES:
        near = get_close_matches(objective, OBJECTIVES, n=1, cutoff=0.4)
        raise UserError(
            f"--objective {objective}: choose {', '.join(OBJECTIVES)}"
            + (f"; did you mean {near[0]}?" if near else "")
        )
    fixed = {key: as_text(value) for key, value in sweep.fixed.items()}
    experiment = changed(experiment, {**fixed, "train.monitor": objective})
    # Each end of a range and each choice, beside the first of every other key.
    first = {key: _some(values)[0] for key, values in sweep.space.items()}
    for key, values in sweep.space.items():
        for text in _some(values):
            changed(experiment, {**first, key: text})
    return experiment


def _some(values: Values) -> tuple[str, ...]:
    return values.values if isinstance(values, Choice) else (str(values.low), str(values.high))


def changed(experiment: Experiment, values: Mapping[str, Any]) -> Experiment:
    """`experiment` with dotted keys set; a number at the end of a key is a place in a list.

    Raises:
      UserError: an unknown key (names the nearest), a wrong value, no such place.
    """
    # Choosing a network sets its keys to their defaults: it comes first.
    for key in sorted(values, key=lambda key: key != "model.name"):
        text = as_text(values[key])
        name, _, place = key.rpartition(".")
        if place.isdigit():
            listed = _listed(experiment, name)
            if int(place) >= len(listed):
                raise UserError(f"--{key}: --{name} has {len(listed)} values, counted from 0")
            try:
                listed[int(place)] = json.loads(text)
            except ValueError:
                listed[int(place)] = text
            key, text = name, json.dumps(listed)
        experiment = override(experiment, [(key, text)])
    return experiment


def _listed(experiment: Experiment, key: str) -> list[Any]:
    value: Any = experiment.to_json()
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if not isinstance(value, list):
        override(experiment, [(key, "[]")])  # Says what is wrong with a key that does not exist.
        raise UserError(f"--{key} holds no list")
    return list(value)


def combinations(space: Space) -> list[dict[str, Any]]:
    """Every combination of a space without ranges, in order.

    Raises:
      UserError: a range, of which there is no end.
    """
    found: list[dict[str, Any]] = [{}]
    for key, values in space.items():
        if isinstance(values, Uniform) or (isinstance(values, Integers) and values.log):
            raise UserError(
                f"--sampler grid: {key} is a range; give its values, as in --space "
                f"{key}={values.low:g},{values.high:g}"
            )
        if isinstance(values, Integers):
            each: Sequence[Any] = range(values.low, values.high + 1, values.step)
        else:
            each = values.values
        found = [{**one, key: value} for one in found for value in each]
    return found


def distributions(space: Space) -> dict[str, Any]:
    """What Optuna calls the space."""
    from optuna import distributions as known

    found: dict[str, Any] = {}
    for key, values in space.items():
        if isinstance(values, Uniform):
            found[key] = known.FloatDistribution(values.low, values.high, log=values.log)
        elif isinstance(values, Integers):
            # Optuna warns where the last step does not end at `high`.
            high = values.high - (values.high - values.low) % values.step
            found[key] = known.IntDistribution(values.low, high, log=values.log, step=values.step)
        else:
            found[key] = known.CategoricalDistribution(values.values)
    return found
