"""The Clip: what preprocessing writes and training reads, and its form on disk.

A record directory is a plain TFDS directory (`tfds.builder_from_directory(dir)` opens it) of
TFRecord shards, one `tf.train.Example` a clip. Large tensors are bytes in C order, little-endian;
images stay encoded. This file owns the schema; it needs neither TensorFlow nor JAX.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from fer_jax.errors import UserError
from fer_jax.example import Feature, Payload, example_class, serialize

#: Raise it when the meaning of a field changes; readers refuse what they do not know.
SCHEMA_VERSION = 1
#: The one TFDS split of a record directory. Official partitions are a field of each clip.
SPLIT = "clips"
#: How TFDS names shards.
FILE_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"

_TEXT = ("clip_id", "corpus", "subject", "emotion", "intensity", "statement", "recording", "split",
         "augmentation", "source")  # fmt: skip
_SCALARS = {
    "fps": np.dtype("<f4"),
    "duration_ms": np.dtype("<f4"),
    "width": np.dtype("<i4"),
    "height": np.dtype("<i4"),
}
#: Every frame-wise tensor: shape with None for the T frames, dtype.
TENSORS: Mapping[str, tuple[tuple[int | None, ...], np.dtype]] = {
    "frame_index": ((None,), np.dtype("<i4")),
    "time_ms": ((None,), np.dtype("<f4")),
    "face_found": ((None,), np.dtype("bool")),
    "box": ((None, 4), np.dtype("<f4")),
    "landmarks68": ((None, 68, 2), np.dtype("<f4")),
    "landmarks478": ((None, 478, 3), np.dtype("<f4")),
    "blendshapes": ((None, 52), np.dtype("<f4")),
    "pose": ((None, 4, 4), np.dtype("<f4")),
    "votes": ((10,), np.dtype("<f4")),
    "crop_matrix": ((None, 2, 3), np.dtype("<f4")),
}
_ESCAPE = "surrogateescape"
#: Streams of encoded images, one for each frame where a face was found.
IMAGES = ("crops", "frontal")
#: What `preprocess --outputs` must name for a stream.
OUTPUTS: Mapping[str, str] = {
    "landmarks68": "landmarks", "landmarks478": "blendshapes", "blendshapes": "blendshapes",
    "pose": "blendshapes", "crop_matrix": "crops", "crops": "crops", "frontal": "frontal",
}  # fmt: skip
#: Streams that a record directory may or may not hold.
OPTIONAL = ("landmarks68", "landmarks478", "blendshapes", "pose", "votes", "crop_matrix", *IMAGES)

_REQUIRED = ("schema_version", *_TEXT, *_SCALARS, *(n for n in TENSORS if n not in OPTIONAL))


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """One video, or an image (T = 1).

    A stream that was not extracted is None. In a stream that was, a frame without a face is NaN,
    never zeros. A clip that is scanned but not yet decoded has T = 0.

    Attributes:
      clip_id: "<corpus>/<stem>", unique in a corpus.
      corpus: the adapter that read it, e.g. "crema-d".
      subject: who is seen; "" where the corpus does not say.
      emotion: the corpus's own word (see `fer_jax.labels`).
      intensity, statement: the corpus's own words; "" where it has none.
      recording: what twins share: one take's audio-video and video-only copies are one recording.
      split: the corpus's official partition, "train", "validation" or "test"; "" if it has none.
      augmentation: what made this copy out of the original ("" for the original itself).
      source: file below the corpus root; "<file>#<row>" for a row of a table.
      fps: frames a second, 0 for an image.
      duration_ms: duration in milliseconds, 0 for an image.
      width, height: size of the source, pixels.
      frame_index: i32[T], index of each kept frame in the source.
      time_ms: f32[T], presentation time of each frame.
      face_found: bool[T], a face of the clip's subject was found.
      box: f32[T, 4], left, top, right, bottom of the face in source pixels.
      landmarks68: f32[T, 68, 2], dlib's points (x, y) in source pixels.
      landmarks478: f32[T, 478, 3], MediaPipe's points: x, y in source pixels, z in the scale of x.
      blendshapes: f32[T, 52], MediaPipe's scores in its own order.
      pose: f32[T, 4, 4], MediaPipe's facial transformation matrix.
      votes: f32[10], FER+ votes of ten annotators, in the order of its file.
      crop_matrix: f32[T, 2, 3], source pixels to the pixels of `crops`: M @ (x, y, 1), pixel
        centres at whole numbers.
      crops: one encoded image (JPEG or PNG) for each frame, None where no face was found.
      frontal: the same, the face as seen from the front (`preprocessing.frontalize`).
      extracted: f32[T, F], what a network made of each frame; not in the record but beside it
        (`fer_jax.data.extracted`).
    """

    clip_id: str
    corpus: str
    subject: str = ""
    emotion: str = ""
    intensity: str = ""
    statement: str = ""
    recording: str = ""
    split: str = ""
    augmentation: str = ""
    source: str = ""
    fps: float = 0.0
    duration_ms: float = 0.0
    width: int = 0
    height: int = 0
    frame_index: np.ndarray = field(default_factory=partial(np.zeros, 0, "<i4"))
    time_ms: np.ndarray = field(default_factory=partial(np.zeros, 0, "<f4"))
    face_found: np.ndarray = field(default_factory=partial(np.zeros, 0, "bool"))
    box: np.ndarray = field(default_factory=partial(np.zeros, (0, 4), "<f4"))
    landmarks68: np.ndarray | None = None
    landmarks478: np.ndarray | None = None
    blendshapes: np.ndarray | None = None
    pose: np.ndarray | None = None
    votes: np.ndarray | None = None
    crop_matrix: np.ndarray | None = None
    crops: Sequence[bytes | None] | None = None
    frontal: Sequence[bytes | None] | None = None
    extracted: np.ndarray | None = None

    @property
    def frames(self) -> int:
        """T, the number of frames."""
        return len(self.frame_index)

    @property
    def streams(self) -> tuple[str, ...]:
        """The optional streams that this clip has."""
        return tuple(name for name in OPTIONAL if getattr(self, name) is not None)

    def replace(self, **changes: Any) -> Clip:
        return dataclasses.replace(self, **changes)


def shard_name(name: str, index: int, count: int, template: str = FILE_TEMPLATE) -> str:
    """The file name of shard `index` of `count` of corpus `name`, as TFDS spells it."""
    x, n = f"{index:05d}", f"{count:05d}"
    return template.format(
        DATASET=name, SPLIT=SPLIT, FILEFORMAT="tfrecord", SHARD_X_OF_Y=f"{x}-of-{n}",
        SHARD_INDEX=x, NUM_SHARDS=n,
    )  # fmt: skip


# Framing: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details


def masked_crc32c(data: bytes) -> int:
    """TFRecord's checksum: CRC-32C, rotated and offset so that a CRC of CRCs stays sound."""
    import google_crc32c

    return _masked(google_crc32c.value(data))


