"""Where jobs run: processes of this machine, or a Ray cluster. One interface, two engines.

An engine calls one function on many jobs and survives the death of a worker: the job that it was
at ends with `WorkerDied`, the others go on, and a new worker takes the dead one's place. What to do
about the job is for the caller to decide. Preprocessing's jobs are shards, a sweep's are trials.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import socket
import threading
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from fer_jax.errors import UserError
from fer_jax.machine import available_cores

ENGINES = ("local", "ray")


class WorkerDied(Exception):
    """A worker ended before its job did: a crash in native code, a signal, lack of memory.

    Attributes:
      signal: what killed it, 0 if it exited or the engine does not know.
      machine_lost: the whole machine went, which says nothing about the job.
    """

    def __init__(self, reason: str, signal_number: int = 0, machine_lost: bool = False) -> None:
        super().__init__(reason)
        self.signal = signal_number
        self.machine_lost = machine_lost


@dataclass(frozen=True)
class Outcome:
    """What became of a job: the function's value, or the error that ended it."""

    job: Any
    value: Any = None
    error: Exception | None = None


class Engine(Protocol):
    """Runs a function on jobs. Leaving its `with` block stops whatever still runs, at once.

    Attributes:
      workers: how many jobs it does at a time.
    """

    workers: int

    def submit(self, job: Any) -> None:
        """Queue a job."""

    def wait(self, seconds: float) -> list[Outcome]:
        """What has ended, after at most `seconds`; maybe nothing."""
        ...

    def __enter__(self) -> Engine: ...

    def __exit__(self, *exception: object) -> None: ...


def make_engine(
    name: str,
    function: Callable[[Any], Any],
    workers: int | None,
    log: str = os.devnull,
    *,
    environments: Sequence[Mapping[str, str]] = (),
    gpus: bool = False,
) -> Engine:
    """The engine called `name`.

    Args:
      name: "local" or "ray".
      function: what is done to every job; importable by name, like the jobs picklable.
      workers: at most so many at a time; None for every core that may be used (with `gpus`, for
        every GPU).
      log: file that takes what local workers write to stderr.
      environments: variables of local workers, one after another; none of them has more than one
        worker.
      gpus: a job takes a GPU of a Ray cluster that has some.

    Raises:
      UserError: unknown engine, Ray not installed, no Ray cluster.
    """
    if name == "local":
        return LocalEngine(function, workers or available_cores(), log, environments)
    if name == "ray":
        return RayEngine(function, workers, gpus)
    raise UserError(f"unknown engine {name!r}; known are {', '.join(ENGINES)}")


@dataclass
class _Worker:
    """One process, our end of its pipe, and the job it is at."""

    process: Any
    connection: Connection
    environment: Mapping[str, str]
    ready: bool = False
    job: Any = None


class LocalEngine:
    """Spawned processes, each with a pipe of its own, so that a death is one job's and no other's.

    (concurrent.futures gives up all jobs when one worker dies.)
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        workers: int,
        log: str,
        environments: Sequence[Mapping[str, str]] = (),
    ) -> None:
        self._function = function
        self._free = list(environments) or [{}] * workers
        self.workers = min(workers, len(self._free))
        self._log = log
        self._context = multiprocessing.get_context("spawn")
        self._queue: deque[Any] = deque()
        self._processes: list[_Worker] = []

    def submit(self, job: Any) -> None:
        self._queue.append(job)

    def wait(self, seconds: float) -> list[Outcome]:
        busy = sum(worker.job is not None for worker in self._processes)
        while len(self._processes) < min(self.workers, busy + len(self._queue)):
            self._processes.append(self._start())
        self._hand_out()
        by_handle: dict[Any, _Worker] = {w.connection: w for w in self._processes}
        by_handle |= {w.process.sentinel: w for w in self._processes}
        ended = {
            id(by_handle[handle]): by_handle[handle] for handle in wait(list(by_handle), seconds)
        }
        outcomes = [outcome for worker in ended.values() for outcome in self._hear(worker)]
        self._hand_out()
        return outcomes

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        environment = self._free.pop(0)
        process = self._context.Process(
            target=_serve, args=(theirs, self._function, self._log, environment), daemon=True
        )
        process.start()
        # With our copy closed, the end of the process is the end of the pipe.
        theirs.close()
        return _Worker(process, ours, environment)

    def _hand_out(self) -> None:
        for worker in self._processes:
            if worker.ready and worker.job is None and self._queue:
                worker.job = self._queue.popleft()
                try:
                    worker.connection.send(worker.job)
                except OSError:
                    continue  # It died just now; its sentinel tells the next wait.

    def _hear(self, worker: _Worker) -> list[Outcome]:
        """Take a worker's message, or its death."""
        try:
            message = worker.connection.recv() if worker.connection.poll() else None
        except (EOFError, OSError):
            message = None
        if message is None:
            return self._bury(worker)
        value, error, trace = message
        if not worker.ready:
            worker.ready = True
            return []
        job, worker.job = worker.job, None
        if error is not None and trace:
            error.add_note(trace)
        return [Outcome(job, value, error)]

    def _bury(self, worker: _Worker) -> list[Outcome]:
        self._processes.remove(worker)
        self._free.append(worker.environment)
        worker.process.join()
        worker.connection.close()
        code = worker.process.exitcode
        if not worker.ready:
            raise RuntimeError(f"a worker process could not start (exit code {code})")
        if worker.job is None:
            return []
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return [Outcome(worker.job, error=WorkerDied(name, max(0, -code)))]

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in self._processes:
            worker.process.kill()
        for worker in self._processes:
            worker.process.join()
            worker.connection.close()
        self._processes.clear()


