"""`tf.train.Example`: its message class to read one, and its bytes to write one piece by piece.

A long clip is never one long string. The form is that of Protocol Buffers
(https://protobuf.dev/programming-guides/encoding), and the bytes are those of their deterministic
serialisation: map entries by name, numbers packed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np

#: Protocol Buffers hold no more in one message.
LARGEST = (1 << 31) - 1
#: What a feature may be: strings, an array that is stored as its bytes, or one number.
Feature = Iterable[bytes] | np.ndarray | int | float
#: Fields of `tf.train.Feature`.
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3
#: Bytes of a piece, about.
_PIECE = 1 << 18


@cache
def example_class() -> Any:
    """The message class of `tf.train.Example`.

    The same as tensorflow/core/example/example.proto, declared here because importing the class
    from TensorFlow or TFDS takes seconds and drags in OpenCV. A descriptor pool of its own keeps
    it apart from theirs when they are loaded too.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="fer_jax/example.proto", package="tensorflow", syntax="proto3"
    )

    def add(message: Any, name: str, type_: int | str, *, many: bool = False) -> Any:
        field = message.field.add(name=name, number=len(message.field) + 1)
        field.label = kind.LABEL_REPEATED if many else kind.LABEL_OPTIONAL
        if isinstance(type_, str):
            field.type, field.type_name = kind.TYPE_MESSAGE, f".tensorflow.{type_}"
        else:
            field.type = type_
        return field

    message = file.message_type.add
    add(message(name="BytesList"), "value", kind.TYPE_BYTES, many=True)
    add(message(name="FloatList"), "value", kind.TYPE_FLOAT, many=True)
    add(message(name="Int64List"), "value", kind.TYPE_INT64, many=True)
    feature = message(name="Feature", oneof_decl=[{"name": "kind"}])
    add(feature, "bytes_list", "BytesList").oneof_index = 0
    add(feature, "float_list", "FloatList").oneof_index = 0
    add(feature, "int64_list", "Int64List").oneof_index = 0
    features = message(name="Features")
    entry = features.nested_type.add(name="FeatureEntry", options={"map_entry": True})
    add(entry, "key", kind.TYPE_STRING)
    add(entry, "value", "Feature")
    add(features, "feature", "Features.FeatureEntry", many=True)
    add(message(name="Example"), "features", "Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


@dataclass(frozen=True)
class Payload:
    """A record on its way to a file.

    Attributes:
      size: bytes in all.
      pieces: the bytes, in order; can be gone through once.
    """

    size: int
    pieces: Iterator[bytes]


def serialize(features: Mapping[str, Feature]) -> Payload:
    """The example with these features.

    Args:
      features: by name. Strings are gone through twice, for their lengths and for their bytes.

    Raises:
      ValueError: the example would be larger than a message can be.
    """
    entries = []
    for name in sorted(features):
        kind, size = _measured(features[name])
        head = _head(kind, size) if size else b""
        key = _head(1, len(name.encode())) + name.encode() + _head(2, len(head) + size)
        entries.append((_head(1, len(key) + len(head) + size) + key + head, size, features[name]))
    inner = sum(len(head) + size for head, size, _ in entries)
    start = _head(1, inner)
    if len(start) + inner > LARGEST:
        raise ValueError(
            f"{inner / 2**30:.1f} GiB of frames do not fit into one record, which holds 2: "
            "cut the video, or store smaller crops"
        )

    def pieces() -> Iterator[bytes]:
        held = bytearray(start)
        for head, _, value in entries:
            held += head
            for piece in _content(value):
                held += piece
                if len(held) >= _PIECE:
                    yield bytes(held)
                    held.clear()
        yield bytes(held)

    return Payload(len(start) + inner, pieces())


def _measured(value: Feature) -> tuple[int, int]:
    """The kind of list that holds a value, and its bytes, those of every element's head too."""
    if isinstance(value, np.ndarray):
        return _BYTES_LIST, len(_head(1, value.nbytes)) + value.nbytes
    if isinstance(value, int | float):
        kind = _FLOAT_LIST if isinstance(value, float) else _INT64_LIST
        return kind, sum(map(len, _content(value)))
    return _BYTES_LIST, sum(len(_head(1, len(item))) + len(item) for item in value)


def _content(value: Feature) -> Iterator[bytes]:
    if isinstance(value, np.ndarray):
        yield _head(1, value.nbytes)
        flat = np.ascontiguousarray(value).reshape(-1)
        count = max(1, _PIECE // value.itemsize)
        for start in range(0, flat.size, count):
            yield flat[start : start + count].tobytes()
    elif isinstance(value, int | float):
        number = struct.pack("<f", value) if isinstance(value, float) else _varint(value)
        yield _head(1, len(number)) + number
    else:
        for item in value:
            yield _head(1, len(item)) + item


@lru_cache(maxsize=4096)
def _head(field: int, length: int) -> bytes:
    """What goes before the bytes of a field of known length."""
    return _varint(field << 3 | 2) + _varint(length)


def _varint(number: int) -> bytes:
    number &= (1 << 64) - 1  # a negative one in two's complement
    digits = bytearray()
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    digits.append(number)
    return bytes(digits)
