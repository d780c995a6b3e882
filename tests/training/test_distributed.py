"""Two processes of four devices train what one device trains, and say where they disagree.

This file is also the program of the two: they are started once and do everything in turn.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fer_jax.errors import UserError
from fer_jax.training import launchers, watch
from fer_jax.training.launchers import Launch, find_launch

ROOT = Path(__file__).resolve().parents[2]


def main(out: Path, other: str) -> None:
    """What each of the processes does; the differences between them are mistakes to be told.

    Args:
      out: for runs, with config.json.
      other: other records than the config's.
    """
    from fer_jax import config
    from fer_jax.evaluation.evaluate import evaluate
    from fer_jax.training import distributed, loop

    said: dict[str, Any] = {}
    base = config.load_config(out / "config.json")
    distributed.start(base.parallel)
    me = distributed.process()

    def train(name: str, *changes: tuple[str, str], **callbacks: Any) -> Any:
        return loop.train(config.override(base, changes), out / name, **callbacks)

    def mistake(name: str, *changes: tuple[str, str], where: str = "wrong") -> None:
        with pytest.raises(UserError) as found:
            train(where, *changes)
        said[name] = str(found.value)
        distributed.meet()
        assert not (out / where).exists()

    mistake("config", ("train.epochs", str(3 + me)))
    mistake("records", ("data.dir", other if me else base.data.dir))
    mistake("directory", where=f"wrong-{me}")
    mistake("devices", ("parallel.devices", "3"))
    for where in ("resident", "sharded", "stream"):
        said[where] = train(where, ("parallel.input", where))["speed"]["input"]
    said["accuracy"] = evaluate(out / "resident")["accuracy"]

    def preempt(epoch: int, epochs: int, step: str) -> None:
        if me == 1 and epoch == 1 and step.startswith("step 1 "):
            os.kill(os.getpid(), signal.SIGTERM)

    one = [("train.steps_per_call", "1")]
    with pytest.raises(loop.Interrupted) as stopped:
        train("stopped", *one, on_step=preempt)
    said["stopped"] = [stopped.value.signum, str(stopped.value)]
    said["went on"] = train("stopped", *one)["notes"]
    (out / f"said-{me}.json").write_text(json.dumps(said))
    distributed.leave(0)


def start_job(program: list[str], cache: Path, count: int = 2) -> list[subprocess.Popen]:
    """Processes of four devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {
        **os.environ, "PYTHONPATH": path, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "4", "FER_JAX_PROCESSES": str(count),
        "JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "FER_JAX_COORDINATOR": f"127.0.0.1:{port}",
    }  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, *program],
            env={**environment, "FER_JAX_PROCESS": str(process)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(count)
    ]


@pytest.fixture(scope="module")
def job(
    tmp_path_factory: pytest.TempPathFactory, experiment: Any, other_records: Path
) -> tuple[Path, list[dict[str, Any]]]:
    """Where the two processes trained, and what each of them said."""
    from fer_jax import config

    out = tmp_path_factory.mktemp("job")
    document = config.override(experiment, [("parallel.devices", "0")]).to_json()
    (out / "config.json").write_text(json.dumps(document))
    processes = start_job([__file__, str(out), str(other_records)], out / "cache")
    printed = [process.communicate(timeout=500)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(printed)[-6000:]
    return out, [json.loads((out / f"said-{p}.json").read_text()) for p in range(2)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, experiment: Any) -> Path:
    """The same on one device."""
    from fer_jax.evaluation.evaluate import evaluate
    from fer_jax.training import loop

    run = tmp_path_factory.mktemp("alone") / "run"
    loop.train(experiment, run)
    evaluate(run)
    return run


def test_two_processes_are_one_device(job: Any, alone: Path, runs: SimpleNamespace) -> None:
    """Sums over eight devices are in another order: a few units in float32's last place."""
    import jax

    found, wanted = (runs.contents(run) for run in (job[0] / "resident", alone))
    assert found["step"] == wanted["step"]
    for name in ("state", "best"):
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6),
            found[name],
            wanted[name],
        )
    for line, one in zip(runs.history(job[0] / "resident"), runs.history(alone), strict=True):
        assert line == pytest.approx(one, rel=1e-5)
    assert (job[0] / "resident/split.csv").read_bytes() == (alone / "split.csv").read_bytes()


def test_evaluation_is_shared_and_the_same(job: Any, alone: Path) -> None:
    found, wanted = (
        np.genfromtxt(run / "predictions.csv", delimiter=",", dtype=None, encoding="utf-8")
        for run in (job[0] / "resident", alone)
    )
    assert found[:, :6].tolist() == wanted[:, :6].tolist()
    np.testing.assert_allclose(
        found[1:, 6:].astype(float), wanted[1:, 6:].astype(float), atol=2.1e-6
    )
    measured = [
        json.loads((run / "metrics.json").read_text()) for run in (job[0] / "resident", alone)
    ]
    assert measured[0]["confusion"] == measured[1]["confusion"]
    assert [said["accuracy"] for said in job[1]] == [measured[1]["accuracy"]] * 2


