"""Optimizers with Keras's arithmetic, since the reproduced papers are Keras.

Adam differs from optax's in where epsilon stands: Keras divides by sqrt(v) + 1e-7 and corrects the
bias in the step size, so its effective epsilon shrinks early on (Kingma & Ba 2015, end of section
2). AMSGrad keeps the maximum of the uncorrected v.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fer_jax import config

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7


class AdamState(NamedTuple):
    count: jax.Array
    """i32[], updates done."""
    mean: Any
    """Running mean of the gradient, a tree like the parameters."""
    square: Any
    """Running mean of its square."""
    largest: Any
    """Largest `square` so far; an empty tuple without AMSGrad."""


def scale_by_adam(amsgrad: bool = False) -> optax.GradientTransformation:
    """The direction of Keras 3's Adam, before the learning rate."""

    def init(params: Any) -> AdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return AdamState(jnp.zeros((), jnp.int32), zeros, zeros, zeros if amsgrad else ())

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, AdamState]:
        del params
        grads = updates
        count = state.count + 1
        mean = jax.tree.map(lambda m, g: m + (g - m) * (1 - BETA_1), state.mean, grads)
        square = jax.tree.map(
            lambda v, g: v + (jnp.square(g) - v) * (1 - BETA_2), state.square, grads
        )
        largest = jax.tree.map(jnp.maximum, state.largest, square) if amsgrad else ()
        time = count.astype(jnp.float32)
        size = jnp.sqrt(1 - BETA_2**time) / (1 - BETA_1**time)
        directions = jax.tree.map(
            lambda m, v: size * m / (jnp.sqrt(v) + EPSILON), mean, largest if amsgrad else square
        )
        return directions, AdamState(count, mean, square, largest)

    return optax.GradientTransformation(init, update)


class Lengths(NamedTuple):
    """Steps of a schedule, numbers or arrays."""

    warmup: Any
    """Until the learning rate has risen."""
    total: Any
    """In all."""


def lengths(settings: config.Optim, steps_per_epoch: int, epochs: int) -> Lengths:
    return Lengths(round(settings.warmup_epochs * steps_per_epoch), steps_per_epoch * epochs)


def make_schedule(settings: config.Optim, steps: Lengths) -> optax.Schedule:
    """The learning rate as a function of the steps done.

    constant: lr. inverse-time: lr / (1 + decay * step), as Keras 2's `decay`. cosine: to 0 at the
    last step. triangular: up from lr_low to lr in half_cycle steps, and down again (Smith 2017;
    docs/reproduction.md 4.3). A warm-up rises linearly from 0 and the schedule starts after it.
    """

    def after_warmup(step: Any) -> Any:
        if settings.schedule == "inverse-time":
            return settings.lr / (1.0 + settings.decay * step)
        if settings.schedule == "triangular":
            return _triangular(settings, step)
        if settings.schedule == "cosine":
            share = jnp.clip(step / jnp.maximum(steps.total - steps.warmup, 1), 0, 1)
            return settings.lr * (0.5 * (1 + jnp.cos(jnp.pi * share)))
        return jnp.asarray(settings.lr, jnp.float32)

    def schedule(step: Any) -> Any:
        rise = settings.lr * (step / jnp.maximum(steps.warmup, 1))
        return jnp.where(step < steps.warmup, rise, after_warmup(step - steps.warmup))

    return schedule if settings.warmup_epochs else after_warmup


def _triangular(settings: config.Optim, step: Any) -> jax.Array:
    half = settings.half_cycle
    cycle = jnp.floor(1 + step / (2 * half))
    height = jnp.maximum(0.0, 1 - jnp.abs(step / half - 2 * cycle + 1))
    return settings.lr_low + (settings.lr - settings.lr_low) * height


def _kernels(params: Any) -> Any:
    """Which parameters are weights of a linear map, not biases or normalisation."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: str(path[-1].key).endswith("kernel"), params
    )


def make_optimizer(settings: config.Optim, steps: Lengths) -> optax.GradientTransformation:
    """The optimizer of a config.

    The gradient's global norm is clipped first. `weight_decay` is then L2 added to the gradient
    (adam, sgd: as PyTorch) or decoupled, lr * decay * parameter taken off every parameter, biases
    too (adamw: as Keras), unless `decay_kernels_only`. SGD's momentum accumulates lr * gradient, as
    Keras.
    """
    rate = optax.scale_by_learning_rate(make_schedule(settings, steps))
    clip = [optax.clip_by_global_norm(settings.clip_norm)] if settings.clip_norm else []
    mask = _kernels if settings.decay_kernels_only else None
    decay = []
    if not config.off(settings.weight_decay):
        decay = [optax.add_decayed_weights(settings.weight_decay, mask)]
    if settings.name == "sgd":
        momentum = []
        if settings.momentum:
            momentum = [optax.trace(settings.momentum, nesterov=settings.nesterov)]
        return optax.chain(*clip, *decay, rate, *momentum)
    adam = scale_by_adam(settings.amsgrad)
    if settings.name == "adamw":
        return optax.chain(*clip, adam, *decay, rate)
    return optax.chain(*clip, *decay, adam, rate)
