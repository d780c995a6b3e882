"""What every group of settings is made with."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict
from pydantic.dataclasses import dataclass as validated

__all__ = ["STRICT", "Floats", "Ints", "Strings", "validated"]

STRICT = ConfigDict(extra="forbid")


def _sequence(value: Any) -> Any:
    """A lone value or "128,256" where a tuple is wanted, as a command line gives them."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value] if isinstance(value, (int, float)) else value


Ints = Annotated[tuple[int, ...], BeforeValidator(_sequence)]
Floats = Annotated[tuple[float, ...], BeforeValidator(_sequence)]
Strings = Annotated[tuple[str, ...], BeforeValidator(_sequence)]
