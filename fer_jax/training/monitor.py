"""Which epoch is the best one, and when it is time to stop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fer_jax import config
from fer_jax.errors import UserError


def direction(monitor: str) -> float:
    """1 where more of the monitored figure is better, -1 where less is."""
    return -1.0 if monitor.endswith(("/loss", "_error")) else 1.0


@dataclass(frozen=True)
class Monitor:
    """What the monitored figure has done so far.

    The best epoch is the first with the best figure, however small the gain (Keras's
    ModelCheckpoint). Stopping looks at gains of more than `min_delta` only (Keras's EarlyStopping).
    Epochs count from 1; 0 is none yet.
    """

    best: float | None = None
    best_epoch: int = 0
    reference: float | None = None
    reference_epoch: int = 0

    def update(self, settings: config.Train, epoch: int, value: float) -> Monitor:
        """The monitor after `epoch` gave `value`. `best_epoch == epoch` says it is the best."""
        best, reference = (self.best, self.best_epoch), (self.reference, self.reference_epoch)
        sign = direction(settings.monitor)
        if self.best is None or sign * value > sign * self.best:
            best = (value, epoch)
        gain = settings.early_stop.min_delta
        if self.reference is None or sign * value > sign * self.reference + gain:
            reference = (value, epoch)
        return Monitor(*best, *reference)

    def exhausted(self, settings: config.Train, epoch: int) -> bool:
        """`early_stop.patience` epochs have passed without a gain."""
        patience = settings.early_stop.patience
        return patience > 0 and epoch - self.reference_epoch >= patience


def judge(
    settings: config.Train, monitor: Monitor, epoch: int, line: Mapping[str, Any], lr: float
) -> tuple[Monitor, str]:
    """The monitor after an epoch's line of history, and why training is over ("" if it is not).

    Args:
      lr: the config's, for the message.

    Raises:
      UserError: the monitored figure is not finite.
    """
    finished = ""
    if settings.monitor in line:
        value = line[settings.monitor]
        if not math.isfinite(value):
            raise UserError(
                f"{settings.monitor} is not finite in epoch {epoch}: lower --optim.lr (now "
                f"{lr:g}), in another run directory"
            )
        monitor = monitor.update(settings, epoch, value)
        if monitor.exhausted(settings, epoch):
            finished = "early stop"
    if epoch == settings.epochs:
        finished = finished or "epochs"
    return monitor, finished