def test_wherever_the_data_lie(job: Any, runs: SimpleNamespace) -> None:
    out, said = job
    for where in ("sharded", "stream"):
        assert [one[where] for one in said] == [where] * 2
        runs.assert_same(out / where, out / "resident")


def test_a_signal_to_one_stops_all_at_the_same_step(job: Any, runs: SimpleNamespace) -> None:
    out, said = job
    message = "stopped in epoch 2 of 3; the same command goes on there"
    assert [one["stopped"] for one in said] == [[signal.SIGTERM, message]] * 2
    assert "went on after epoch 1 of 3" in said[0]["went on"]
    runs.assert_same(out / "stopped", out / "resident")


def test_processes_that_disagree_are_told_apart(job: Any) -> None:
    """The same line in both; that nothing is written is asserted where it happens."""
    first, second = job[1]
    host = socket.gethostname()
    for name in ("config", "records", "devices"):
        assert first[name] == second[name]
    assert first["config"] == (
        f"process 1 ({host}) has --train.epochs 4 instead of 3 (of process 0 ({host})): start "
        "every process with the same config and packages"
    )
    assert first["records"].startswith(f"process 1 ({host}) has the records' data_sha256 ")
    assert first["records"].endswith("give every process the same records and the same split")
    assert first["devices"] == (
        "--parallel.devices 3: 2 processes with 4, 4 devices cannot give as many each; use 0 for "
        "all"
    )
    assert f"process 1 ({host}) does not see " in first["directory"]
    assert first["directory"].endswith("give --out DIR on storage that all hosts share")


PLAIN = {"FER_JAX_COORDINATOR": "a:1", "FER_JAX_PROCESSES": "4", "FER_JAX_PROCESS": "3"}
SLURM = {
    "SLURM_JOB_ID": "4097", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2",
    "SLURM_STEP_NODELIST": "gpu[007-010,012]", "SLURM_STEP_NUM_NODES": "4", "SLURM_LOCALID": "0",
}  # fmt: skip
SKYPILOT = {
    "SKYPILOT_NODE_IPS": "10.0.0.5\n10.0.0.6", "SKYPILOT_NODE_RANK": "1",
    "SKYPILOT_NUM_NODES": "2",
}  # fmt: skip
GKE = {"TPU_WORKER_HOSTNAMES": "w-0.tpu,w-1.tpu", "TPU_WORKER_ID": "1"}
KUBEFLOW = {
    "KUBERNETES_SERVICE_HOST": "10.1.0.1", "COORDINATOR_ADDRESS": "job-0", "NUM_PROCESSES": "3",
    "COORDINATOR_PORT": "6666", "PROCESS_ID": "2",
}  # fmt: skip


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, None),
        (PLAIN, Launch("FER_JAX_PROCESSES", "a:1", 4, 3)),
        ({**PLAIN, "FER_JAX_COORDINATOR": "fe80::1"}, ("[fe80::1]:8476", 4, 3, None)),
        # One word turns every launcher off.
        ({**SLURM, "FER_JAX_PROCESSES": "1"}, None),
        # The number may be the launcher's: an indexed Job of Kubernetes.
        ({"FER_JAX_COORDINATOR": "j-0.jobs", "FER_JAX_PROCESSES": "2", "JOB_COMPLETION_INDEX": "1"},
         ("j-0.jobs:8476", 2, 1, None)),
        ({"JAX_COORDINATOR_ADDRESS": "b:7", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"},
         ("b:7", 2, 0, None)),
        (SLURM, ("gpu007:61441", 4, 2, None)),
        ({**SLURM, "SLURM_STEP_NODELIST": "n1,n2"}, ("n1:61441", 4, 2, None)),
        # Two tasks a node have a device each, unless Slurm hands out the devices itself.
        ({**SLURM, "SLURM_STEP_NUM_NODES": "2", "SLURM_LOCALID": "1"}, ("gpu007:61441", 4, 2, 1)),
        ({**SLURM, "SLURM_STEP_NUM_NODES": "2", "CUDA_VISIBLE_DEVICES": "0"},
         ("gpu007:61441", 4, 2, None)),
        # In a batch script, and in an array of single tasks, nobody waits.
        ({k: v for k, v in SLURM.items() if "STEP" not in k}, None),
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
        (SKYPILOT, ("10.0.0.5:8476", 2, 1, None)),
        ({"SKYPILOT_NODE_IPS": "10.0.0.5", "SKYPILOT_NODE_RANK": "0"}, None),
        (GKE, ("w-0.tpu:8476", 2, 1, None)),
        ({**GKE, "MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1",
          "MEGASCALE_COORDINATOR_ADDRESS": "s-0:80"}, ("s-0:8476", 4, 3, None)),
        (KUBEFLOW, ("job-0:6666", 3, 2, None)),
    ],
)  # fmt: skip
def test_what_launchers_say(
    environ: dict[str, str], wanted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launchers.machine, "has_tpu", lambda: False)
    found = find_launch(environ)
    assert found == wanted if wanted is None or len(wanted) == 5 else found[1:] == wanted


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"FER_JAX_COORDINATOR": "a:1"}, "FER_JAX_PROCESSES is not set"),
        ({"FER_JAX_PROCESSES": "2"}, "FER_JAX_COORDINATOR is not set"),
        ({**PLAIN, "FER_JAX_PROCESS": ""}, "FER_JAX_PROCESS is not set: give each process"),
        ({**PLAIN, "FER_JAX_PROCESS": "4"}, "process 4 of 4: they are counted from 0"),
        ({**PLAIN, "FER_JAX_PROCESSES": "two"}, "FER_JAX_PROCESSES=two: give a whole number"),
        ({**SKYPILOT, "SKYPILOT_NUM_NODES": "3"}, "SKYPILOT_NUM_NODES is 3, but .* has 2 addr"),
    ],
)
def test_what_launchers_say_wrong(environ: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_launch(environ)


def test_a_tpu_vm_asks_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchers.machine, "has_tpu", lambda: True)
    assert find_launch({}) == Launch("Cloud TPU", "", 0, 0)
    # Chips that are shared out to processes: each trains alone.
    assert find_launch({"TPU_VISIBLE_CHIPS": "0"}) is None


