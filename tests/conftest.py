"""Strict JAX for every test: eight CPU devices, no silent rank promotion."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("GLOG_minloglevel", "3")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


@pytest.fixture(autouse=True)
def strict_jax():
    import sys

    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_numpy_rank_promotion", "raise")
    yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and model files beside the checkout; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared: real data and model files are not in the repository")
    return SHARED


@pytest.fixture(scope="session")
def landmarker_model(shared: Path) -> Path:
    """MediaPipe's face_landmarker.task; skips where it is absent."""
    path = shared / "models" / "face_landmarker.task"
    if not path.is_file():
        pytest.skip(f"no {path}")
    return path
