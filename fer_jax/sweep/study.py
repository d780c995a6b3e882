"""The study, in a journal file or a database, and who has which of its trials.

A trial belongs to the driver that took it. When that driver is gone, the next one that looks takes
the trial over, with its number, parameters and run directory. Everything about who has what is done
under one lock, so that no trial is taken twice: a file's lock beside the journal, which the kernel
frees with its process; a lock of the database, which goes with the connection.
"""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import FrozenTrial, TrialState

from fer_jax.errors import UserError

#: Seconds between two signs of life in a database, and without one until a trial is taken over.
BEAT_S, GRACE_S = 5, 30


@dataclass(frozen=True)
class Address:
    """Where a study is.

    Attributes:
      storage: a journal file, or a database's URL.
      name: of the study.
    """

    storage: str
    name: str

    @property
    def in_database(self) -> bool:
        return "://" in self.storage

    def shown(self) -> str:
        """For people: without a password."""
        if not self.in_database:
            return self.storage
        from sqlalchemy.engine import make_url

        return make_url(self.storage).render_as_string(hide_password=True)


class _JournalLock:
    """Held by a process, not by a file's existence: a writer that is killed leaves none behind."""

    def __init__(self, journal: Path):
        self._journal = journal
        self._thread = threading.Lock()
        self._file: Any = None

    def acquire(self) -> bool:
        self._thread.acquire()
        self._file = open(f"{self._journal}.lock", "a")  # noqa: SIM115
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._mend()
        return True

    def release(self) -> None:
        self._file.close()
        self._thread.release()

    def _mend(self) -> None:
        """Takes away the line that a machine which lost its power wrote half of."""
        with open(self._journal, "rb+") as file:
            size = file.seek(0, os.SEEK_END)
            if not size:
                return
            file.seek(size - 1)
            if file.read() != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)