def _masked(crc: int) -> int:
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def framed(payload: bytes | Payload) -> Iterator[bytes]:
    """One TFRecord, in pieces: length, its CRC, payload, its CRC (8 + 4 + n + 4 bytes)."""
    import google_crc32c

    if isinstance(payload, bytes):
        size, pieces = len(payload), iter([payload])
    else:
        size, pieces = payload.size, payload.pieces
    length = struct.pack("<Q", size)
    yield length + struct.pack("<I", masked_crc32c(length))
    crc = 0
    for piece in pieces:
        crc = google_crc32c.extend(crc, piece)
        yield piece
    yield struct.pack("<I", _masked(crc))


def frame_record(payload: bytes) -> bytes:
    """`framed` in one."""
    return b"".join(framed(payload))


def encode(clip: Clip) -> bytes:
    """A clip as the bytes of a `tf.train.Example`, equal for equal clips. See `payload`."""
    return b"".join(payload(clip).pieces)


def payload(clip: Clip) -> Payload:
    """What `encode` gives, piece by piece.

    Raises:
      ValueError: a tensor's shape does not fit the schema or the clip's T, or the clip is larger
        than a record can be.
    """
    features: dict[str, Feature] = {"schema_version": SCHEMA_VERSION}
    for name in _TEXT:
        # File names need not be UTF-8; "surrogateescape" keeps their bytes.
        features[name] = [getattr(clip, name).encode("utf-8", _ESCAPE)]
    for name, dtype in _SCALARS.items():
        features[name] = (float if dtype.kind == "f" else int)(getattr(clip, name))
    for name, (shape, dtype) in TENSORS.items():
        value = getattr(clip, name)
        if value is None:
            continue
        want = tuple(clip.frames if n is None else n for n in shape)
        if np.shape(value) != want:
            raise ValueError(f"{clip.clip_id}: {name} is {np.shape(value)}, schema says {want}")
        features[name] = np.ascontiguousarray(value, dtype)
    for name in IMAGES:
        images = getattr(clip, name)
        if images is None:
            continue
        if [image is not None for image in images] != [bool(f) for f in clip.face_found]:
            raise ValueError(f"{clip.clip_id}: {name} and face_found disagree")
        features[name] = _Present(images)
    return serialize(features)


@dataclass(frozen=True)
class _Present:
    """The images that are there. Those of a long clip are read from a file each time."""

    images: Sequence[bytes | None]

    def __iter__(self) -> Iterator[bytes]:
        return (image for image in self.images if image is not None)


