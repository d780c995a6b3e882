"""One job of several processes: joining it, agreeing on what is trained, and leaving it.

Every process runs the same program. Process 0 alone writes: the run directory lies on storage that
all of them see. Everything here does nothing, or the obvious, in a process that is alone.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import fer_jax
from fer_jax import config, storage
from fer_jax.errors import UserError
from fer_jax.models.paths import flatten
from fer_jax.training import parallel
from fer_jax.training.launchers import ALONE, find_launch
from fer_jax.training.watch import Watch, catch_abort

#: How much longer than a lost one a process may take to come at the start.
_START = 5
#: Of one value in the key-value store.
_PIECE = 1 << 20

_watch: Watch | None = None
_questions = 0


def start(settings: config.Parallel) -> None:
    """Joins the job that this process was started in, if it is one of several. For commands, before
    JAX starts; the second call does nothing.

    Raises:
      UserError: a launcher's variables are not complete, or the config is not for several.
    """
    global _watch
    launch = find_launch(os.environ)
    if launch is None or jax.distributed.is_initialized():
        return
    _refuse_pmap(settings, launch.processes)
    # JAX's own service for that catches SIGTERM, which ours does too, and speaks in between.
    jax.config.update("jax_enable_preemption_service", False)
    timeout = settings.timeout_s
    # Ours comes first: JAX's own way to end a process is to abort it.
    waits: dict[str, Any] = {
        "initialization_timeout": max(1, int(_START * timeout)),
        "heartbeat_timeout_seconds": max(60, int(3 * timeout)),
        "shutdown_timeout_seconds": max(1, int(timeout)),
    }
    if launch.coordinator:
        count, waited = launch.processes, waits["initialization_timeout"]
        catch_abort(
            launch.coordinator,
            launch.process,
            f"the {count} processes of this job did not find each other at {launch.coordinator} "
            f"within {waited} s ({_START} times --parallel.timeout_s): start all of them, where "
            "they can reach process 0 there",
        )
        jax.distributed.initialize(
            launch.coordinator,
            launch.processes,
            launch.process,
            local_device_ids=launch.device,
            cluster_detection_method="deactivate",
            **waits,
        )
    else:
        try:
            jax.distributed.initialize(**waits)
        except ValueError:  # The metadata server knows of no slice: a TPU of another kind.
            return
    state = _state()
    if state.num_processes == 1:
        return
    _refuse_pmap(settings, state.num_processes)
    catch_abort(state.coordinator_address, state.process_id)
    _watch = Watch(
        state.client, state.process_id, state.num_processes, state.coordinator_address, timeout
    )
    _watch.start()
    _watch.hosts[:] = gather(socket.gethostname())


def _refuse_pmap(settings: config.Parallel, count: int) -> None:
    if settings.mapper == "pmap" and count > 1:
        raise UserError(
            f"--parallel.mapper pmap maps the devices of one process, and this job has {count}: "
            "use shard_map, which does the same to the bit"
        )


def _state() -> Any:
    """JAX's: its key-value store has no public name."""
    from jax._src import distributed

    return distributed.global_state


def processes() -> int:
    """How many there are in this job."""
    return _state().num_processes


def process() -> int:
    """Which of them this is."""
    return _state().process_id


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return process() == 0


def refuse(what: str) -> None:
    """For what one process does.

    Raises:
      UserError: this is one of several.
    """
    launch = find_launch(os.environ)
    # A TPU VM need not be one of several.
    if launch is not None and launch.processes > 1:
        raise UserError(
            f"{what} runs in one process, and {launch.by} started {launch.processes}: "
            f"run it on one host, or set {ALONE}=1 to let each process do the whole of it"
        )


def gather(value: Any) -> list[Any]:
    """What every process gives here, by process; waits for all of them.

    Args:
      value: JSON.
    """
    if _watch is None:
        return [value]
    key = _next_key()
    _state().client.key_value_set(f"{key}/{process()}", json.dumps(value))
    return [json.loads(_get(f"{key}/{p}")) for p in range(processes())]


def from_first(value: Any) -> Any:
    """JSON of process 0, in all of them."""
    return gather(value if is_first() else None)[0]


def meet() -> None:
    """Waits until every process is here."""
    gather(None)