@lru_cache(maxsize=4)
def open_storage(address: Address) -> optuna.storages.BaseStorage:
    """The storage of a study; one a process.

    Raises:
      UserError: a database that cannot be reached.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if not address.in_database:
        path = Path(address.storage)
        path.parent.mkdir(parents=True, exist_ok=True)
        lock: Any = _JournalLock(path)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    try:
        import psycopg  # noqa: F401
        from sqlalchemy import create_engine, text
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError, SQLAlchemyError
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install 'fer-jax[sweep]'") from None
    try:
        url = make_url(address.storage)
    except ArgumentError:
        raise UserError(
            f"--storage {address.storage}: give postgresql://USER:PASSWORD@HOST/DATABASE"
        ) from None
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise UserError(
            f"--storage {address.shown()}: give a PostgreSQL URL, or leave it out for a journal "
            "file in the sweep's directory"
        )
    url = url.set(drivername="postgresql+psycopg")
    options: dict[str, Any] = {"pool_pre_ping": True, "connect_args": {"connect_timeout": 10}}
    engine = create_engine(url, **options)
    try:
        with warnings.catch_warnings(), engine.begin() as connection:
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # Of drivers that begin together one makes the tables.
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('fer-jax sweep'))"))
            return optuna.storages.RDBStorage(
                url.render_as_string(hide_password=False),
                engine_kwargs=options,
                heartbeat_interval=BEAT_S,
                grace_period=GRACE_S,
            )
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise UserError(
            f"cannot reach {address.shown()}: {reason}; check that it runs and what --storage says "
            "of host, user and password (PGPASSWORD works too), or leave it out for a file"
        ) from None
    finally:
        engine.dispose()


class Ownership(Protocol):
    """Who has which trial."""

    def lock(self) -> Any:
        """A context that one driver at a time is in."""

    def take(self, trial_id: int) -> None:
        """Marks a trial as ours; under the lock."""

    def release(self, trial_id: int) -> None: ...

    def lost(self, running: Sequence[FrozenTrial]) -> list[int]:
        """Ids of running trials whose driver is gone; under the lock."""
        ...

    def close(self) -> None: ...


_DRIVER = "driver"


class FileOwnership:
    """By locked files in the sweep's directory: a driver's end is known at once.

    Where several machines share the directory, their file system must lock files (NFS 4 does).
    """

    def __init__(self, out: Path, storage: optuna.storages.BaseStorage):
        self._storage, self._out = storage, out / "drivers"
        self._out.mkdir(parents=True, exist_ok=True)
        self._name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._mine = open(self._out / self._name, "w")  # noqa: SIM115
        fcntl.flock(self._mine, fcntl.LOCK_EX)

    @contextmanager
    def lock(self) -> Iterator[None]:
        with open(self._out / ".lock", "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def take(self, trial_id: int) -> None:
        self._storage.set_trial_user_attr(trial_id, _DRIVER, self._name)

    def release(self, trial_id: int) -> None:
        pass

    def lost(self, running: Sequence[FrozenTrial]) -> list[int]:
        return [
            trial._trial_id for trial in running if not self._alive(trial.user_attrs.get(_DRIVER))
        ]

    def _alive(self, driver: str | None) -> bool:
        if not driver or not (self._out / driver).is_file():
            return False
        with open(self._out / driver) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    def close(self) -> None:
        (self._out / self._name).unlink(missing_ok=True)
        self._mine.close()


class DatabaseOwnership:
    """By signs of life in the database, on the database's clock."""

    def __init__(self, storage: Any, study: optuna.Study):
        self._storage, self._study = storage, study
        self._name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._mine: set[int] = set()
        self._ended = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    @contextmanager
    def lock(self) -> Iterator[None]:
        from sqlalchemy import text
        from sqlalchemy.exc import SQLAlchemyError

        try:
            with self._storage.engine.begin() as connection:
                # Freed with the transaction, and so with the process.
                connection.execute(
                    text("SELECT pg_advisory_xact_lock(hashtext(:name))"),
                    {"name": f"fer-jax sweep {self._study.study_name}"},
                )
                yield
        except SQLAlchemyError as error:
            raise optuna.exceptions.StorageInternalError("the database is gone") from error

    def take(self, trial_id: int) -> None:
        self._storage.record_heartbeat(trial_id)
        self._storage.set_trial_user_attr(trial_id, _DRIVER, self._name)
        self._mine.add(trial_id)

    def release(self, trial_id: int) -> None:
        self._mine.discard(trial_id)

    def lost(self, running: Sequence[FrozenTrial]) -> list[int]:
        silent = set(self._storage._get_stale_trial_ids(self._study._study_id)) - self._mine
        # Its driver ended between making it and taking it.
        silent |= {trial._trial_id for trial in running if _DRIVER not in trial.user_attrs}
        return sorted(silent)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            for trial_id in tuple(self._mine):
                try:
                    self._storage.record_heartbeat(trial_id)
                except Exception:  # The driver hears of a database that is gone by itself.
                    break

    def close(self) -> None:
        self._ended.set()


def suggest(trial: optuna.trial.Trial, distributions: Mapping[str, Any]) -> None:
    """Gives a trial what it has no value of yet."""
    for key, one in distributions.items():
        if isinstance(one, optuna.distributions.CategoricalDistribution):
            trial.suggest_categorical(key, one.choices)
        elif isinstance(one, optuna.distributions.IntDistribution):
            trial.suggest_int(key, one.low, one.high, step=one.step, log=one.log)
        else:
            trial.suggest_float(key, one.low, one.high, log=one.log)


def finish(study: optuna.Study, trial_id: int, result: Mapping[str, Any]) -> None:
    """Puts down what became of a trial: value, "pruned" or reason, epochs, seconds, run.

    Does nothing if it is over already, or was taken over in the meantime.
    """
    storage = study._storage
    trial = storage.get_trial(trial_id)
    if trial.state != TrialState.RUNNING:
        return
    for name in ("epochs", "seconds", "reason", "run"):
        if name in result:
            storage.set_trial_user_attr(trial_id, name, result[name])
    if "reason" in result:
        study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
    elif result.get("pruned"):
        study.tell(trial.number, state=TrialState.PRUNED, skip_if_finished=True)
    else:
        study.tell(trial.number, result["value"], skip_if_finished=True)
