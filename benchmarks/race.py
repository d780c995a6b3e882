"""Peers that do the same work, timed in turns.

Each peer is a process of its own; they take turns, a few steps a turn, so that a busy machine is as
bad for one as for the other. A ratio is a peer's median step over ours: above 1, we are faster.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

CORES = os.cpu_count() or 1
#: A step to be timed, called with its number, and facts about it for the result.
Step = tuple[Callable[[int], None], Mapping[str, Any]]
#: Makes a peer in its own process. Picklable: a module's function, or a partial of one.
Make = Callable[[], Step]


def _serve(make: Make, pipe: Any) -> None:
    """A peer's process: its facts, then the milliseconds of so many steps for each number."""
    run, facts = make()
    pipe.send(dict(facts))
    index = 0
    while steps := pipe.recv():
        times = []
        for _ in range(steps):
            begun = time.perf_counter()
            run(index)
            times.append((time.perf_counter() - begun) * 1e3)
            index += 1
        pipe.send(times)


def race(
    peers: Mapping[str, Make], turns: int, steps: int
) -> tuple[dict[str, list[float]], dict[str, dict[str, Any]]]:
    """Every peer's steps, in milliseconds, and its facts.

    Args:
      turns: of each peer, after one that compiles and warms up.
      steps: a turn; of several the first finds cold caches and is not counted.
    """
    context = multiprocessing.get_context("spawn")
    pipes, processes, facts = {}, [], {}
    for name, make in peers.items():
        pipes[name], theirs = context.Pipe()
        processes.append(context.Process(target=_serve, args=(make, theirs), daemon=True))
        processes[-1].start()
        theirs.close()  # so that a peer that dies ends our waiting
        facts[name] = pipes[name].recv()  # One by one: some measure what the machine can do.
    times: dict[str, list[float]] = {name: [] for name in peers}
    for turn in range(turns + 1):
        for name, pipe in pipes.items():
            pipe.send(steps)
            taken = pipe.recv()
            if turn:
                times[name] += taken[1:] or taken
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send(0)
        process.join()
    return times, facts


def compare(
    times: Mapping[str, Sequence[float]],
    facts: Mapping[str, Mapping[str, Any]],
    ours: str = "ours",
) -> dict[str, Any]:
    """A race's answer: `ratio_<peer>`, the median `<peer>_ms` and `<peer>_least_ms`, and our facts
    with, where there is a roof, what share of it our step reaches."""
    median = {name: statistics.median(values) for name, values in times.items()}
    known = dict(facts[ours])
    if roof := known.get("roof_ms"):
        known["share_of_roof"] = round(roof / median[ours], 3)
    return {
        **{
            f"ratio_{name}": round(median[name] / median[ours], 3) for name in times if name != ours
        },
        **{f"{name}_ms": round(value, 3) for name, value in median.items()},
        **{f"{name}_least_ms": round(min(values), 3) for name, values in times.items()},
        **known,
    }


def roof(flops: float, moved: float, precision: str = "float32") -> dict[str, Any]:
    """What a step must do, and the least time in which these devices could.

    Args:
      flops: of one device; count a scan's by its length, which XLA's own count does not.
      moved: bytes of one device.
      precision: of the products.

    Returns:
      device; gflop and mib of one device's step; roof_ms, the longer of both at the device's peak,
      where that is known.
    """
    import jax

    from fer_jax.training.peaks import peak

    device = jax.devices()[0]
    found = {
        "device": device.device_kind,
        "gflop": round(flops / 1e9, 3),
        "mib": round(moved / 2**20, 1),
    }
    if best := peak(device, precision, jax.device_count()):
        found["roof_ms"] = round(1e3 * max(flops / best.flops, moved / best.bytes), 3)
    return found


def memory_bandwidth() -> float:
    """Bytes a second that one core reads of memory: the best of some sums over 64 MiB."""
    import numpy as np

    numbers, seconds = np.ones(1 << 24, np.float32), []
    for _ in range(8):
        begun = time.perf_counter()
        numbers.sum()
        seconds.append(time.perf_counter() - begun)
    return numbers.nbytes / min(seconds)


def hardware() -> str:
    """The machine that measured, without asking JAX for devices."""
    model = ""
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
            model = names[0] if names else ""
    return f"{model or platform.processor() or platform.machine()}, {CORES} cores"


def main(
    question: str,
    about: str | None,
    measure: Callable[[argparse.Namespace], dict[str, Any]],
    arguments: Mapping[str, tuple[Any, str]] | None = None,
) -> None:
    """A question's command line: prints its answer.

    Args:
      about: the module's docstring, whose first line is the question.
      measure: gives everything but `question` and `hardware`.
      arguments: further options, by name: default and help.
    """
    parser = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    for name, (default, text) in (arguments or {}).items():
        kind: dict[str, Any] = {"type": type(default), "default": default}
        if default is False:
            kind = {"action": "store_true"}
        parser.add_argument(f"--{name}", help=f"{text} ({default})", **kind)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parsed = parser.parse_args()
    result = {"question": question, "hardware": hardware(), **measure(parsed)}
    if parsed.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{name:32} {value}" for name, value in result.items()))
