"""An LSTM layer by NVIDIA's cuDNN: one call for all steps, and one for all their gradients.

jax.experimental.rnn binds cuDNN's LSTM, and of its recurrent layers that alone: a GRU has no such
call. It reads float32 (TF32 in its products unless JAX's matmul precision says "highest" or
"float32"), whole batches whose real steps come first, and two biases, of which the second is zero
here. The functions here turn our arrays into what it reads, and back.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import rnn

#: What `forward` keeps for `backward`: y f32[B, T, H], and what cuDNN itself wants back f32[R].
Kept = tuple[jax.Array, jax.Array]


def available() -> bool:
    """Whether JAX has an NVIDIA GPU here and the plugin that calls cuDNN."""
    plugin = getattr(rnn, "gpu_rnn", None)
    # The plugin first: asking for devices starts JAX's backends.
    if not hasattr(plugin, "compute_rnn_workspace_reserve_space_sizes"):
        return False
    try:
        return bool(jax.devices("cuda"))
    except RuntimeError:
        return False


def obstacle(activation: str) -> str | None:
    """Why cuDNN cannot run LSTM layers of this activation here, if it cannot."""
    if activation != "tanh":
        return f"cuDNN's LSTM knows tanh alone, not {activation}"
    if not available():
        return "cuDNN needs an NVIDIA GPU and JAX's CUDA plugin, and JAX finds none here"
    return None


def _prepare(x, kernel, recurrent_kernel, bias, h, c, mask):  # type: ignore[no-untyped-def]
    """What cuDNN reads of `forward`'s arguments: x f32[B, T, F] with the real steps of each example
    first, h and c f32[1, B, H], and all weights in one vector."""
    x = jnp.swapaxes(x, 0, 1).astype(jnp.float32)
    if mask is not None:
        order = jnp.argsort(~mask.T, axis=1, stable=True)
        x = jnp.take_along_axis(x, order[:, :, None], axis=1)
    # cuDNN's gates are in our order: input, forget, candidate, output.
    weights = [kernel.T, recurrent_kernel.T, bias, jnp.zeros_like(bias)]
    weights = jnp.concatenate([part.ravel().astype(jnp.float32) for part in weights])
    return x, h[None], c[None], weights


def _lengths(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """The steps that cuDNN takes of each example, i32[B]: at least one, as it asks for."""
    steps, batch, _ = x.shape
    if mask is None:
        return jnp.full((batch,), steps, jnp.int32)
    return jnp.maximum(jnp.sum(mask, axis=0, dtype=jnp.int32), 1)


def _finish(y, h_last, c_last, h, c, mask):  # type: ignore[no-untyped-def]
    """h of every step f32[T, B, H] and the last state, from what cuDNN made."""
    h_last, c_last = h_last[0], c_last[0]
    if mask is not None:
        count = jnp.cumsum(mask.T, axis=1)
        # After n real steps the output is the n-th; before the first it is the initial state.
        y = jnp.take_along_axis(jnp.concatenate([h[:, None], y], 1), count[:, :, None], axis=1)
        some = count[:, -1:] > 0
        h_last, c_last = jnp.where(some, h_last, h), jnp.where(some, c_last, c)
    return jnp.swapaxes(y, 0, 1), h_last, c_last


def _static(
    x: jax.Array, recurrent_kernel: jax.Array
) -> tuple[int, int, int, float, bool, lax.Precision]:
    """The arguments of jax.experimental.rnn that are no arrays."""
    exact = jax.config.jax_default_matmul_precision in ("highest", "float32")  # type: ignore[attr-defined]
    precision = lax.Precision.HIGHEST if exact else lax.Precision.HIGH
    # Widths of the input and of the state; one layer, no dropout, one direction.
    return x.shape[-1], recurrent_kernel.shape[0], 1, 0.0, False, precision


def forward(
    x: jax.Array,
    kernel: jax.Array,
    recurrent_kernel: jax.Array,
    bias: jax.Array,
    h: jax.Array,
    c: jax.Array,
    mask: jax.Array | None,
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], Kept]:
    """All steps of an LSTM layer.

    Args:
      x: f[T, B, F]; kernel f[F, 4H], recurrent_kernel f[H, 4H] and bias f[4H] with the gates in the
        order input, forget, candidate, output.
      h, c: the state before the first step, f32[B, H].
      mask: bool[T, B], any; a step that is not real keeps the state and repeats the output.

    Returns:
      h of every step f32[T, B, H], the last h and c f32[B, H]; and what `backward` needs.
    """
    given = _prepare(x, kernel, recurrent_kernel, bias, h, c, mask)
    lengths = _lengths(x, mask)
    made, kept = rnn.lstm_fwd(*given, lengths, *_static(x, recurrent_kernel))
    return _finish(*made, h, c, mask), (made[0], kept[-1])


def backward(
    arguments: tuple[Any, ...],
    kept: Kept,
    cotangents: tuple[jax.Array, jax.Array, jax.Array],
) -> tuple[jax.Array, ...]:
    """Cotangents of `forward`'s arguments but the mask, from those of its results, float32."""
    *arrays, mask = arguments
    x, h, c = arrays[0], arrays[4], arrays[5]
    y, reserve = kept
    _, unfinish = jax.vjp(partial(_finish, mask=mask), y, h[None], c[None], h, c)
    *dmade, dh, dc = unfinish(cotangents)
    given, unprepare = jax.vjp(partial(_prepare, mask=mask), *arrays)
    residuals = (*given, _lengths(x, mask), y, reserve)
    *dgiven, _ = rnn.lstm_bwd(*_static(x, arrays[2]), residuals, tuple(dmade))
    *dweights, dh_first, dc_first = unprepare(tuple(dgiven))
    return (*dweights, dh + dh_first, dc + dc_first)
