"""A record directory as a sequence: order, damage, incompleteness, what inspect says of it."""

import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from fer_jax.data import corpus
from fer_jax.data.inspect import inspect, render
from fer_jax.errors import UserError
from fer_jax.records import IMAGES, Clip, encode
from preprocessing import writer

EMOTIONS = ("ANG", "HAP", "SAD", "")


def make_clip(i, frames=3):
    rng = np.random.default_rng(i)
    found = np.arange(frames) % 3 != 1
    landmarks = rng.random((frames, 68, 2), "f4")
    landmarks[~found] = np.nan
    return Clip(
        clip_id=f"crema-d/{i}", corpus="crema-d", subject=f"10{i % 2}",
        emotion=EMOTIONS[i % 4], split="test" if i % 5 == 0 else "train",
        frame_index=np.arange(frames, dtype="i4"), time_ms=np.arange(frames, dtype="f4"),
        face_found=found, box=np.zeros((frames, 4), "f4"), landmarks68=landmarks,
        crops=tuple(b"png%d" % t if f else None for t, f in enumerate(found)),
    )  # fmt: skip


def tiny_clip(i):
    return Clip(clip_id=str(i), corpus="crema-d")


def write_corpus(out, lengths, manifests=True, make=make_clip, streams=("landmarks68", "crops")):
    out.mkdir(parents=True, exist_ok=True)
    first = total = 0
    for index, length in enumerate(lengths):
        path = out / writer.shard_name("crema-d", index, len(lengths))
        clips = (encode(make(i)) for i in range(first, first + length))
        info = writer.write_shard(path, clips)
        if manifests:
            writer.write_json(path.with_name(f"{path.name}.manifest.json"), vars(info))
        first, total = first + length, total + info.bytes
    writer.write_dataset_info(
        out, "crema-d", lengths, total, streams, dict.fromkeys(IMAGES, (8, 8, 3)), "png",
        {"corpus": "crema-d"},
    )  # fmt: skip
    return out


@pytest.fixture
def directory(tmp_path):
    return write_corpus(tmp_path / "records", [3, 0, 1, 4])


def ids(clips):
    return [clip.clip_id for clip in clips]


def test_a_sequence_of_clips(directory):
    clips = corpus.load(directory)
    names = [f"crema-d/{i}" for i in range(8)]
    assert len(clips) == 8 and ids(clips) == names
    assert [clips[i].clip_id for i in (7, 3, 0, -1, -8, 2)] == [
        names[i] for i in (7, 3, 0, 7, 0, 2)
    ]
    assert ids(clips[1:6:2]) == names[1:6:2] and ids(clips[::-1]) == names[::-1]
    for index in (8, -9):
        with pytest.raises(IndexError):
            clips[index]
    assert clips.name == "crema-d" and clips.metadata == {"corpus": "crema-d"}
    assert clips.info["splits"][0]["shardLengths"] == ["3", "0", "1", "4"]
    assert clips.image_shapes == {"crops": (8, 8, 3)}
    np.testing.assert_array_equal(clips[5].landmarks68, make_clip(5).landmarks68)
    assert clips[5].crops == (b"png0", None, b"png2")


def test_only_the_streams_that_are_asked_for(directory):
    assert corpus.load(directory).streams == ("landmarks68", "crops")
    clip = corpus.load(directory, streams=("landmarks68",))[0]
    assert clip.streams == ("landmarks68",) and clip.crops is None
    assert corpus.load(directory, streams=())[0].streams == ()
    with pytest.raises(UserError, match=r"has no blendshapes \(it holds landmarks68, crops\)"):
        corpus.load(directory, streams=("landmarks68", "blendshapes"))


def test_hundreds_of_small_shards(tmp_path):
    directory = write_corpus(
        tmp_path / "r", [1, 0, 2] * 120, manifests=False, make=tiny_clip, streams=()
    )
    clips = corpus.load(directory)
    before = len(os.listdir("/proc/self/fd"))
    assert ids(clips) == [str(i) for i in range(360)]
    assert clips[359].clip_id == "359"
    assert len(os.listdir("/proc/self/fd")) == before  # a process may hold 1024 files by default


def test_empty_corpus(tmp_path):
    clips = corpus.load(write_corpus(tmp_path / "r", [0, 0]))
    assert len(clips) == 0 and list(clips) == [] and clips.check() == []