def _serve(
    connection: Connection,
    function: Callable[[Any], Any],
    log: str,
    environment: Mapping[str, str],
) -> None:
    """The life of a local worker: say that it is ready, then a job after the other."""
    os.environ.update(environment)
    # Ctrl-C reaches the whole terminal; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Native libraries write past sys.stderr, into the middle of a progress bar.
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 2)
    connection.send((None, None, ""))
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        try:
            message = (function(job), None, "")
        except Exception as error:
            message = (None, *_portable(error))
        connection.send(message)


def _end_with_parent() -> None:
    """A parent that is killed cannot stop its workers: they end when it does."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _portable(error: Exception) -> tuple[Exception, str]:
    """The error if it survives pickling, else one that says the same; and its traceback."""
    trace = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}"), trace
    return error, trace


class RayEngine:
    """Tasks on an existing Ray cluster, one core each.

    Every node needs this package, and sees the same files under the same names. The end of a node
    is told from the end of a worker, which may be its job's own fault.
    """

    def __init__(
        self, function: Callable[[Any], Any], workers: int | None, gpus: bool = False
    ) -> None:
        try:
            import ray  # pyright: ignore[reportMissingImports]
            import ray.exceptions  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise UserError(
                "the engine ray needs Ray: pip install 'fer-jax[ray]', or use the engine local"
            ) from error
        if not ray.is_initialized():
            _check_address(os.environ.get("RAY_ADDRESS", ""))
            try:
                ray.init(address="auto", log_to_driver=False)
            except ConnectionError as error:
                raise UserError(
                    "no Ray cluster here: `ray start --head` makes one, RAY_ADDRESS names one"
                ) from error
        self._ray = ray
        there = ray.cluster_resources()
        gpus = gpus and there.get("GPU", 0) >= 1
        # A retry is the caller's decision: Ray's own would rebuild around no clip.
        remote = ray.remote(num_cpus=1, num_gpus=int(gpus), max_retries=0)
        self._function = remote(function)
        self.workers = workers or max(1, int(there.get("GPU" if gpus else "CPU", 1)))
        self._queue: deque[Any] = deque()
        self._running: dict[Any, Any] = {}

    def submit(self, job: Any) -> None:
        self._queue.append(job)

    def wait(self, seconds: float) -> list[Outcome]:
        while self._queue and len(self._running) < self.workers:
            job = self._queue.popleft()
            self._running[self._function.remote(job)] = job
        if not self._running:
            return []
        ended, _ = self._ray.wait(list(self._running), timeout=seconds)
        return [self._outcome(reference) for reference in ended]

    def _outcome(self, reference: Any) -> Outcome:
        job = self._running.pop(reference)
        try:
            return Outcome(job, self._ray.get(reference))
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause
            return Outcome(job, error=cause if isinstance(cause, Exception) else error)
        except (self._ray.exceptions.NodeDiedError, self._ray.exceptions.ObjectLostError) as error:
            died = WorkerDied(f"Ray: {type(error).__name__}", machine_lost=True)
            return Outcome(job, error=died)
        except self._ray.exceptions.RayError as error:
            return Outcome(job, error=WorkerDied(f"Ray: {type(error).__name__}"))

    def __enter__(self) -> RayEngine:
        return self

    def __exit__(self, *exception: object) -> None:
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running.clear()


def _check_address(address: str) -> None:
    """Ray itself would ask an address where nobody answers for minutes.

    Raises:
      UserError: nobody answers at HOST:PORT; other addresses are left to Ray.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        try:
            socket.create_connection((host, int(port)), 10).close()
        except OSError as error:
            raise UserError(
                f"no Ray cluster at {address} ({error.strerror or error}): RAY_ADDRESS names it; "
                "`ray start --head` makes one"
            ) from None
