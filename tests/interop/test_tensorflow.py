"""TensorFlow and TFDS read what we write, and we read what they write, to the same values."""

import io
import json

import numpy as np
import pytest

from fer_jax import records
from fer_jax.data import corpus
from fer_jax.data.tfrecord import Shard
from fer_jax.records import IMAGES, OPTIONAL, TENSORS, Clip
from preprocessing import writer

SHAPES = {"crops": (12, 10, 3), "frontal": (7, 9, 1)}


@pytest.fixture(scope="module")
def tf():
    return pytest.importorskip("tensorflow")


@pytest.fixture(scope="module")
def tfds(tf):
    return pytest.importorskip("tensorflow_datasets")


def encode_image(pixels, form):
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(buffer, form)
    return buffer.getvalue()


def images_of(streams):
    return [name for name in IMAGES if name in streams]


def make_clip(i, frames, streams, form="png"):
    rng = np.random.default_rng(i)
    found = rng.random(frames) < 0.7
    values = {}
    for name, (shape, dtype) in TENSORS.items():
        if name in OPTIONAL and name not in streams:
            continue
        size = [frames if n is None else n for n in shape]
        if name == "face_found":
            values[name] = found
        elif dtype.kind == "f":
            values[name] = rng.normal(size=size).astype(dtype)
            if name not in ("votes", "time_ms"):
                values[name][~found] = np.nan
        else:
            values[name] = rng.integers(-(2**31), 2**31, size).astype(dtype)
    for name in images_of(streams):
        values[name] = tuple(
            encode_image(rng.integers(0, 256, SHAPES[name], np.uint8), form) if f else None
            for f in found
        )
    return Clip(
        clip_id=f"ravdess/{i}", corpus="ravdess", emotion="fürchterlich", fps=29.97,
        source="a b.mp4", duration_ms=1e7 / 3, width=1280, height=720 + i, **values,
    )  # fmt: skip


def write_directory(out, clips, streams, lengths, form="png"):
    total, rest = 0, iter(clips)
    for i, length in enumerate(lengths):
        path = out / writer.shard_name("ravdess", i, len(lengths))
        total += writer.write_shard(path, [records.encode(next(rest)) for _ in range(length)]).bytes
    shapes = {name: SHAPES[name] for name in images_of(streams)}
    writer.write_dataset_info(
        out, "ravdess", lengths, total, streams, shapes, form, {"recipe": {"size": 12}}
    )
    return out


def fields(clip):
    """Name -> value of all that a record of `clip` holds, without images."""
    values = {n: getattr(clip, n) for n in Clip.__dataclass_fields__ if n not in IMAGES}
    return {name: value for name, value in values.items() if value is not None}


def assert_equal(got, want, name):
    """Bits, not just values: NaN equals NaN."""
    if isinstance(want, str):
        assert got.decode() == want, name
    else:
        want = np.asarray(want, records._SCALARS.get(name))
        assert np.asarray(got).dtype == want.dtype and np.shape(got) == want.shape, name
        assert np.asarray(got).tobytes() == want.tobytes(), name


ALL = OPTIONAL
SOME = ("blendshapes",)
FRAMES = (4, 1, 9, 0, 3)


@pytest.mark.parametrize("streams", [ALL, SOME, ()], ids=["all", "blendshapes", "none"])
def test_tf_data_reads_what_we_wrote(tf, tmp_path, streams):
    clips = [make_clip(i, frames, streams) for i, frames in enumerate(FRAMES)]
    path = tmp_path / "shard"
    writer.write_shard(path, map(records.encode, clips))
    spec = {"schema_version": tf.io.FixedLenFeature((), tf.int64)}
    for name, value in fields(clips[0]).items():
        kind = tf.string
        if name in records._SCALARS:
            kind = tf.float32 if records._SCALARS[name].kind == "f" else tf.int64
        spec[name] = tf.io.FixedLenFeature((), kind)
        assert isinstance(value, (str, float, int, np.ndarray))
    for name in images_of(streams):
        spec[name] = tf.io.VarLenFeature(tf.string)
    read = list(tf.data.TFRecordDataset(str(path)))
    assert len(read) == len(clips)
    for raw, clip in zip(read, clips, strict=True):
        assert raw.numpy() == records.encode(clip)
        example = tf.io.parse_single_example(raw, spec)
        for name, want in fields(clip).items():
            got = example[name]
            if name in TENSORS:
                shape, dtype = TENSORS[name]
                got = tf.io.decode_raw(got, tf.as_dtype(dtype))
                got = tf.reshape(got, [clip.frames if n is None else n for n in shape])
            got = got.numpy()
            if name in records._SCALARS:
                got = got.astype(records._SCALARS[name])
            assert_equal(got, want, name)
        for name in images_of(streams):
            images = example[name].values.numpy().tolist()
            assert images == [image for image in getattr(clip, name) if image is not None]
        # Nothing but the fields is in the record.
        keys = set(tf.train.Example.FromString(raw.numpy()).features.feature)
        assert keys == set(spec)


