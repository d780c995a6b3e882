"""How fast is a train step of Xception (paper 2's or a small one) or C3D beside PyTorch's?

    python -m benchmarks.image_step --network c3d --json      on a CPU
    python -m benchmarks.image_step --network c3d --gpu       on a GPU, in bfloat16
    python -m benchmarks.image_step --network c3d --layers    its convolutions, layout by layout

Every peer does the same work: forward, backward and Adam of a network of configs/ in training mode.
Ours is the step that `fer-jax train` runs: it gathers its batch from resident bytes, normalises it
and counts metrics. PyTorch's peers get their batch ready. `ratio_<peer>` compares with our float32
step (on a GPU bfloat16); `ratio_best` is the least of the peers that compute in what ours does,
`ratio_best_bfloat16` that of bfloat16. Operations are counted from the network, three times its
forward pass, so `share_of_roof` is the model FLOPs utilisation (MFU).

Where a CPU's step goes, by CPU time on one core of a busy machine: Xception's 1x1 convolutions are
products at 140 to 210 GFLOP/s; C3D's conv2 to conv4 run at 100 to 240, from a quarter slower than
oneDNN's to several times faster, but for conv2's kernel gradient, which takes 1.7 times as long. As
products of gathered patches conv2 and conv3 take up to twice as long forward. Depthwise layers are
a sixth of Xception's step; PyTorch's take 0.3 to 0.5 of their time, except on the smallest images,
as a depthwise kernel's gradient reads its images nine times. XLA's oneDNN and YNNPACK flags did not
help in one noisy run. Padded channels have little to give: the stem takes 0.75 ms of 340.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks import race

CLASSES = 7
#: By network: its config, and its batch on a CPU and on a GPU.
NETWORKS = {
    "xception": ("abdullah2020_xception", 32, 512),
    "mini": ("abdullah2020_mini_xception", 128, 1024),
    "c3d": ("zennou2023_c3d", 4, 64),
}
#: PyTorch's peers: how the network is compiled, laid out and computed.
EAGER, LAST, COMPILED = (False, False), (False, True), (True, True)


def experiment(network: str, batch: int, precision: Any = "float32") -> Any:
    """The config of `network` with plain Adam, and nothing that PyTorch's peers do not do."""
    from fer_jax import config

    found = importlib.import_module(f"configs.{NETWORKS[network][0]}").experiment()
    return replace(
        found,
        data=replace(found.data, augment=config.Augment()),
        optim=config.Optim(),
        train=config.Train(batch=batch, precision=precision),
    )


def _image(settings: Any) -> tuple[int, ...]:
    """H, W, C of a picture or T, H, W, C of a clip."""
    from fer_jax.training.inputs import inputs_of

    inputs = inputs_of(settings.data)
    return inputs.image_shape if inputs.frames == 1 else (inputs.frames, *inputs.image_shape)


def ours(network: str, batch: int, precision: str, devices: int) -> race.Step:
    """The project's train step, on so many CPU devices or one GPU."""
    import jax
    import numpy as np

    from fer_jax import models
    from fer_jax.data.samples import Samples
    from fer_jax.models.cost import cost
    from fer_jax.training import metrics, optim, parallel, steps
    from fer_jax.training.inputs import inputs_of
    from fer_jax.training.losses import make_loss
    from fer_jax.training.peaks import peak
    from fer_jax.training.resident import make_resident
    from fer_jax.training.state import make_keys, make_state, snapshot

    jax.config.update("jax_num_cpu_devices", devices)
    parallel.keep_memory()
    settings = experiment(network, batch, precision)
    inputs = inputs_of(settings.data)
    rng = np.random.default_rng(0)
    rows = np.arange(batch * inputs.frames, dtype=np.int32).reshape(batch, -1)
    samples = Samples(
        {"crops": rng.integers(0, 256, (rows.size, *inputs.image_shape), np.uint8)},
        rows,
        np.ones(rows.shape, bool),
        rng.integers(0, CLASSES, batch, np.int32),
        np.arange(batch),
        np.ones(batch, np.float32),
    )
    mesh = parallel.make_mesh(settings.parallel)
    model = models.build(settings.model, inputs, CLASSES, axis=parallel.AXIS, precision=precision)
    optimizer = optim.make_optimizer(settings.optim, optim.lengths(settings.optim, 1, 1))
    loss = make_loss(settings.train.loss, np.ones(CLASSES))
    step = steps.make_train_step(model, settings, loss, optimizer, mesh)
    first, key = make_keys(0)
    state = make_state(model.init(first), optimizer)
    counted = metrics.no_metrics(CLASSES)
    state, counted, key, start, stop = parallel.replicate(
        (state, counted, key, np.int32(0), np.int32(1)), mesh
    )
    state = snapshot(state)  # no two arrays of it share their memory: the step takes it
    resident = make_resident(samples, samples.streams, mesh, {})
    order = np.arange(batch, dtype=np.int32)[None]
    index, weight = parallel.deal(order, np.ones((1, batch), np.float32), mesh)

    def run(number: int) -> None:
        nonlocal state
        del number
        state, _ = jax.block_until_ready(
            step(state, counted, resident, {}, key, index, weight, start, stop)
        )

    device, price = jax.devices()[0], cost(models.build(settings.model, inputs, CLASSES), inputs)
    flops = 3 * batch * price.flops_per_clip
    facts = {
        "device": device.device_kind,
        "batch": batch,
        "parameters": price.parameters,
        "gflop": round(flops / 1e9, 3),
    }
    if best := peak(device, precision):
        facts["roof_ms"] = round(1e3 * flops / mesh.size / best.flops, 3)
    return run, facts


