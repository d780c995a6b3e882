"""Batches that are read while the devices compute, for data that they cannot hold."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from fer_jax import machine
from fer_jax.data.batches import divide_batches, epoch_order, pad_batches
from fer_jax.data.samples import Samples

#: What waits, ready, beside what threads work on.
_READY = 2


@dataclass(frozen=True)
class Stream:
    """What the steps of epoch after epoch show a network: `stream(0)`, `stream(1)`, ...

    Attributes:
      samples: of the data set.
      batch: samples of a step.
      devices, parts: how a batch is divided (`batches.divide_batches`).
      seed: of the run, for training's order (`batches.epoch_order`); None keeps the samples' own.
      own: of the devices, those whose shares are read here; None is all of them.
    """

    samples: Samples
    batch: int
    devices: int
    parts: int = 1
    seed: int | None = None
    own: tuple[int, ...] | None = None

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        """Each own device's share of a step's samples, by stream: [D, b, T, ...]."""
        size = len(self.samples)
        epoch, place = divmod(step, -(-size // self.batch))
        order = _order(self.seed, epoch if self.seed is not None else 0, size, self.batch)
        index = divide_batches(order[place : place + 1], self.devices, self.parts)
        return self.samples.shown(index[:, 0] if self.own is None else index[list(self.own), 0])


@lru_cache(maxsize=4)
def _order(seed: int | None, epoch: int, size: int, batch: int) -> np.ndarray:
    if seed is None:
        return pad_batches(np.arange(size), batch)[0]
    return epoch_order(seed, epoch, size, batch)[0]


@contextmanager
def read_ahead(
    read: Callable[[int], Any],
    start: int,
    stop: int,
    *,
    processes: int = 0,
    put: Callable[[Any], Any] | None = None,
) -> Iterator[Iterator[Any]]:
    """`read(start)`, ..., `read(stop - 1)` in that order, worked on before they are asked for.

    Args:
      read: a pure function of arrays; for processes, one that can be pickled.
      processes: that read; 0 reads in a thread a core of this process.
      put: puts what was read on JAX's devices, ahead; None leaves it here.

    Yields:
      an iterator, which raises what `read` raised.
    """
    import grain
    from absl import flags

    logging.getLogger("absl").setLevel(logging.ERROR)  # That Grain starts is no news.
    threads = 1 if processes else machine.available_cores()
    ahead = (
        grain.MapDataset.range(start, stop)
        .map(read)
        .to_iter_dataset(grain.ReadOptions(threads, threads + _READY))
    )
    if processes:
        if (
            not flags.FLAGS.is_parsed()
        ):  # Grain asks for its own, which no command line of ours has.
            flags.FLAGS.mark_as_parsed()
        ahead = ahead.mp_prefetch(grain.MultiprocessingOptions(processes, _READY), _let_parent_stop)
    if put is not None:
        # As grain.experimental.device_put, which knows the devices of one process alone.
        waiting = grain.experimental.ThreadPrefetchIterDataset
        ahead = waiting(
            waiting(ahead, prefetch_buffer_size=1).map(put), prefetch_buffer_size=_READY
        )
    iterator = iter(ahead)
    try:
        yield iterator
    finally:
        iterator.close()


def _let_parent_stop(worker: int, workers: int) -> None:
    """Ctrl-C reaches every process of a terminal; the parent saves first and then ends the rest."""
    del worker, workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
