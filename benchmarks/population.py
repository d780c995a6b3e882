"""What does a member of a population cost beside the same run alone, and beside PyTorch's run?

    python -m benchmarks.population --shape paper1 --json
    python -m benchmarks.population --shape paper1 --gpu --json

A population of 32 seeds and one of these runs alone train through `train_population` and
`loop.train`, as the commands do; a turn is some epochs of each. What counts is milliseconds a
member-step: an epoch's time over its steps and the members that trained at once, so the order of
batches, gathering, metrics, judging and history are in it, and compiling, saving and validation
are not. Ratios above 1: a member of the population is faster.

* paper1: configs/ryumina2020_crema_d.py, LSTM (128, 256) on f32[64, 76, 259], 6 classes, Adam.
* paper5: configs/attrah2024_lstm.py, LSTM (52, 16, 48, 44) on f32[128, 52, 1], 3 classes, AdamW.

PyTorch runs torch.nn.LSTM on features that lie ready in memory, with dropout, its optimizer and a
running loss and accuracy. On a CPU the 32 runs go one after another with a thread a core, or a
process a core with one thread each; the faster one counts. (paper5's SELU cells are nn.LSTM's tanh
there, which is faster than any loop over cells.) On a GPU all members train at once in one batched
program, and PyTorch's cuDNN runs them in turn: `ratio_pytorch` is the aggregate.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks import race

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
#: Never reached: a race ends before its runs do.
_EPOCHS = 1_000_000


@dataclass(frozen=True)
class Shape:
    """A system, and how many steps an epoch has here."""

    config: str
    steps: int


SHAPES = {"paper1": Shape("ryumina2020_crema_d", 16), "paper5": Shape("attrah2024_lstm", 64)}


def _experiment(shape: Shape, records: str) -> Any:
    from fer_jax.config import load_config

    return load_config(
        CONFIGS / f"{shape.config}.py",
        [
            ("data.dir", records), ("data.caps", "{}"), ("protocol.name", "official"),
            ("protocol.validation", "0"), ("train.monitor", "train/loss"),
            ("train.epochs", str(_EPOCHS)), ("checkpoint.every_seconds", "1e9"),
            ("checkpoint.every_epochs", str(_EPOCHS)), ("track.tensorboard", "false"),
        ],
    )  # fmt: skip


def _write_records(shape: Shape, out: Path) -> None:
    from preprocessing.generate import Maker, crema_d, write

    experiment = _experiment(shape, str(out))
    train = shape.steps * experiment.train.batch
    found = islice((clip for _ in range(2) for clip in crema_d()), train + 6)
    clips = [
        clip.replace(clip_id=f"{clip.clip_id}-{i}", split="train" if i < train else "test")
        for i, clip in enumerate(found)
    ]
    output, frames = "landmarks", experiment.data.frames
    if experiment.data.features.startswith("blendshapes"):
        output, frames = "blendshapes", 1
    make = Maker("crema-d", (output,))
    write(out, (make(clip, frames) for clip in clips), len(clips))


class _Turns:
    """A training in a thread of its own that does one epoch at a time."""

    def __init__(self, train: Callable[[Callable[..., None]], Any]):
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._error: BaseException | None = None
        self._train = train
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._go.acquire()
            self._train(self._epoch_done)
        except BaseException as error:
            self._error = error
        self._done.release()

    def _epoch_done(self, *_: Any) -> None:
        self._done.release()
        self._go.acquire()

    def epoch(self, index: int) -> None:
        del index
        self._go.release()
        self._done.acquire()
        if self._error is not None:
            raise self._error


def population(shape: Shape, records: str, members: int, gpu: bool) -> race.Step:
    """The members as one program: a lane a core, or all of them on one GPU."""
    from fer_jax.training.members import make_members
    from fer_jax.training.parallel import use_every_core
    from fer_jax.training.population import train_population

    made = make_members(_experiment(shape, records), seeds=range(members))
    use_every_core(16 * members)
    out = tempfile.mkdtemp(dir=Path(records).parent)
    lanes = members if gpu else 0
    turns = _Turns(lambda done: train_population(made, out, lanes=lanes, on_progress=done))
    return turns.epoch, _facts(shape, records) | {"lanes": lanes or _devices()}


def alone(shape: Shape, records: str, gpu: bool) -> race.Step:
    """One run: its batch is shared among the cores, or on one GPU."""
    from fer_jax.training import loop
    from fer_jax.training.parallel import use_every_core

    experiment = _experiment(shape, records)
    if not gpu:
        use_every_core(experiment.train.batch)
    out = tempfile.mkdtemp(dir=Path(records).parent)
    return _Turns(lambda done: loop.train(experiment, out, on_progress=done)).epoch, {}


def _devices() -> int:
    import jax

    return jax.local_device_count()


def _facts(shape: Shape, records: str) -> dict[str, Any]:
    """A member-step's operations, and the least time in which this device could."""
    import jax

    from fer_jax import models
    from fer_jax.models.cost import cost
    from fer_jax.training.job import load_dataset
    from fer_jax.training.peaks import peak

    experiment = _experiment(shape, records)
    dataset = load_dataset(experiment)
    classes = len(dataset.label_space.classes)
    model = models.build(experiment.model, dataset.inputs, classes)
    # Backward is twice forward.
    flops = 3 * cost(model, dataset.inputs).flops_per_clip * experiment.train.batch
    device = jax.devices()[0]
    found: dict[str, Any] = {"device": device.device_kind, "gflop": round(flops / 1e9, 3)}
    if best := peak(device, experiment.train.precision):
        # On a CPU a device is a core, and each has a lane.
        found["roof_ms"] = round(1e3 * flops / (best.flops * jax.local_device_count()), 4)
    return found


