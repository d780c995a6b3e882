"""A recurrent layer with Keras' LSTM equations, written for speed.

Flax's nnx.RNN multiplies input and state at every step and lets autodiff accumulate the weight
gradients at every step. Here the inputs of all steps are projected by one matmul before the scan,
and the recurrent weight gradient is one matmul after the backward scan.
"""

from __future__ import annotations

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

Activation = Literal["tanh", "selu", "relu", "leaky_relu"]

_SELU_ALPHA = 1.6732632423543772848170429916717
_SELU_SCALE = 1.0507009873554804934193349852946
_LEAKY_SLOPE = 0.2  # keras.activations.leaky_relu; the layer LeakyReLU has 0.3


class State(NamedTuple):
    """What an LSTM hands from step to step: output h and cell c, each f32[B, H]."""

    h: jax.Array
    c: jax.Array


def activate(name: Activation, x: jax.Array) -> jax.Array:
    """The activation that Keras 3 knows by `name`."""
    match name:
        case "tanh":
            return jnp.tanh(x)
        case "selu":
            return jax.nn.selu(x)
        case "relu":
            return jax.nn.relu(x)
        case "leaky_relu":
            return jax.nn.leaky_relu(x, _LEAKY_SLOPE)
    raise ValueError(f"no activation {name!r}")


def _slope(name: Activation, y: jax.Array) -> jax.Array:
    """The activation's derivative, from its output `y`: so the input need not be kept."""
    one = jnp.ones_like(y)
    match name:
        case "tanh":
            return one - y * y
        case "selu":
            return jnp.where(y > 0, _SELU_SCALE * one, y + _SELU_SCALE * _SELU_ALPHA)
        case "relu":
            return jnp.where(y > 0, one, jnp.zeros_like(y))
        case "leaky_relu":
            return jnp.where(y >= 0, one, _LEAKY_SLOPE * one)
    raise ValueError(f"no activation {name!r}")


def _sigmoid(x: jax.Array) -> jax.Array:
    # One tanh is cheaper on every backend than an exponential and a division.
    return 0.5 * jnp.tanh(0.5 * x) + 0.5


def _gates(name: Activation, z: jax.Array) -> tuple[jax.Array, ...]:
    i, f, g, o = jnp.split(z, 4, axis=-1)
    return _sigmoid(i), _sigmoid(f), activate(name, g), _sigmoid(o)


def _step(name, weights, state, z, mask):
    """One step; also what the backward pass needs of it."""
    z = z + jnp.dot(state.h, weights, preferred_element_type=z.dtype)
    i, f, g, o = _gates(name, z)
    c = f * state.c + i * g
    a = activate(name, c)
    h = o * a
    if mask is not None:
        real = mask[:, None]
        h, c = jnp.where(real, h, state.h), jnp.where(real, c, state.c)
    return State(h, c), (jnp.concatenate([i, f, g, o], axis=-1), a)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _recur(name, z, weights, initial, mask):
    """h of all steps [T, B, H] and the last state, from the projected inputs z [T, B, 4H]."""

    def step(state, inputs):
        state, _ = _step(name, weights, state, *inputs)
        return state, state.h

    last, h = lax.scan(step, initial, (z, mask))
    return h, last


def _recur_forward(name, z, weights, initial, mask):
    def step(state, inputs):
        state, (gates, a) = _step(name, weights, state, *inputs)
        return state, (state.h, state.c, gates, a)

    last, (h, c, gates, a) = lax.scan(step, initial, (z, mask))
    return (h, last), (weights, initial, mask, h, c, gates, a)


