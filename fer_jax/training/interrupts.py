"""Ctrl-C and SIGTERM as a wish to stop soon, not as an exception anywhere."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupted(KeyboardInterrupt):
    """Training stopped on request, after saving. `signum` says which signal asked."""

    def __init__(self, message: str, signum: int):
        super().__init__(message)
        self.signum = signum


class Interrupts:
    """`with Interrupts() as interrupts:` notes the first SIGINT or SIGTERM in `interrupts.signum`.

    A second one raises KeyboardInterrupt where it arrives. Signals can only be caught in the main
    thread; in another thread this does nothing.
    """

    signum: int = 0

    def __enter__(self) -> Interrupts:
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._before[signum] = signal.signal(signum, self._note)
        return self

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signum:
            raise Interrupted("stopped at once, nothing saved since the last checkpoint", signum)
        self.signum = signum

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
