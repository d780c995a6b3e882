"""Features beside the records: read back as a stream, and every kind of damage to them."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fer_jax.data import corpus, extracted, samples
from fer_jax.errors import UserError
from fer_jax.records import Clip, encode, frame_record
from preprocessing import writer

LENGTHS = (2, 0, 3)
#: A file name need not be UTF-8.
IDS = ("tiny/0", "tiny/\udcff", "tiny/2", "tiny/3", "tiny/4")
FEATURES = "extracted/net-3"
AGAIN = "repeat `fer-jax extract runs/cnn "


def make_clip(i: int) -> Clip:
    frames = 2 + i
    return Clip(
        clip_id=IDS[i], corpus="tiny", subject=f"s{i}", emotion=("HAP", "SAD")[i % 2],
        frame_index=np.arange(frames, dtype="i4"), time_ms=np.arange(frames, dtype="f4"),
        face_found=np.arange(frames) != 1, box=np.zeros((frames, 4), "f4"),
    )  # fmt: skip


def features_of(i: int, size: int = 3) -> np.ndarray:
    """The features of clip i, f32[2 + i, size]: NaN in the second frame."""
    values = np.random.default_rng(i).normal(size=(2 + i, size)).astype(np.float32)
    values[1] = np.nan
    return values


def write_features(records: Path, shards: list[Path], **facts: str) -> None:
    folder = records / FEATURES
    folder.mkdir(parents=True)
    first = 0
    for shard, length in zip(shards, LENGTHS, strict=True):
        written = (extracted.encode(IDS[i], features_of(i)) for i in range(first, first + length))
        (folder / shard.name).write_bytes(b"".join(map(frame_record, written)))
        first += length
    (folder / extracted.FACTS).write_text(json.dumps(facts))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    records = tmp_path_factory.mktemp("extracted") / "records"
    records.mkdir()
    first = total = 0
    for index, length in enumerate(LENGTHS):
        path = records / writer.shard_name("tiny", index, len(LENGTHS))
        info = writer.write_shard(path, (encode(make_clip(first + i)) for i in range(length)))
        first, total = first + length, total + info.bytes
    writer.write_dataset_info(records, "tiny", LENGTHS, total, (), {}, "png", {})
    clips = corpus.load(records)
    write_features(
        records, clips.shards, run="runs/cnn", weights_sha256="1", data_sha256=clips.data_sha256
    )
    return records


@pytest.fixture
def records(whole: Path, tmp_path: Path) -> Path:
    """A copy, to damage."""
    return Path(shutil.copytree(whole, tmp_path / "records"))


def load(records: Path) -> corpus.Corpus:
    return corpus.load(records, streams=(FEATURES,))


def check(clips: corpus.Corpus) -> None:
    assert [clip.clip_id for clip in clips] == list(IDS)
    for i in (4, 0, 3, 1, 2):
        np.testing.assert_array_equal(clips[i].extracted, features_of(i))


def test_features_are_read_like_any_stream(whole: Path) -> None:
    clips = load(whole)
    check(clips)
    values = clips[2].extracted
    assert values is not None and values.dtype == np.float32 and not values.flags.writeable
    assert clips[1:3][1].clip_id == IDS[2] and clips[-1].extracted is not None
    assert clips.extracted is not None and clips.extracted.facts["run"] == "runs/cnn"
    assert corpus.load(whole)[0].extracted is None
    # What they are is no business of the records' own check.
    assert clips.check() == corpus.load(whole).check() == []


def test_a_frame_without_features_makes_no_sample(whole: Path) -> None:
    from fer_jax.config import Data

    found = samples.clip_samples(load(whole)[3], Data(features=FEATURES, frames=4), {})
    np.testing.assert_array_equal(found.usable, [0, 2, 3, 4])
    np.testing.assert_array_equal(found.streams["raw"], features_of(3)[[0, 2, 3, 4]])


def test_a_corpus_with_features_goes_to_other_processes(whole: Path) -> None:
    clips = load(whole)
    copy = pickle.loads(pickle.dumps(clips))
    check(copy)
    assert copy.data_sha256 == clips.data_sha256


def test_data_sha256_is_of_the_features_too(whole: Path, records: Path) -> None:
    facts = records / FEATURES / extracted.FACTS
    before = load(records).data_sha256
    assert before == load(whole).data_sha256 != corpus.load(records).data_sha256
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "run": "moved/cnn"}))
    assert load(records).data_sha256 == before
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "weights_sha256": "2"}))
    assert load(records).data_sha256 != before


def last_shard(records: Path) -> Path:
    return records / FEATURES / writer.shard_name("tiny", 2, 3)


def swap(shard: Path) -> None:
    order = [3, 2, 4]
    written = (extracted.encode(IDS[i], features_of(i)) for i in order)
    shard.write_bytes(b"".join(map(frame_record, written)))


def exchange(shard: Path) -> None:
    """The records' own shard of the same name, in place of the features."""
    shutil.copy(shard.parent.parent.parent / shard.name, shard)


