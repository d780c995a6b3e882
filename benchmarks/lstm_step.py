"""How fast is a train step of paper 1's LSTM beside PyTorch's and Flax's?

    python -m benchmarks.lstm_step --json

Every peer does the same work: two LSTM layers (128, 256 units) on f32[64, 76, 259], dropout 0.5
after each, softmax cross-entropy over 6 classes, backward, Adam with L2 weight decay. PyTorch uses
a thread a core. Ours has a CPU device a core and shares the batch among them, as training maps a
step over devices; `ours_one_device` leaves the cores to XLA's thread pool. Flax's runs on one
device, where it is faster than on several. Each peer is a process of its own; they take turns, a
few steps a turn, so that a busy machine is as bad for one as for the other. `ratio_<peer>` is the
peer's median step over ours: above 1, we are faster.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

BATCH, STEPS, FEATURES, CLASSES, UNITS = 64, 76, 259, 6, (128, 256)
LEARNING_RATE, WEIGHT_DECAY, DROPOUT = 1e-3, 5e-5, 0.5
CORES = os.cpu_count() or 1


def _data() -> tuple[Any, Any]:
    import numpy as np

    rng = np.random.default_rng(0)
    x = rng.standard_normal((BATCH, STEPS, FEATURES), np.float32)
    return x, rng.integers(0, CLASSES, BATCH)


def _jax_step(make: Callable[..., tuple[Any, Any]], devices: int) -> Callable[[int], None]:
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

    return run


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


def pytorch() -> Callable[[int], None]:
    """torch.nn.LSTM."""
    import torch
    from torch import nn

    torch.set_num_threads(CORES)

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

    return run


PEERS: dict[str, Callable[[], Callable[[int], None]]] = {
    "ours": partial(_jax_step, ours, CORES),
    "pytorch": pytorch,
    "flax_rnn": partial(_jax_step, flax_rnn, 1),
    "ours_one_device": partial(_jax_step, ours, 1),
}


def _serve(name: str, pipe: Any) -> None:
    """A peer's process: the times of so many steps, for every number that comes."""
    run, index = PEERS[name](), 0
    while steps := pipe.recv():
        times = []
        for _ in range(steps):
            start = time.perf_counter()
            run(index)
            times.append((time.perf_counter() - start) * 1e3)
            index += 1
        pipe.send(times)


def measure(turns: int, steps: int, peers: tuple[str, ...] = tuple(PEERS)) -> dict[str, Any]:
    """Median and least step of every peer in ms, and the ratios."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name in peers:
        pipes[name], theirs = context.Pipe()
        processes.append(context.Process(target=_serve, args=(name, theirs), daemon=True))
        processes[-1].start()
        theirs.close()  # so that a peer that dies ends our waiting
    times: dict[str, list[float]] = {name: [] for name in peers}
    for turn in range(turns + 1):
        for name, pipe in pipes.items():
            pipe.send(steps)
            result = pipe.recv()
            if turn:  # the first turn compiles and warms up
                times[name] += result[1:]  # the first step of a turn finds cold caches
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send(0)
        process.join()
    median = {name: statistics.median(values) for name, values in times.items()}
    return {
        "question": "lstm_step",
        "hardware": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        **{f"ratio_{name}": round(median[name] / median["ours"], 3) for name in peers[1:]},
        **{f"{name}_ms": round(value, 2) for name, value in median.items()},
        **{f"{name}_least_ms": round(min(values), 2) for name, values in times.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--turns", type=int, default=15, help="turns of every peer")
    parser.add_argument("--steps", type=int, default=8, help="steps a turn")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    result = measure(arguments.turns, arguments.steps)
    if arguments.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{key:20} {value}" for key, value in result.items()))


if __name__ == "__main__":
    main()
