"""The peaks that speeds are compared with."""

from types import SimpleNamespace

import jax
import pytest

from fer_jax.training.peaks import Peak, peak


def device(kind: str, platform: str = "gpu") -> SimpleNamespace:
    return SimpleNamespace(device_kind=kind, platform=platform)


@pytest.mark.parametrize(("kind", "bfloat16", "memory"), [
    ("NVIDIA H200", 989e12, 4.8e12),
    ("NVIDIA H100 80GB HBM3", 989e12, 3.35e12),
    ("NVIDIA H100 PCIe", 756e12, 2e12),
    ("NVIDIA A100-SXM4-40GB", 312e12, 1.555e12),
    ("NVIDIA A100-SXM4-80GB", 312e12, 2e12),
    ("NVIDIA L40S", 362e12, 0.864e12),
    ("NVIDIA L4", 121e12, 0.3e12),
    ("TPU v5 lite", 197e12, 0.819e12),
    ("TPU v5p", 459e12, 2.765e12),
    ("TPU v6 lite", 918e12, 1.64e12),
])  # fmt: skip
def test_of_a_datasheet(kind: str, bfloat16: float, memory: float) -> None:
    assert peak(device(kind), "bfloat16") == Peak(bfloat16, memory)
    found = peak(device(kind))
    assert found is not None and found.flops <= bfloat16


def test_nobody_knows_every_device() -> None:
    assert peak(device("NVIDIA GeForce GTX 960")) is None


def test_a_cpu_is_measured_once() -> None:
    """Between a pocket calculator and a rack: what it measures is a speed of this machine."""
    cpu = jax.devices("cpu")[0]
    found = peak(cpu)
    assert found is not None
    assert 1e8 < found.flops < 1e14 and 1e8 < found.bytes < 1e13
    assert peak(cpu, devices=4) == Peak(found.flops / 4, found.bytes / 4)
