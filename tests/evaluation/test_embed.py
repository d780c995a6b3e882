"""Features of every frame: the network's own numbers, resumed to the byte, never another's."""

from __future__ import annotations

import dataclasses
import fcntl
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from fer_jax.config import (
    Augment,
    Checkpoint,
    Data,
    Experiment,
    Optim,
    Parallel,
    Protocol,
    Track,
    Train,
    Xception,
)
from fer_jax.data import corpus
from fer_jax.errors import UserError
from fer_jax.evaluation import embed
from fer_jax.records import Clip, encode
from fer_jax.training import loop
from preprocessing import writer

LENGTHS = (4, 0, 3, 5)
SIDE, SIZE = 16, 6


@pytest.fixture(scope="module", autouse=True)
def compiles_once(compiled_once: None) -> None:
    """Every extraction runs the same program."""


def make_clip(i: int, side: int) -> Clip:
    """3 to 5 frames of noise, the third without a face; happy is brighter."""
    from PIL import Image

    rng = np.random.default_rng(i)
    frames = 3 + i % 3
    found = np.arange(frames) != 2
    crops = []
    for face in found:
        file = io.BytesIO()
        pixels = rng.integers(0, 156, (side, side, 3)) + 100 * (i % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(file, "png")
        crops.append(file.getvalue() if face else None)
    return Clip(
        clip_id=f"noise/{i:02d}", corpus="noise", subject=f"s{i}", emotion=("SAD", "HAP")[i % 2],
        recording=f"r{i}", split=("train", "train", "test")[i % 3], source=f"{i}.mp4",
        frame_index=np.arange(frames, dtype="i4"), time_ms=np.arange(frames, dtype="f4"),
        face_found=found, box=np.zeros((frames, 4), "f4"), crops=tuple(crops),
    )  # fmt: skip


def write_records(out: Path, side: int) -> Path:
    out.mkdir()
    first = total = 0
    for index, length in enumerate(LENGTHS):
        path = out / writer.shard_name("noise", index, len(LENGTHS))
        info = writer.write_shard(path, (encode(make_clip(first + i, side)) for i in range(length)))
        first, total = first + length, total + info.bytes
    shapes = {"crops": (side, side, 3)}
    writer.write_dataset_info(out, "noise", LENGTHS, total, ("crops",), shapes, "png", {})
    return out


def experiment(records: Path, **changes: object) -> Experiment:
    settings = {
        "name": "cnn",
        "data": Data(
            dir=str(records), features="none", images=("crops",), image_color="gray",
            pixels="-1-1", length="frames", keep=(0.0, 0.5), augment=Augment(flip=True),
        ),
        "protocol": Protocol(name="official"),
        "model": Xception(stem=(4, 4), stem_stride=1, entry=(6,), middle=0, exit=(), dense=SIZE),
        "optim": Optim(lr=0.01),
        "train": Train(epochs=1, batch=8, monitor="train/loss"),
        "parallel": Parallel(devices=1),
        "checkpoint": Checkpoint(every_seconds=0),
        "track": Track(tensorboard=False),
    }  # fmt: skip
    return Experiment(**{**settings, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_records(tmp_path_factory.mktemp("embed") / "records", SIDE)


@pytest.fixture(scope="module")
def cnn(whole: Path) -> Path:
    """A run of a small Xception on frames."""
    loop.train(experiment(whole), whole.parent / "cnn")
    return whole.parent / "cnn"


@pytest.fixture(scope="module")
def other(whole: Path) -> Path:
    """Another network of the same config."""
    seeded = Train(epochs=1, batch=8, monitor="train/loss", seed=1)
    loop.train(experiment(whole, train=seeded), whole.parent / "other")
    return whole.parent / "other"


@pytest.fixture
def records(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "records"))


def tree(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.iterdir() if p.name != ".lock"}


def load(records: Path) -> corpus.Corpus:
    return corpus.load(records, streams=("crops", f"extracted/net-{SIZE}"))


def luminance(clip: Clip) -> np.ndarray:
    """f32[U, S, S, 1] of 0-1, of the frames with a crop."""
    from PIL import Image

    crops = [np.asarray(Image.open(io.BytesIO(c)), float) for c in clip.crops or () if c]
    return (np.stack(crops) @ [[0.299], [0.587], [0.114]] / 255).astype(np.float32)


def embedding(loaded: loop.LoadedRun, pixels: np.ndarray) -> np.ndarray:
    """f32[U, D] of prepared images f32[U, S, S, 1], straight from the network."""
    batch = {"frames": {"crops": pixels[:, None]}, "frame_mask": np.ones((len(pixels), 1), bool)}
    apply = jax.jit(loaded.model.apply, static_argnames="train")
    return apply(loaded.variables, batch, train=False, key=jax.random.key(0))[0].embedding


def test_features_are_the_networks_embedding_of_every_frame(cnn: Path, records: Path) -> None:
    told: list[tuple[int, int, str]] = []
    report = embed.extract(cnn, records, "net", on_progress=lambda *a: told.append(a))
    assert report == {
        "features": "extracted/net-6", "dir": str(records / "extracted/net-6"), "clips": 12,
        "run": str(cnn),
    }  # fmt: skip
    assert [(done, total) for done, total, _ in told] == [(4, 12), (7, 12), (12, 12)]
    clips, loaded = load(records), loop.load_run(cnn)
    assert [clip.clip_id for clip in clips] == [f"noise/{i:02d}" for i in range(12)]
    for clip in clips:
        found = clip.extracted
        assert found is not None and found.shape == (clip.frames, SIZE)
        np.testing.assert_array_equal(np.isnan(found).all(1), ~clip.face_found)
        wanted = embedding(loaded, 2 * luminance(clip) - 1)
        assert np.ptp(wanted) > 0
        np.testing.assert_allclose(found[clip.face_found], wanted, rtol=1e-4, atol=1e-6)


def test_many_clips_share_batches(
    cnn: Path, records: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    make = embed.make_inference

    def counting(loaded: loop.LoadedRun) -> Callable:
        infer = make(loaded)

        def run(samples):
            listed = list(samples)
            sizes.append(len(listed))
            return infer(listed)

        return run

    monkeypatch.setattr(embed, "make_inference", counting)
    embed.extract(cnn, records, "net")
    together = tree(records / f"extracted/net-{SIZE}")
    frames = [3 + i % 3 - 1 for i in range(12)]
    assert sizes == [sum(frames[:4]), sum(frames[4:7]), sum(frames[7:])]
    # A clip at a time: nothing changes.
    monkeypatch.setattr(embed, "_FRAMES", 1)
    shutil.rmtree(records / "extracted")
    embed.extract(cnn, records, "net")
    assert sizes[3:] == frames
    assert tree(records / f"extracted/net-{SIZE}") == together


class Stop(Exception):
    pass


def test_stopped_between_shards_it_goes_on(cnn: Path, records: Path, tmp_path: Path) -> None:
    out = records / f"extracted/net-{SIZE}"
    embed.extract(cnn, records, "net")
    wanted = tree(out)
    shutil.rmtree(records / "extracted")

    def stop(done: int, total: int, name: str) -> None:
        if done == 7:
            raise Stop

    with pytest.raises(Stop):
        embed.extract(cnn, records, "net", stop)
    names = sorted(path.name for path in out.glob("noise*"))
    assert names == [writer.shard_name("noise", i, 4) for i in (0, 1)]
    with pytest.raises(UserError, match="has no extracted/net-6: make them with"):
        load(records)
    first = (out / names[0]).stat()
    told: list[int] = []
    embed.extract(cnn, records, "net", lambda done, total, name: told.append(done))
    assert told == [7, 12]
    assert tree(out) == wanted
    assert (out / names[0]).stat().st_mtime_ns == first.st_mtime_ns
    # Once more: nothing to do. A shard that was lost comes back.
    embed.extract(cnn, records, "net", stop)
    assert tree(out) == wanted
    (out / names[0]).unlink()
    embed.extract(cnn, records, "net")
    assert tree(out) == wanted


def test_another_networks_features_stay(cnn: Path, other: Path, records: Path) -> None:
    embed.extract(cnn, records, "net")
    before, sha = tree(records / "extracted/net-6"), load(records).data_sha256
    with pytest.raises(UserError, match=rf"made by {cnn}\): choose another --name, or delete"):
        embed.extract(other, records, "net")
    assert tree(records / "extracted/net-6") == before
    embed.extract(other, records, "second-net")
    second = corpus.load(records, streams=("extracted/second-net-6",))
    assert second.data_sha256 != sha
    facts = json.loads((records / "extracted/second-net-6/extracted.json").read_text())
    assert (facts["features"], facts["run"]) == ("extracted/second-net-6", str(other))
    assert (facts["experiment"], facts["epoch"]) == ("cnn", 1)


def test_what_is_not_complete_or_nobodys_is_made_again(
    cnn: Path, other: Path, records: Path
) -> None:
    def stop(done: int, total: int, name: str) -> None:
        if done == 7:
            raise Stop

    out = records / "extracted/net-6"
    embed.extract(cnn, records, "net")
    wanted = tree(out)
    shutil.rmtree(out)
    with pytest.raises(Stop):
        embed.extract(other, records, "net", stop)
    embed.extract(cnn, records, "net")
    assert tree(out) == wanted
    (out / "extracted.json").unlink()
    (out / writer.shard_name("noise", 0, 4)).write_bytes(b"whose?")
    embed.extract(cnn, records, "net")
    assert tree(out) == wanted


def test_one_extraction_at_a_time(cnn: Path, records: Path) -> None:
    embed.extract(cnn, records, "net")
    with open(records / "extracted/net-6/.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"another process is extracting into .*net-6: wait"):
            embed.extract(cnn, records, "net")


def test_records_of_another_size_are_scaled(cnn: Path, tmp_path: Path) -> None:
    """The network read 16 pixels as stored; other records store 24."""
    from fer_jax.data import images
    from fer_jax.evaluation.evaluate import evaluate

    larger = write_records(tmp_path / "larger", 24)
    embed.extract(cnn, larger, "net")
    loaded = loop.load_run(cnn)
    data = dataclasses.replace(loaded.experiment.data, image_size=SIDE)
    for clip in load(larger)[:2]:
        crops = images.decode([c for c in clip.crops or () if c], (24, 24, 3))
        pixels = images.normalise(images.prepare(crops, data), data)
        assert clip.extracted is not None
        found = clip.extracted[clip.face_found]
        wanted = embedding(loaded, np.asarray(pixels))
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    run = Path(shutil.copytree(cnn, tmp_path / "run"))
    assert evaluate(run, larger)["n"] > 0


def test_networks_that_cannot_embed_frames(cnn: Path) -> None:
    loaded = loop.load_run(cnn)
    sequences = dataclasses.replace(loaded.inputs, frames=5)
    with pytest.raises(UserError, match=r"^cnn reads 5 frames at once: .*data.length=frames"):
        embed.Embedder(dataclasses.replace(loaded, inputs=sequences))
    changed = dataclasses.replace(
        loaded, facts={**loaded.facts, "extracted": {"run": "runs/other"}}
    )
    with pytest.raises(UserError, match=r"^cnn reads none itself: .*a network of images"):
        embed.Embedder(changed)


def test_mistakes_are_one_line(
    cnn: Path, records: Path, tmp_path: Path, face_corpus, fails
) -> None:
    faceless = face_corpus.write(tmp_path / "points", face_corpus.clips(2))
    for words, message in (
        ([tmp_path, records, "--name", "x"], "is not a run directory"),
        ([cnn, tmp_path / "absent", "--name", "x"], "absent does not exist"),
        ([cnn, tmp_path, "--name", "x"], "is not a record directory"),
        ([cnn, records], "--name"),
        ([cnn, faceless, "--name", "x"], "has no crops (it holds landmarks68): preprocess into"),
    ):
        assert message in fails("extract", *words)
    for name in ("", ".", "../x", "a b", "-x", "x\u00e9", "a/b", "x\n"):
        line = fails("extract", cnn, records, f"--name={name}")
        assert line == f"--name {name!r}: use letters, digits, '.', '_' and '-'"
    assert not (records / "extracted").exists() and not (faceless / "extracted").exists()


def test_a_damaged_image_is_named(cnn: Path, tmp_path: Path) -> None:
    bad = make_clip(0, SIDE).replace(crops=(b"a", b"b", None))
    out = tmp_path / "bad"
    out.mkdir()
    info = writer.write_shard(out / writer.shard_name("bad", 0, 1), [encode(bad)])
    shapes = {"crops": (SIDE, SIDE, 3)}
    writer.write_dataset_info(out, "bad", [1], info.bytes, ("crops",), shapes, "png", {})
    with pytest.raises(UserError, match=r"^noise/00: image 0 is damaged"):
        embed.extract(cnn, out, "net")
