"""Sweeps of 64 trials on every engine, killed in their middle, against one that is not.

A trial's parameters follow from its number, and a trial that was stopped goes on to the bit: so
whatever is killed, each trial is there once, and its curve is the same.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from fer_jax.training.run_directory import History

pytestmark = pytest.mark.exhaustive

ROOT = Path(__file__).resolve().parents[2]
TRIALS = 64
PG = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
SPACE = ("--space", "optim.lr=0.02,0.005,1e-4", "--space", "train.seed=int:1:1000")


def command(toy: Path, out: Path, *more: object) -> list[str]:
    program = (sys.executable, "-m", "fer_jax.cli", "sweep", toy, "--out", out, *SPACE)
    how = ("--trials", TRIALS, "--sampler", "random", "--pruner", "median", "--workers", 2)
    given = (*program, *how, *more)
    return [str(word) for word in given]


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """Processes with one device each, which compile what others have not."""
    cache = tmp_path_factory.mktemp("compiled")
    return {
        **{name: value for name, value in os.environ.items() if name != "XLA_FLAGS"},
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(ROOT),
    }


class Sweep:
    """A `fer-jax sweep` process, whose lines on stderr say which trials are over."""

    def __init__(self, words: list[str], environment: dict[str, str]):
        self.process = subprocess.Popen(
            words, env=environment, cwd=ROOT, text=True, stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )  # fmt: skip

    def until(self, over: int) -> None:
        """Waits for so many trials to be over since it started."""
        assert self.process.stderr is not None
        lines = []
        for line in self.process.stderr:
            lines.append(line)
            over -= line.startswith("sweep toy: trial ")
            if over <= 0:
                return
        raise AssertionError("".join(lines[-20:]))

    def workers(self) -> list[int]:
        """Its worker processes."""
        found = []
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(status.read_text().rpartition(")")[2].split()[1])
                words = (status.parent / "cmdline").read_text()
            except OSError:
                continue
            if parent == self.process.pid and "spawn_main" in words:
                found.append(int(status.parent.name))
        return found

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self) -> None:
        _, err = self.process.communicate(timeout=400)
        assert self.process.returncode == 0, err[-3000:]


@pytest.fixture
def start(environment) -> Iterator[Callable[..., Sweep]]:
    made: list[Sweep] = []

    def begin(words: list[str], **more: str) -> Sweep:
        made.append(Sweep(words, environment | more))
        return made[-1]

    yield begin
    for one in made:
        if one.process.poll() is None:
            one.kill()


@pytest.fixture(scope="module")
def expected(toy: Path, environment, tmp_path_factory) -> dict[int, tuple[dict, list]]:
    """Of each number its parameters and whole curve: one population, never stopped or pruned."""
    out = tmp_path_factory.mktemp("expected") / "sweep"
    words = command(toy, out, "--engine", "population")
    words[words.index("--workers") + 1], words[words.index("--pruner") + 1] = str(TRIALS), "none"
    subprocess.run(words, env=environment, cwd=ROOT, check=True, capture_output=True, timeout=400)
    found = results(out)
    assert {row["state"] for row in found} == {"complete"}
    return {int(row["trial"]): (parameters(row), curve(row)) for row in found}


def results(out: Path) -> list[dict[str, str]]:
    import csv

    with (out / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def parameters(row: dict[str, str]) -> dict[str, str]:
    return {key: row[key] for key in ("optim.lr", "train.seed")}


def curve(row: dict[str, str]) -> list[float]:
    lines = History(Path(row["run"])).read()
    assert [line["epoch"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["validation/accuracy"] for line in lines]


def check(out: Path, expected: dict[int, tuple[dict, list]], *, journal: bool = True) -> None:
    """Every trial is there once, with its own parameters and curve; some were pruned."""
    found = results(out)
    assert [int(row["trial"]) for row in found] == list(range(TRIALS))
    assert len({row["run"] for row in found}) == TRIALS
    states = [row["state"] for row in found]
    assert set(states) == {"complete", "pruned"}, [row["reason"] for row in found if row["reason"]]
    assert 5 <= states.count("complete") < TRIALS
    for row in found:
        known, values = expected[int(row["trial"])]
        mine = curve(row)
        assert parameters(row) == known
        assert mine == values[: len(mine)]
        assert len(mine) == int(row["epochs"])
        if row["state"] == "complete":
            assert len(mine) == len(values) and float(row["value"]) == max(values)
    assert not journal or over_once(out / "study.journal")


def over_once(journal: Path) -> bool:
    """No trial was put down as over twice."""
    ended = [
        line["trial_id"]
        for line in map(json.loads, journal.read_text().splitlines())
        if line.get("state") in (1, 2, 3)  # COMPLETE, PRUNED, FAIL
    ]
    return sorted(ended) == list(range(TRIALS))


def test_local_processes(toy, start, expected, tmp_path: Path) -> None:
    """Two workers are killed, then the driver; two drivers end it together."""
    out = tmp_path / "sweep"
    sweep = start(command(toy, out))
    for over in (6, 6):
        sweep.until(over)
        os.kill(sweep.workers()[0], signal.SIGKILL)
    sweep.until(8)
    sweep.kill()
    both = [start(command(toy, out)) for _ in range(2)]
    for one in both:
        one.end()
    check(out, expected)


def test_a_population(toy, start, expected, tmp_path: Path) -> None:
    """The process of the population is killed, then the driver."""
    out = tmp_path / "sweep"
    words = command(toy, out, "--engine", "population")
    words[words.index("--workers") + 1] = "16"
    sweep = start(words)
    sweep.until(4)
    os.kill(sweep.workers()[0], signal.SIGKILL)
    sweep.until(16)
    sweep.kill()
    start(words).end()
    check(out, expected)


def test_ray(toy, start, environment, ray_cluster, expected, tmp_path: Path) -> None:
    """A node is killed, then the driver."""
    out = tmp_path / "sweep"
    cluster = ray_cluster(environment)
    words = command(toy, out, "--engine", "ray")
    sweep = start(words, RAY_ADDRESS=cluster.address)
    sweep.until(10)
    cluster.lose_second()
    sweep.until(10)
    sweep.kill()
    start(words, RAY_ADDRESS=cluster.address).end()
    check(out, expected)


@pytest.fixture
def postgres(tmp_path_factory) -> Iterator[str]:
    """A PostgreSQL server of our own."""
    binaries = Path(found).resolve().parent if (found := shutil.which("initdb")) else PG
    if binaries is None:
        pytest.skip("no PostgreSQL server on this machine (apt-get install postgresql)")
    home = tmp_path_factory.mktemp("postgres")
    # The server refuses to run as root.
    user = {"user": "postgres", "group": "postgres", "extra_groups": []} if not os.getuid() else {}
    if user:
        shutil.chown(home, "postgres")
        for parent in home.parents:
            if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = home / "data"
    initdb = [binaries / "initdb", "--auth=trust", "--username=tester", "--pgdata", data, "-N"]
    subprocess.run(initdb, check=True, capture_output=True, cwd=home, **user)
    server = subprocess.Popen(
        [binaries / "postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", home,
         "-c", "fsync=off"],
        cwd=home, stderr=subprocess.DEVNULL, **user,
    )  # fmt: skip
    ready = [binaries / "pg_isready", "-h", "127.0.0.1", "-p", str(port)]
    until = time.monotonic() + 60
    while subprocess.run(ready, capture_output=True).returncode:
        assert server.poll() is None and time.monotonic() < until
        time.sleep(0.1)
    yield f"postgresql://tester@127.0.0.1:{port}/postgres"
    server.send_signal(signal.SIGINT)
    server.wait(30)


def test_postgresql(toy, start, postgres, expected, tmp_path: Path) -> None:
    """Two drivers share a study; one is killed, and the other takes its trials when it has been
    silent for long enough."""
    out = tmp_path / "sweep"
    words = command(toy, out, "--storage", postgres, "--study", "shared")
    words[words.index("--workers") + 1] = "1"
    first, second = (start(words) for _ in range(2))
    first.until(10)
    first.kill()
    second.end()
    check(out, expected, journal=False)
    import psycopg

    with psycopg.connect(postgres) as connection:
        rows = connection.execute(
            "SELECT count(*), count(DISTINCT number), count(datetime_complete) FROM trials"
        ).fetchone()
    assert rows == (TRIALS, TRIALS, TRIALS)
    assert np.isfinite([float(row["value"]) for row in results(out)]).all()
