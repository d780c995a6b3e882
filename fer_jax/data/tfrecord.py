"""TFRecord files: random access with every checksum verified, without TensorFlow.

A file is a chain of records: length (8 bytes, little-endian), its masked CRC-32C (4), payload, its
masked CRC-32C (4). See https://www.tensorflow.org/tutorials/load_data/tfrecord.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

from fer_jax.errors import UserError
from fer_jax.records import masked_crc32c

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
#: What a user does about a damaged file of a record directory.
REMEDY = "delete it and repeat the preprocess command: finished shards are kept"


class Shard(Sequence[bytes]):
    """The records of one TFRecord file, of ours or of TensorFlow's.

    Opening walks the record headers once; afterwards `shard[i]` is one read. Threads may share it.

    Args:
      path: the file.
      keep_open: hold the file open until `close`; otherwise each read opens it, which suits
        thousands of shards.

    Raises:
      UserError: the file is absent, truncated, damaged or not a TFRecord. Reading a record raises
        it too, when the payload does not fit its checksum.
    """

    def __init__(self, path: str | os.PathLike[str], *, keep_open: bool = True) -> None:
        self._fd = -1
        self.path = Path(path)
        self._offsets = array("Q")
        self._lengths = array("Q")
        self._checksums = array("I")
        try:
            self._scan()
            if keep_open:
                self._fd = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror}") from None

    def _scan(self) -> None:
        # A small buffer: large records are skipped, several small ones are read at once.
        with open(self.path, "rb", buffering=16384) as file:
            size = os.fstat(file.fileno()).st_size
            position = 0
            while position < size:
                header = file.read(_HEADER.size)
                if len(header) < _HEADER.size:
                    raise self._damage(position, "the file ends inside a record's header")
                length, checksum = _HEADER.unpack(header)
                if masked_crc32c(header[:8]) != checksum:
                    if position == 0:
                        raise self._damage(0, "not a TFRecord file, or its first length is damaged")
                    raise self._damage(position, "a record's length does not fit its checksum")
                payload = position + _HEADER.size
                position = payload + length + _FOOTER.size
                if position > size:
                    raise self._damage(payload, f"the file ends inside a record of {length} bytes")
                file.seek(payload + length)
                # The checksum is kept so that a read fetches the payload alone, without a copy.
                self._checksums.append(_FOOTER.unpack(file.read(_FOOTER.size))[0])
                self._offsets.append(payload)
                self._lengths.append(length)

    def _damage(self, offset: int, what: str) -> UserError:
        return UserError(f"{self.path}: damaged at byte {offset}: {what}; {REMEDY}")

    def __len__(self) -> int:
        return len(self._offsets)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        """The payload of a record, or of a slice of them."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        offset = self._offsets[index]
        payload = self._read(self._lengths[index], offset)
        if masked_crc32c(payload) != self._checksums[index]:
            raise self._damage(offset, "a record does not fit its checksum")
        return payload

    def __iter__(self) -> Iterator[bytes]:
        return (self[i] for i in range(len(self)))

    def _read(self, length: int, offset: int) -> bytes:
        try:
            if self._fd >= 0:
                payload = os.pread(self._fd, length, offset)
            else:
                fd = os.open(self.path, os.O_RDONLY)
                try:
                    payload = os.pread(fd, length, offset)
                finally:
                    os.close(fd)
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror}") from None
        if len(payload) < length:
            # Linux reads at most 2 GiB at a time.
            rest = self._read(length - len(payload), offset + len(payload)) if payload else b""
            payload += rest
            if len(payload) < length:
                raise self._damage(offset, f"the file ends inside a record of {length} bytes")
        return payload

    def close(self) -> None:
        """Close the file; later reads open it anew."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Shard:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
