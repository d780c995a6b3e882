"""Stored pictures as an array that is read where it is looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from fer_jax import machine
from fer_jax.data import images
from fer_jax.errors import UserError
from fer_jax.records import Clip

#: Pictures that a thread reads before it asks for more.
_AT_ONCE = 64
#: So many are read in threads; batches, of which threads read several at once, have fewer.
_MANY = 4096


class Frames:
    """M pictures of one stream of clips, u8[M, H, W, C] to whoever asks; none is kept.

    `frames[places]` reads and decodes the pictures at an array of places, each once. Threads and
    processes may share it as they may share the clips.

    Attributes:
      shape: M, H, W, C.
      nbytes: of all pictures, decoded.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        stream: str,
        shape: tuple[int, int, int],
        clip: np.ndarray,
        frame: np.ndarray,
    ) -> None:
        """Args:
        clips: where they are read, by index.
        stream: "crops" or "frontal".
        shape: H, W, C of a decoded picture.
        clip, frame: i32[M], where each is; pictures of a clip lie together.
        """
        self._clips, self._stream = clips, stream
        self._clip, self._frame = clip, frame
        self.shape = len(clip), *shape
        self.nbytes = math.prod(self.shape)
        self.dtype = np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self._clip)

    def __getitem__(self, places: np.ndarray | slice | int) -> np.ndarray:
        """The pictures at `places`, u8[*places.shape, H, W, C].

        Raises:
          UserError: a shard or a picture is damaged, or a picture is of another size.
        """
        whole = not isinstance(places, np.ndarray) or places.dtype.kind != "i"
        wanted = np.asarray(np.arange(len(self))[places] if whole else places)
        each, inverse = np.unique(wanted, return_inverse=True)
        pixels = np.empty((len(each), *self.shape[1:]), np.uint8)
        if len(each) < _MANY:
            self._read(each, pixels)
        else:
            self._read_in_threads(each, pixels)
        # Most batches show each picture once, and in another order.
        return pixels if np.array_equal(each, wanted) else pixels[inverse.reshape(wanted.shape)]

    def load(self) -> np.ndarray:
        """All of them."""
        return self[:]

    def _read_in_threads(self, places: np.ndarray, pixels: np.ndarray) -> None:
        """`_read`, by every core."""
        # Whole clips, so that each is read once; of still pictures many to a thread.
        cuts = [0]
        for start in np.flatnonzero(np.diff(self._clip[places], prepend=-1)).tolist():
            if start - cuts[-1] >= _AT_ONCE:
                cuts.append(start)

        def some(start: int, stop: int) -> None:
            self._read(places[start:stop], pixels[start:stop])

        with ThreadPoolExecutor(machine.available_cores()) as pool:
            # Raises what the first of them raised.
            for _ in pool.map(some, cuts, [*cuts[1:], len(places)]):
                pass

    def _read(self, places: np.ndarray, pixels: np.ndarray) -> None:
        """The pictures at i64[n], increasing, into u8[n, H, W, C]."""
        height, width, channels = self.shape[1:]
        index, clip = -1, None
        for place, into in zip(places.tolist(), pixels, strict=True):
            if index != self._clip[place]:
                index = int(self._clip[place])
                clip = self._clips[index]
            found = getattr(clip, self._stream)[self._frame[place]]
            try:
                into[:] = images.decode_one(found, (height, width, channels), "its image")
            except UserError as error:
                name = f"{clip.clip_id}, frame {self._frame[place]}" if clip else ""
                raise UserError(f"{name}: {error}") from error