def _recur_backward(name, kept, cotangents):
    weights, initial, mask, h, c, gates, a = kept
    dh_all, dlast = cotangents
    h_before = jnp.concatenate([initial.h[None], h[:-1]])
    c_before = jnp.concatenate([initial.c[None], c[:-1]])

    def step(carry, inputs):
        dh, dc = carry
        dh_out, gates, a, c_before, mask = inputs
        dh = dh + dh_out
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        dh_step, dc_step = dh, dc
        if mask is not None:
            real = mask[:, None]
            dh_step = jnp.where(real, dh, jnp.zeros_like(dh))
            dc_step = jnp.where(real, dc, jnp.zeros_like(dc))
        dc_step = dc_step + dh_step * o * _slope(name, a)
        dz = jnp.concatenate(
            [
                dc_step * g * i * (1 - i),
                dc_step * c_before * f * (1 - f),
                dc_step * i * _slope(name, g),
                dh_step * a * o * (1 - o),
            ],
            axis=-1,
        )
        dh_before = lax.dot_general(
            dz, weights, (((1,), (1,)), ((), ())), preferred_element_type=dh.dtype
        )
        dc_before = dc_step * f
        if mask is not None:
            dh_before = jnp.where(real, dh_before, dh)
            dc_before = jnp.where(real, dc_before, dc)
        return (dh_before, dc_before), dz

    (dh, dc), dz = lax.scan(step, tuple(dlast), (dh_all, gates, a, c_before, mask), reverse=True)
    dweights = lax.dot_general(
        h_before, dz, (((0, 1), (0, 1)), ((), ())), preferred_element_type=weights.dtype
    )
    return dz, dweights, State(dh, dc), None


_recur.defvjp(_recur_forward, _recur_backward)


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
) -> tuple[jax.Array, State]:
    """Keras' LSTM: sigmoid gates in the order input, forget, candidate, output.

    Args:
      x: f[B, T, F], or f[T, B, F] if `time_major`.
      kernel: f[F, 4H].
      recurrent_kernel: f[H, 4H].
      bias: f[4H].
      initial: the state before the first step; zeros by default.
      mask: bool[B, T] (also if `time_major`), True where data is real. Another step keeps the
        state, and its output is the output before it.
      activation: of the candidate and of the cell's output.
      dtype: what the matmuls compute in; the parameters' own by default. The state stays in the
        parameters' dtype.

    Returns:
      h of every step, in x's order of axes, and the state after the last step, which with a mask
      is the state after the last real one.

    Source: Keras 3, keras.layers.LSTM (papers 1 and 5 are Keras networks).
    """
    state_dtype = kernel.dtype
    dtype = dtype or state_dtype
    if not time_major:
        x = jnp.swapaxes(x, 0, 1)
    hidden = recurrent_kernel.shape[0]
    z = jnp.dot(x.astype(dtype), kernel.astype(dtype), preferred_element_type=state_dtype)
    z = z + bias[None, None, :]
    if initial is None:
        zeros = jnp.zeros((x.shape[1], hidden), state_dtype)
        initial = State(zeros, zeros)
    mask = None if mask is None else mask.T
    args = _vary_alike((z, recurrent_kernel, State(*initial), mask))
    h, last = _recur(activation, *args)
    return (h if time_major else jnp.swapaxes(h, 0, 1)), last


def _vary_alike(tree):
    """Under shard_map, all arrays vary over the same mesh axes: scan carries and custom
    gradients must agree on them, and JAX only sees to it for its own operations."""
    axes = frozenset().union(*(_varying(leaf) for leaf in jax.tree.leaves(tree)))
    if not axes:
        return tree

    def vary(leaf):
        missing = tuple(axes - _varying(leaf))
        return lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(vary, tree)


def _varying(x: jax.Array) -> frozenset[str]:
    return frozenset(jax.typeof(x).manual_axis_type.varying)


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
        rngs: nnx.Rngs,
    ) -> None:
        glorot, orthogonal = jax.nn.initializers.glorot_uniform(), jax.nn.initializers.orthogonal()
        self.kernel = nnx.Param(glorot(rngs.params(), (features, 4 * units)))
        self.recurrent_kernel = nnx.Param(orthogonal(rngs.params(), (units, 4 * units)))
        self.bias = nnx.Param(jnp.zeros(4 * units).at[units : 2 * units].set(1.0))
        self.activation: Activation = activation
        self.dtype = dtype

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
        )
