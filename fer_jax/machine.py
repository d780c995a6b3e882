"""What this process may use of the machine: cores and memory, a container's limits counted.

In a container the machine's own numbers show, not the container's. Those are in its control groups:
https://docs.kernel.org/admin-guide/cgroup-v2.html, and for version 1
https://docs.kernel.org/admin-guide/cgroup-v1/memory.html and
https://docs.kernel.org/scheduler/sched-bwc.html.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def available_cores(root: Path = ROOT) -> int:
    """Cores that this process may use; a share of a core counts as one."""
    cores = float(os.cpu_count() or 1)
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    for group in _groups(root, "cpu"):
        quota = _words(group / "cpu.max")
        if not quota:
            quota = _words(group / "cpu.cfs_quota_us") + _words(group / "cpu.cfs_period_us")
        # "max" or -1: no limit.
        if len(quota) == 2 and quota[0].isdigit():
            cores = min(cores, int(quota[0]) / int(quota[1]))
    return max(1, math.ceil(cores))


def available_memory(root: Path = ROOT) -> int:
    """Bytes that this process and its children may still take; all that are built in where nobody
    says how many are free."""
    free = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")] if root == ROOT else []
    meminfo = root / "proc/meminfo"
    if meminfo.is_file():
        table = dict(line.split(":") for line in meminfo.read_text().splitlines())
        free.append(int(table["MemAvailable"].split()[0]) * 1024)
    for group in _groups(root, "memory"):
        for most, now, cached in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, used = _words(group / most), _words(group / now)
            if limit and used and limit[0].isdigit():
                # Files that nobody reads any more give way.
                stat = _words(group / "memory.stat")
                table = dict(zip(stat[::2], stat[1::2], strict=True))
                free.append(int(limit[0]) - int(used[0]) + int(table.get(cached, 0)))
    return max(0, min(free))


def has_tpu(root: Path = ROOT) -> bool:
    """Whether a TPU's device files are there."""
    dev = root / "dev"
    return any(dev.glob("accel[0-9]*")) or any(dev.glob("vfio/[0-9]*"))


def visible_gpus(root: Path = ROOT) -> list[str]:
    """NVIDIA GPUs that this process may use, as $CUDA_VISIBLE_DEVICES calls them."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return []
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is not None:
        return [name.strip() for name in told.split(",") if name.strip() not in ("", "-1")]
    return [str(i) for i, _ in enumerate((root / "dev").glob("nvidia[0-9]*"))]


def default_workers(bytes_per_worker: int, root: Path = ROOT) -> int:
    """Every core that may be used, as long as there is memory for a worker on each."""
    return max(1, min(available_cores(root), available_memory(root) // bytes_per_worker))


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """This process's control groups, innermost first: a limit of each holds."""
    table = root / "proc/self/cgroup"
    if not table.is_file():
        return
    for line in table.read_text().splitlines():
        _, names, path = line.split(":", 2)
        base = root / "sys/fs/cgroup"
        if names:
            if controller not in names.split(","):
                continue
            base /= controller
        # In a container the path may be the host's; then the base alone is there.
        inner = base / path.strip("/")
        yield from (group for group in (inner, *inner.parents) if group.is_relative_to(base))


def _words(path: Path) -> list[str]:
    """The words of a file; none where it is absent."""
    try:
        return path.read_text().split()
    except OSError:
        return []
