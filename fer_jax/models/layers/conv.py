"""Convolutions with Keras's defaults."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from flax import nnx

from fer_jax.models.layers.initializers import glorot_uniform


class Conv(nnx.Conv):
    """A convolution over the axes between the first and the last, initialised as Keras does.

    Parameters: kernel f32[*window, in, out] (Glorot uniform), bias f32[out] (zeros).
    """

    def __init__(
        self,
        features: int,
        width: int,
        window: int | tuple[int, ...],
        *,
        strides: int = 1,
        padding: str | int | Sequence[tuple[int, int]] = "SAME",
        bias: bool = True,
        kernel_init: jax.nn.initializers.Initializer = glorot_uniform,
        rngs: nnx.Rngs,
    ) -> None:
        """Args:
        features: channels of the input.
        width: channels of the output.
        window: the kernel's height and width (and depth first, of clips); one number is the
          side of a square.
        padding: "SAME", "VALID", or the pixels on either side.
        """
        super().__init__(
            features,
            width,
            (window, window) if isinstance(window, int) else window,
            strides=strides,
            padding=padding,
            use_bias=bias,
            kernel_init=kernel_init,
            rngs=rngs,
        )
