"""How fast is a train step of paper 1's or 5's LSTM beside PyTorch's, Flax's and Keras's?

    python -m benchmarks.lstm_step --json
    python -m benchmarks.lstm_step --shape paper5 --json
    python -m benchmarks.lstm_step --gpu --precision bfloat16 --json

Every peer does the same work: LSTM layers with dropout after each, softmax cross-entropy, backward,
Adam with weight decay.

* paper1: layers of 128 and 256 units on f32[64, 76, 259], 6 classes, dropout 0.5.
* paper5: 52, 16, 48 and 44 units with SELU on f32[128, 52, 1], 3 classes, dropout 0.2. PyTorch's
  nn.LSTM has tanh alone, which is less work, and runs that.

On a CPU PyTorch uses a thread a core. Ours has a CPU device a core and shares the batch among them,
as training maps a step over devices; `ours_one_device` leaves the cores to XLA's thread pool.
Flax's and Keras's run on one device, where they are faster than on several.

On a GPU `ours` chooses by itself, `ours_scan` and `ours_cudnn` are told; PyTorch is its cuDNN, with
TF32 as ours, or under autocast to bfloat16. Every step is waited for.

The operations are counted in the program that JAX traces, scans with all their steps. The bytes are
the least that must move: what the forward pass keeps for the backward one, and the parameters,
their gradient and Adam's moments, written once and read once.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from benchmarks import race

LEARNING_RATE, WEIGHT_DECAY = 1e-3, 5e-5


@dataclass(frozen=True)
class Shape:
    batch: int
    steps: int
    features: int
    classes: int
    units: tuple[int, ...]
    dropout: float
    activation: str = "tanh"


SHAPES = {
    "paper1": Shape(64, 76, 259, 6, (128, 256), 0.5),
    "paper5": Shape(128, 52, 1, 3, (52, 16, 48, 44), 0.2, "selu"),
}


def _data(shape: Shape) -> tuple[Any, Any]:
    import numpy as np

    rng = np.random.default_rng(0)
    x = rng.standard_normal((shape.batch, shape.steps, shape.features), np.float32)
    return x, rng.integers(0, shape.classes, shape.batch)


def _jax_step(
    make: Callable[[], tuple[Any, Any, Callable[..., Any]]], shape: Shape, devices: int
) -> race.Step:
    """A train step, data-parallel over so many devices, with optax's Adam.

    `make()` gives (parameters, loss(parameters, x, labels, key), facts(step, its arguments)); the
    state's memory is donated.
    """
    import jax
    import optax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    jax.config.update("jax_num_cpu_devices", devices)
    params, loss, facts = make()
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
    x, labels = jax.device_put(_data(shape), NamedSharding(mesh, shared))
    known = facts(mapped, (state, x, labels, 0))

    def run(index: int) -> None:
        nonlocal state
        state = jax.block_until_ready(step(state, x, labels, index))

    return run, known


def ours(
    shape: Shape, devices: int, precision: str = "float32", implementation: Any = "auto"
) -> race.Step:
    """fer_jax's network."""
    import jax
    import optax

    from fer_jax import config, models
    from fer_jax.models.cost import cost, count_flops

    by_features = shape.features == 1
    settings = config.LSTM(
        units=shape.units,
        dropout=shape.dropout,
        activation=shape.activation,  # type: ignore[arg-type]
        steps="features" if by_features else "frames",
        implementation=implementation,
    )
    frames, features = (1, shape.steps) if by_features else (shape.steps, shape.features)
    inputs = models.Inputs(frames=frames, features=features)

    def loss(model, params, x, labels, key):
        x = x.reshape(-1, frames, features)
        batch = {"features": x, "frame_mask": jax.numpy.ones(x.shape[:2], bool)}
        variables = {"params": params, "stats": {}}
        outputs, _ = model.apply(variables, batch, train=True, key=key)
        return optax.softmax_cross_entropy_with_integer_labels(outputs.logits, labels).mean()

    def make() -> tuple[Any, Any, Callable[..., Any]]:
        model = models.build(settings, inputs, shape.classes, precision=precision)

        def facts(step: Any, arguments: Any) -> dict[str, Any]:
            kept = cost(model, inputs)
            moved = kept.activation_bytes_per_clip * shape.batch / devices + kept.parameter_bytes
            flops = count_flops(jax.make_jaxpr(step)(*arguments).jaxpr) / devices
            return race.roof(flops, 2 * moved, precision)

        return model.init(jax.random.key(0))["params"], partial(loss, model), facts

    return _jax_step(make, shape, devices)