def flip(shard: Path) -> None:
    data = bytearray(shard.read_bytes())
    data[-9] ^= 1
    shard.write_bytes(data)


def wider(shard: Path) -> None:
    written = (extracted.encode(IDS[i], features_of(i, 4)) for i in (2, 3, 4))
    shard.write_bytes(b"".join(map(frame_record, written)))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (os.unlink, "lacks tiny-clips.tfrecord-00002-of-00003: repeat"),
    "truncated": (lambda shard: os.truncate(shard, shard.stat().st_size - 3), "ends inside"),
    "cut at a record": (lambda shard: os.truncate(shard, 0), "record 0 is not .* of tiny/2"),
    "a bit": (flip, "does not fit its checksum"),
    "not records": (lambda shard: shard.write_bytes(b"features, honestly"), "not a TFRecord"),
    "no message": (lambda shard: shard.write_bytes(frame_record(b"\xff")), "record 0 is not"),
    "swapped": (swap, "record 0 is not extracted/net-3 of tiny/2"),
    "exchanged": (exchange, "record 0 is not extracted/net-3 of tiny/2"),
    "another width": (wider, "record 0 is not extracted/net-3 of tiny/2"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_features_are_one_line_with_the_remedy(records: Path, name: str) -> None:
    damage, message = DAMAGE[name]
    shard = last_shard(records)
    damage(shard)
    with pytest.raises(UserError, match=message) as caught:
        assert load(records)[0].extracted is not None  # the other shards are still read
        list(load(records))
    said = str(caught.value)
    assert "\n" not in said and "preprocess" not in said and str(shard.parent) in said
    wanted = f"{AGAIN}{records} --name net`"
    assert said.endswith(f": {wanted}" if name == "missing" else f"; delete it and {wanted}")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"run": "runs/cnn"}', "\x00"])
def test_damaged_facts(records: Path, text: str) -> None:
    (records / FEATURES / extracted.FACTS).write_text(text)
    with pytest.raises(UserError, match=r"extracted\.json is damaged: delete .*fer-jax extract`$"):
        load(records)


def test_features_of_other_records(records: Path) -> None:
    facts = records / FEATURES / extracted.FACTS
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "data_sha256": "0"}))
    with pytest.raises(UserError, match="was made of other records than lie there now: delete"):
        load(records)


def test_features_that_were_not_extracted(records: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"has no extracted/my-net-8 \(it has extracted/net-3\): make them with "
        r"`fer-jax extract RUN .*records --name my-net`$",
    ):
        corpus.load(records, streams=("extracted/my-net-8",))
    # Without what says that they are complete, they are not.
    (records / FEATURES / extracted.FACTS).unlink()
    with pytest.raises(UserError, match=r"has no extracted/net-3: make them"):
        load(records)
