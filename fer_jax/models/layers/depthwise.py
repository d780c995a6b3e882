"""Depthwise and separable convolutions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import cast

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from fer_jax.models.layers.initializers import glorot_uniform
from fer_jax.models.layers.recurrent import vary_alike
from fer_jax.models.layers.windows import Padding, Windows, windows

#: How much of the input the backward pass takes at once on a CPU: the nine shifted copies then
#: stay in its cache, and in memory that need not be asked for anew. Measured from 0.2 to 16 MiB.
_CHUNK_BYTES = 1 << 20


def depthwise_conv(
    x: jax.Array, kernel: jax.Array, *, strides: int = 1, padding: Padding = "same"
) -> jax.Array:
    """Convolves every channel with a filter of its own (Keras's DepthwiseConv2D without bias).

    Args:
      x: [N, H, W, C].
      kernel: [height, width, C, 1].
      padding: "same" as TensorFlow's.

    Raises:
      ValueError: the kernel does not fit in x.
    """
    over = windows(x.shape[1:-1], kernel.shape[:2], strides, padding)
    x, kernel = vary_alike((x, kernel))
    return lax.platform_dependent(
        x, kernel, cpu=partial(_of_slices, over), default=partial(_grouped, over)
    )


def pointwise_conv(x: jax.Array, kernel: jax.Array, *, strides: int = 1) -> jax.Array:
    """A 1x1 convolution, but on TPUs as the matrix product that it is: XLA's CPU convolution, with
    its gradients, takes twice as long. A TPU's compiler lays a product out by itself and copies
    what is between it and the depthwise convolution beside it; of convolutions it lays out both.

    Args:
      x: [N, H, W, C].
      kernel: [1, 1, C, D].
    """
    # Not the convolution's own strides, whose gradient would multiply by the zeros between.
    x, kernel = vary_alike((x[:, ::strides, ::strides], kernel))
    return lax.platform_dependent(x, kernel, tpu=_of_pixels, default=_of_rows)


def _of_pixels(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _of_rows(x: jax.Array, kernel: jax.Array) -> jax.Array:
    # Of four axes XLA's CPU backend transposes a copy for the kernel's gradient.
    return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], -1)


class SeparableConv(nnx.Module):
    """A depthwise convolution and a 1x1 one, without bias and with padding (Keras's
    SeparableConv2D with use_bias=False and padding="same").

    Parameters: depthwise_kernel f32[window, window, in, 1], pointwise_kernel f32[1, 1, in, out]
    (both Glorot uniform).
    """

    def __init__(
        self,
        features: int,
        width: int,
        window: int = 3,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        """Args:
        features: channels of the input.
        width: channels of the output.
        window: the side of the depthwise kernel.
        """
        self.depthwise_kernel = nnx.Param(
            glorot_uniform(rngs.params(), (window, window, features, 1))
        )
        self.pointwise_kernel = nnx.Param(glorot_uniform(rngs.params(), (1, 1, features, width)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, in] -> [N, H, W, out]."""
        x = depthwise_conv(x, self.depthwise_kernel[...])
        return pointwise_conv(x, self.pointwise_kernel[...])


class PointwiseConv(nnx.Module):
    """A 1x1 convolution without bias. Parameters: kernel f32[1, 1, in, out] (Glorot uniform)."""

    def __init__(self, features: int, width: int, *, strides: int = 1, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(glorot_uniform(rngs.params(), (1, 1, features, width)))
        self.strides = strides

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, in] -> [N, H', W', out]."""
        return pointwise_conv(x, self.kernel[...], strides=self.strides)


def _grouped(over: Windows, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        jnp.swapaxes(kernel, 2, 3),
        over.strides,
        over.padding[1:-1],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def _wide(x: jax.Array) -> jnp.dtype:
    """What sums are made in, as accelerators do."""
    return jnp.promote_types(x.dtype, jnp.float32)


def _taps(kernel: jax.Array) -> jax.Array:
    """[height * width, 1, 1, 1, C]."""
    return kernel.reshape(-1, 1, 1, 1, kernel.shape[2]).astype(_wide(kernel))


def _sum_of_slices(over: Windows, x: jax.Array, kernel: jax.Array) -> jax.Array:
    products = map(jnp.multiply, over.split(x, 0.0), _taps(kernel))
    return reduce(jnp.add, products).astype(x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolve(over: Windows, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _sum_of_slices(over, x, kernel)


def _forward(
    over: Windows, x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _sum_of_slices(over, x, kernel), (x, kernel)


def _backward(
    over: Windows, kept: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept

    wide, taps = dy.astype(_wide(dy)), _taps(kernel)
    dx = over.join(lambda k, dy: dy * taps[k], wide).astype(x.dtype)

    def of_some(rows: tuple[jax.Array, jax.Array]) -> list[jax.Array]:
        x, dy = rows
        return [jnp.sum(part * dy, (0, 1, 2)) for part in over.split(x, 0.0)]

    count = len(x) // _rows_at_once(x)
    chunks = [array.reshape(count, -1, *array.shape[1:]) for array in (x, wide)]
    dtaps = lax.map(of_some, (chunks[0], chunks[1]))
    dkernel = jnp.stack([jnp.sum(dtap, 0) for dtap in dtaps]).reshape(kernel.shape)
    return dx, dkernel.astype(kernel.dtype)


def _rows_at_once(x: jax.Array) -> int:
    """The largest divisor of N whose images are within the chunk, or 1."""
    most = max(1, _CHUNK_BYTES * len(x) // (x.size * x.dtype.itemsize))
    return next(rows for rows in range(min(most, len(x)), 0, -1) if len(x) % rows == 0)


_convolve.defvjp(_forward, _backward)
# The cast tells type checkers what custom_vjp hides from them.
_of_slices = cast(Callable[[Windows, jax.Array, jax.Array], jax.Array], _convolve)
