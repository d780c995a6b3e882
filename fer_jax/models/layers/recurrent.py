"""What the recurrent layers share: activations by their outputs, and scans that work in place."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

Activation = Literal["tanh", "selu", "relu", "leaky_relu"]

_SELU_ALPHA = 1.6732632423543772848170429916717
_SELU_SCALE = 1.0507009873554804934193349852946
_LEAKY_SLOPE = 0.2  # keras.activations.leaky_relu; the layer LeakyReLU has 0.3


def slope(name: Activation, y: jax.Array) -> jax.Array:
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


def activate_double(name: Activation, z: jax.Array, t: jax.Array) -> jax.Array:
    """The activation of 2z, given t = tanh(z)."""
    match name:
        case "selu":  # exp(2z) - 1 = 2t / (1 - t), a third of the time of XLA's expm1
            return 2 * _SELU_SCALE * jnp.where(z > 0, z, _SELU_ALPHA * t / (1 - t))
        case "relu":
            return 2 * jnp.maximum(z, 0)
        case "leaky_relu":
            return 2 * jnp.where(z >= 0, z, _LEAKY_SLOPE * z)
    raise ValueError(f"no activation {name!r}")


def activate(name: Activation, x: jax.Array) -> jax.Array:
    """The activation that Keras 3 knows by `name`."""
    if name == "tanh":
        return jnp.tanh(x)
    return activate_double(name, 0.5 * x, jnp.tanh(0.5 * x))


def state_dtype(parameters: jax.typing.DTypeLike) -> jnp.dtype:
    """What states and sums are kept in: float32 at least, since a state adds up over all steps."""
    return jnp.promote_types(parameters, jnp.float32)


def exchange(
    buffer: jax.Array, value: jax.Array, index: jax.Array, ahead: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """`buffer` with `value` at `index`, and what stands at `ahead`.

    The scans write over what they have read: a second [T, B, ...] would cost its memory and the
    time to touch it. They read ahead, from the buffer after the write; if any read could come
    before the write, XLA would copy the whole buffer at every step.
    """
    buffer = lax.dynamic_update_index_in_dim(buffer, value, index, 0)
    return buffer, lax.dynamic_index_in_dim(buffer, ahead, keepdims=False)


def for_platform(backward: Callable[..., Any], *arrays: Any) -> Any:
    """`backward(whole, *arrays)`: whether it multiplies by whole kernels or by transposes of them.

    A transpose made before the loop is what a CPU multiplies by fastest. A TPU reads a kernel
    either way, but would move all of it into another layout, in every step, to transpose it.
    """
    return lax.platform_dependent(
        *arrays, tpu=partial(backward, True), default=partial(backward, False)
    )


def turned(whole: bool, kernel: jax.Array) -> jax.Array:
    """A kernel f[I, O] as `dot_turned` takes it."""
    return kernel if whole else kernel.T


def dot_turned(whole: bool, x: jax.Array, kernel: jax.Array, kind: jnp.dtype) -> jax.Array:
    """x f[..., O] times the transpose of the kernel f[I, O] that was `turned`."""
    contract = (((x.ndim - 1,), (int(whole),)), ((), ()))
    return lax.dot_general(x, kernel, contract, preferred_element_type=kind)


def sum_outer(inputs: jax.Array, cotangents: jax.Array) -> jax.Array:
    """Sum over steps and examples of the outer products, [I, O], from [T, B, I] and [T, B, O]:
    a weight's gradient in one matmul."""
    contract = (((0, 1), (0, 1)), ((), ()))
    out = state_dtype(cotangents.dtype)
    return lax.dot_general(
        inputs.astype(cotangents.dtype), cotangents, contract, preferred_element_type=out
    )


def vary_alike(tree: Any) -> Any:
    """Under shard_map, all arrays vary over the same mesh axes: scan carries and custom
    gradients must agree on them, and JAX only sees to it for its own operations."""
    axes = {axis for leaf in jax.tree.leaves(tree) for axis in varies(leaf)}
    if not axes:
        return tree

    def vary(leaf: jax.Array) -> jax.Array:
        missing = tuple(axes - varies(leaf))
        return lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(vary, tree)


def varies(x: jax.Array) -> frozenset[str]:
    """The mesh axes over which shard_map knows the array to vary."""
    return frozenset(jax.typeof(x).manual_axis_type.varying)