def pytorch(
    network: str, batch: int, precision: str, compiled: bool, channels_last: bool
) -> race.Step:
    """The twin, its steps on the GPU where there is one."""
    import torch

    from benchmarks import torch_networks

    torch.set_num_threads(race.CORES)
    torch.backends.cudnn.benchmark = True
    device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = experiment(network, batch)
    image = _image(settings)
    twin = torch_networks.make(settings.model, image, CLASSES).to(device).train()
    x = torch.rand(batch, image[-1], *image[:-1]).to(device)
    labels = torch.randint(CLASSES, (batch,)).to(device)
    if channels_last:
        volumes = torch.channels_last_3d if x.ndim == 5 else torch.channels_last
        twin, x = twin.to(memory_format=volumes), x.contiguous(memory_format=volumes)
    parameters = sum(parameter.numel() for parameter in twin.parameters())
    optimizer = torch.optim.Adam(twin.parameters(), fused=True)
    loss = torch.nn.CrossEntropyLoss()
    called: Callable[..., Any] = torch.compile(twin) if compiled else twin
    narrow = torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16")

    def run(number: int) -> None:
        del number
        optimizer.zero_grad(set_to_none=True)
        with narrow:
            value = loss(called(x), labels)
        value.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return run, {"parameters": parameters}


def peers(network: str, batch: int, gpu: bool) -> tuple[dict[str, race.Make], dict[str, str]]:
    """The peers by name, and why some of them are left out."""

    def make(precision: str, way: tuple[bool, bool]) -> race.Make:
        return partial(pytorch, network, batch, precision, *way)

    def us(precision: str, devices: int = 1) -> race.Make:
        return partial(ours, network, batch, precision, devices)

    if gpu:
        found = {
            "ours": us("bfloat16"),
            "pytorch_bfloat16": make("bfloat16", EAGER),
            "channels_last_bfloat16": make("bfloat16", LAST),
            "compiled_bfloat16": make("bfloat16", COMPILED),
        }
    else:
        found = {
            "ours": us("float32"),
            "ours_a_device_a_core": us("float32", race.CORES),
            "ours_bfloat16": us("bfloat16"),
            "pytorch": make("float32", EAGER),
            "channels_last": make("float32", LAST),
            "compiled": make("float32", COMPILED),
            "channels_last_bfloat16": make("bfloat16", LAST),
        }
    if shutil.which("g++") or shutil.which("clang++"):
        return found, {}
    without = {name: make for name, make in found.items() if "compiled" not in name}
    return without, {"left_out": "torch.compile: there is no C++ compiler"}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Median and least step of every peer in ms, and the ratios.

    Raises:
      AssertionError: the networks differ in their parameters.
    """
    network, gpu = arguments.network, arguments.gpu
    batch = arguments.batch or NETWORKS[network][1 + gpu]
    if arguments.layers:
        from benchmarks.conv_layers import layers

        return {"network": network, "layers": layers(experiment(network, batch), CLASSES)}
    racing, left_out = peers(network, batch, gpu)
    if arguments.peers:
        racing = {name: racing[name] for name in ("ours", *arguments.peers.split(","))}
    times, facts = race.race(racing, arguments.turns, arguments.steps)
    assert len({fact["parameters"] for fact in facts.values()}) == 1, facts
    answer = race.compare(times, facts)
    theirs = {name for name in racing if "ours" not in name}
    narrow = {name for name in theirs if name.endswith("bfloat16")}
    alike = narrow if gpu else theirs - narrow
    best = {"ratio_best": min((answer[f"ratio_{name}"] for name in alike), default=None)}
    return {"network": network, **best, **answer, **left_out}


if __name__ == "__main__":
    options = {
        "network": ("xception", ", ".join(NETWORKS)),
        "batch": (0, "examples a step; 0 is the network's usual one"),
        "peers": ("", "names, comma-separated, to race fewer"),
        "gpu": (False, "bfloat16 on a GPU"),
        "layers": (False, "time the convolutions one by one instead, in every layout"),
        "turns": (10, "turns of every peer"),
        "steps": (3, "steps a turn"),
    }
    race.main("image_step", __doc__, measure, options)
