"""How many workers a machine, or a container on it, is given."""

from __future__ import annotations

import os

import pytest

from fer_jax.machine import (
    ROOT,
    available_cores,
    available_memory,
    default_workers,
    has_tpu,
    visible_gpus,
)

GIB = 1 << 30


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function of files and cores that makes a machine's root."""

    def make(files, cores=64):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(cores), raising=False)
        for name, text in {
            "proc/meminfo": f"MemAvailable: {32 * GIB // 1024} kB\n",
            **files,
        }.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return make


def test_a_machine_without_limits(machine):
    root = machine({"proc/self/cgroup": "0::/user.slice\n"}, cores=6)
    assert (available_cores(root), available_memory(root)) == (6, 32 * GIB)
    assert default_workers(GIB, root) == 6
    assert default_workers(10 * GIB, root) == 3
    assert default_workers(100 * GIB, root) == 1


@pytest.mark.parametrize("path", ["/", "/seen/only/by/the/host"])
def test_a_container(machine, path):
    group = "sys/fs/cgroup/"
    root = machine({
        "proc/self/cgroup": f"0::{path}\n",
        group + "memory.max": f"{4 * GIB}\n",
        group + "memory.current": f"{3 * GIB}\n",
        group + "memory.stat": f"anon {2 * GIB}\ninactive_file {GIB}\n",
        group + "cpu.max": "350000 100000\n",
    })  # fmt: skip
    assert (available_cores(root), available_memory(root)) == (4, 2 * GIB)
    assert default_workers(GIB, root) == 2


def test_the_tightest_of_nested_groups(machine):
    groups = "sys/fs/cgroup/pod.slice"
    root = machine({
        "proc/self/cgroup": "0::/pod.slice/job\n",
        f"{groups}/memory.max": f"{2 * GIB}\n",
        f"{groups}/memory.current": f"{GIB // 2}\n",
        f"{groups}/job/memory.max": "max\n",
        f"{groups}/job/memory.current": f"{GIB // 4}\n",
        f"{groups}/cpu.max": "max 100000\n",
        f"{groups}/job/cpu.max": "50000 100000\n",
    })  # fmt: skip
    assert (available_cores(root), available_memory(root)) == (1, 3 * GIB // 2)


def test_control_groups_of_version_1(machine):
    root = machine({
        "proc/self/cgroup": "9:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n1:name=systemd:/\n0::/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{GIB}\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{2 * GIB}\n",
        "sys/fs/cgroup/memory/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB // 2}\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    }, cores=8)  # fmt: skip
    assert (available_cores(root), available_memory(root)) == (8, 0)
    assert default_workers(GIB, root) == 1
    (root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us").write_text("200000\n")
    assert available_cores(root) == 2


def test_a_tpu_has_device_files(tmp_path):
    assert not has_tpu(tmp_path)
    (tmp_path / "dev/vfio").mkdir(parents=True)
    (tmp_path / "dev/vfio/vfio").touch()
    assert not has_tpu(tmp_path)
    (tmp_path / "dev/vfio/0").touch()
    assert has_tpu(tmp_path)
    (tmp_path / "dev/vfio/0").unlink()
    (tmp_path / "dev/accel0").touch()
    assert has_tpu(tmp_path)


def test_this_machine():
    assert 1 <= available_cores(ROOT) <= (os.cpu_count() or 1)
    assert 0 < available_memory() < 1 << 50


def test_gpus_are_those_that_may_be_used(tmp_path, monkeypatch):
    for name in ("nvidia0", "nvidia1", "nvidiactl", "null"):
        (tmp_path / "dev").mkdir(exist_ok=True)
        (tmp_path / "dev" / name).touch()
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus(tmp_path) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-5")
    assert visible_gpus(tmp_path) == ["3", "GPU-5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert visible_gpus(tmp_path) == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert visible_gpus(tmp_path) == []
