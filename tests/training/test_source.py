"""Wherever the data lies, a run learns the same."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from fer_jax import config, machine
from fer_jax.errors import UserError
from fer_jax.records import Clip, encode
from fer_jax.training import loop, parallel, source
from fer_jax.training.members import make_members
from fer_jax.training.parallel import Devices
from fer_jax.training.population import train_population
from fer_jax.training.resident import Rows
from preprocessing import writer

WORDS = ("happy", "sad", "neutral")
TOY = {
    "name": "toy-pictures",
    "data": {
        "features": "none", "images": ["crops"], "image_color": "gray", "length": "frames",
        "augment": {"flip": True},
    },
    "protocol": {"name": "subject", "validation": 0.2, "test": 0.2},
    "model": {"name": "small-cnn"},
    "train": {"epochs": 2, "batch": 12, "accumulate": 2},
    "parallel": {"devices": 2},
    "checkpoint": {"every_seconds": 0},
    "track": {"tensorboard": False},
}  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of 50 pictures of 48 pixels: noise on a shade an emotion."""
    out, rng, clips = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0), []
    for i in range(50):
        shade = 60 + 60 * (i % 3)
        file = io.BytesIO()
        noise = rng.integers(-40, 40, (48, 48))
        Image.fromarray((shade + noise).astype(np.uint8)).save(file, "PNG")
        clips.append(
            Clip(
                clip_id=f"toy/{i:03d}", corpus="toy", subject=f"s{i % 10}", emotion=WORDS[i % 3],
                width=48, height=48, frame_index=np.zeros(1, np.int32),
                time_ms=np.zeros(1, np.float32), face_found=np.ones(1, bool),
                box=np.zeros((1, 4), np.float32), crops=(file.getvalue(),),
            )
        )  # fmt: skip
    info = writer.write_shard(out / writer.shard_name("toy", 0, 1), map(encode, clips))
    shapes = {"crops": (48, 48, 1)}
    writer.write_dataset_info(out, "toy", [info.records], info.bytes, ("crops",), shapes, "png", {})
    return out


def change(experiment: config.Experiment, **changes: Any) -> config.Experiment:
    items = [(key.replace("__", "."), json.dumps(value)) for key, value in changes.items()]
    return config.override(experiment, items)


@pytest.fixture
def experiment(pictures: Path) -> config.Experiment:
    return config.override(config.from_json(TOY), [("data.dir", str(pictures))])