def decode(payload: bytes, streams: Collection[str] | None = None) -> Clip:
    """The clip that `encode` wrote.

    Args:
      payload: one record.
      streams: the optional streams to decode; None decodes all, others are None in the clip.

    Returns:
      The clip. Its arrays are read-only.

    Raises:
      UserError: the record is not a clip, or of a newer schema.
    """
    from google.protobuf.message import DecodeError

    try:
        feature = example_class().FromString(payload).features.feature
        missing = [n for n in _REQUIRED if n not in feature]
        if missing:
            raise UserError(f"not a FER-JAX clip: it lacks {', '.join(missing)}")
        version = feature["schema_version"].int64_list.value[0]
        if version > SCHEMA_VERSION:
            raise UserError(
                f"a clip of schema {version}, this version reads up to {SCHEMA_VERSION}: "
                "update fer-jax"
            )
        return _clip(feature, OPTIONAL if streams is None else streams)
    except DecodeError as error:
        raise UserError("not a FER-JAX clip: no tf.train.Example") from error
    except (IndexError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"not a FER-JAX clip: {error}") from error


def _clip(feature: Any, streams: Collection[str]) -> Clip:
    values: dict[str, Any] = {
        n: feature[n].bytes_list.value[0].decode("utf-8", _ESCAPE) for n in _TEXT
    }
    for name, dtype in _SCALARS.items():
        kind = "float_list" if dtype.kind == "f" else "int64_list"
        values[name] = getattr(feature[name], kind).value[0]
    frames = len(feature["frame_index"].bytes_list.value[0]) // 4
    for name, (shape, dtype) in TENSORS.items():
        if name in OPTIONAL and not (name in streams and name in feature):
            continue
        data = np.frombuffer(feature[name].bytes_list.value[0], dtype)
        values[name] = data.reshape([frames if n is None else n for n in shape])
    found = values["face_found"]
    for name in IMAGES:
        if not (name in streams and name in feature):
            continue
        images = feature[name].bytes_list.value
        if len(images) != np.count_nonzero(found):
            raise ValueError(f"{len(images)} {name}, {np.count_nonzero(found)} faces found")
        left = iter(images)
        values[name] = tuple(next(left) if f else None for f in found)
    return Clip(**values)


_TFDS = "tensorflow_datasets.core.features."


def tfds_features(
    streams: Collection[str],
    image_shapes: Mapping[str, tuple[int, int, int]],
    image_format: str,
) -> dict[str, Any]:
    """The schema as TFDS's features.json describes it (TFDS 4, `FeaturesDict.to_json`).

    Args:
      streams: the optional streams that every clip of the directory has.
      image_shapes: (height, width, channels) of each of the `IMAGES` among them.
      image_format: "jpeg" or "png".

    Raises:
      ValueError: an unknown stream, or images without a shape.
    """
    if unknown := set(streams).difference(OPTIONAL):
        raise ValueError(f"unknown streams {sorted(unknown)}")

    def tensor(shape: tuple[int | None, ...], dtype: str, encoding: str) -> dict[str, Any]:
        sizes = [str(-1 if n is None else n) for n in shape]
        return {
            "dtype": dtype,
            "encoding": encoding,
            "shape": {"dimensions": sizes} if sizes else {},
        }

    features: dict[str, Any] = {
        name: {"pythonClassName": _TFDS + "text_feature.Text", "text": {}} for name in _TEXT
    }
    for name, dtype in {"schema_version": np.dtype("<i4"), **_SCALARS}.items():
        features[name] = {
            "pythonClassName": _TFDS + "scalar.Scalar",
            "tensor": tensor((), dtype.name, "none"),
        }
    for name, (shape, dtype) in TENSORS.items():
        if name not in OPTIONAL or name in streams:
            features[name] = {
                "pythonClassName": _TFDS + "tensor_feature.Tensor",
                "tensor": tensor(shape, dtype.name, "bytes"),
            }
    for name in IMAGES:
        if name not in streams:
            continue
        if name not in image_shapes:
            raise ValueError(f"{name} has no shape")
        image = {
            "dtype": "uint8",
            "encodingFormat": image_format,
            "shape": {"dimensions": [str(n) for n in image_shapes[name]]},
        }
        features[name] = {
            "pythonClassName": _TFDS + "sequence_feature.Sequence",
            "sequence": {
                "feature": {"image": image, "pythonClassName": _TFDS + "image_feature.Image"},
                "length": "-1",
            },
        }
    return {
        "featuresDict": {"features": features},
        "pythonClassName": _TFDS + "features_dict.FeaturesDict",
    }