@pytest.mark.parametrize("form", ["png", "jpeg"])
@pytest.mark.parametrize(
    "streams",
    [ALL, SOME, ("crops",), ("crop_matrix", "frontal"), ()],
    ids=lambda s: "+".join(s) or "none",
)
def test_tfds_reads_what_we_wrote(tf, tfds, tmp_path, streams, form):
    clips = [make_clip(i, frames, streams, form) for i, frames in enumerate(FRAMES)]
    write_directory(tmp_path, clips, streams, [0, 2, 0, 3, 0], form)
    builder = tfds.builder_from_directory(str(tmp_path))
    assert builder.info.splits["clips"].num_examples == 5
    assert builder.info.splits["clips"].shard_lengths == [0, 2, 0, 3, 0]
    assert dict(builder.info.metadata) == {"recipe": {"size": 12}}
    read = list(builder.as_dataset(split="clips").as_numpy_iterator())
    assert len(read) == len(clips)
    for example, clip in zip(read, clips, strict=True):
        want = fields(clip)
        assert set(example) == {"schema_version", *want, *images_of(streams)}
        for name, value in want.items():
            assert_equal(example[name], value, name)
        for name in images_of(streams):
            images = [image for image in getattr(clip, name) if image is not None]
            assert example[name].shape == (len(images), *SHAPES[name])
            for got, image in zip(example[name], images, strict=True):
                np.testing.assert_array_equal(got, tf.io.decode_image(image).numpy())


def reference_features(tfds, streams):
    """The schema through TFDS's own classes."""
    kinds = {name: tfds.features.Text() for name in records._TEXT}
    kinds["schema_version"] = tfds.features.Scalar(np.int32)
    for name, dtype in records._SCALARS.items():
        kinds[name] = tfds.features.Scalar(dtype.type)
    for name, (shape, dtype) in TENSORS.items():
        if name not in OPTIONAL or name in streams:
            kinds[name] = tfds.features.Tensor(shape=shape, dtype=dtype.type, encoding="bytes")
    for name in images_of(streams):
        image = tfds.features.Image(shape=SHAPES[name], encoding_format="png")
        kinds[name] = tfds.features.Sequence(image)
    return tfds.features.FeaturesDict(kinds)


@pytest.mark.parametrize("streams", [ALL, SOME, ()], ids=["all", "blendshapes", "none"])
def test_features_json_is_what_tfds_would_write(tfds, tmp_path, streams):
    reference_features(tfds, streams).save_config(tmp_path)
    want = json.loads((tmp_path / "features.json").read_text())
    assert records.tfds_features(streams, SHAPES, "png") == want


def as_example(clip):
    from PIL import Image

    example = {"schema_version": records.SCHEMA_VERSION, **fields(clip)}
    for name in images_of(clip.streams):
        images = [image for image in getattr(clip, name) if image is not None]
        pixels = [np.asarray(Image.open(io.BytesIO(image))) for image in images]
        example[name] = [image.reshape(SHAPES[name]) for image in pixels]
    return example


def assert_same_clips(got, want):
    from PIL import Image

    assert len(got) == len(want)
    for a, b in zip(sorted(got, key=lambda c: c.clip_id), want, strict=True):
        assert set(fields(a)) == set(fields(b)) and a.streams == b.streams
        for name, value in fields(b).items():
            if isinstance(value, str):
                assert getattr(a, name) == value
            else:
                kind = records._SCALARS.get(name)
                assert_equal(np.asarray(getattr(a, name), kind), value, name)
        for name in images_of(b.streams):
            for mine, theirs in zip(getattr(b, name), getattr(a, name), strict=True):
                assert (mine is None) == (theirs is None)
                if mine is not None:
                    pixels = [np.asarray(Image.open(io.BytesIO(x))) for x in (mine, theirs)]
                    np.testing.assert_array_equal(*pixels)


