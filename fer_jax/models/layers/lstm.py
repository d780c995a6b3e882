"""A recurrent layer with Keras' LSTM equations, written for speed.

Flax's nnx.RNN multiplies input and state at every step and lets autodiff accumulate the weight
gradients at every step. Here the inputs of all steps are projected by one matmul before the scan,
and the recurrent weight gradient is one matmul after the backward scan. On NVIDIA GPUs cuDNN
takes the place of both scans where it can (see `lstm`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from fer_jax.errors import UserError
from fer_jax.models.layers import cudnn_lstm
from fer_jax.models.layers.recurrent import (
    Activation,
    activate,
    activate_double,
    dot_turned,
    exchange,
    for_platform,
    slope,
    state_dtype,
    sum_outer,
    turned,
    varies,
    vary_alike,
)

Implementation = Literal["auto", "scan", "cudnn"]


class State(NamedTuple):
    """What an LSTM hands from step to step: output h and cell c, each f32[B, H]."""

    h: jax.Array
    c: jax.Array


def _halves(name: Activation, hidden: int, dtype: jax.typing.DTypeLike) -> jax.Array:
    """What the weights' columns are scaled by before the scan, f[4H].

    sigmoid(x) = tanh(x/2)/2 + 1/2: with the gates' columns halved, one tanh serves all of them in
    one pass, and that tanh is what is kept for the backward pass. tanh itself wants the
    candidate's columns whole, the other activations work on half (see `activate_double`).
    """
    half = jnp.full((hidden,), 0.5, dtype)
    return jnp.concatenate([half, half, 2 * half if name == "tanh" else half, half])


def _squash(name: Activation, z: jax.Array) -> jax.Array:
    """tanh of the gates' columns, the activation of the candidate's; z is scaled by `_halves`."""
    t = jnp.tanh(z)
    if name == "tanh":
        return t
    # One pass over all columns, not one a gate and a concatenation: a small network spends its
    # time on starting kernels.
    columns = jnp.arange(z.shape[-1]) // (z.shape[-1] // 4)
    candidate = jnp.broadcast_to((columns == 2)[None, :], z.shape)
    return jnp.where(candidate, activate_double(name, z, t), t)


def _gates(squashed: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Input, forget, candidate, output from what `_squash` gave."""
    i, f, g, o = jnp.split(squashed, 4, axis=-1)
    return 0.5 * i + 0.5, 0.5 * f + 0.5, g, 0.5 * o + 0.5


def _scan(name, dtype, x, kernel, recurrent_kernel, bias, initial, mask, keep):
    """h of all steps [T, B, H], the last state, and what the backward pass needs if `keep`."""
    steps, kind = x.shape[0], initial.c.dtype
    scale = _halves(name, recurrent_kernel.shape[0], kind)[None, :]
    project, recur = (kernel * scale).astype(dtype), (recurrent_kernel * scale).astype(dtype)
    z = jnp.dot(x.astype(dtype), project, preferred_element_type=dtype)
    bias = bias[None, :] * scale

    def advance(state, z, real):
        h_part = jnp.dot(state.h.astype(dtype), recur, preferred_element_type=kind)
        squashed = _squash(name, z.astype(kind) + h_part + bias)
        i, f, g, o = _gates(squashed)
        c = f * state.c + i * g
        h = o * activate(name, c)
        if real is not None:
            real = real[:, None]
            h, c = jnp.where(real, h, state.h), jnp.where(real, c, state.c)
        return State(h, c), squashed.astype(dtype)

    if not keep:

        def step(state, inputs):
            state, _ = advance(state, *inputs)
            return state, state.h.astype(dtype)

        last, h = lax.scan(step, initial, (z, mask))
        return h, last, None

    def keeping_step(carry, inputs):
        state, z, buffer = carry
        index, real = inputs
        new, squashed = advance(state, z, real)
        buffer, z = exchange(buffer, squashed, index, jnp.minimum(index + 1, steps - 1))
        # What was before each step too: shifting h by a step would move all of it.
        return (new, z, buffer), (new.h.astype(dtype), State(state.h.astype(dtype), state.c))

    (last, _, squashed), (h, before) = lax.scan(
        keeping_step, (initial, z[0], z), (jnp.arange(steps), mask)
    )
    return h, last, (squashed, before)


def _forward_scan(name, dtype, *arrays):
    """h of all steps and the last state, and what `_backward_scan` needs."""
    h, last, kept = _scan(name, dtype, *arrays, keep=True)
    return (h, last), kept


def _backward_scan(name, dtype, arrays, kept, cotangents):
    """Cotangents of the arrays but the mask."""
    return for_platform(partial(_backward, name, dtype), arrays, kept, cotangents)