def test_threads_and_pickles(directory):
    clips = corpus.load(directory, streams=("crops",))
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda i: clips[i % 8].clip_id, range(200)))
    assert read == [f"crema-d/{i % 8}" for i in range(200)]
    copy = pickle.loads(pickle.dumps(clips))
    assert ids(copy) == ids(clips) and copy.streams == ("crops",)


def test_data_sha256_is_of_the_shards(directory, tmp_path):
    want = corpus.load(directory).data_sha256
    same = write_corpus(tmp_path / "without", [3, 0, 1, 4], manifests=False)
    assert corpus.load(same).data_sha256 == want
    other = write_corpus(tmp_path / "other", [3, 1, 0, 4])
    assert corpus.load(other).data_sha256 != want
    # A manifest that does not fit the file is not believed.
    shard = next(directory.glob("*-00000-of-*4"))
    shard.write_bytes(shard.read_bytes() + b"x")
    assert corpus.load(directory).data_sha256 != want


def test_any_flipped_byte_is_found_when_read_and_when_checked(tmp_path):
    directory = write_corpus(tmp_path / "r", [2], manifests=False, make=tiny_clip, streams=())
    assert corpus.load(directory).check() == []
    shard = next(directory.glob("*.tfrecord-*"))
    intact = shard.read_bytes()
    for position in range(len(intact)):
        damaged = bytearray(intact)
        damaged[position] ^= 1 << position % 8
        shard.write_bytes(damaged)
        with pytest.raises(UserError, match="tfrecord-00000-of-00001: damaged at byte"):
            list(corpus.load(directory))
        (problem,) = corpus.load(directory).check()
        assert str(shard) in problem and "delete it and repeat the preprocess command" in problem


def test_any_truncation_is_found(tmp_path):
    directory = write_corpus(tmp_path / "r", [2], manifests=False, make=tiny_clip, streams=())
    shard = next(directory.glob("*.tfrecord-*"))
    intact = shard.read_bytes()
    for length in range(len(intact)):  # a cut between two records too: the counts disagree
        shard.write_bytes(intact[:length])
        with pytest.raises(UserError, match=r"of-00001: (damaged|holds)"):
            list(corpus.load(directory))


def test_check_reads_on_after_damage(directory):
    first, *_, last = sorted(directory.glob("*.tfrecord-*[0-9]"))
    content = bytearray(first.read_bytes())
    content[40] ^= 1  # in the payload of the first clip
    first.write_bytes(content)
    last.write_bytes(last.read_bytes()[:-1])
    problems = []
    assert ids(corpus.load(directory).scan(problems)) == ["crema-d/1", "crema-d/2", "crema-d/3"]
    assert len(problems) == 4
    assert sum(str(first) in p for p in problems) == sum(str(last) in p for p in problems) == 2
    assert sum("manifest says sha256" in p for p in problems) == 1
    assert sum("manifest says bytes" in p for p in problems) == 1


def test_check_finds_what_checksums_cannot(tmp_path):
    def make(i):
        return (
            make_clip(0) if i == 1 else make_clip(i).replace(**({"crops": None} if i == 2 else {}))
        )

    directory = write_corpus(tmp_path / "r", [3], make=make)
    twice, lacking = corpus.load(directory).check()
    assert "record 1 (crema-d/0): the clip is there twice" in twice
    assert "record 2 (crema-d/2): has no crops, which features.json promises" in lacking


def test_exchanged_record_that_is_no_clip(directory):
    shard = sorted(directory.glob("*.tfrecord-*[0-9]"))[2]
    writer.write_shard(shard, [b"\x0a\x00"])
    with pytest.raises(UserError, match=r"00002-of-00004, record 0: not a FER-JAX clip"):
        corpus.load(directory)[3]


def no_directory(d):
    for path in d.iterdir():
        path.unlink()
    d.rmdir()


def incomplete(d):
    (d / "dataset_info.json").unlink()


def lost_shards(d):
    for path in sorted(d.glob("*.tfrecord-*[0-9]"))[1:3]:
        path.unlink()