def test_what_is_for_one_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fails: Any, tiny_config: Path
) -> None:
    for name, value in PLAIN.items():
        monkeypatch.setenv(name, value)
    said = fails("crossval", tiny_config, "--out", tmp_path / "run")
    assert said.startswith("`fer-jax crossval` of several runs runs in one process, and ")
    assert said.endswith("set FER_JAX_PROCESSES=1 to let each process do the whole of it")
    assert "of several runs" in fails("train", tiny_config, "--seeds", "0,1")
    said = fails("train", tiny_config, "--parallel.mapper", "pmap", "--out", tmp_path / "run")
    assert said.startswith("--parallel.mapper pmap maps the devices of one process, and this job")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def tiny_config(tmp_path: Path, experiment: Any) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(experiment.to_json()))
    return path


class Store:
    """A job's key-value store, of JAX's client's words. It can stop to answer."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.hangs = threading.Event()

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        self._answer()
        assert allow_overwrite or key not in self.values
        self.values[key] = value

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        self._answer()
        return [pair for pair in list(self.values.items()) if pair[0].startswith(key)]

    def _answer(self) -> None:
        while self.hangs.is_set():
            time.sleep(0.01)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch):
    """Starts the watch of a process over another; gives the store and what it ended with."""
    monkeypatch.setattr(watch, "EVERY_S", 0.02)
    ended: list[Any] = []
    over = threading.Event()

    def leave(code: int) -> None:
        ended.append(code)
        over.set()

    monkeypatch.setattr(watch, "_exit", leave)
    monkeypatch.setattr(watch, "_say", ended.append)
    watches = []

    def start(process: int, timeout_s: float = 1.0) -> tuple[Store, watch.Watch]:
        store = Store()
        made = watch.Watch(store, process, 2, "nowhere:1", timeout_s)
        made.hosts[:] = ["ant", "bee"]
        made.start()
        watches.append(made)
        return store, made

    yield SimpleNamespace(start=start, ended=ended, over=over)
    for made in watches:
        made.stop()


def test_silence_of_a_process_is_noticed(watched: Any) -> None:
    store, _ = watched.start(0)
    for beat in range(20):  # As long as it speaks, all is well: longer than the limit.
        store.values["fer-jax/alive/1"] = str(beat)
        assert not watched.over.wait(0.1)
    assert watched.over.wait(10)
    line, code = watched.ended
    assert code == watch.LOST
    assert line.startswith("nothing was heard of process 1 (bee) for 1 s")
    assert json.loads(store.values["fer-jax/failed/0"])["line"] == line


def test_silence_of_process_0_is_noticed(watched: Any) -> None:
    store, _ = watched.start(1)
    time.sleep(0.2)
    store.hangs.set()
    assert watched.over.wait(10)
    store.hangs.clear()
    assert watched.ended[0].startswith("nothing was heard of process 0 (ant) for 1 s")
    assert watched.ended[1] == watch.LOST


def test_another_ones_mistake_ends_this_one(watched: Any) -> None:
    store, made = watched.start(1, 60.0)
    undone: list[bool] = []
    made.undo = lambda: undone.append(True)
    store.values["fer-jax/failed/0"] = json.dumps({"code": 2, "line": "no such records"})
    assert watched.over.wait(10)
    assert watched.ended == ["process 0 (ant) ended: no such records", 2]
    assert undone == [True]
    assert "fer-jax/gone/1" in store.values


def test_one_that_leaves_says_why(watched: Any) -> None:
    store, made = watched.start(1, 60.0)
    made.leave(2, "no such records")
    assert watched.ended == [2]
    assert json.loads(store.values["fer-jax/failed/1"]) == {"code": 2, "line": "no such records"}


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2])
    except BaseException as error:
        from fer_jax.training import distributed

        traceback.print_exc()
        distributed.leave(1, repr(error))
        raise
