"""Strict JAX for every test: eight CPU devices, no silent rank promotion."""

import contextlib
import io
import os
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("GLOG_minloglevel", "3")
# A process of tests trains many networks: `parallel.keep_memory` would keep the most that any took.
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "33554432")
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


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory: pytest.TempPathFactory):
    """A program that several tests compile alike is compiled once."""
    import jax

    names = {
        "jax_compilation_cache_dir": str(tmp_path_factory.getbasetemp() / "compiled"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in names.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


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


WORDS = ("HAP", "SAD", "NEU")


def make_face_clips(count: int = 60, seed: int = 0) -> list:
    """Clips of 10 subjects, 9 to 12 frames: 68 noisy points that drift as the emotion wants.

    Every fourth clip lacks its third frame.
    """
    import numpy as np

    from fer_jax.records import Clip

    rng = np.random.default_rng(seed)
    face = rng.uniform(20, 80, (68, 2))
    direction = rng.normal(size=(len(WORDS), 68, 2))
    clips = []
    for i in range(count):
        length = 9 + i % 4
        time = np.linspace(0, 6, length)[:, None, None]
        points = face + time * direction[i % len(WORDS)] + rng.normal(0, 12, (length, 68, 2))
        found = np.ones(length, bool)
        found[2] = i % 4 != 0
        points[~found] = np.nan
        box = np.tile(np.float32([10, 10, 90, 90]), (length, 1))
        box[~found] = np.nan
        clips.append(
            Clip(
                clip_id=f"tiny/{i:03d}",
                corpus="tiny",
                subject=f"s{i % 10}",
                emotion=WORDS[i % len(WORDS)],
                recording=f"r{i:03d}",
                source=f"{i:03d}.mp4",
                fps=25.0,
                duration_ms=40.0 * length,
                width=100,
                height=100,
                frame_index=np.arange(length, dtype=np.int32),
                time_ms=np.arange(length, dtype=np.float32) * 40,
                face_found=found,
                box=box,
                landmarks68=points.astype(np.float32),
            )
        )
    return clips


def write_face_records(out: Path, clips: list) -> Path:
    from fer_jax.records import encode
    from preprocessing import writer

    out.mkdir(parents=True)
    info = writer.write_shard(out / writer.shard_name("tiny", 0, 1), map(encode, clips))
    writer.write_dataset_info(
        out, "tiny", [info.records], info.bytes, ("landmarks68",), {}, "png", {}
    )
    return out


TINY_CONFIG = """
from fer_jax.config import LSTM, Checkpoint, Data, Experiment, Optim, Parallel, Protocol, Track
from fer_jax.config import Train


def experiment():
    return Experiment(
        name="tiny",
        reported={"accuracy": 0.9},
        data=Data(features="distances-104", length="sections", frames=5),
        protocol=Protocol(validation=0.2, test=0.3),
        model=LSTM(units=(8,), dropout=0.1),
        optim=Optim(lr=0.01),
        train=Train(epochs=4, batch=32),
        parallel=Parallel(devices=1),
        checkpoint=Checkpoint(every_seconds=0),
        track=Track(tensorboard=False),
    )
"""


class TinyRun(NamedTuple):
    """A run that `fer-jax train` made: its directory, config, records and what was printed."""

    dir: Path
    config: Path
    records: Path
    printed: str


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """A trained, evaluated and reported run of a small LSTM. Tests copy what they change."""
    from fer_jax.cli import main

    root = tmp_path_factory.mktemp("tiny")
    records = write_face_records(root / "records", make_face_clips())
    config = root / "tiny.py"
    config.write_text(TINY_CONFIG)
    words = ["train", str(config), "--out", str(root / "run"), "--data.dir", str(records), "--json"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(words) == 0
    return TinyRun(root / "run", config, records, printed.getvalue())


@pytest.fixture(scope="session")
def face_corpus() -> SimpleNamespace:
    """How the records of `tiny_run` are made: `clips(count, seed)` and `write(out, clips)`."""
    return SimpleNamespace(clips=make_face_clips, write=write_face_records)


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]):
    """Runs a command that must end with one line on stderr and exit code 2; returns the line."""

    from fer_jax.cli import main

    def run(*words: object) -> str:
        assert main([str(word) for word in words]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.endswith("\n")
        lines = err.splitlines()
        assert len(lines) == 1, err
        assert lines[0].startswith("fer-jax: ")
        assert "Traceback" not in err
        return lines[0].removeprefix("fer-jax: ")

    return run


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder corpus of two faceless pictures."""
    import cv2
    import numpy as np

    for name in ("happy/a.png", "sad/b.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True)
        cv2.imwrite(str(path), np.zeros((64, 64, 3), np.uint8))
    return tmp_path / "images"


@pytest.fixture
def ray_cluster(monkeypatch: pytest.MonkeyPatch):
    """Called with variables of its processes: a Ray cluster of two nodes on this machine, a core
    each, which RAY_ADDRESS names. `cluster.lose_second()` kills one of them."""
    pytest.importorskip("ray", reason="Ray is an extra of its own: fer-jax[ray]")
    import ray
    from ray.cluster_utils import Cluster

    made = []

    def start(variables: dict[str, str]) -> Cluster:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("XLA_FLAGS", raising=False)
        node = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=node)
        made.append(cluster)
        second = cluster.add_node(**node)
        cluster.lose_second = lambda: cluster.remove_node(second, allow_graceful=False)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        return cluster

    yield start
    ray.shutdown()
    for cluster in made:
        cluster.shutdown()