def arrays_from_first(make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What process 0 computes, in all of them: the others wait.

    Two kinds of processor may differ in the last bits of a sum, and what lies on every device has
    to be the same on all.
    """
    if _watch is None:
        return make()
    key = _next_key()
    if not is_first():
        return _receive(key)
    made = make()
    _send(key, made)
    return made


def arrays_to_first(own: dict[str, Any]) -> list[dict[str, Any]]:
    """What every process has found, by process, in process 0; [] in the others."""
    if _watch is None:
        return [own]
    key = _next_key()
    if is_first():
        return [own, *(_receive(f"{key}/{p}") for p in range(1, processes()))]
    _send(f"{key}/{process()}", own)
    return []


def _next_key() -> str:
    """The same in every process, since all ask the same questions in the same order."""
    global _questions
    _questions += 1
    return f"fer-jax/{_questions}"


def _send(key: str, arrays: Mapping[str, Any]) -> None:
    file, client = io.BytesIO(), _state().client
    np.savez(file, allow_pickle=False, **{k: np.asarray(v) for k, v in arrays.items()})
    whole = file.getvalue()
    pieces = [whole[at : at + _PIECE] for at in range(0, len(whole), _PIECE)]
    for n, piece in enumerate(pieces):
        client.key_value_set_bytes(f"{key}/{n}", piece)
    client.key_value_set(f"{key}/pieces", str(len(pieces)))


def _receive(key: str) -> dict[str, np.ndarray]:
    client, count = _state().client, int(_get(f"{key}/pieces"))
    whole = b"".join(client.key_value_try_get_bytes(f"{key}/{n}") for n in range(count))
    with np.load(io.BytesIO(whole), allow_pickle=False) as file:
        return dict(file)


def tree_from_first(tree: Any) -> Any:
    """Arrays of process 0, by way of the devices: large ones are slow in the key-value store."""
    if _watch is None:
        return tree
    from jax.experimental import multihost_utils

    return multihost_utils.broadcast_one_to_all(tree)


def _get(key: str) -> str:
    """A value, as soon as it is there; a process that never gives it is the watch's business."""
    while True:
        try:
            return _state().client.blocking_key_value_get(key, 2000)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                time.sleep(1)


def agree(facts: Callable[[], Mapping[str, Any]], remedy: str) -> None:
    """Refuses to go on where a process has other facts than process 0.

    Args:
      facts: JSON by name; not asked in a process that is alone.

    Raises:
      UserError: in every process, with who differs in what.
    """
    if _watch is None:
        return
    said = gather(dict(facts()))
    differ = []
    for process, other in enumerate(said):
        wrong = [key for key in sorted({*said[0], *other}) if said[0].get(key) != other.get(key)]
        shown = ", ".join(
            f"{key} {_short(other.get(key))} instead of {_short(said[0].get(key))}"
            for key in wrong[:4]
        )
        if wrong:
            more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
            differ.append(f"{_name(process)} has {shown}{more}")
    if differ:
        raise UserError(f"{'; '.join(differ)} (of {_name(0)}): {remedy}")


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


def _name(process: int) -> str:
    return _watch.name(process) if _watch is not None else f"process {process}"


def setup_facts(experiment: config.Experiment) -> dict[str, Any]:
    """What has to be the same in every process before data are read, by name."""
    # Where the records lie is each host's own; what they are is compared when they are read.
    flat = {path.replace("/", "."): leaf for path, leaf in flatten(experiment.to_json()).items()}
    facts = {f"--{key}": value for key, value in flat.items() if key != "data.dir"}
    versions = {name: __import__(name).__version__ for name in ("jax", "jaxlib", "flax", "numpy")}
    return {**facts, **versions, "the code": _code(), "devices": jax.local_devices()[0].device_kind}


@cache
def _code() -> str:
    """Version of FER-JAX and a digest of its modules."""
    root = Path(fer_jax.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return f"{fer_jax.__version__} {digest.hexdigest()[:12]}"


def check_shared(run: Path) -> None:
    """Called when process 0 has made the run directory.

    Raises:
      UserError: another process does not see it.
    """
    if _watch is None or storage.share(run, is_first(), meet):
        return
    sign = run / ".shared"
    if is_first():
        sign.write_text(f"{os.getpid()} {time.time_ns()}")
    wanted = from_first(sign.read_text() if is_first() else None)
    seen = gather(_reads(sign, wanted))
    meet()
    if is_first():
        sign.unlink(missing_ok=True)
    if False in seen:
        raise UserError(
            f"{_name(seen.index(False))} does not see {run} of {_name(0)}: give --out DIR on "
            "storage that all hosts share"
        )


def _reads(path: Path, wanted: str) -> bool:
    """Whether a file is there with that content; network file systems may take seconds."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            if path.read_text() == wanted:
                return True
        except OSError:
            pass
        time.sleep(0.2)
    return False


class Votes:
    """What the processes have to do alike, although each wants it for itself: how many steps the
    next call has, and whether to stop after it.

    A vote is sent to the devices beside a call and counted when that is over, so that nothing waits
    for it.

    Attributes:
      signum: of the signal that a process got, as soon as all know of it; 0 before.
    """

    signum = 0

    def __init__(self, mesh: Mesh, wish: Callable[[], int]):
        """Args:
        wish: the signal that this process got, or 0.
        """
        self._mesh, self._wish = mesh, wish
        where = PartitionSpec(parallel.AXIS)
        self._most = jax.jit(
            jax.shard_map(
                lambda x: jax.lax.pmax(x[0], parallel.AXIS),
                mesh=mesh, in_specs=where, out_specs=PartitionSpec(), check_vma=False,
            )
        )  # fmt: skip
        self._where = NamedSharding(mesh, where)

    def cast(self, size: int) -> jax.Array:
        """This process's vote: it could do calls of `size` steps. i32[2], not there yet."""
        vote = np.array([[self._wish(), -size]], np.int32)
        shape = (self._mesh.size, 2)
        return self._most(jax.make_array_from_callback(shape, self._where, lambda _: vote))

    def count(self, most: np.ndarray) -> int:
        """The size that all can do, of a vote on the host."""
        self.signum = self.signum or int(most[0])
        return -int(most[1])


def suspect(error: BaseException) -> None:
    """Where a collective failed: ends this process with the name of the lost one, if one is."""
    if _watch is not None and isinstance(error, jax.errors.JaxRuntimeError):
        _watch.suspect()


def on_mistake(undo: Callable[[], None]) -> None:
    """What to do where another process's mistake ends this one."""
    if _watch is not None:
        _watch.undo = undo


def leave(code: int, line: str = "") -> None:
    """The end of a command: goes together with the others where all is well, else ends them too.

    Args:
      line: what went wrong, for the others.
    """
    global _watch
    if _watch is None:
        return
    if code:
        _watch.leave(code, line)
    meet()
    _watch.stop()
    _watch = None
    jax.distributed.shutdown()
