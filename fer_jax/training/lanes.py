"""The members that train at the moment, each in a lane, and their arrays on the devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from fer_jax.data import batches
from fer_jax.training import metrics, optim, parallel
from fer_jax.training.job import Dataset
from fer_jax.training.losses import class_weights
from fer_jax.training.members import Member, numbers_of
from fer_jax.training.metrics import Metrics
from fer_jax.training.monitor import Monitor
from fer_jax.training.population_steps import Own
from fer_jax.training.run_directory import History
from fer_jax.training.state import TrainState, make_keys


@dataclass
class Runner:
    """A member in its lane.

    Attributes:
      run: its run directory.
      train, validation: i64[n], its samples among those on the devices, in its own order.
      statistics: of its training set.
      facts: what its metrics must be reported with.
      most: training samples of the largest member.
      epoch, step: done.
    """

    member: Member
    run: Path
    dataset: Dataset
    train: np.ndarray
    validation: np.ndarray
    statistics: Any
    facts: dict[str, Any]
    most: int
    epoch: int = 0
    step: int = 0
    monitor: Monitor = Monitor()

    @property
    def steps(self) -> int:
        return -(-len(self.train) // self.member.experiment.train.batch)

    @property
    def history(self) -> History:
        return History(self.run)

    def own(self, keys: Sequence[str]) -> Own:
        """On the host."""
        experiment = self.member.experiment
        classes = len(self.dataset.label_space.classes)
        samples = self.dataset.train
        counts = np.bincount(samples.label, samples.weight, minlength=classes)
        pool = None
        if experiment.data.augment.mixup:
            padding = (0, self.most - len(self.train))
            pool = np.pad(self.train, padding).astype(np.int32), np.int32(len(self.train))
        lengths = optim.lengths(experiment.optim, self.steps, experiment.train.epochs)
        return Own(
            key=np.asarray(jax.random.key_data(make_keys(experiment.train.seed)[1])),
            statistics=self.statistics,
            class_weights=class_weights(experiment.train.loss, counts),
            numbers=numbers_of(experiment, keys),
            lengths=optim.Lengths(*map(np.int32, lengths)),
            steps=np.int32(self.steps),
            validation_steps=np.int32(-(-len(self.validation) // experiment.train.batch)),
            pool=pool,
        )


@partial(jax.jit, donate_argnums=0)
def _put(tree: Any, device: jax.Array, lane: jax.Array, value: Any) -> Any:
    return jax.tree.map(lambda all_, one: all_.at[device, lane].set(one), tree, value)


@jax.jit
def _take(tree: Any, device: jax.Array, lane: jax.Array) -> Any:
    return jax.tree.map(lambda all_: all_[device, lane], tree)


@partial(jax.jit, donate_argnums=1)
def _choose(better: jax.Array, before: Any, now: Any) -> Any:
    def one(old: jax.Array, new: jax.Array) -> jax.Array:
        shape = better.shape + (1,) * (new.ndim - better.ndim)
        return jnp.where(better.reshape(shape), new, old)

    return jax.tree.map(one, before, now)


class Lanes:
    """D x p lanes with the states of their members.

    Attributes:
      runners: by lane; None is an empty one.
      state, counted, best: arrays [D, p, ...] on the devices.
    """

    def __init__(self, mesh: Mesh, each: int, shape: Any, classes: int):
        """Args:
        each: p.
        shape: a member's first state, as shapes.
        """
        self.mesh, self.each, self.classes = mesh, each, classes
        self.runners: list[Runner | None] = [None] * (mesh.size * each)
        self._own: Any = None
        self.state: TrainState = self._blank(shape)
        self.best: Any = self._blank(shape.variables)
        self.counted = self.no_metrics()

    def _blank(self, shape: Any) -> Any:
        def zeros(leaf: Any) -> np.ndarray:
            return np.zeros((self.mesh.size, self.each, *leaf.shape), leaf.dtype)

        return parallel.spread(jax.tree.map(zeros, shape), self.mesh)

    def no_metrics(self) -> Metrics:
        return self._blank(metrics.no_metrics(self.classes))

    def place(self, lane: int) -> tuple[Any, Any]:
        return np.int32(lane // self.each), np.int32(lane % self.each)

    def put(
        self, lane: int, runner: Runner, state: Any, best: Any = None, counted: Any = None
    ) -> None:
        """Gives a lane to a member; without `best` the state is the best so far."""
        best = state.variables if best is None else best
        counted = metrics.no_metrics(self.classes) if counted is None else counted
        self.runners[lane] = runner
        where = self.place(lane)
        self.state = parallel.spread(_put(self.state, *where, state), self.mesh)
        self.best = parallel.spread(_put(self.best, *where, best), self.mesh)
        self.counted = parallel.spread(_put(self.counted, *where, counted), self.mesh)
        self._own = None

    def empty(self, lane: int) -> None:
        self.runners[lane] = None
        self._own = None

    def take(self, tree: Any, lane: int) -> Any:
        """A member's part of arrays of all lanes, on the host."""
        return jax.tree.map(np.array, jax.device_get(_take(tree, *self.place(lane))))

    def improve(self, better: Sequence[bool]) -> None:
        """The states of these lanes are their best."""
        flags = np.asarray(better, bool).reshape(self.mesh.size, self.each)
        flags = parallel.spread(flags, self.mesh)
        self.best = parallel.spread(_choose(flags, self.best, self.state.variables), self.mesh)

    def own(self, keys: Sequence[str]) -> Own:
        """What the members have of their own, on the devices."""
        if self._own is None:
            given = [None if runner is None else runner.own(keys) for runner in self.runners]
            blank = jax.tree.map(np.zeros_like, next(one for one in given if one is not None))
            self._own = self._stack([blank if one is None else one for one in given])
        return self._own

    def training_batches(self, steps: int, batch: int) -> tuple[jax.Array, jax.Array]:
        """Each member's next epoch, i32 and f32 [D, p, steps, batch]."""

        def order(runner: Runner) -> tuple[np.ndarray, np.ndarray]:
            seed = runner.member.experiment.train.seed
            index, weight = batches.epoch_order(seed, runner.epoch, len(runner.train), batch)
            return runner.train[index], weight

        return self._batches(steps, batch, order)

    def validation_batches(self, steps: int, batch: int) -> tuple[jax.Array, jax.Array]:
        """Each member's validation part, i32 and f32 [D, p, steps, batch]."""
        return self._batches(
            steps, batch, lambda runner: batches.pad_batches(runner.validation, batch)
        )

    def _batches(self, steps: int, batch: int, order: Any) -> tuple[jax.Array, jax.Array]:
        index = np.zeros((len(self.runners), steps, batch), np.int32)
        weight = np.zeros((len(self.runners), steps, batch), np.float32)
        for lane, runner in enumerate(self.runners):
            if runner is not None:
                chosen, real = order(runner)
                index[lane, : len(chosen)], weight[lane, : len(chosen)] = chosen, real
        shape = (self.mesh.size, self.each, steps, batch)
        return parallel.spread((index.reshape(shape), weight.reshape(shape)), self.mesh)

    def _stack(self, trees: Sequence[Any]) -> Any:
        def stack(*leaves: Any) -> np.ndarray:
            return np.stack(leaves).reshape(self.mesh.size, self.each, *np.shape(leaves[0]))

        return parallel.spread(jax.tree.map(stack, *trees), self.mesh)
