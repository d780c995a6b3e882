"""Topologies as clouds and clusters name them: accelerator types, hosts, runtime versions.

Sources: Google Cloud's pages "TPU v4", "TPU v5e", "TPU v5p", "TPU v6e" and "TPU software versions";
`sky gpus list`.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from fer_jax.errors import UserError

_FLAT = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_SMALL_CUBES = ((1, 2, 2), (2, 2, 2), (2, 2, 4), (2, 4, 4))


class _Generation(NamedTuple):
    """A kind of TPU: its accelerator type's first part, what that counts for a chip, its runtime
    version, and the sides of the largest slice."""

    type: str
    units: int
    runtime: str
    largest: tuple[int, ...]


_TPUS = {
    "v4": _Generation("v4", 2, "tpu-ubuntu2204-base", (16, 16, 16)),
    "v5e": _Generation("v5litepod", 1, "v2-alpha-tpuv5-lite", (16, 16)),
    "v5p": _Generation("v5p", 2, "v2-alpha-tpuv5", (16, 16, 24)),
    "v6e": _Generation("v6e", 1, "v2-alpha-tpuv6e", (16, 16)),
}
#: GPUs as SkyPilot names them.
_GPUS = {
    "a10": "A10", "a100": "A100-80GB", "a100-40gb": "A100", "b200": "B200", "h100": "H100",
    "h200": "H200", "l4": "L4", "l40s": "L40S", "t4": "T4", "v100": "V100",
}  # fmt: skip


class Machines(NamedTuple):
    """What a job runs on.

    Attributes:
      name: "v5e:4x4", "h100x8".
      kind: "tpu" or "gpu".
      chips: of all hosts.
      hosts: machines; of a TPU slice the cloud says which belong together.
      accelerator: Google Cloud's accelerator type, or the GPU's name in SkyPilot.
      runtime: the software of a TPU's machines; "" of GPUs.
    """

    name: str
    kind: str
    chips: int
    hosts: int
    accelerator: str
    runtime: str = ""

    @property
    def per_host(self) -> int:
        return self.chips // self.hosts


def parse_machines(name: str) -> Machines:
    """ "v5e:4x4" or "h100x8"; of more than 8 GPUs, several machines of 8.

    Raises:
      UserError: there is none of that name.
    """
    if found := re.fullmatch(r"(v\d\w?):(\d+(?:x\d+)+)", name):
        sides = tuple(int(side) for side in found[2].split("x"))
        generation = _TPUS.get(found[1])
        if generation is not None and _exists(generation, sides):
            chips = math.prod(sides)
            # Up to 8 v5e and v6e chips are one machine; otherwise a machine has 4.
            alone = len(sides) == 2 and chips <= 8
            accelerator = f"{generation.type}-{chips * generation.units}"
            hosts = 1 if alone else chips // 4
            return Machines(name, "tpu", chips, hosts, accelerator, generation.runtime)
    elif found := re.fullmatch(r"([a-z][\w-]*)x(\d+)", name.lower()):
        gpu, count = _GPUS.get(found[1]), int(found[2])
        if gpu is not None and (count in (1, 2, 4) or (count and count % 8 == 0)):
            return Machines(name, "gpu", count, max(1, count // 8), gpu)
    raise UserError(
        f"no topology {name!r}: give one of v5e and v6e, as in v5e:4x4 "
        f"({', '.join(f'{a}x{b}' for a, b in _FLAT)}), of v4 and v5p, as in v5p:2x2x2 (sides of 1, "
        f"2 and 4, or of 4, 8, 12, 16), or of GPUs, as in h100x8 ({', '.join(_GPUS)}; 1, 2, 4, 8 "
        "or several 8)"
    )


def _exists(generation: _Generation, sides: tuple[int, ...]) -> bool:
    """Slices above 32 chips of v4 and v5p are made of cubes of 4x4x4."""
    ordered = tuple(sorted(sides))
    if len(sides) != len(generation.largest):
        return False
    if len(sides) == 2:
        return sides in _FLAT
    limits = zip(ordered, generation.largest, strict=True)
    return ordered in _SMALL_CUBES or all(s % 4 == 0 and 0 < s <= most for s, most in limits)