def _backward(name, dtype, whole, arrays, kept, cotangents):
    x, kernel, recurrent_kernel, bias, initial, mask = arrays
    squashed, before = kept
    dh_all, dlast = cotangents
    kind = initial.c.dtype
    back = turned(whole, recurrent_kernel).astype(dtype)

    def step(carry, inputs):
        dh, dc, now, buffer = carry
        index, dh_out, c_before, real = inputs
        now = now.astype(kind)
        dh = dh + dh_out.astype(kind)
        i, f, g, o = _gates(now)
        # The slope of tanh(z/2)/2 + 1/2 is (1 - tanh^2) / 4.
        i_slope, f_slope, _, o_slope = jnp.split(0.25 - 0.25 * now * now, 4, axis=-1)
        a = activate(name, f * c_before + i * g)
        dh_step = dh if real is None else jnp.where(real[:, None], dh, jnp.zeros_like(dh))
        dc_step = dc if real is None else jnp.where(real[:, None], dc, jnp.zeros_like(dc))
        dc_step = dc_step + dh_step * o * slope(name, a)
        dz = [
            dc_step * g * i_slope,
            dc_step * c_before * f_slope,
            dc_step * i * slope(name, g),
            dh_step * a * o_slope,
        ]
        dz = jnp.concatenate(dz, axis=-1).astype(dtype)
        dh_before = dot_turned(whole, dz, back, kind)
        dc_before = dc_step * f
        if real is not None:
            dh_before = jnp.where(real[:, None], dh_before, dh)
            dc_before = jnp.where(real[:, None], dc_before, dc)
        buffer, now = exchange(buffer, dz, index, jnp.maximum(index - 1, 0))
        return (dh_before, dc_before, now, buffer), None

    inputs = (jnp.arange(x.shape[0]), dh_all, before.c, mask)
    (dh, dc, _, dz), _ = lax.scan(step, (*dlast, squashed[-1], squashed), inputs, reverse=True)

    dx = dot_turned(whole, dz, turned(whole, kernel).astype(dtype), kind)
    return (
        dx.astype(x.dtype),
        sum_outer(x, dz).astype(kernel.dtype),
        sum_outer(before.h, dz).astype(recurrent_kernel.dtype),
        jnp.sum(dz, axis=(0, 1), dtype=kind).astype(bias.dtype),
        State(dh, dc),
    )


def _forward_cudnn(dtype, *arrays):
    """As `_forward_scan`."""
    x, kernel, recurrent_kernel, bias, initial, mask = arrays
    h, c = initial
    results, kept = cudnn_lstm.forward(x, kernel, recurrent_kernel, bias, h, c, mask)
    h, *last = results
    return (h.astype(dtype), State(*last)), kept


def _backward_cudnn(arrays, kept, cotangents):
    """As `_backward_scan`."""
    *weights, initial, mask = arrays
    dh_all, dlast = cotangents
    cotangents = (dh_all.astype(jnp.float32), *dlast)
    *dweights, dh, dc = cudnn_lstm.backward((*weights, *initial, mask), kept, cotangents)
    return (*dweights, State(dh, dc))


def _by_platform(scan: Callable[..., Any], cudnn: Callable[..., Any]) -> Callable[..., Any]:
    """`cudnn` on an NVIDIA GPU; `scan` elsewhere and, since cuDNN takes one set of weights, under
    vmap, where a step's matmul is one for all lanes."""

    @jax.custom_batching.custom_vmap
    def run(*arguments):
        return lax.platform_dependent(*arguments, cuda=cudnn, default=scan)

    @run.def_vmap
    def run_lanes(lanes, batched, *arguments):
        axes = jax.tree.map(lambda batched: 0 if batched else None, tuple(batched))
        results = jax.vmap(scan, axes, axis_size=lanes)(*arguments)
        return results, jax.tree.map(lambda _: True, results)

    return run


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _lstm(name, dtype, cudnn, *arrays):
    def scan(*arrays):
        return _scan(name, dtype, *arrays, keep=False)[:2]

    if not cudnn:
        return scan(*arrays)
    return _by_platform(scan, lambda *arrays: _forward_cudnn(dtype, *arrays)[0])(*arrays)


def _lstm_forward(name, dtype, cudnn, *arrays):
    scan, by_cudnn = partial(_forward_scan, name, dtype), partial(_forward_cudnn, dtype)
    if cudnn:
        # A program for several platforms keeps for the backward pass what any of them needs: zeros
        # where it is another's, which nobody reads, so that the compiler drops them.
        _, scans = jax.eval_shape(scan, *arrays)
        _, cudnns = jax.eval_shape(by_cudnn, *arrays)

        def first(*arrays):
            results, kept = scan(*arrays)
            return results, (kept, _zeros(cudnns))

        def second(*arrays):
            results, kept = by_cudnn(*arrays)
            return results, (_zeros(scans), kept)

        results, kept = _by_platform(first, second)(*arrays)
    else:
        results, kept = scan(*arrays)
    return results, (arrays, kept)


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype), shapes)


def _lstm_backward(name, dtype, cudnn, residuals, cotangents):
    if not cudnn:
        arrays, kept = residuals
        return (*_backward_scan(name, dtype, arrays, kept, cotangents), None)

    def scan(arrays, kept, cotangents):
        return _backward_scan(name, dtype, arrays, kept[0], cotangents)

    def by_cudnn(arrays, kept, cotangents):
        return _backward_cudnn(arrays, kept[1], cotangents)

    return (*_by_platform(scan, by_cudnn)(*residuals, cotangents), None)


