"""Preprocessing on a Ray cluster, a node of which is killed: the same bytes as on this machine."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from preprocessing.build import make_recipe, preprocess

pytestmark = pytest.mark.exhaustive

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


def test_a_node_that_dies_costs_nothing(raw, ray_cluster, tmp_path, monkeypatch) -> None:
    from preprocessing import build as module

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
    names = sorted(path.name for path in (tmp_path / "here").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "there").iterdir())
    for name in names:
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
