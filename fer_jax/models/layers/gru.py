"""A recurrent layer with Keras' GRU equations, written for speed as the LSTM is.

It is a scan on NVIDIA GPUs too: jax.experimental.rnn, JAX's way to cuDNN, has no GRU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from fer_jax.models.layers.recurrent import (
    Activation,
    activate,
    dot_turned,
    exchange,
    for_platform,
    slope,
    state_dtype,
    sum_outer,
    turned,
    vary_alike,
)


def _scan(name, dtype, x, kernel, recurrent_kernel, bias, initial, mask, keep):
    """h of all steps [T, B, H], the last h, and what the backward pass needs if `keep`."""
    (steps, _, _), (hidden, _) = x.shape, recurrent_kernel.shape
    kind = initial.dtype
    # sigmoid(x) = tanh(x/2)/2 + 1/2: halved columns make it one tanh for both gates, and that is
    # what is kept for the backward pass.
    scale = jnp.where(jnp.arange(3 * hidden) < 2 * hidden, 0.5, 1).astype(kind)[None, :]
    project, recur = (kernel * scale).astype(dtype), (recurrent_kernel * scale).astype(dtype)
    z = jnp.dot(x.astype(dtype), project, preferred_element_type=dtype)
    bias, inner_bias = bias[:1] * scale, bias[1:] * scale

    def advance(h, z, real):
        z = z.astype(kind) + bias
        inner = jnp.dot(h.astype(dtype), recur, preferred_element_type=kind) + inner_bias
        gates = jnp.tanh(z[:, : 2 * hidden] + inner[:, : 2 * hidden])
        inner = inner[:, 2 * hidden :]
        update, reset = _gates(gates)
        candidate = activate(name, z[:, 2 * hidden :] + reset * inner)
        new = update * h + (1 - update) * candidate
        if real is not None:
            new = jnp.where(real[:, None], new, h)
        return new, jnp.concatenate([gates, candidate], axis=-1).astype(dtype), inner.astype(dtype)

    if not keep:

        def step(h, inputs):
            h, _, _ = advance(h, *inputs)
            return h, h.astype(dtype)

        last, h = lax.scan(step, initial, (z, mask))
        return h, last, ()

    def keeping_step(carry, inputs):
        before, z, buffer = carry
        index, real = inputs
        h, squashed, inner = advance(before, z, real)
        buffer, z = exchange(buffer, squashed, index, jnp.minimum(index + 1, steps - 1))
        # What was before each step too: shifting h by a step would move all of it.
        return (h, z, buffer), (h.astype(dtype), before.astype(dtype), inner)

    (last, _, squashed), (h, before, inner) = lax.scan(
        keeping_step, (initial, z[0], z), (jnp.arange(steps), mask)
    )
    return h, last, (before, squashed, inner)


def _gates(squashed: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Update and reset."""
    update, reset = jnp.split(0.5 * squashed + 0.5, 2, axis=-1)
    return update, reset


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gru(name, dtype, x, kernel, recurrent_kernel, bias, initial, mask):
    h, last, _ = _scan(name, dtype, x, kernel, recurrent_kernel, bias, initial, mask, keep=False)
    return h, last


def _gru_forward(name, dtype, x, kernel, recurrent_kernel, bias, initial, mask):
    h, last, kept = _scan(name, dtype, x, kernel, recurrent_kernel, bias, initial, mask, keep=True)
    return (h, last), ((x, kernel, recurrent_kernel, bias, initial, mask), kept)


def _gru_backward(name, dtype, kept, cotangents):
    return for_platform(partial(_backward, name, dtype), kept, cotangents)


