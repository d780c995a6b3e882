"""TFRecord framing: round trips, random access, and damage that never goes unseen."""

import struct
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_jax.data.tfrecord import Shard
from fer_jax.errors import UserError
from fer_jax.records import frame_record, masked_crc32c


def write(path, payloads):
    path.write_bytes(b"".join(map(frame_record, payloads)))
    return path


def crc32c_by_definition(data):
    """CRC-32C bit by bit (Castagnoli's polynomial, reflected), as RFC 3720 defines it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@given(st.binary(max_size=300))
def test_masked_crc_is_rotated_crc32c(data):
    crc = crc32c_by_definition(data)
    rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
    assert masked_crc32c(data) == (rotated + 0xA282EAD8) % 2**32


def test_crc32c_of_the_rfc():
    # RFC 3720, appendix B.4: 32 bytes of zeros.
    assert crc32c_by_definition(bytes(32)) == 0x8A9136AA


@settings(deadline=None)
@given(payloads=st.lists(st.binary(max_size=40000), max_size=12), keep_open=st.booleans())
def test_round_trip(tmp_path_factory, payloads, keep_open):
    path = write(tmp_path_factory.mktemp("shard") / "s", payloads)
    with Shard(path, keep_open=keep_open) as shard:
        assert len(shard) == len(payloads)
        assert list(shard) == payloads
        assert [shard[i] for i in reversed(range(len(shard)))] == payloads[::-1]
        assert shard[1:-1] == payloads[1:-1]
        if payloads:
            assert shard[-1] == payloads[-1]


def test_index_out_of_range(tmp_path):
    shard = Shard(write(tmp_path / "s", [b"a", b"b"]))
    for index in (2, -3):
        with pytest.raises(IndexError):
            shard[index]


def test_empty_shard(tmp_path):
    assert list(Shard(write(tmp_path / "s", []))) == []


def test_reads_after_close(tmp_path):
    shard = Shard(write(tmp_path / "s", [b"a"]))
    shard.close()
    assert shard[0] == b"a"


def test_every_flipped_bit_is_detected(tmp_path):
    path = write(tmp_path / "clips.tfrecord", [b"first", b"", b"\x00third\xff"])
    intact = path.read_bytes()
    for position in range(len(intact)):
        for bit in range(8):
            damaged = bytearray(intact)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(
                UserError, match=r"clips\.tfrecord: .*byte \d+.*delete it"
            ) as caught:
                list(Shard(path))
            assert "\n" not in str(caught.value)


def test_every_truncation_inside_a_record_is_detected(tmp_path):
    payloads = [b"first", b"", b"third"]
    path = write(tmp_path / "clips.tfrecord", payloads)
    intact = path.read_bytes()
    ends = {0, 21, 37, 58}  # 16 bytes of framing and the payload each
    assert len(intact) == max(ends)
    for length in range(len(intact) + 1):
        path.write_bytes(intact[:length])
        if length in ends:
            assert list(Shard(path)) == payloads[: sorted(ends).index(length)]
        else:
            with pytest.raises(UserError, match=r"clips\.tfrecord: damaged at byte"):
                Shard(path)


def test_file_cut_after_it_was_opened(tmp_path):
    path = write(tmp_path / "s", [bytes(1000)])
    shard = Shard(path)
    with open(path, "r+b") as file:
        file.truncate(500)
    with pytest.raises(UserError, match="the file ends inside a record"):
        shard[0]


def test_absurd_length_allocates_nothing(tmp_path):
    length = struct.pack("<Q", 2**63)
    path = tmp_path / "s"
    path.write_bytes(length + struct.pack("<I", masked_crc32c(length)) + b"tail")
    with pytest.raises(UserError, match="the file ends inside a record"):
        Shard(path)


@pytest.mark.parametrize("content", [b"not a record file at all", b"\x1f\x8b\x08" + bytes(40)])
def test_not_a_tfrecord(tmp_path, content):
    path = tmp_path / "s"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a TFRecord file"):
        Shard(path)


def test_absent_file_and_directory(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*absent: No such file"):
        Shard(tmp_path / "absent")
    with pytest.raises(UserError, match=r"cannot read .*: Is a directory"):
        Shard(tmp_path)


def test_threads_share_a_shard(tmp_path):
    payloads = [bytes([i]) * (i * 97) for i in range(200)]
    shard = Shard(write(tmp_path / "s", payloads))
    wrong = []

    def read(start):
        wrong.extend(i for i in range(start, 200, 3) if shard[i] != payloads[i])

    threads = [threading.Thread(target=read, args=(start % 3,)) for start in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