@pytest.mark.parametrize("streams", [ALL, SOME], ids=["all", "blendshapes"])
def test_we_read_what_a_tfds_sequential_writer_wrote(tfds, tmp_path, streams):
    clips = [make_clip(i, frames, streams) for i, frames in enumerate(FRAMES)]
    identity = tfds.core.dataset_info.DatasetIdentity(
        name="ravdess", version="1.0.0", data_dir=str(tmp_path), module_name=""
    )
    info = tfds.core.DatasetInfo(builder=identity, features=reference_features(tfds, streams))
    sequential = tfds.core.SequentialWriter(info, max_examples_per_shard=2)
    sequential.initialize_splits(["clips"])
    sequential.add_examples({"clips": [as_example(clip) for clip in clips]})
    sequential.close_all()
    got = corpus.load(tmp_path)
    assert len(got.shards) == 3 and got.check() == []
    assert [clip.clip_id for clip in got] == [clip.clip_id for clip in clips]
    assert_same_clips(got, clips)


def test_we_read_what_a_tfds_builder_wrote(tfds, tmp_path):
    clips = [make_clip(i, 1 + i % 3, ALL) for i in range(7)]

    class Ravdess(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        __module__ = "ravdess"  # TFDS looks for the source of a dotted module
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=reference_features(tfds, ALL))

        def _split_generators(self, dl_manager):
            return {"clips": self._generate_examples()}

        def _generate_examples(self):
            for clip in clips:
                yield clip.clip_id, as_example(clip)

    builder = Ravdess(data_dir=str(tmp_path))
    builder.download_and_prepare()
    got = corpus.load(builder.data_dir)
    assert got.check() == []
    assert_same_clips(got, clips)


def test_dataset_info_fields_are_what_tfds_would_write(tfds, tmp_path):
    clips = [make_clip(i, 2, SOME) for i in range(3)]
    write_directory(tmp_path, clips, SOME, [2, 1])
    ours = json.loads((tmp_path / "dataset_info.json").read_text())
    builder = tfds.builder_from_directory(str(tmp_path))
    (tmp_path / "again").mkdir()
    builder.info.write_to_directory(tmp_path / "again")
    theirs = json.loads((tmp_path / "again" / "dataset_info.json").read_text())
    theirs.pop("moduleName", None)  # of the builder class, which we do not have
    assert theirs.pop("redistributionInfo", {}) == {}
    assert ours == theirs


def test_we_read_what_a_tf_record_writer_wrote(tf, tmp_path):
    rng = np.random.default_rng(0)
    payloads = [rng.bytes(n) for n in (0, 1, 17, 4095, 70_000, 3_000_000, 5, 2_500_000)]
    path = tmp_path / "theirs"
    with tf.io.TFRecordWriter(str(path)) as file:
        for payload in payloads:
            file.write(payload)
    shard = Shard(path)
    assert len(shard) == len(payloads)
    for i in (5, 0, 7, 3, 1, 2, 6, 4):
        assert shard[i] == payloads[i]
    # To the bit the same file as ours, thus the same checksums.
    writer.write_shard(tmp_path / "ours", payloads)
    assert (tmp_path / "ours").read_bytes() == path.read_bytes()


def test_hundreds_of_small_shards(tfds, tmp_path):
    lengths = [1, 0, 2] * 70
    clips = [make_clip(i, 1, ()) for i in range(210)]
    write_directory(tmp_path, clips, (), lengths)
    want = [clip.clip_id for clip in clips]
    assert [clip.clip_id for clip in corpus.load(tmp_path)] == want
    dataset = tfds.builder_from_directory(str(tmp_path)).as_dataset(split="clips")
    assert [e["clip_id"].decode() for e in dataset.as_numpy_iterator()] == want


def test_clip_of_many_megabytes(tf, tmp_path):
    clip = make_clip(0, 500, ("landmarks478",))
    writer.write_shard(tmp_path / "s", [records.encode(clip)])
    (payload,) = Shard(tmp_path / "s")
    assert len(payload) > 2_500_000
    (theirs,) = tf.data.TFRecordDataset(str(tmp_path / "s")).as_numpy_iterator()
    assert theirs == payload
    got = records.decode(payload).landmarks478
    assert got is not None and got.tobytes() == clip.landmarks478.tobytes()
