"""How fast is Xception's depthwise 3x3, forward and backward, beside XLA's own and PyTorch's?

    python -m benchmarks.depthwise --json

XLA's is a convolution with a group a channel, PyTorch's its channels-last one. `ratio_xla` and
`ratio_pytorch` are the smallest over the shapes, times and the roofline of all of them together;
`shapes` has each. On a GPU ours is XLA's own.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks import race

#: [N, H, W, C] in Xception: on 48 pixels, and on larger ones.
SHAPES = ((32, 21, 21, 64), (32, 24, 24, 128), (32, 12, 12, 728), (32, 3, 3, 728), (32, 2, 2, 1536))


def _jax(shape: tuple[int, ...], own: bool) -> race.Step:
    """Ours, or XLA's grouped convolution."""
    import jax
    import numpy as np
    from jax import lax

    from fer_jax.models.layers.depthwise import depthwise_conv

    def grouped(x: jax.Array, kernel: jax.Array) -> jax.Array:
        kernel = kernel.swapaxes(2, 3)
        layout = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=layout, feature_group_count=shape[-1]
        )

    convolve: Callable[..., jax.Array] = depthwise_conv if own else grouped

    @jax.jit
    def step(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> Any:
        y, back = jax.vjp(convolve, x, kernel)
        return y, *back(dy)

    rng = np.random.default_rng(0)
    sizes = (shape, (3, 3, shape[-1], 1), shape)
    given = jax.device_put([rng.standard_normal(size, np.float32) for size in sizes])
    # Nine products a value and pass, of three; x and dy come in, y and dx go out.
    spent = race.roof(3 * 2 * 9 * math.prod(shape), 4 * 4 * math.prod(shape)) if own else {}
    return lambda number: jax.block_until_ready(step(*given)), spent


def pytorch(shape: tuple[int, ...]) -> race.Step:
    """torch.nn.functional.conv2d with as many groups as channels."""
    import torch

    torch.set_num_threads(race.CORES)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows, height, width, channels = shape

    def random(*size: int) -> torch.Tensor:
        return torch.randn(*size, device=device).to(memory_format=torch.channels_last)

    x, dy = (random(rows, channels, height, width) for _ in range(2))
    kernel = random(channels, 1, 3, 3)
    x.requires_grad_()
    kernel.requires_grad_()

    def run(number: int) -> None:
        del number
        y = torch.nn.functional.conv2d(x, kernel, padding=1, groups=channels)
        torch.autograd.grad(y, (x, kernel), dy)
        if device == "cuda":
            torch.cuda.synchronize()

    return run, {}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The smallest ratio to each peer, and every shape's ratios and times in ms."""
    shapes = {}
    for shape in SHAPES:
        peers: dict[str, race.Make] = {
            "ours": partial(_jax, shape, True),
            "xla": partial(_jax, shape, False),
            "pytorch": partial(pytorch, shape),
        }
        answer = race.compare(*race.race(peers, arguments.turns, arguments.steps))
        shapes["x".join(map(str, shape))] = answer
    least = {
        name: min(answer[name] for answer in shapes.values())
        for name in ("ratio_xla", "ratio_pytorch")
    }
    figures = ("ours_ms", "gflop", "mib", "roof_ms")
    total: dict[str, float] = {}
    for name in figures:
        total[name] = round(sum(one[name] for one in shapes.values()), 3)
    total["share_of_roof"] = round(total["roof_ms"] / total["ours_ms"], 3)
    return {**least, **total, "shapes": shapes}


if __name__ == "__main__":
    options = {"turns": (10, "turns of every peer"), "steps": (5, "steps a turn")}
    race.main("depthwise", __doc__, measure, options)
