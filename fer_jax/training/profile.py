"""A window of steps that JAX's profiler looks at."""

from __future__ import annotations

from pathlib import Path

import jax


class Window:
    """The steps `first` to `last` of a run, those of epochs before included.

    Calls end where the window begins and ends; that changes no result.
    """

    def __init__(self, directory: Path, first: int, last: int):
        """Args:
        directory: for the trace: TensorBoard reads it, https://ui.perfetto.dev its
          perfetto_trace.json.gz.
        """
        self._directory, self._first, self._last = directory, first, last
        self._before, self._open = 0, False

    def begin_epoch(self, before: int) -> None:
        """So many steps were done in the epochs before."""
        self._before = before

    def end(self, step: int) -> int:
        """Where in the epoch a call from `step` on has to end at the latest."""
        done = self._before + step
        later = [edge for edge in (self._first, self._last) if edge > done]
        return min(later) - self._before if later else 1 << 31

    def turns(self, step: int) -> bool:
        """Whether the profiler starts or stops before this step of the epoch."""
        done = self._before + step
        return self._open == (not self._first <= done < self._last)

    def turn(self, step: int) -> None:
        """Starts or stops it; no call may be in progress."""
        if self._open:
            self.close()
        else:
            jax.profiler.start_trace(str(self._directory), create_perfetto_trace=True)
            self._open = True

    def close(self) -> None:
        """Stops it if it runs, and writes what it saw."""
        if self._open:
            self._open = False
            jax.profiler.stop_trace()


#: Looks at nothing.
NO_WINDOW = Window(Path(), 0, 0)
