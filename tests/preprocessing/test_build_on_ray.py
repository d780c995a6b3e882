"""Preprocessing that loses machines, a killed node of a Ray cluster too: the same bytes as here."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from fer_jax.executors import Outcome, WorkerDied
from preprocessing import build as module
from preprocessing.build import make_recipe, preprocess

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    import cv2

    root = tmp_path_factory.mktemp("raw")
    rng = np.random.default_rng(0)
    for n in range(48):
        path = root / ("joy", "rage")[n % 2] / f"{n}.png"
        path.parent.mkdir(exist_ok=True)
        assert cv2.imwrite(str(path), rng.integers(0, 256, (20, 24, 3), np.uint8))
    (root / "joy" / "broken.png").write_text("no picture")
    return root


def build(raw: Path, out: Path, **where):
    recipe = make_recipe("folder", ("crops",), align="none", crop_size=16, crop_format="png")
    return preprocess("folder", raw, out, recipe=recipe, clips_per_shard=6, **where)


def same(one: Path, other: Path) -> bool:
    """Two directories hold the same files with the same bytes."""
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


class Losing:
    """An engine whose machines are lost, again and again, at a shard's second clip."""

    def __init__(self):
        self._queue, self._lost = [], 6

    def submit(self, job):
        self._queue.append(job)

    def wait(self, seconds):
        job = self._queue.pop(0)
        if self._lost:
            self._lost -= 1
            job.progress.write_text(f"{1:12d}{0:12d}")
            return [Outcome(job, error=WorkerDied("lost", machine_lost=True))]
        return [Outcome(job, module.build_shard(job))]

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass


def test_a_lost_machine_is_no_clips_fault(raw, tmp_path, monkeypatch) -> None:
    build(raw, tmp_path / "here", workers=1)
    monkeypatch.setattr(module, "make_engine", lambda *_: Losing())
    assert build(raw, tmp_path / "there").written == 48
    assert same(tmp_path / "here", tmp_path / "there")


@pytest.mark.exhaustive
def test_a_node_that_dies_costs_nothing(raw, ray_cluster, tmp_path, monkeypatch) -> None:
    cluster = ray_cluster({"PYTHONPATH": str(ROOT)})
    here = build(raw, tmp_path / "here", engine="local", workers=1)
    # Shards take a while, so that the node's end finds it at work.
    build_shard = module.build_shard

    def slow(job):
        time.sleep(2)
        return build_shard(job)

    monkeypatch.setattr(module, "build_shard", slow)
    killed: list[int] = []

    def kill(done: int, total: int, bad: int) -> None:
        if not killed and done >= 12:
            killed.append(done)
            cluster.lose_second()

    there = build(raw, tmp_path / "there", engine="ray", on_progress=kill)
    assert killed and killed[0] < 49
    assert there.written == here.written == 48
    assert [item.clip_id for item in there.quarantined] == [i.clip_id for i in here.quarantined]
    assert same(tmp_path / "here", tmp_path / "there")
