"""What the commands of `fer-jax` have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from fer_jax.errors import UserError

#: Adds a command: its name, the function that runs it, what it does, an example.
Add = Callable[[str, Callable[..., Any], str, str], argparse.ArgumentParser]
#: The option of commands that evaluate.
RESULTS: dict[str, Any] = {
    "type": Path, "metavar": "CSV", "help": "add the result to a table of runs"
}  # fmt: skip


class Parser(argparse.ArgumentParser):
    """Whose mistakes are the user's."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see `{self.prog} --help`)")
