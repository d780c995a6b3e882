"""Optimizers and schedules against Keras 3 and closed forms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fer_jax import config
from fer_jax.training import optim

STEPS = 12
SHAPES = {"kernel": (5, 4), "bias": (4,)}


def gradients() -> list[dict[str, np.ndarray]]:
    """Big, small and vanishing gradients, so that epsilon and clipping both matter."""
    rng = np.random.default_rng(0)
    scales = (1.0, 1e-3, 1e-6, 3.0)
    return [
        {n: (scales[t % 4] * rng.normal(size=s)).astype(np.float32) for n, s in SHAPES.items()}
        for t in range(STEPS)
    ]


def first_parameters() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def ours(settings: config.Optim) -> dict[str, np.ndarray]:
    optimizer = optim.make_optimizer(settings, optim.lengths(settings, 4, 3))
    params = jax.tree.map(jnp.asarray, first_parameters())
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for grads in gradients():
        params, state = step(params, state, grads)
    return {name: np.asarray(value) for name, value in params.items()}


def keras(make, l2: float = 0.0) -> dict[str, np.ndarray]:
    from keras import Variable

    variables = {name: Variable(value) for name, value in first_parameters().items()}
    optimizer = make()
    for grads in gradients():
        pairs = [(grads[n] + l2 * np.asarray(v.value), v) for n, v in variables.items()]
        optimizer.apply_gradients([(jnp.asarray(g), v) for g, v in pairs])
    return {name: np.asarray(value.value) for name, value in variables.items()}


def assert_same(found, wanted) -> None:
    start = first_parameters()
    for name in SHAPES:
        assert np.abs(wanted[name] - start[name]).max() > 1e-3
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_adam_is_keras_adam(amsgrad: bool) -> None:
    from keras.optimizers import Adam

    assert_same(
        ours(config.Optim(name="adam", lr=0.01, amsgrad=amsgrad)),
        keras(lambda: Adam(learning_rate=0.01, amsgrad=amsgrad)),
    )


def test_adam_weight_decay_is_l2_in_the_gradient() -> None:
    from keras.optimizers import Adam

    assert_same(
        ours(config.Optim(name="adam", lr=0.01, weight_decay=0.05)),
        keras(lambda: Adam(learning_rate=0.01), l2=0.05),
    )


def test_adamw_with_amsgrad_and_global_clip_is_keras_adamw() -> None:
    from keras.optimizers import AdamW

    assert_same(
        ours(config.Optim(name="adamw", lr=0.01, weight_decay=0.3, amsgrad=True, clip_norm=1.0)),
        keras(
            lambda: AdamW(learning_rate=0.01, weight_decay=0.3, amsgrad=True, global_clipnorm=1.0)
        ),
    )


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_keras_sgd(momentum: float) -> None:
    from keras.optimizers import SGD

    assert_same(
        ours(config.Optim(name="sgd", lr=0.02, momentum=momentum, clip_norm=2.0)),
        keras(lambda: SGD(learning_rate=0.02, momentum=momentum, global_clipnorm=2.0)),
    )


def test_inverse_time_is_keras_inverse_time_decay_in_the_optimizer() -> None:
    from keras.optimizers import SGD
    from keras.optimizers.schedules import InverseTimeDecay

    settings = config.Optim(name="sgd", lr=0.02, momentum=0.9, schedule="inverse-time", decay=0.25)
    assert_same(
        ours(settings),
        keras(lambda: SGD(learning_rate=InverseTimeDecay(0.02, 1, 0.25), momentum=0.9)),
    )


def test_schedules_follow_their_formulas() -> None:
    steps = np.arange(0, 40)
    inverse = optim.make_schedule(
        config.Optim(lr=1e-3, schedule="inverse-time", decay=5e-2), optim.Lengths(0, 40)
    )
    np.testing.assert_allclose(
        [float(inverse(int(t))) for t in steps], 1e-3 / (1 + 5e-2 * steps), rtol=1e-6
    )
    warm = optim.make_schedule(
        config.Optim(lr=2e-3, schedule="cosine", warmup_epochs=1), optim.Lengths(10, 40)
    )
    wanted = np.where(steps < 10, 2e-3 * steps / 10, 1e-3 * (1 + np.cos(np.pi * (steps - 10) / 30)))
    np.testing.assert_allclose([float(warm(int(t))) for t in steps], wanted, rtol=1e-5, atol=1e-9)
