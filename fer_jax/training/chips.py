"""Accelerators that can be rented: what a chip holds, how it is wired, and which topologies exist.

Sources: Google Cloud's pages of TPU v4, v5e, v5p and v6e (memory, ICI bandwidth a chip, slice
shapes); NVIDIA's datasheets (memory, NVLink or PCIe).
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from fer_jax.errors import UserError

_GIB = 2**30
#: Of a GPU's memory, what JAX takes for arrays unless XLA_PYTHON_CLIENT_MEM_FRACTION says more.
_GPU_SHARE = 0.75
_GPU_COUNTS = (1, 2, 4, 8)
_FLAT = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_SMALL_CUBES = ((1, 2, 2), (2, 2, 2), (2, 2, 4), (2, 4, 4))


class Chip(NamedTuple):
    """An accelerator.

    Attributes:
      kind: JAX's name of the device.
      memory: bytes that a program may fill.
      link: bytes a second that it sends to its peers, over all its links.
      largest: sides of the largest slice; () for a GPU.
    """

    kind: str
    memory: int
    link: float
    largest: tuple[int, ...] = ()


class Topology(NamedTuple):
    """Chips that train together.

    Attributes:
      name: "v5e:4x4", "h100x8".
      sides: of a TPU slice; () of GPUs.
    """

    name: str
    chip: Chip
    chips: int
    sides: tuple[int, ...]


def _gpu(kind: str, memory_gb: int, link_gb: float) -> Chip:
    return Chip(f"NVIDIA {kind}", int(_GPU_SHARE * memory_gb * 1e9), link_gb * 1e9)


#: TPUs by the first part of a topology's name. Memory is what libtpu lets a program have.
TPUS = {
    "v4": Chip("TPU v4", int(30.75 * _GIB), 300e9, (16, 16, 16)),
    "v5e": Chip("TPU v5 lite", int(15.75 * _GIB), 200e9, (16, 16)),
    "v5p": Chip("TPU v5", int(95.74 * _GIB), 600e9, (16, 16, 24)),
    "v6e": Chip("TPU v6 lite", int(31.25 * _GIB), 448e9, (16, 16)),
}
#: GPUs of one machine, with half of what NVLink (or PCIe) is said to carry: one direction.
GPUS = {
    "a10": _gpu("A10", 24, 32),
    "a100": _gpu("A100-SXM4-80GB", 80, 300),
    "a100-40gb": _gpu("A100-SXM4-40GB", 40, 300),
    "b200": _gpu("B200", 180, 900),
    "h100": _gpu("H100", 80, 450),
    "h200": _gpu("H200", 141, 450),
    "l4": _gpu("L4", 24, 32),
    "l40s": _gpu("L40S", 48, 32),
}


def parse_topology(name: str) -> Topology:
    """ "v5e:4x4" or "h100x8".

    Raises:
      UserError: there is none of that name; the line lists what there is.
    """
    if found := re.fullmatch(r"(v\d\w?):(\d+(?:x\d+)+)", name):
        chip, sides = TPUS.get(found[1]), tuple(int(side) for side in found[2].split("x"))
        if chip is not None and _exists(chip, sides):
            return Topology(name, chip, math.prod(sides), sides)
    elif found := re.fullmatch(r"([\w-]+)x(\d+)", name):
        chip, count = GPUS.get(found[1].lower()), int(found[2])
        if chip is not None and count in _GPU_COUNTS:
            return Topology(name, chip, count, ())
    raise UserError(f"no topology {name!r}: there are {_existing()}")


def _exists(chip: Chip, sides: tuple[int, ...]) -> bool:
    """Slices above 64 chips are made of cubes of 4x4x4; sides may come in any order."""
    ordered, most = tuple(sorted(sides)), tuple(sorted(chip.largest))
    if len(ordered) != len(most):
        return False
    if len(ordered) == 2:
        return ordered in _FLAT
    in_fours = all(
        side % 4 == 0 and 0 < side <= top for side, top in zip(ordered, most, strict=True)
    )
    return ordered in _SMALL_CUBES or in_fours


def _existing() -> str:
    flat = ", ".join(f"{a}x{b}" for a, b in _FLAT)
    cubes = "2x2x1, 2x2x2, 2x2x4, 2x4x4 and sides of 4, 8, 12, 16"
    return (
        f"v5e and v6e in {flat}; v4 and v5p in {cubes} (v4 up to 16x16x16, v5p up to 16x16x24); "
        f"and {', '.join(GPUS)} in x1, x2, x4, x8, as in v5e:4x4, v5p:2x2x2 or h100x8"
    )
