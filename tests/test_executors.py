"""Workers that fail, die and never end."""

from __future__ import annotations

import math
import os
import signal
import sys
import time

import pytest

from fer_jax.errors import UserError
from fer_jax.executors import WorkerDied, make_engine


def _drain(engine, jobs):
    for job in jobs:
        engine.submit(job)
    outcomes = []
    while len(outcomes) < len(jobs):
        outcomes += engine.wait(5)
    return {outcome.job: outcome for outcome in outcomes}


def test_values_and_errors_come_back():
    with make_engine("local", math.sqrt, 2) as engine:
        outcomes = _drain(engine, [4.0, 9.0, -1.0, 16.0])
    assert [outcomes[n].value for n in (4.0, 9.0, 16.0)] == [2, 3, 4]
    assert isinstance(outcomes[-1.0].error, ValueError)
    assert "Traceback" in outcomes[-1.0].error.__notes__[0]


def test_the_death_of_a_worker_is_the_end_of_one_job():
    jobs = [signal.SIGWINCH, signal.SIGSEGV, signal.SIGCONT, signal.SIGKILL, signal.SIGURG]
    with make_engine("local", signal.raise_signal, 2) as engine:
        outcomes = _drain(engine, jobs)
    for job in (signal.SIGSEGV, signal.SIGKILL):
        error = outcomes[job].error
        assert isinstance(error, WorkerDied)
        assert (error.signal, str(error)) == (job, job.name)
    assert all(outcomes[job].error is None for job in jobs[::2])


def test_an_exit_is_a_death():
    with make_engine("local", os._exit, 1) as engine:
        outcomes = _drain(engine, [7, 0])
    assert str(outcomes[7].error) == "exit code 7" and str(outcomes[0].error) == "exit code 0"


def test_leaving_the_block_stops_what_runs():
    with make_engine("local", time.sleep, 1) as engine:
        engine.submit(3600)
        while not any(worker.job for worker in engine._processes):
            engine.wait(0.1)
        process = engine._processes[0].process
        assert process.is_alive()
    assert process.exitcode == -signal.SIGKILL


def test_workers_have_environments_of_their_own():
    """As many workers as environments; a dead one's is its successor's."""
    places = [{"FER_JAX_PLACE": str(n)} for n in range(2)]
    with make_engine("local", _place, 5, environments=places) as engine:
        assert engine.workers == 2
        outcomes = _drain(engine, ["die", *map(str, range(12))])
    assert isinstance(outcomes.pop("die").error, WorkerDied)
    assert {outcome.value for outcome in outcomes.values()} == {"0", "1"}


def _place(job):
    if job == "die":
        os._exit(3)
    time.sleep(0.2)
    return os.environ["FER_JAX_PLACE"]


def test_unknown_engine_and_absent_ray(monkeypatch):
    with pytest.raises(UserError, match="known are local, ray"):
        make_engine("slurm", math.sqrt, 1)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'fer-jax\[ray\]'"):
        make_engine("ray", math.sqrt, 1)


def test_ray_tells_the_same():
    ray = pytest.importorskip("ray", reason="Ray is an extra of its own: fer-jax[ray]")
    with pytest.raises(UserError, match="no Ray cluster here"):
        make_engine("ray", math.sqrt, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "127.0.0.1:9")
        with pytest.raises(UserError, match=r"no Ray cluster at 127.0.0.1:9 \(Connection refused"):
            make_engine("ray", math.sqrt, 1)

    def job(n):
        if n == 2:
            os.kill(os.getpid(), signal.SIGSEGV)
        return math.sqrt(n)

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        with make_engine("ray", job, 2) as engine:
            outcomes = _drain(engine, [4, -1, 2, 9])
    finally:
        ray.shutdown()
    assert (outcomes[4].value, outcomes[9].value) == (2, 3)
    assert isinstance(outcomes[-1].error, ValueError)
    assert isinstance(outcomes[2].error, WorkerDied)
