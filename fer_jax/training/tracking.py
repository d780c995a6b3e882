"""TensorBoard events beside history.jsonl."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

NOT_INSTALLED = "no TensorBoard events: tensorboardX is not installed (pip install fer-jax[track])"


class Tracker:
    """Writes the figures of each epoch as TensorBoard scalars, if tensorboardX is installed.

    Attributes:
      note: why nothing is written, for the user; "" if something is.
    """

    def __init__(self, directory: Path, first_epoch: int, enabled: bool):
        self.note, self._writer = "", None
        if not enabled:
            return
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            self.note = NOT_INSTALLED
            return
        # A resumed run hides what it is about to write again.
        self._writer = SummaryWriter(str(directory), purge_step=first_epoch)

    def write(self, epoch: int, line: Mapping[str, Any]) -> None:
        """The scalars of a history line; names without a "/" go under "run/"."""
        if self._writer is None:
            return
        for name, value in line.items():
            if name != "epoch":
                tag = name if "/" in name else f"run/{name}"
                self._writer.add_scalar(tag, value, epoch)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
