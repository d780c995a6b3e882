"""Losses against Keras, class weights against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from fer_jax import config
from fer_jax.errors import UserError
from fer_jax.training import losses

COUNTS = np.array([7, 2, 11, 4])


@pytest.fixture(scope="module")
def batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return (3 * rng.normal(size=(24, 4))).astype(np.float32), np.repeat(np.arange(4), COUNTS)


def keras_values(loss, logits: np.ndarray, labels: np.ndarray, softmax: bool) -> np.ndarray:
    from keras import ops

    predicted = ops.softmax(logits) if softmax else logits
    return np.asarray(loss(np.eye(4, dtype=np.float32)[labels], predicted))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_keras(batch, smoothing: float) -> None:
    from keras.losses import CategoricalCrossentropy

    found = losses.make_loss(config.Loss(label_smoothing=smoothing), COUNTS)(*batch)
    keras = CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing, reduction="none")
    np.testing.assert_allclose(found, keras_values(keras, *batch, softmax=False), rtol=1e-5)


def test_mse_is_keras_on_softmax(batch) -> None:
    from keras.losses import MeanSquaredError

    found = losses.make_loss(config.Loss(name="mse"), COUNTS)(*batch)
    keras = MeanSquaredError(reduction="none")
    np.testing.assert_allclose(
        found, keras_values(keras, *batch, softmax=True), rtol=1e-5, atol=1e-7
    )


def test_focal_is_keras(batch) -> None:
    from keras.losses import CategoricalFocalCrossentropy

    settings = config.Loss(name="focal", focal_alpha=0.4, focal_gamma=1.5, label_smoothing=0.1)
    found = losses.make_loss(settings, COUNTS)(*batch)
    keras = CategoricalFocalCrossentropy(
        alpha=0.4, gamma=1.5, from_logits=True, label_smoothing=0.1, reduction="none"
    )
    np.testing.assert_allclose(
        found, keras_values(keras, *batch, softmax=False), rtol=2e-5, atol=1e-6
    )


def test_balanced_weights_are_scikit_learns(batch) -> None:
    from sklearn.utils.class_weight import compute_class_weight

    logits, labels = batch
    wanted = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    balanced = config.Loss(class_weights="balanced")
    np.testing.assert_allclose(losses.class_weights(balanced, COUNTS), wanted, rtol=1e-6)

    plain = losses.make_loss(balanced, COUNTS, weighted=False)(logits, labels)
    weighted = losses.make_loss(balanced, COUNTS)(logits, labels)
    np.testing.assert_allclose(weighted, plain * wanted[labels], rtol=1e-6)


def test_an_absent_class_gets_no_weight() -> None:
    weights = losses.class_weights(config.Loss(class_weights="balanced"), np.array([3, 0, 9]))
    np.testing.assert_allclose(weights, [2.0, 0.0, 2 / 3], rtol=1e-6)


def test_class_weights_multiply_as_keras_class_weight_does(batch) -> None:
    """Keras's `fit(class_weight=...)` divides by the examples, not by their weights."""
    from keras import Sequential, layers, optimizers

    logits, labels = batch
    weights = (0.5, 2.0, 1.0, 3.0)
    model = Sequential([layers.Input((4,)), layers.Identity()])
    model.compile(
        optimizers.SGD(0.0), loss="sparse_categorical_crossentropy", metrics=[], jit_compile=False
    )
    from keras import ops

    history = model.fit(
        np.asarray(ops.softmax(logits)),
        labels,
        batch_size=24,
        epochs=1,
        class_weight=dict(enumerate(weights)),
        verbose=0,
    )
    found = losses.make_loss(config.Loss(class_weights=weights), COUNTS)(logits, labels)
    np.testing.assert_allclose(np.mean(found), history.history["loss"][0], rtol=1e-5)


def test_one_weight_a_class() -> None:
    with pytest.raises(UserError, match="2 weights for 4 classes"):
        losses.make_loss(config.Loss(class_weights=(1.0, 2.0)), COUNTS)
