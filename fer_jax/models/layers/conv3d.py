"""Convolution of clips over time and space.

XLA's CPU backend runs it 1.4 to 5 times slower, forward and backward, than the 2-D convolutions of
the kernel's temporal taps, added up (float32, 2 cores).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from fer_jax.models.layers.initializers import glorot_uniform

#: Below so many channels, one 2-D convolution of neighbouring frames stacked as channels beats
#: one a tap (measured at 1 to 12, on a CPU).
_FEW_CHANNELS = 16


def conv3d(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Stride 1, zero padding that keeps T, H and W (Keras's "same").

    Args:
      x: f[B, T, H, W, C].
      kernel: f[depth, height, width, C, D], depth odd.

    Returns:
      f[B, T, H, W, D].
    """
    if x.shape[1] == 1:  # the other taps see nothing but padding
        return _of_taps(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=_of_images, default=_of_volumes)


def _of_volumes(x: jax.Array, kernel: jax.Array) -> jax.Array:
    dimensions = ("NDHWC", "DHWIO", "NDHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1, 1), "SAME", dimension_numbers=dimensions)


def _of_images(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return (_of_stacks if x.shape[-1] < _FEW_CHANNELS else _of_taps)(x, kernel)


def _of_taps(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The sum over the taps of each one's 2-D convolution, of the frames that it reaches."""
    frames, middle = x.shape[1], kernel.shape[0] // 2
    y = _by_frame(x, kernel[middle])
    for offset in range(-middle, middle + 1):
        if offset == 0 or abs(offset) >= frames:
            continue
        before, after = max(-offset, 0), max(offset, 0)
        part = _by_frame(x[:, after : frames - before], kernel[middle + offset])
        y = y + _pad_frames(part, before, after)
    return y


def _of_stacks(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """One 2-D convolution of each frame with its neighbours as further channels."""
    depth, height, width, channels, features = kernel.shape
    frames, middle = x.shape[1], depth // 2
    padded = _pad_frames(x, middle, middle)
    stacked = [padded[:, tap : tap + frames] for tap in range(depth)]
    kernel = jnp.moveaxis(kernel, 0, 2).reshape(height, width, depth * channels, features)
    return _by_frame(jnp.concatenate(stacked, axis=-1), kernel)


def _by_frame(x: jax.Array, kernel: jax.Array) -> jax.Array:
    images = x.reshape(-1, *x.shape[2:])
    dimensions = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=dimensions)
    return y.reshape(*x.shape[:2], *y.shape[1:])


def _pad_frames(x: jax.Array, before: int, after: int) -> jax.Array:
    none = (0, 0, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), [none, (before, after, 0), none, none, none])


class Conv3D(nnx.Module):
    """`conv3d` with a bias, initialised as Keras does.

    Parameters: kernel f32[*window, in, out], bias f32[out] (zeros).
    """

    def __init__(
        self,
        features: int,
        width: int,
        window: tuple[int, int, int] = (3, 3, 3),
        *,
        kernel_init: jax.nn.initializers.Initializer = glorot_uniform,
        rngs: nnx.Rngs,
    ) -> None:
        """Args:
        features: channels of the input.
        width: channels of the output.
        """
        self.kernel = nnx.Param(kernel_init(rngs.params(), (*window, features, width)))
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, x: jax.Array) -> jax.Array:
        """f[B, T, H, W, in] -> f[B, T, H, W, out]."""
        return conv3d(x, self.kernel[...]) + self.bias[...].reshape(1, 1, 1, 1, -1)