@pytest.fixture(scope="module")
def resident(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("resident") / "run"
    settings = config.override(config.from_json(TOY), [("data.dir", str(pictures))])
    summary = loop.train(settings, run)
    assert summary["speed"]["input"] == "resident"
    return run


@pytest.mark.parametrize(("where", "processes"), [("sharded", 0), ("stream", 0), ("stream", 1)])
def test_a_run_is_the_same_to_the_bit(
    runs, resident: Path, experiment, tmp_path: Path, where: str, processes: int
) -> None:
    told = change(experiment, parallel__input=where, parallel__decode_processes=processes)
    notes: list[str] = []
    summary = loop.train(told, tmp_path / "run", on_note=notes.append)
    assert summary["speed"]["input"] == where
    assert any(where in note for note in notes)
    runs.assert_same(resident, tmp_path / "run")


def test_a_stream_goes_on_where_it_was_stopped(runs, resident: Path, experiment, tmp_path) -> None:
    class Stop(Exception):
        pass

    def stop(done: int, total: int, note: str) -> None:
        if note.startswith("step 2 "):
            raise Stop

    told, run = change(experiment, parallel__input="stream"), tmp_path / "run"
    with pytest.raises(Stop):
        loop.train(told, run, on_step=stop)
    loop.train(told, run)
    runs.assert_same(resident, run)


@pytest.mark.parametrize("mapper", ["shard_map", "pmap"])
def test_devices_collect_what_others_hold(mapper: str) -> None:
    """Against NumPy's own gather: 3 devices, 7 rows that do not divide, bytes and floats."""
    mesh = parallel.make_mesh(config.Parallel(devices=3))
    rng = np.random.default_rng(0)
    for whole in (rng.integers(0, 256, (7, 2, 2)).astype(np.uint8), rng.normal(size=(7, 5))):
        share = Rows.dealt(whole, mesh).values
        rows = rng.integers(0, 7, (3, 4, 2)).astype(np.int32)
        run = parallel.map_devices(
            lambda share, rows: (Devices(parallel.AXIS, 3).collect(share, rows),),
            mesh, mapper, (0, 0), (0,),
        )  # fmt: skip
        (found,) = run(share, parallel.spread(rows, mesh))
        wanted = np.asarray(whole, share.dtype)[rows]
        np.testing.assert_array_equal(np.reshape(found, wanted.shape), wanted)


def test_data_lies_where_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = parallel.make_mesh(config.Parallel(devices=4))
    monkeypatch.setattr(machine, "available_memory", lambda: 20_000_000_000)

    def placed(size: float, **settings: Any) -> tuple[str, str]:
        return source.place(int(size), config.Parallel(devices=4, **settings), mesh)

    # Half of 20 GB are for the data: once here, and on 4 devices that are this memory too.
    assert placed(1.9e9)[0] == "resident"
    name, why = placed(4.9e9)
    assert name == "sharded" and "4.9 GB of data" in why and "dealt to 4 CPU devices" in why
    assert placed(5.1e9)[0] == "stream" and "read from the records" in placed(5.1e9)[1]
    assert placed(1e12, input="resident")[0] == "resident"
    assert placed(1e9, input_gb=0.5)[0] == "sharded" and placed(3e9, input_gb=0.5)[0] == "stream"
    monkeypatch.setattr(machine, "available_memory", lambda: 1_000_000_000)
    assert placed(1e9)[0] == "stream"


def test_mixup_needs_the_whole_set(experiment, tmp_path: Path) -> None:
    told = change(experiment, parallel__input="stream", data__augment__mixup=0.2)
    with pytest.raises(UserError, match=r"mixup draws from the whole training set: .*input resid"):
        loop.train(told, tmp_path / "run")
    told = change(told, parallel__input="sharded", train__epochs=1)
    assert loop.train(told, tmp_path / "run")["speed"]["input"] == "sharded"


def test_a_population_shares_what_is_resident(experiment, tmp_path: Path) -> None:
    told = change(experiment, parallel__input="stream")
    with pytest.raises(
        UserError, match=r"whole on each device, but here: .* stream as told; train"
    ):
        train_population(make_members(told, seeds=[0, 1]), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_speed_is_said(experiment, tmp_path: Path) -> None:
    notes: list[str] = []
    shown: list[str] = []
    told = change(experiment, parallel__input="stream", train__batch=4)
    summary = loop.train(told, tmp_path / "run", lambda *a: shown.append(a[2]), notes.append)
    assert summary["speed"]["first_step_s"] > 0 and summary["speed"]["input"] == "stream"
    assert any(note.startswith("first step after ") for note in notes)
    last = json.loads((tmp_path / "run" / "history.jsonl").read_text().splitlines()[-1])
    assert last["speed/samples_per_s"] > 0 and 0 <= last["speed/input_stall"] <= 1
    # A CPU's peak is measured with products that it is made for: convolutions stay below it.
    assert 0 < last["speed/mfu"] < 1
    assert summary["speed"]["mfu"] == last["speed/mfu"]
    assert "samples/s" in shown[-1] and "% of the peak" in shown[-1]


def test_the_profiler_sees_a_window_and_changes_nothing(
    runs, resident: Path, experiment, tmp_path: Path
) -> None:
    told = change(experiment, track__profile=[1, 4])
    loop.train(told, tmp_path / "run")
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
    assert list((tmp_path / "run" / "profile").rglob("perfetto_trace.json.gz"))
    runs.assert_same(resident, tmp_path / "run")
    with pytest.raises(UserError, match=r"profile is two steps, first below last, as in 20,30"):
        change(experiment, track__profile=[4, 1])
    assert jax.devices()  # The profiler is closed: another may start.