def flax_rnn(shape: Shape) -> race.Step:
    """nnx.RNN over nnx.OptimizedLSTMCell."""
    import jax
    import optax
    from flax import nnx

    widths = (shape.features, *shape.units)
    activation = getattr(jax.nn, shape.activation)

    class Network(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            cells = [
                nnx.OptimizedLSTMCell(*pair, activation_fn=activation, rngs=rngs)
                for pair in pairwise(widths)
            ]
            self.layers = nnx.List(nnx.RNN(cell, rngs=rngs) for cell in cells)
            self.classifier = nnx.Linear(widths[-1], shape.classes, rngs=rngs)

        def __call__(self, x: jax.Array, key: jax.Array) -> jax.Array:
            drop = nnx.Dropout(shape.dropout, deterministic=False)
            for index, layer in enumerate(self.layers):
                x = jax.numpy.asarray(layer(x))
                if index + 1 == len(self.layers):
                    x = x[:, -1]
                x = drop(x, rngs=nnx.Rngs(jax.random.fold_in(key, index)))
            return self.classifier(x)

    def make() -> tuple[Any, Any, Callable[..., Any]]:
        graph, params, rest = nnx.split(Network(nnx.Rngs(0)), nnx.Param, ...)

        def loss(params, x, labels, key):
            logits = nnx.merge(graph, params, rest, copy=True)(x, key)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        return params, loss, lambda *_: {}

    return _jax_step(make, shape, 1)


def keras(shape: Shape) -> race.Step:
    """keras.layers.LSTM on JAX, by train_on_batch, which compiles the step."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    layers: list[Any] = [keras.Input((shape.steps, shape.features))]
    for index, units in enumerate(shape.units):
        sequence = index + 1 < len(shape.units)
        layers.append(
            keras.layers.LSTM(units, activation=shape.activation, return_sequences=sequence)
        )
        layers.append(keras.layers.Dropout(shape.dropout))
    model = keras.Sequential([*layers, keras.layers.Dense(shape.classes)])
    model.compile(
        optimizer=keras.optimizers.Adam(LEARNING_RATE, weight_decay=WEIGHT_DECAY),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    x, labels = _data(shape)

    def run(index: int) -> None:
        del index
        model.train_on_batch(x, labels)  # gives the loss as a number, so it waits

    return run, {}


def pytorch(shape: Shape, gpu: bool = False, precision: str = "float32") -> race.Step:
    """torch.nn.LSTM."""
    import torch
    from torch import nn

    torch.set_num_threads(race.CORES)
    torch.set_float32_matmul_precision("high")
    widths = (shape.features, *shape.units)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(
                nn.LSTM(*pair, batch_first=True) for pair in pairwise(widths)
            )
            self.dropout = nn.Dropout(shape.dropout)
            self.classifier = nn.Linear(widths[-1], shape.classes)

        def forward(self, x):
            for index, layer in enumerate(self.layers):
                x, (last, _) = layer(x)
                x = self.dropout(x if index + 1 < len(self.layers) else last[0])
            return self.classifier(x)

    device = torch.device("cuda" if gpu else "cpu")
    x, labels = (torch.from_numpy(array).to(device) for array in _data(shape))
    network, loss = Network().to(device), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    low = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")

    def run(index: int) -> None:
        del index
        optimizer.zero_grad(set_to_none=True)
        with low:
            value = loss(network(x), labels)
        value.backward()
        optimizer.step()
        if gpu:
            torch.cuda.synchronize()

    return run, {}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Median and least step of every peer in ms, and the ratios."""
    shape, precision = SHAPES[arguments.shape], arguments.precision
    peers: dict[str, race.Make]
    if arguments.gpu:
        # The peers share the GPU's memory.
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        peers = {"ours": partial(ours, shape, 1, precision)}
        for implementation in ("scan", "cudnn") if shape.activation == "tanh" else ("scan",):
            peers[f"ours_{implementation}"] = partial(ours, shape, 1, precision, implementation)
        peers["pytorch"] = partial(pytorch, shape, True, precision)
    else:
        peers = {
            "ours": partial(ours, shape, race.CORES, precision),
            "pytorch": partial(pytorch, shape, False, precision),
            "flax_rnn": partial(flax_rnn, shape),
            "keras": partial(keras, shape),
            "ours_one_device": partial(ours, shape, 1, precision),
        }
    return race.compare(*race.race(peers, arguments.turns, arguments.steps))


if __name__ == "__main__":
    options = {
        "turns": (15, "turns of every peer"),
        "steps": (8, "steps a turn"),
        "shape": ("paper1", " or ".join(SHAPES)),
        "gpu": (False, "race on a GPU"),
        "precision": ("float32", "or bfloat16, of ours and PyTorch's"),
    }
    race.main("lstm_step", __doc__, measure, options)
