"""What produced a number: the code and the hardware."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import fer_jax


def code_version() -> str:
    """The version of this code, with the commit where it runs from a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return fer_jax.__version__
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=root, capture_output=True, text=True, timeout=10, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        # No git here, or a checkout that it does not trust.
        return fer_jax.__version__
    return f"{fer_jax.__version__}+{commit}"


def hardware() -> str:
    """The devices that JAX computes on, or the processor where that is the CPU."""
    import jax

    devices, count = jax.devices(), jax.process_count()
    several = f", {count} processes" if count > 1 else ""
    if devices[0].platform == "cpu":
        # macOS does not say which cores a process may use.
        usable = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)
        return f"CPU: {_processor()}, {len(usable)} cores{several}"
    return f"{len(devices)} x {devices[0].device_kind}{several}"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