def edit(name, change):
    def apply(d):
        document = json.loads((d / name).read_text())
        change(document)
        (d / name).write_text(json.dumps(document))

    return apply


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_directory, r"does not exist; make one with `fer-jax preprocess CORPUS RAW "),
        (incomplete, "is incomplete: preprocessing did not finish; repeat the preprocess command"),
        (lost_shards, "2 of 4 shards are missing, first crema-d-clips.tfrecord-00001-of-00004"),
        (lambda d: (d / "features.json").unlink(), r"cannot read .*features\.json: No such file"),
        (lambda d: (d / "dataset_info.json").write_text("{"), r"dataset_info\.json is damaged"),
        (lambda d: (d / "metadata.json").write_text("[]"), r"metadata\.json is damaged: not an"),
        (edit("dataset_info.json", lambda i: i.pop("splits")), "TFDS directory, but not of FER"),
        (edit("dataset_info.json", lambda i: i.update(fileFormat="riegeli")),
         "TFDS directory, but not of FER-JAX"),
        (edit("features.json", lambda f: f["featuresDict"]["features"].pop("clip_id")),
         "TFDS directory, but not of FER-JAX"),
    ],
)  # fmt: skip
def test_what_is_no_record_directory(directory, spoil, message):
    spoil(directory)
    with pytest.raises(UserError, match=message) as caught:
        corpus.load(directory)
    assert "\n" not in str(caught.value)


def test_other_paths_that_are_no_record_directory(tmp_path):
    with pytest.raises(UserError, match=r"is not a record directory: .*fer-jax preprocess"):
        corpus.load(tmp_path)
    (tmp_path / "video.mp4").touch()
    with pytest.raises(UserError, match="is a file, not a record directory"):
        corpus.load(tmp_path / "video.mp4")


def test_inspect_counts(directory):
    (directory / "quarantine.csv").write_text("clip_id,source,reason\na,b,empty\nc,d,no face\n")
    report = inspect(directory)
    assert json.loads(json.dumps(report)) == report
    assert (report["clips"], report["frames"], report["faces"]) == (8, 24, 16)
    assert report["coverage"] == pytest.approx(2 / 3)
    assert {k: v["clips"] for k, v in report["classes"].items()} == dict.fromkeys(EMOTIONS, 2)
    assert {k: v["clips"] for k, v in report["splits"].items()} == {"test": 2, "train": 6}
    assert {k: v["frames"] for k, v in report["subjects"].items()} == {"100": 12, "101": 12}
    assert report["unlabelled"] == 2 and report["augmented"] == 0
    assert report["streams"] == ["landmarks68", "crops"]
    assert report["image_shapes"] == {"crops": [8, 8, 3]}
    assert report["shards"] == 4 and report["quarantined"] == 2
    assert report["bytes"] == sum(p.stat().st_size for p in directory.glob("*.tfrecord-*[0-9]"))
    assert report["problems"] == [] and not report["checked"]
    text = render(report)
    assert "8 clips, 24 frames, faces found in 66.7 %" in text
    assert "streams: landmarks68, crops (crops 8x8x3)" in text
    assert "2 clips have no label" in text and "2 files were set aside" in text
    assert "--check" in text and "intact: every checksum fits" in render(inspect(directory, True))


def test_inspect_of_a_damaged_directory(directory):
    shard = sorted(directory.glob("*.tfrecord-*[0-9]"))[2]
    shard.write_bytes(b"\x00" * 100)
    with pytest.raises(UserError, match="not a TFRecord file"):
        inspect(directory)
    report = inspect(directory, check=True)
    assert report["clips"] == 7 and len(report["problems"]) == 2
    assert "2 problems:" in render(report) and str(shard) in render(report)


def test_inspect_of_an_empty_corpus(tmp_path):
    report = inspect(write_corpus(tmp_path / "r", [0]), check=True)
    assert report["clips"] == 0 and report["coverage"] is None
    assert "0 clips, 0 frames" in render(report)


def test_reading_loads_nothing_heavy(directory):
    code = (
        "import sys; from fer_jax.data import corpus, inspect; from preprocessing import writer; "
        f"assert corpus.load({str(directory)!r}).check() == []; "
        "print({'tensorflow', 'tensorflow_datasets', 'jax', 'cv2'} & set(sys.modules))"
    )
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert run.stdout == "set()\n", run.stderr
