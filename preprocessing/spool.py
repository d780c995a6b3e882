"""What was seen of a clip's faces, put aside until it is known which of them is the subject.

Memory must not grow with the video. Of each face it keeps the box and a place; everything else is
written to a file without a name (in memory too while the clip is short), and read again for the
subject alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np

from fer_jax.records import IMAGES, TENSORS
from preprocessing.track import Face
from preprocessing.writer import told_when_full

#: Clips up to this stay in memory: most corpora's do.
HELD_BYTES = 16 << 20
#: The field of a face for a stream of another name.
_FIELDS = {"crops": "crop"}


class Spool:
    """The faces of one clip.

    Args:
      streams: of the record, by name; "box" is not one of them.
      folder: where the file is made; None for the system's place for temporary files.
    """

    def __init__(self, streams: Collection[str], folder: Path | None = None) -> None:
        self._tensors = [name for name in streams if name in TENSORS]
        self._images = [name for name in IMAGES if name in streams]
        fields = [(name, TENSORS[name][1], TENSORS[name][0][1:]) for name in self._tensors]
        self._layout = np.dtype([*fields, *((name, "<u4", ()) for name in self._images)])
        self._folder = Path(folder or tempfile.gettempdir())
        # Open as long as something refers to it: the images of the clip may.
        self._file = tempfile.SpooledTemporaryFile(HELD_BYTES, dir=str(self._folder))  # noqa: SIM115
        self._end = 0

    def __del__(self) -> None:
        self._file.close()

    def put(self, face: Face) -> Face:
        """The face with nothing but its box, its score and its place here.

        Raises:
          UserError: the disk is full.
        """
        row = np.zeros((), self._layout)
        for name in self._tensors:
            value = getattr(face, name)
            row[name] = np.nan if value is None else value
        images = [getattr(face, _FIELDS.get(name, name)) for name in self._images]
        for name, image in zip(self._images, images, strict=True):
            row[name] = len(image)
        data = b"".join((row.tobytes(), *images))
        with told_when_full(self._folder):
            self._file.seek(self._end)
            self._file.write(data)
        kept = Face(face.box, face.score, place=self._end)
        self._end += len(data)
        return kept

    def read(self, start: int, size: int) -> bytes:
        self._file.seek(start)
        return self._file.read(size)

    def streams(self, subject: Mapping[int, Face], frames: int) -> dict:
        """Every stream of the frames, NaN or None where the subject was not seen.

        Args:
          subject: frame -> a face that `put` gave.
          frames: T.
        """
        shapes = {name: self._layout[name].shape for name in self._tensors}
        values = {n: np.full((frames, *shape), np.nan, np.float32) for n, shape in shapes.items()}
        places = {name: np.zeros((frames, 2), np.int64) for name in self._images}
        for t, face in subject.items():
            start = face.place
            row = np.frombuffer(self.read(start, self._layout.itemsize), self._layout)[0]
            start += self._layout.itemsize
            for name in self._tensors:
                values[name][t] = row[name]
            for name in self._images:
                places[name][t] = start, row[name]
                start += int(row[name])
        return {**values, **{name: Images(self, places[name]) for name in self._images}}


@dataclass(frozen=True, eq=False)
class Images(Sequence["bytes | None"]):
    """Encoded images that stay in their spool; each access reads one.

    Attributes:
      spool: what holds them.
      places: i64[T, 2], start and size in it; size 0 where there is none.
    """

    spool: Spool
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> bytes | None: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[bytes | None, ...]: ...
    def __getitem__(self, index: int | slice) -> bytes | tuple[bytes | None, ...] | None:
        if isinstance(index, slice):
            return tuple(self[t] for t in range(*index.indices(len(self))))
        start, size = map(int, self.places[index])
        return self.spool.read(start, size) if size else None
