"""How fast is a train step of paper 1's LSTM beside PyTorch's and Flax's?

    python -m benchmarks.lstm_step --json

Every peer does the same work: two LSTM layers (128, 256 units) on f32[64, 76, 259], dropout 0.5
after each, softmax cross-entropy over 6 classes, backward, Adam with L2 weight decay. PyTorch uses
a thread a core. Ours has a CPU device a core and shares the batch among them, as training maps a
step over devices; `ours_one_device` leaves the cores to XLA's thread pool. Flax's runs on one
device, where it is faster than on several.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks import race

BATCH, STEPS, FEATURES, CLASSES, UNITS = 64, 76, 259, 6, (128, 256)
LEARNING_RATE, WEIGHT_DECAY, DROPOUT = 1e-3, 5e-5, 0.5


def _data() -> tuple[Any, Any]:
    import numpy as np

    rng = np.random.default_rng(0)
    x = rng.standard_normal((BATCH, STEPS, FEATURES), np.float32)
    return x, rng.integers(0, CLASSES, BATCH)


def _jax_step(make: Callable[..., tuple[Any, Any]], devices: int) -> race.Step:
    """A train step, data-parallel over so many CPU devices, with optax's Adam.

    `make()` gives (parameters, loss(parameters, x, labels, key)); the state's memory is donated.
    """
    import jax
    import optax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    jax.config.update("jax_num_cpu_devices", devices)
    params, loss = make()
    optimizer = optax.chain(optax.add_decayed_weights(WEIGHT_DECAY), optax.adam(LEARNING_RATE))
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
    whole, shared = PartitionSpec(), PartitionSpec("data")

    def step(state, x, labels, index):
        params, opt_state = state
        key = jax.random.fold_in(jax.random.key(0), index)
        key = jax.random.fold_in(key, jax.lax.axis_index("data"))
        gradient = jax.lax.pmean(jax.grad(loss)(params, x, labels, key), "data")
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    mapped = jax.shard_map(
        step, mesh=mesh, in_specs=(whole, shared, shared, whole), out_specs=whole, check_vma=False
    )
    step = jax.jit(mapped, donate_argnums=0)
    state = jax.device_put((params, optimizer.init(params)), NamedSharding(mesh, whole))
    x, labels = jax.device_put(_data(), NamedSharding(mesh, shared))

    def run(index: int) -> None:
        nonlocal state
        state = jax.block_until_ready(step(state, x, labels, index))

    return run, {}


def ours() -> tuple[Any, Any]:
    """fer_jax's network."""
    import jax
    import optax

    from fer_jax import config, models

    settings = config.LSTM(units=UNITS, dropout=DROPOUT)
    model = models.build(settings, models.Inputs(frames=STEPS, features=FEATURES), CLASSES)

    def loss(params, x, labels, key):
        batch = {"features": x, "frame_mask": jax.numpy.ones(x.shape[:2], bool)}
        variables = {"params": params, "stats": {}}
        outputs, _ = model.apply(variables, batch, train=True, key=key)
        return optax.softmax_cross_entropy_with_integer_labels(outputs.logits, labels).mean()

    return model.init(jax.random.key(0))["params"], loss


def flax_rnn() -> tuple[Any, Any]:
    """nnx.RNN over nnx.OptimizedLSTMCell."""
    import jax
    import optax
    from flax import nnx

    class Network(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            first = nnx.OptimizedLSTMCell(FEATURES, UNITS[0], rngs=rngs)
            second = nnx.OptimizedLSTMCell(UNITS[0], UNITS[1], rngs=rngs)
            self.first, self.second = nnx.RNN(first, rngs=rngs), nnx.RNN(second, rngs=rngs)
            self.classifier = nnx.Linear(UNITS[1], CLASSES, rngs=rngs)

        def __call__(self, x: jax.Array, key: jax.Array) -> jax.Array:
            drop = nnx.Dropout(DROPOUT, deterministic=False)
            first, second = nnx.Rngs(jax.random.fold_in(key, 0)), nnx.Rngs(key)
            x = drop(self.first(x), rngs=first)
            return self.classifier(drop(jax.numpy.asarray(self.second(x))[:, -1], rngs=second))

    graph, params, rest = nnx.split(Network(nnx.Rngs(0)), nnx.Param, ...)

    def loss(params, x, labels, key):
        logits = nnx.merge(graph, params, rest, copy=True)(x, key)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return params, loss


def pytorch() -> race.Step:
    """torch.nn.LSTM."""
    import torch
    from torch import nn

    torch.set_num_threads(race.CORES)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.LSTM(FEATURES, UNITS[0], batch_first=True)
            self.second = nn.LSTM(UNITS[0], UNITS[1], batch_first=True)
            self.dropout = nn.Dropout(DROPOUT)
            self.classifier = nn.Linear(UNITS[1], CLASSES)

        def forward(self, x):
            x = self.dropout(self.first(x)[0])
            last = self.second(x)[1][0][0]
            return self.classifier(self.dropout(last))

    x, labels = (torch.from_numpy(array) for array in _data())
    network, loss = Network(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)

    def run(index: int) -> None:
        del index
        optimizer.zero_grad(set_to_none=True)
        loss(network(x), labels).backward()
        optimizer.step()

    return run, {}


PEERS: dict[str, race.Make] = {
    "ours": partial(_jax_step, ours, race.CORES),
    "pytorch": pytorch,
    "flax_rnn": partial(_jax_step, flax_rnn, 1),
    "ours_one_device": partial(_jax_step, ours, 1),
}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Median and least step of every peer in ms, and the ratios."""
    return race.compare(*race.race(PEERS, arguments.turns, arguments.steps))


if __name__ == "__main__":
    options = {"turns": (15, "turns of every peer"), "steps": (8, "steps a turn")}
    race.main("lstm_step", __doc__, measure, options)