_lstm.defvjp(_lstm_forward, _lstm_backward)


def _obstacle(activation: Activation, x: jax.Array, state: jax.typing.DTypeLike) -> str | None:
    """Why cuDNN cannot run this layer, if it cannot."""
    if found := cudnn_lstm.obstacle(activation):
        return found
    if state != jnp.float32:
        return "cuDNN computes in float32"
    if not all(isinstance(side, int) for side in x.shape):
        return "cuDNN needs a batch of known size"
    if varies(x):
        return "cuDNN's call does not say over which mesh axes it varies"
    return None


def lstm(
    x: jax.Array,
    kernel: jax.Array,
    recurrent_kernel: jax.Array,
    bias: jax.Array,
    *,
    initial: State | None = None,
    mask: jax.Array | None = None,
    activation: Activation = "tanh",
    time_major: bool = False,
    dtype: jax.typing.DTypeLike | None = None,
    implementation: Implementation = "auto",
) -> tuple[jax.Array, State]:
    """Keras' LSTM: sigmoid gates in the order input, forget, candidate, output.

    On a CPU, a TPU and under vmap it is a scan. On an NVIDIA GPU it is cuDNN wherever that can
    serve: activation tanh, state float32, shapes known. cuDNN starts fewer kernels a step than the
    scan, and short sequences and small layers are all starts; no shape is known to us where the
    scan would win, nor have we measured all (`python -m benchmarks.lstm_step --gpu` does). cuDNN
    multiplies in float32 whatever `dtype` is, TF32 by default as the scan there does.

    Args:
      x: f[B, T, F], or f[T, B, F] if `time_major`.
      kernel: f[F, 4H].
      recurrent_kernel: f[H, 4H].
      bias: f[4H].
      initial: the state before the first step; zeros by default.
      mask: bool[B, T] (also if `time_major`), True where data is real. Another step keeps the
        state, and its output is the output before it.
      activation: of the candidate and of the cell's output.
      dtype: what the matmuls read, and of the returned h; the parameters' own by default. The
        state has the parameters' dtype, float32 at least.
      implementation: "scan", or "cudnn", which is "auto" but an error where cuDNN cannot serve.

    Returns:
      h of every step, in x's order of axes, and the state after the last step, which with a mask
      is the state after the last real one.

    Raises:
      UserError: implementation "cudnn", which cannot serve.

    Source: Keras 3, keras.layers.LSTM (papers 1 and 5 are Keras networks).
    """
    kind = state_dtype(kernel.dtype)
    if not time_major:
        x = jnp.swapaxes(x, 0, 1)
    if initial is None:
        zeros = jnp.zeros((x.shape[1], recurrent_kernel.shape[0]), kind)
        initial = State(zeros, zeros)
    initial = State(*(jnp.asarray(part, kind) for part in initial))
    mask = None if mask is None else mask.T
    arrays = vary_alike((x, kernel, recurrent_kernel, bias, initial, mask))
    # The cast tells type checkers what custom_vjp hides from them.
    run = cast(Callable[..., tuple[jax.Array, State]], _lstm)
    obstacle = _obstacle(activation, arrays[0], kind) if implementation != "scan" else ""
    if obstacle and implementation == "cudnn":
        raise UserError(f"implementation=cudnn: {obstacle}; set it to auto")
    h, last = run(activation, jnp.dtype(dtype or kernel.dtype), obstacle is None, *arrays)
    return (h if time_major else jnp.swapaxes(h, 0, 1)), last


class LSTM(nnx.Module):
    """An LSTM layer with Keras' initial weights.

    Parameters: kernel f32[F, 4H] (Glorot uniform), recurrent_kernel f32[H, 4H] (orthogonal),
    bias f32[4H] (zeros, ones for the forget gate).
    """

    def __init__(
        self,
        features: int,
        units: int,
        *,
        activation: Activation = "tanh",
        dtype: jax.typing.DTypeLike | None = None,
        implementation: Implementation = "auto",
        rngs: nnx.Rngs,
    ) -> None:
        glorot, orthogonal = jax.nn.initializers.glorot_uniform(), jax.nn.initializers.orthogonal()
        self.kernel = nnx.Param(glorot(rngs.params(), (features, 4 * units)))
        self.recurrent_kernel = nnx.Param(orthogonal(rngs.params(), (units, 4 * units)))
        self.bias = nnx.Param(jnp.zeros(4 * units).at[units : 2 * units].set(1.0))
        self.activation: Activation = activation
        self.dtype = dtype
        self.implementation: Implementation = implementation

    def __call__(
        self,
        x: jax.Array,
        *,
        initial: State | None = None,
        mask: jax.Array | None = None,
        time_major: bool = False,
    ) -> tuple[jax.Array, State]:
        """`lstm` with this layer's parameters."""
        return lstm(
            x,
            self.kernel[...],
            self.recurrent_kernel[...],
            self.bias[...],
            initial=initial,
            mask=mask,
            activation=self.activation,
            time_major=time_major,
            dtype=self.dtype,
            implementation=self.implementation,
        )
