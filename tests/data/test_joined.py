"""Several record directories as one corpus."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from fer_jax.config import Protocol
from fer_jax.data import corpus
from fer_jax.data.audit import audit
from fer_jax.data.inspect import inspect, render
from fer_jax.data.protocols import make_split
from fer_jax.errors import UserError
from fer_jax.records import IMAGES, Clip, encode
from preprocessing import writer


def make_clip(name, i, streams=("landmarks68", "crops")):
    found = np.array([True, False, True])
    points = np.full((3, 68, 2), i, "f4")
    points[1] = np.nan
    return Clip(
        clip_id=f"{name}/{i}", corpus=name, subject=f"{i % 3:02d}", emotion=("ANG", "SAD")[i % 2],
        recording=f"r{i}", frame_index=np.arange(3, dtype="i4"), time_ms=np.arange(3, dtype="f4"),
        face_found=found, box=np.zeros((3, 4), "f4"), landmarks68=points,
        crops=(b"a", None, b"b") if "crops" in streams else None,
    )  # fmt: skip


def write(out: Path, name, lengths, size=8, streams=("landmarks68", "crops"), metadata=None, **kw):
    out.mkdir()
    first = total = 0
    for index, length in enumerate(lengths):
        path = out / writer.shard_name(name, index, len(lengths))
        clips = (encode(make_clip(kw.get("own", name), i, streams))
                 for i in range(first, first + length))  # fmt: skip
        info = writer.write_shard(path, clips)
        first, total = first + length, total + info.bytes
    shapes = dict.fromkeys(IMAGES, (size, size, 3))
    writer.write_dataset_info(
        out,
        name,
        lengths,
        total,
        streams,
        shapes,
        "png",
        metadata or {"build": {"a": 1, "b": name}},
    )
    return out


@pytest.fixture
def two(tmp_path: Path):
    return write(tmp_path / "a", "crema-d", [3, 0, 1]), write(tmp_path / "b", "ravdess", [2, 4])


def ids(clips):
    return [clip.clip_id for clip in clips]


def test_one_sequence_of_both(two) -> None:
    a, b = two
    clips = corpus.load(f"{a}, {b}", streams=("landmarks68",))
    want = [f"crema-d/{i}" for i in range(4)] + [f"ravdess/{i}" for i in range(6)]
    assert len(clips) == 10 and ids(clips) == want == [clips[i].clip_id for i in range(10)]
    assert clips[-1].clip_id == "ravdess/5" and ids(clips[3:6]) == want[3:6]
    with pytest.raises(IndexError):
        clips[10]
    np.testing.assert_array_equal(clips[8].landmarks68[0], make_clip("ravdess", 4).landmarks68[0])
    assert clips.name == "crema-d+ravdess" and clips.streams == ("landmarks68",)
    assert clips.metadata == {"build": {"a": 1}} and clips.image_shapes == {"crops": (8, 8, 3)}
    assert [part.dir for part in clips.parts] == [a, b] == corpus.directories(clips.dir)
    copy = pickle.loads(pickle.dumps(clips))
    assert ids(copy) == want and copy.streams == ("landmarks68",)
    assert [p.name for p in clips.shards] == [p.name for part in clips.parts for p in part.shards]


def test_what_the_records_are_does_not_depend_on_their_order(two, tmp_path: Path) -> None:
    a, b = two
    one = corpus.load(f"{a},{b}").data_sha256
    assert corpus.load(f"{b},{a}").data_sha256 == one
    assert one not in (corpus.load(a).data_sha256, corpus.load(b).data_sha256)
    other = write(tmp_path / "c", "ravdess", [2, 3])
    assert corpus.load(f"{a},{other}").data_sha256 != one
    # A directory may have a comma in its name.
    a.rename(tmp_path / "x,y")
    assert ids(corpus.load(tmp_path / "x,y")) == [f"crema-d/{i}" for i in range(4)]


def test_streams_that_both_have(two, tmp_path: Path) -> None:
    a, _ = two
    bare = write(tmp_path / "bare", "fer", [2], streams=("landmarks68",))
    clips = corpus.load(f"{a},{bare}")
    assert clips.streams == clips.stored_streams == ("landmarks68",)
    assert {clip.streams for clip in clips} == {("landmarks68",)}
    with pytest.raises(UserError, match=r"bare has no crops"):
        corpus.load(f"{a},{bare}", streams=("crops",))
    large = write(tmp_path / "large", "fer", [2], size=16)
    assert corpus.load(f"{a},{large}").streams == ("landmarks68",)
    assert corpus.load(f"{a},{large}", streams=("landmarks68",)).image_shapes == {}
    with pytest.raises(UserError, match=r"crops differ in size: 8x8x3 in .*a, 16x16x3 in .*large"):
        corpus.load(f"{a},{large}", streams=("crops",))


def test_checks_and_reports(two, tmp_path: Path) -> None:
    a, b = two
    both = f"{a},{b}"
    assert corpus.load(both).check() == []
    report = inspect(both, check=True)
    assert report["clips"] == 10 and report["problems"] == [] and report["shards"] == 5
    assert sorted(report["subjects"])[:2] == ["crema-d/00", "crema-d/01"]
    assert "crema-d+ravdess: 10 clips" in render(report)
    (a / "quarantine.csv").write_text("clip,why\nx,y\n")
    (b / "quarantine.csv").write_text("clip,why\nx,y\nz,y\n")
    assert inspect(both)["quarantined"] == 3
    twin = write(tmp_path / "c", "again", [2], own="crema-d")
    first, second = corpus.load(f"{a},{twin}").check()
    assert "crema-d/0 is in" in first and "crema-d/1 is in" in second
    with pytest.raises(UserError, match="2 clip ids occur twice"):
        make_split(corpus.load(f"{a},{twin}"), Protocol(name="random"))


def test_pictures_of_different_recipes_are_told(two, tmp_path: Path) -> None:
    from fer_jax.training.job import _other_pictures

    recipes = [{"build": {"recipe.align": a, "recipe.outputs": [a]}} for a in ("face", "none")]
    a, b = (
        write(tmp_path / f"r{i}", f"r{i}", [1], metadata=recipe) for i, recipe in enumerate(recipes)
    )
    assert _other_pictures(corpus.load(f"{a},{b}")) == "align"
    assert (
        _other_pictures(corpus.load(a))
        == _other_pictures(corpus.load(",".join(map(str, two))))
        == ""
    )


def test_equal_names_in_two_corpora_are_no_leak(two) -> None:
    clips = corpus.load(",".join(map(str, two)), streams=())
    protocol = Protocol(
        name="cross-corpus", train_corpora=("crema-d",), test_corpora=("ravdess",), validation=0
    )
    report = audit(clips, make_split(clips, protocol))
    assert report["subject_overlap"] == report["twin_overlap"] == 0


def test_mistakes(two, tmp_path: Path) -> None:
    a, b = two
    for words, message in (
        (f"{a},{tmp_path / 'absent'}", "absent does not exist"),
        (f"{a},{b},{a}/", "names .*a twice"),
        (f"{a},{tmp_path}", "is not a record directory"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            corpus.load(words)
        assert "\n" not in str(caught.value)
