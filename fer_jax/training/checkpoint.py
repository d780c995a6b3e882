"""Checkpoints: Orbax's files, sealed by a list of checksums that is verified before reading.

A checkpoint is one directory, named by its step, of three Orbax items: "state" (what training goes
on from), "best" (the best parameters so far) and "meta" (JSON). Both lie in one checkpoint, so
that they always agree. SHA256SUMS is written last and is what makes a checkpoint count; `sha256sum
-c SHA256SUMS` reads it too. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from fer_jax import storage
from fer_jax.errors import UserError

SEAL = "SHA256SUMS"


def _files(step: Path) -> list[str]:
    found = (p.relative_to(step).as_posix() for p in step.rglob("*") if p.is_file())
    return sorted(name for name in found if name not in (SEAL, f".{SEAL}"))


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(step: Path) -> None:
    """Writes the checksums of a complete checkpoint; its files are on disk when this returns."""
    lines = []
    for name in _files(step):
        with open(step / name, "rb") as file:
            os.fsync(file.fileno())
        lines.append(f"{_digest(step / name)}  {name}\n")
    temporary = step / f".{SEAL}"
    with open(temporary, "w") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(step / SEAL)
    for directory in (step, step.parent):
        handle = os.open(directory, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    storage.changed(step)


def damage(step: Path) -> str:
    """What is wrong with a sealed checkpoint, in words; "" if nothing."""
    try:
        lines = (step / SEAL).read_text().splitlines()
        sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except ValueError:
        return f"{step / SEAL} is damaged"
    found = set(_files(step))
    for name, digest in sums.items():
        if name not in found:
            return f"{step / name} is missing"
        if _digest(step / name) != digest:
            return f"{step / name} does not match its checksum"
    extra = sorted(found.difference(sums))
    return f"{step / extra[0]} is not in {SEAL}" if extra else ""


def sealed_steps(directory: Path) -> list[int]:
    """The steps of the checkpoints that count, ascending."""
    if not directory.is_dir():
        return []
    names = (path.name for path in directory.iterdir() if (path / SEAL).is_file())
    return sorted(int(name) for name in names if name.isdigit())


def find_intact(directory: Path) -> tuple[int, list[str]]:
    """The newest intact checkpoint of a directory.

    Returns:
      Its step, and what is wrong with each newer one.

    Raises:
      UserError: there is no checkpoint, or every one is damaged.
    """
    problems = []
    for step in reversed(sealed_steps(directory)):
        problem = damage(directory / str(step))
        if not problem:
            return step, problems
        problems.append(problem)
    if problems:
        raise UserError(
            f"no intact checkpoint: {problems[0]}; put it back from a copy, or delete "
            f"{directory.parent} and train again"
        )
    raise UserError(f"{directory.parent} holds no checkpoint: train it with `fer-jax train`")


def read(directory: Path, step: int, items: Mapping[str, Any]) -> dict[str, Any]:
    """Items of a checkpoint, as NumPy arrays and JSON.

    Args:
      items: item name -> a tree of arrays or shapes to read into ("meta": anything), or None to
        read the tree as plain nested dicts.
    """
    restored: dict[str, Any] = {}
    for name, tree in items.items():
        path = (directory / str(step) / name).absolute()
        if name == "meta":
            handler = ocp.JsonCheckpointHandler()
            with ocp.Checkpointer(handler, multiprocessing_options=_alone()) as reader:
                restored[name] = reader.restore(path)
        else:
            with ocp.StandardCheckpointer(multiprocessing_options=_alone()) as reader:
                restored[name] = reader.restore(path, tree)
    return restored


def _alone() -> ocp.options.MultiprocessingOptions:
    """Of several processes each reads by itself, and the first alone writes: Orbax waits for none
    of the others."""
    me = jax.process_index()
    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    return ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"fer-jax-{me}"
    )


class NoCheckpoints:
    """Where another process saves."""

    def discard_after(self, step: int) -> None:
        """As of `Checkpoints`."""

    def save(self, step: int, state: Any, best: Any, meta: Mapping[str, Any]) -> None:
        """As of `Checkpoints`."""

    poll = wait = close = lambda self: None


class Checkpoints(NoCheckpoints):
    """The checkpoints of a run in training. Saves in the background, one at a time.

    Opening it removes what a killed process left half-written.
    """

    def __init__(self, directory: Path, keep: int):
        self._directory, self._keep = directory.absolute(), keep
        self._directory.mkdir(parents=True, exist_ok=True)
        sealed = {str(step) for step in sealed_steps(self._directory)}
        for path in self._directory.iterdir():
            if path.is_dir() and path.name not in sealed:
                shutil.rmtree(path)
        self._pending: int | None = None
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=None, create=False, multiprocessing_options=_alone()
            ),
        )

    def discard_after(self, step: int) -> None:
        """Deletes newer checkpoints than `step`: damaged ones that training will write again."""
        for other in self._manager.all_steps():
            if other > step:
                self._manager.delete(other)

    def save(self, step: int, state: Any, best: Any, meta: Mapping[str, Any]) -> None:
        """Starts to save; does nothing if `step` is saved already.

        Args:
          state, best: trees of NumPy arrays, which must not change any more.
          meta: JSON.
        """
        self.wait()
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),  # type: ignore[call-arg]
                best=ocp.args.StandardSave(best),  # type: ignore[call-arg]
                meta=ocp.args.JsonSave(dict(meta)),  # type: ignore[call-arg]
            ),
        )
        self._pending = step

    def poll(self) -> None:
        """Seals a save that has finished in the background. Call it often."""
        if self._pending is not None and not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Waits for the save in progress, seals it, and deletes what is too old to keep."""
        self._manager.wait_until_finished()
        if self._pending is None:
            return
        seal(self._directory / str(self._pending))
        self._pending = None
        for step in sealed_steps(self._directory)[: -self._keep]:
            self._manager.delete(step)

    def close(self) -> None:
        self.wait()
        self._manager.close()