def _backward(name, dtype, whole, kept, cotangents):
    (x, kernel, recurrent_kernel, bias, initial, mask), (h_before, squashed, inner) = kept
    dh_all, dlast = cotangents
    hidden, kind = recurrent_kernel.shape[0], initial.dtype
    back = turned(whole, recurrent_kernel).astype(dtype)

    def step(carry, inputs):
        dh, now, inner, buffer, inner_buffer = carry
        index, dh_out, h_before, real = inputs
        dh = dh + dh_out.astype(kind)
        gates, candidate = now[:, : 2 * hidden].astype(kind), now[:, 2 * hidden :].astype(kind)
        update, reset = _gates(gates)
        # The slope of tanh(z/2)/2 + 1/2 is (1 - tanh^2) / 4.
        update_slope, reset_slope = jnp.split(0.25 - 0.25 * gates * gates, 2, axis=-1)
        dh_step = dh if real is None else jnp.where(real[:, None], dh, jnp.zeros_like(dh))
        dcandidate = dh_step * (1 - update) * slope(name, candidate)
        dinner = (dcandidate * reset).astype(dtype)
        dgates = [
            dh_step * (h_before.astype(kind) - candidate) * update_slope,
            dcandidate * inner.astype(kind) * reset_slope,
        ]
        dz = jnp.concatenate([*dgates, dcandidate], axis=-1).astype(dtype)
        drecurrent = jnp.concatenate([dz[:, : 2 * hidden], dinner], axis=-1)
        dh_before = dot_turned(whole, drecurrent, back, kind) + dh_step * update
        if real is not None:
            dh_before = jnp.where(real[:, None], dh_before, dh)
        ahead = jnp.maximum(index - 1, 0)
        buffer, now = exchange(buffer, dz, index, ahead)
        inner_buffer, inner = exchange(inner_buffer, dinner, index, ahead)
        return (dh_before, now, inner, buffer, inner_buffer), None

    inputs = (jnp.arange(x.shape[0]), dh_all, h_before, mask)
    carry = (dlast, squashed[-1], inner[-1], squashed, inner)
    (dh, _, _, dz, dinner), _ = lax.scan(step, carry, inputs, reverse=True)

    # Both projections have the gates' cotangents in common.
    dgates = dz[..., : 2 * hidden]
    drecurrent = [sum_outer(h_before, part) for part in (dgates, dinner)]
    dbias = jnp.sum(dz, axis=(0, 1), dtype=kind)
    dinner_bias = jnp.sum(dinner, axis=(0, 1), dtype=kind)
    dbias = jnp.stack([dbias, jnp.concatenate([dbias[: 2 * hidden], dinner_bias])])
    dx = dot_turned(whole, dz, turned(whole, kernel).astype(dtype), kind)
    return (
        dx.astype(x.dtype),
        sum_outer(x, dz).astype(kernel.dtype),
        jnp.concatenate(drecurrent, axis=-1).astype(recurrent_kernel.dtype),
        dbias.astype(bias.dtype),
        dh,
        None,
    )


_gru.defvjp(_gru_forward, _gru_backward)


def gru(
    x: jax.Array,
    kernel: jax.Array,
    recurrent_kernel: jax.Array,
    bias: jax.Array,
    *,
    initial: jax.Array | None = None,
    mask: jax.Array | None = None,
    activation: Activation = "tanh",
    time_major: bool = False,
    dtype: jax.typing.DTypeLike | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Keras' GRU with `reset_after`: the gates are update, reset, candidate.

    With update z, reset r and candidate n, h' = z h + (1 - z) n, where n is the activation of
    W x + b + r (U h + c).

    Args:
      x: f[B, T, F], or f[T, B, F] if `time_major`.
      kernel: f[F, 3H], W.
      recurrent_kernel: f[H, 3H], U.
      bias: f[2, 3H], b of the input and c of the state.
      initial: h before the first step, f[B, H]; zeros by default.
      mask: bool[B, T] (also if `time_major`), True where data is real. Another step keeps the
        state, and its output is the output before it.
      activation: of the candidate.
      dtype: what the matmuls read, and of the returned sequence; the parameters' own by default.
        The state has the parameters' dtype, float32 at least.

    Returns:
      h of every step, in x's order of axes, and h after the last step f[B, H], which with a mask
      is h after the last real one.

    Source: Keras 3, keras.layers.GRU (paper 3's baselines are Keras networks).
    """
    kind = state_dtype(kernel.dtype)
    if not time_major:
        x = jnp.swapaxes(x, 0, 1)
    if initial is None:
        initial = jnp.zeros((x.shape[1], recurrent_kernel.shape[0]), kind)
    initial = jnp.asarray(initial, kind)
    mask = None if mask is None else mask.T
    arrays = vary_alike((x, kernel, recurrent_kernel, bias, initial, mask))
    # The cast tells type checkers what custom_vjp hides from them.
    run = cast(Callable[..., tuple[jax.Array, jax.Array]], _gru)
    h, last = run(activation, jnp.dtype(dtype or kernel.dtype), *arrays)
    return (h if time_major else jnp.swapaxes(h, 0, 1)), last


class GRU(nnx.Module):
    """A GRU layer with Keras' initial weights.

    Parameters: kernel f32[F, 3H] (Glorot uniform), recurrent_kernel f32[H, 3H] (orthogonal),
    bias f32[2, 3H] (zeros).
    """

    def __init__(
        self,
        features: int,
        units: int,
        *,
        activation: Activation = "tanh",
        dtype: jax.typing.DTypeLike | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        glorot, orthogonal = jax.nn.initializers.glorot_uniform(), jax.nn.initializers.orthogonal()
        self.kernel = nnx.Param(glorot(rngs.params(), (features, 3 * units)))
        self.recurrent_kernel = nnx.Param(orthogonal(rngs.params(), (units, 3 * units)))
        self.bias = nnx.Param(jnp.zeros((2, 3 * units)))
        self.activation: Activation = activation
        self.dtype = dtype

    def __call__(
        self,
        x: jax.Array,
        *,
        initial: jax.Array | None = None,
        mask: jax.Array | None = None,
        time_major: bool = False,
    ) -> tuple[jax.Array, jax.Array]:
        """`gru` with this layer's parameters."""
        return gru(
            x,
            self.kernel[...],
            self.recurrent_kernel[...],
            self.bias[...],
            initial=initial,
            mask=mask,
            activation=self.activation,
            time_major=time_major,
            dtype=self.dtype,
        )
