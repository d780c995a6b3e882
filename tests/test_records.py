"""The clip schema: encode and decode are inverse, and foreign records are refused."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fer_jax import records
from fer_jax.errors import UserError
from fer_jax.records import IMAGES, OPTIONAL, SCHEMA_VERSION, TENSORS, Clip, decode, encode

TEXT = st.text(max_size=12)
FLOAT32 = st.floats(width=32)


def tensor(name, frames):
    shape, dtype = TENSORS[name]
    # Any bit pattern: NaN payloads and infinities must survive.
    return hnp.arrays(dtype, [frames if n is None else n for n in shape])


@st.composite
def clips(draw):
    frames = draw(st.integers(0, 3))
    values = {n: draw(TEXT) for n in ("subject", "emotion", "intensity", "statement", "recording",
                                      "split", "augmentation", "source")}  # fmt: skip
    for name in TENSORS:
        if name not in OPTIONAL or draw(st.booleans()):
            values[name] = draw(tensor(name, frames))
    for name in IMAGES:
        if draw(st.booleans()):
            values[name] = tuple(
                draw(st.binary(max_size=9)) if found else None for found in values["face_found"]
            )
    return Clip(clip_id=draw(TEXT), corpus=draw(TEXT), fps=draw(FLOAT32), **values,
                duration_ms=draw(FLOAT32), width=draw(st.integers(0, 2**31 - 1)),
                height=draw(st.integers(0, 2**31 - 1)))  # fmt: skip


def assert_same(a, b):
    for name in Clip.__dataclass_fields__:
        left, right = getattr(a, name), getattr(b, name)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype and left.shape == right.shape, name
            assert left.tobytes() == right.tobytes(), name
        else:
            assert left == right or (left != left and right != right), name


@settings(deadline=None, max_examples=60)
@given(clips())
def test_decode_inverts_encode(clip):
    payload = encode(clip)
    assert_same(decode(payload), clip)
    assert encode(decode(payload)) == payload


@settings(deadline=None, max_examples=30)
@given(clips(), st.sets(st.sampled_from(OPTIONAL)))
def test_decode_of_some_streams(clip, streams):
    dropped = {n: None for n in OPTIONAL if n not in streams}
    assert_same(decode(encode(clip), tuple(streams)), clip.replace(**dropped))


@settings(deadline=None, max_examples=30)
@given(clips())
def test_the_bytes_are_those_of_protocol_buffers(clip):
    example = records.example_class().FromString(encode(clip))
    assert example.SerializeToString(deterministic=True) == encode(clip)


def test_a_payload_in_pieces(monkeypatch):
    """Small pieces, the right size, and no message larger than Protocol Buffers read."""
    T = 4000
    rng = np.random.default_rng(0)
    clip = two_frames(
        frame_index=np.arange(T, dtype="i4"), time_ms=np.zeros(T, "f4"), box=np.zeros((T, 4), "f4"),
        face_found=np.ones(T, bool), landmarks68=rng.random((T, 68, 2), "f4"),
        crops=tuple(rng.bytes(1000) for _ in range(T)),
    )  # fmt: skip
    payload = records.payload(clip)
    pieces = list(payload.pieces)
    assert sum(map(len, pieces)) == payload.size > 6_000_000
    assert max(map(len, pieces)) < 600_000
    assert_same(decode(b"".join(pieces)), clip)
    framed = b"".join(records.framed(records.payload(clip)))
    assert framed == records.frame_record(b"".join(pieces))
    monkeypatch.setattr("fer_jax.example.LARGEST", payload.size - 1)
    with pytest.raises(ValueError, match=r"0\.0 GiB of frames do not fit into one record"):
        records.payload(clip)


def test_scanned_clip_has_no_frames():
    clip = decode(encode(Clip(clip_id="a/b", corpus="a", source="b.mp4")))
    assert clip.frames == 0 and clip.box.shape == (0, 4) and clip.streams == ()


def test_file_name_that_is_not_utf8():
    name = b"caf\xe9.mp4".decode("utf-8", "surrogateescape")
    clip = decode(encode(Clip(clip_id="folder/x", corpus="folder", source=name)))
    assert clip.source == name


def two_frames(**changes):
    return Clip(**{
        "clip_id": "a/b", "corpus": "a", "frame_index": np.arange(2, dtype="i4"),
        "time_ms": np.zeros(2, "f4"), "face_found": np.array([True, False]),
        "box": np.zeros((2, 4), "f4"), **changes,
    })  # fmt: skip


def test_encode_refuses_what_decode_could_not_read():
    with pytest.raises(ValueError, match=r"a/b: blendshapes is \(3, 52\), schema says \(2, 52\)"):
        encode(two_frames(blendshapes=np.zeros((3, 52), "f4")))
    for name in IMAGES:
        with pytest.raises(ValueError, match=f"{name} and face_found disagree"):
            encode(two_frames(**{name: (b"x", b"y")}))


def change(payload, edit):
    example = records.example_class().FromString(payload)
    edit(example.features.feature)
    return example.SerializeToString()


def test_foreign_records_are_refused():
    payload = encode(two_frames(crops=(b"x", None), frontal=(b"y", None)))
    newer = change(payload, lambda f: f["schema_version"].int64_list.value.__setitem__(0, 99))
    with pytest.raises(UserError, match=f"schema 99.*reads up to {SCHEMA_VERSION}: update"):
        decode(newer)
    with pytest.raises(UserError, match="lacks clip_id, face_found"):
        decode(change(payload, lambda f: (f.pop("clip_id"), f.pop("face_found"))))
    edits = [
        lambda f: f["box"].bytes_list.value.__setitem__(0, b"12345678"),
        lambda f: f["box"].bytes_list.value.__setitem__(0, b"123"),
        lambda f: f["emotion"].float_list.value.append(1.0),
        lambda f: f["crops"].bytes_list.value.append(b"more"),
        lambda f: f["frontal"].bytes_list.value.pop(),
    ]
    for edit in edits:
        with pytest.raises(UserError, match="not a FER-JAX clip"):
            decode(change(payload, edit))


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(data):
    with pytest.raises(UserError):
        decode(data)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_damage_without_checksums_never_crashes(data):
    payload = bytearray(encode(two_frames(blendshapes=np.zeros((2, 52), "f4"))))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(UserError):
        decode(bytes(payload))


def test_tfds_features_refuses_nonsense():
    with pytest.raises(ValueError, match="unknown streams"):
        records.tfds_features(["smell"], {}, "jpeg")
    with pytest.raises(ValueError, match="crops has no shape"):
        records.tfds_features(["crops"], {"frontal": (8, 8, 3)}, "jpeg")
