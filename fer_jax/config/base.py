"""What every group of settings is made with."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict
from pydantic.dataclasses import dataclass as validated

__all__ = ["STRICT", "Floats", "Given", "Ints", "Strings", "off", "validated", "with_values"]

STRICT = ConfigDict(extra="forbid")


def _sequence(value: Any) -> Any:
    """A lone value or "128,256" where a tuple is wanted, as a command line gives them."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value] if isinstance(value, (int, float)) else value


Ints = Annotated[tuple[int, ...], BeforeValidator(_sequence)]
Floats = Annotated[tuple[float, ...], BeforeValidator(_sequence)]
Strings = Annotated[tuple[str, ...], BeforeValidator(_sequence)]


class Given:
    """A setting whose number a traced program is given: `value` is an array, or several.

    Settings that networks hold must compare, which arrays do not: two are equal if they are one.
    """

    def __init__(self, value: Any):
        self.value = value


def with_values(settings: Any, values: Mapping[str, Any]) -> Any:
    """A copy of settings with dotted keys set to what is not checked: arrays of a traced program
    (`Given` in the settings of networks).

    Groups that no key lies in are the same objects.
    """
    changed = copy.copy(settings)
    for key, value in values.items():
        name, _, rest = key.partition(".")
        new = with_values(getattr(changed, name), {rest: value}) if rest else value
        object.__setattr__(changed, name, new)
    return changed


def off(value: Any) -> bool:
    """A number of the config is 0; one that a traced program is given may be anything."""
    return isinstance(value, (int, float)) and value == 0
