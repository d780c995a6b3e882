"""How many steps go into one device call."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from fer_jax.training import parallel
from fer_jax.training.metrics import Metrics

#: What a call should last: long beside the cost of a call, short beside a person's patience.
TARGET_S = 0.5


class Pace:
    """Steps of the next call: a fixed number, or as many as take `TARGET_S`.

    What is chosen changes no result: see `fer_jax.training.steps`.
    """

    def __init__(self, fixed: int = 0):
        self._fixed, self._compiled, self._since = fixed, False, 0.0
        self.size = fixed or 1

    def begin(self) -> None:
        self._since = time.monotonic()

    def finished(self, steps: int) -> None:
        """A call of so many steps is over, and the next one has the devices."""
        now = time.monotonic()
        each, self._since = max(now - self._since, 1e-6) / steps, now
        # The first call compiles, so its time says nothing.
        if self._compiled and not self._fixed:
            self.size = int(np.clip(TARGET_S / each, 1, 8 * self.size))
        self._compiled = True


def run_calls(
    pace: Pace,
    mesh: Mesh,
    start: int,
    steps: int,
    call: Callable[[Any, Any], Metrics],
    check: Callable[[Metrics], None],
    stopped: Callable[[], bool],
) -> int:
    """Runs steps `start` to `steps` as calls; each is sent before its predecessor is waited for.

    Args:
      call: sends steps i32[] to i32[] to the devices and returns their metrics, not yet there.
      check: looks at the metrics of a finished call, on the host.
      stopped: True ends early, after the call in progress.

    Returns:
      The step that was reached.
    """
    waiting: tuple[int, Metrics] | None = None

    def wait() -> None:
        if waiting is not None:
            counted = jax.device_get(waiting[1])
            pace.finished(waiting[0])
            check(counted)

    pace.begin()
    while start < steps and not stopped():
        stop = min(start + pace.size, steps)
        bounds = parallel.replicate((np.int32(start), np.int32(stop)), mesh)
        with jax.transfer_guard("disallow"):
            counted = call(*bounds)
        wait()
        waiting, start = (stop - start, counted), stop
    wait()
    return start
