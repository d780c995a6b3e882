"""What this machine has to give."""

from __future__ import annotations

import os
from pathlib import Path

#: Where Linux says what a container may use, by version of its control groups.
_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def available_cores() -> int:
    """Cores that this process may use."""
    # macOS does not say which.
    return len(getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0))


def available_memory() -> int:
    """Bytes that may still be taken, within a container's limit; all there are where nobody says
    how many are free."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        values = dict(line.split(":") for line in meminfo.read_text().splitlines())
        found.append(int(values["MemAvailable"].split()[0]) * 1024)
    for limit, used in _GROUPS:
        if Path(limit).is_file() and (most := Path(limit).read_text().strip()) != "max":
            found.append(int(most) - int(Path(used).read_text()))
    return max(0, min(found))
