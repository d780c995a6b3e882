"""Threads that notice when a process of a job is lost, and end this one with a word.

JAX's own answer to a lost process is to abort the others, minutes later or at once and in the words
of its runtime, and a collective whose partner stands still never ends. Here every process tells
the job's key-value store each second that it lives, and reads who else does.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

#: Exit code of a process that ended because another one is lost.
LOST = 5
#: Seconds between two signs of life.
EVERY_S = 1.0
#: Where a collective has failed already, silence for so long is enough.
SUSPECT_S = 10.0
#: Seconds that a process which ends leaves to the others to read why.
_LAST_WORDS_S = 5.0

_ABORT = ctypes.CFUNCTYPE(None, ctypes.c_int)


class Watch:
    """Of one process over the others.

    Attributes:
      hosts: name of each process's host, as far as it is known.
      undo: called where this process ends for a mistake of the user's that another one found.
    """

    def __init__(self, client: Any, process: int, count: int, address: str, timeout_s: float):
        """Args:
        client: JAX's, of the job's key-value store, which lives in process 0 at `address`.
        timeout_s: a process that is silent for so long is lost.
        """
        self._client, self._me, self._count = client, process, count
        self._address, self._timeout_s = address, timeout_s
        self.hosts: list[str] = [""] * count
        self.undo: Callable[[], None] = lambda: None
        now = time.monotonic()
        self._signs: list[tuple[str, float]] = [("", now)] * count
        self._spoken = now
        self._suspect = self._over = False
        self._ending = threading.Lock()

    def start(self) -> None:
        # Two: the one that speaks hangs where process 0 stands still.
        for target in (self._speak, self._look):
            threading.Thread(target=target, name=f"fer-jax {target.__name__}", daemon=True).start()

    def stop(self) -> None:
        self._over = True

    def name(self, process: int) -> str:
        host = self.hosts[process]
        return f"process {process}" + (f" ({host})" if host else "")

    def suspect(self) -> None:
        """A collective failed: waits until it is known who is lost, and ends this process; returns
        where nobody is."""
        self._suspect = True
        time.sleep(min(self._timeout_s, SUSPECT_S) + 3 * EVERY_S)

    def leave(self, code: int, line: str) -> None:
        """Ends this process with this exit code, and the others with it.

        Args:
          line: why, for the others.
        """
        with self._ending:
            self._over = True
            with contextlib.suppress(Exception):
                word = json.dumps({"code": code, "line": line})
                self._client.key_value_set(f"fer-jax/failed/{self._me}", word, allow_overwrite=True)
                self._part()
            _exit(code)

    def _part(self, lost: int = 0) -> None:
        """Says that this process ends; process 0, where the word lies, waits for the others, but
        for so many that are lost."""
        self._client.key_value_set(f"fer-jax/gone/{self._me}", "", allow_overwrite=True)
        until = time.monotonic() + min(_LAST_WORDS_S, self._timeout_s)
        while self._me == 0 and time.monotonic() < until:
            if len(self._client.key_value_dir_get("fer-jax/gone/")) >= self._count - lost:
                return
            time.sleep(0.1)

    def _speak(self) -> None:
        beat = 0
        while not self._over:
            beat += 1
            try:
                self._client.key_value_set(
                    f"fer-jax/alive/{self._me}", str(beat), allow_overwrite=True
                )
                alive = self._client.key_value_dir_get("fer-jax/alive/")
                failed = self._client.key_value_dir_get("fer-jax/failed/")
            except Exception:  # Process 0 does not answer: `_look` sees for how long.
                time.sleep(EVERY_S)
                continue
            now = self._spoken = time.monotonic()
            for key, value in alive:
                process = int(key.rpartition("/")[2])
                if value != self._signs[process][0]:
                    self._signs[process] = value, now
            others = [word for word in failed if word[0] != f"fer-jax/failed/{self._me}"]
            if others and not self._over:
                self._follow(others)
            time.sleep(EVERY_S)

    def _follow(self, failed: Sequence[tuple[str, str]]) -> None:
        key, text = failed[0]
        word = json.loads(text)
        with self._ending:
            if not self._over:
                self._over = True
                _say(f"{self.name(int(key.rpartition('/')[2]))} ended: {word['line']}")
                with contextlib.suppress(Exception):
                    self._part()
                if word["code"] == 2:
                    with contextlib.suppress(OSError):
                        self.undo()
                _exit(word["code"])

    def _look(self) -> None:
        before = time.monotonic()
        while not self._over:
            time.sleep(EVERY_S / 2)
            limit = min(self._timeout_s, SUSPECT_S) if self._suspect else self._timeout_s
            now = time.monotonic()
            if now - before > limit / 2:  # This process stood still itself, and heard nothing.
                self._spoken = now
                self._signs = [(value, now) for value, _ in self._signs]
            before = now
            if now - self._spoken > limit and self._me != 0:
                self._lost(0, now - self._spoken)
            # Signs are as old as the last look at them.
            silent = [self._spoken - when for _, when in self._signs]
            silent[self._me] = 0.0
            if max(silent) > limit:
                self._lost(silent.index(max(silent)), max(silent))

    def _lost(self, process: int, seconds: float) -> None:
        with self._ending:
            if self._over:
                return
            self._over = True
            line = (
                f"nothing was heard of {self.name(process)} for {seconds:.0f} s "
                f"(--parallel.timeout_s): it is lost; start all processes again, and they go on "
                "from the last checkpoint"
            )
            _say(line)
            if process != 0:  # The others need not wait as long.
                with contextlib.suppress(Exception):
                    word = json.dumps({"code": LOST, "line": line})
                    self._client.key_value_set(f"fer-jax/failed/{self._me}", word)
                    self._part(lost=1)
            _exit(LOST)


def catch_abort(address: str, process: int) -> None:
    """Gives the last word where JAX's runtime aborts this process: it does so as soon as process 0
    closes its connection, and where processes do not find each other at the start.

    Args:
      address: of process 0.
    """

    def end(signum: int) -> None:
        del signum
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
            said = "JAX ended this process; its words are above"
        except OSError:
            said = f"process 0 is gone, or cannot be reached at {address}"
        if process == 0:
            said = "JAX ended this process; its words are above"
        _say(f"{said}; start all processes again, and they go on from the last checkpoint")
        _exit(LOST)

    global _on_abort  # The C library keeps no reference.
    _on_abort = _ABORT(end)
    # Python's own handlers run between two of its instructions: never, in a process that aborts.
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, _ABORT], ctypes.c_void_p
    libc.signal(signal.SIGABRT, _on_abort)


_on_abort: Any = None


def _say(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(f"fer-jax: {line}", file=sys.stderr, flush=True)


def _exit(code: int) -> None:
    """At once: at Python's own end JAX would wait for the processes that are lost."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)
