"""How many steps go into one device call, and how fast they are."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from fer_jax.training import parallel
from fer_jax.training.distributed import Votes
from fer_jax.training.metrics import Metrics
from fer_jax.training.profile import NO_WINDOW, Window

#: What a call should last: long beside the cost of a call, short beside a person's patience.
TARGET_S = 0.5


class Rate(NamedTuple):
    """Of calls that were measured: all but the first, which compiles."""

    steps: int = 0
    seconds: float = 0.0
    stalled: float = 0.0
    """Seconds in which the devices had nothing to do but to wait for data."""


class Pace:
    """Steps of the next call: a fixed number, or as many as take `TARGET_S`.

    What is chosen changes no result: see `fer_jax.training.steps`.

    Attributes:
      size: the steps.
      wanted: what this process would choose; of several, `size` is what all can do.
    """

    def __init__(self, fixed: int = 0):
        self._fixed, self._compiled, self._since = fixed, False, 0.0
        self._rate = Rate()
        self.size = self.wanted = fixed or 1

    def begin(self) -> None:
        self._since = time.monotonic()

    def stalled(self, seconds: float) -> None:
        """The devices were idle while the host waited so long for data."""
        if self._compiled:
            self._rate = self._rate._replace(stalled=self._rate.stalled + seconds)

    def finished(self, steps: int) -> None:
        """A call of so many steps is over, and the next one has the devices."""
        now = time.monotonic()
        seconds, self._since = max(now - self._since, 1e-6), now
        # The first call compiles, so its time says nothing.
        if self._compiled:
            done = self._rate
            self._rate = Rate(done.steps + steps, done.seconds + seconds, done.stalled)
            if not self._fixed:
                self.wanted = int(np.clip(TARGET_S / seconds * steps, 1, 8 * self.size))
                self.size = self.wanted
        self._compiled = True

    def take_rate(self) -> Rate:
        """Since this was asked last."""
        found, self._rate = self._rate, Rate()
        return found


def run_calls(
    pace: Pace,
    mesh: Mesh,
    start: int,
    steps: int,
    call: Callable[[Any, Any, Any], Metrics],
    check: Callable[[Metrics], None],
    stopped: Callable[[], bool],
    take: Callable[[], Any] = lambda: None,
    window: Window = NO_WINDOW,
    votes: Votes | None = None,
) -> int:
    """Runs steps `start` to `steps` as calls; each is sent before its predecessor is waited for.

    Args:
      call: sends what `take` gave, and steps i32[] to i32[], to the devices and returns their
        metrics, not yet there.
      check: looks at the metrics of a finished call, on the host.
      stopped: True ends early, after the call in progress.
      take: gives a call's data, when it is there.
      window: of the profiler.
      votes: of several processes, whose calls have to be the same.

    Returns:
      The step that was reached.
    """
    waiting: tuple[int, Metrics, jax.Array | None] | None = None

    def wait() -> None:
        nonlocal waiting
        if waiting is not None:
            done, *sent = waiting
            counted, vote = jax.device_get(sent)
            pace.finished(done)
            if votes is not None:
                pace.size = votes.count(vote)
            waiting = None
            check(counted)

    pace.begin()
    while start < steps and not stopped():
        if window.turns(start):
            wait()
            window.turn(start)
        stop = min(start + pace.size, steps, window.end(start))
        bounds = parallel.replicate((np.int32(start), np.int32(stop)), mesh)
        begun = time.monotonic()
        data = take()
        if waiting is None or _is_ready(waiting[1]):
            pace.stalled(time.monotonic() - begun)
        with jax.transfer_guard("disallow"):
            counted = call(data, *bounds)
        vote = votes.cast(pace.wanted) if votes is not None else None
        wait()
        waiting, start = (stop - start, counted, vote), stop
    wait()
    return start


def _is_ready(tree: Any) -> bool:
    return all(leaf.is_ready() for leaf in jax.tree.leaves(tree))
