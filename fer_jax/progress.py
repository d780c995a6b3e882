"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

#: Seconds between two lines where there is no terminal.
LINE_EVERY_S = 10.0


class Progress:
    """`with Progress("preprocess", "clips") as progress: progress(done, total, "3 quarantined")`.

    Writes to stderr, so that stdout stays the command's own.
    """

    def __init__(self, title: str, unit: str):
        self._title, self._unit = title, unit
        self._bar = self._task = None
        self._last = self._start = time.monotonic()
        self._shown: tuple[int, int, str] | None = None
        self._first: tuple[int, float] | None = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(self._unit),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=None, note="")
        return self

    def say(self, text: str) -> None:
        """A line of its own, above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(f"{self._title}: {text}", file=sys.stderr, flush=True)

    def __call__(self, done: int, total: int, note: str = "") -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, note=note)
            return
        now = time.monotonic()
        first, since = self._first = self._first or (done, now)
        due = now - self._last >= LINE_EVERY_S or done == total
        if due and (done, total, note) != self._shown:
            self._last, self._shown = now, (done, total, note)
            seconds = now - self._start
            rest = f", {note}" if note else ""
            # What was done before the first call, as by an earlier command, says nothing of speed.
            if first < done < total:
                left = (now - since) * (total - done) / (done - first)
                rest = f", {left:.0f} s left{rest}"
            print(
                f"{self._title}: {done}/{total} {self._unit}, {seconds:.0f} s{rest}",
                file=sys.stderr,
                flush=True,
            )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