def pytorch(shape: Shape, threads: int, gpu: bool) -> race.Step:
    """torch.nn.LSTM and the config's optimizer; a call is an epoch."""
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    device = torch.device("cuda" if gpu else "cpu")
    experiment = _experiment(shape, "")
    settings, optim, batch = experiment.model, experiment.optim, experiment.train.batch
    features, samples = int(experiment.data.features[-3:].strip("-")), shape.steps * batch
    scalars = settings.steps == "features"
    sizes = (samples, features, 1) if scalars else (samples, experiment.data.frames, features)
    classes = {"crema6": 6, "attrah3": 3}[experiment.data.labels]
    x = torch.randn(sizes, device=device)
    labels = torch.randint(classes, (samples,), device=device)
    weights = experiment.train.loss.class_weights
    weights = None if isinstance(weights, str) else torch.tensor(weights, device=device)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = (sizes[2], *settings.units)
            self.layers = nn.ModuleList(
                nn.LSTM(a, b, batch_first=True)
                for a, b in zip(widths[:-1], settings.units, strict=True)
            )
            self.dropout = nn.Dropout(settings.dropout)
            self.classifier = nn.Linear(widths[-1], classes)

        def forward(self, x: Any) -> Any:
            for layer in self.layers[:-1]:
                x = self.dropout(layer(x)[0])
            return self.classifier(self.dropout(self.layers[-1](x)[1][0][0]))

    network, loss = Network().to(device), nn.CrossEntropyLoss(weights)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optim.name]
    optimizer = kind(
        network.parameters(), optim.lr, weight_decay=optim.weight_decay, amsgrad=optim.amsgrad,
        fused=True,
    )  # fmt: skip

    def run(index: int) -> None:
        del index
        total, right = torch.zeros((), device=device), torch.zeros((), device=device)
        for chosen in torch.randperm(samples, device=device).split(batch):
            truth = labels[chosen]
            optimizer.zero_grad(set_to_none=True)
            logits = network(x[chosen])
            value = loss(logits, truth)
            value.backward()
            if optim.clip_norm:
                nn.utils.clip_grad_norm_(network.parameters(), optim.clip_norm)
            optimizer.step()
            with torch.no_grad():
                total += value * len(chosen)
                right += (logits.argmax(-1) == truth).sum()
        # What a loop prints after an epoch; waits for a GPU.
        total.item()
        right.item()

    return run, {}


def pytorch_processes(shape: Shape) -> race.Step:
    """A process a core with one thread each: a call is an epoch of as many runs as cores."""
    pipes = []
    for _ in range(race.CORES):
        ours, theirs = multiprocessing.Pipe()
        # A peer is a daemon, to which multiprocessing gives no children of its own.
        if os.fork() == 0:
            ours.close()
            epoch, _ = pytorch(shape, 1, gpu=False)
            try:
                while True:
                    epoch(theirs.recv())
                    theirs.send(None)
            except EOFError:
                os._exit(0)
        theirs.close()
        pipes.append(ours)

    def run(index: int) -> None:
        for pipe in pipes:
            pipe.send(index)
        for pipe in pipes:
            pipe.recv()

    return run, {}


def _compare(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    shape, gpu = SHAPES[name], arguments.gpu
    with tempfile.TemporaryDirectory() as folder:
        records = Path(folder) / "records"
        _write_records(shape, records)
        given = (shape, str(records))
        peers: dict[str, race.Make] = {
            "ours": partial(population, *given, arguments.members, gpu),
            "alone": partial(alone, *given, gpu),
            "pytorch_in_turn": partial(pytorch, shape, race.CORES, gpu),
        }
        if not gpu:
            peers["pytorch_processes"] = partial(pytorch_processes, shape)
        times, facts = race.race(peers, arguments.turns, arguments.epochs)
    together = {"ours": facts["ours"]["lanes"], "pytorch_processes": race.CORES}
    a_step = {
        peer: [value / shape.steps / together.get(peer, 1) for value in values]
        for peer, values in times.items()
    }
    found = race.compare(a_step, facts)
    beside = [found[key] for key in found if key.startswith("ratio_pytorch")]
    return {"ratio_alone": found.pop("ratio_alone"), "ratio_pytorch": min(beside), **found}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Ratios of a member-step of each shape; of several their names begin with the shape's."""
    if arguments.gpu:  # The peers share the GPU's memory.
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    if arguments.shape != "all":
        return {"shape": arguments.shape, **_compare(arguments.shape, arguments)}
    found = {}
    for name in SHAPES:
        for key, value in _compare(name, arguments).items():
            kind, _, peer = key.partition("_")
            found[f"ratio_{name}_{peer}" if kind == "ratio" else f"{name}_{key}"] = value
    return found


if __name__ == "__main__":
    options = {
        "members": (32, "runs of the population"), "shape": ("all", "paper1, paper5 or all"),
        "gpu": (False, "all members at once on one GPU"), "turns": (7, "turns of every peer"),
        "epochs": (3, "epochs a turn"),
    }  # fmt: skip
    race.main("population", __doc__, measure, options)
