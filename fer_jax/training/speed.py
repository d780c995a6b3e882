"""How fast a run is: when its first step was done, clips a second, share of the peak, stalls."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from fer_jax.models import Inputs
from fer_jax.models.cost import training_flops
from fer_jax.training import parallel
from fer_jax.training.job import Job
from fer_jax.training.pace import Pace
from fer_jax.training.peaks import peak

#: Operations a sample of the networks that were counted, by what decides them.
_COUNTED: dict[str, int] = {}


class Speed:
    """Of a run in this process."""

    def __init__(self, on_note: Callable[[str], None]):
        self._since, self._on_note = time.monotonic(), on_note
        self._first_step_s: float | None = None
        self._last: dict[str, float] = {}

    def stepped(self) -> None:
        """A call of steps is over."""
        if self._first_step_s is None:
            self._first_step_s = round(time.monotonic() - self._since, 2)
            self._on_note(
                f"first step after {self._first_step_s:.1f} s, with reading and compiling"
            )

    def figures(self, job: Job, pace: Pace) -> dict[str, float]:
        """Of the calls since this was asked last, for a line of history; {} if none was measured.

        speed/samples_per_s; speed/mfu, the network's operations as a share of what the devices
        could do (without augmentation and optimizer, as is the custom; only where their peak is
        known); and speed/input_stall, the share of the time in which the devices waited for data.
        """
        rate, settings = pace.take_rate(), job.experiment.train
        if not rate.steps:
            return {}
        samples = rate.steps * job.train.size / job.steps_per_epoch / rate.seconds
        self._last = {
            "speed/samples_per_s": round(samples, 2),
            "speed/input_stall": round(rate.stalled / rate.seconds, 4),
        }
        best = peak(job.mesh.devices.flat[0], settings.precision, job.mesh.size)
        if best is not None:
            share = samples * _flops(job) / (best.flops * job.mesh.size)
            self._last["speed/mfu"] = round(share, 4)
        return self._last

    def summary(self) -> dict[str, float | None]:
        """The last of `figures`, and first_step_s: from the call of `train` to the end of the
        first step."""
        last = {name.removeprefix("speed/"): value for name, value in self._last.items()}
        return {"first_step_s": self._first_step_s, **last}


def described(line: Mapping[str, Any]) -> list[str]:
    """The figures of a line of history, in words."""
    shown = []
    if "speed/samples_per_s" in line:
        shown.append(f"{line['speed/samples_per_s']:.0f} samples/s")
    if "speed/mfu" in line:
        shown.append(f"{100 * line['speed/mfu']:.1f} % of the peak")
    if line.get("speed/input_stall", 0) >= 0.01:
        shown.append(f"waits for data {100 * line['speed/input_stall']:.0f} %")
    return shown


def _flops(job: Job) -> int:
    document, settings = job.experiment.to_json(), job.experiment.train
    key = json.dumps([document["model"], job.facts["inputs"], settings.freeze, settings.precision])
    if key not in _COUNTED:
        inputs = Inputs.from_json(job.facts["inputs"])
        _COUNTED[key] = training_flops(
            job.model, inputs, freeze=settings.freeze, axis=parallel.AXIS
        )
    return _COUNTED[key]
