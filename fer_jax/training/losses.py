"""Losses of single examples, from logits."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax import config
from fer_jax.errors import UserError

#: (logits f32[B, K], labels i32[B]) -> f32[B], of the emotion alone
Loss = Callable[[jax.Array, jax.Array], jax.Array]


def class_weights(settings: config.Loss, class_counts: np.ndarray) -> np.ndarray:
    """f32[K] of `loss.class_weights`; "balanced" is n / (K n_k), as scikit-learn.

    K counts the classes that occur; a class that does not occur gets 0.

    Raises:
      UserError: a list whose length is not the number of classes.
    """
    counts = np.asarray(class_counts, np.float64)
    if settings.class_weights == "none":
        return np.ones(len(counts), np.float32)
    if settings.class_weights == "balanced":
        present = counts > 0
        even = counts.sum() / max(int(present.sum()), 1)
        return np.where(present, even / np.maximum(counts, 1), 0).astype(np.float32)
    weights = np.asarray(settings.class_weights, np.float32)
    if len(weights) != len(counts):
        raise UserError(
            f"--train.loss.class_weights has {len(weights)} weights for {len(counts)} classes: "
            "give one a class, in class order"
        )
    return weights


def make_loss(settings: config.Loss, class_counts: np.ndarray, *, weighted: bool = True) -> Loss:
    """`loss_of` with the class weights of a training set.

    Args:
      class_counts: [K] training examples of each class.
      weighted: False leaves class weights out, as Keras does in validation.
    """
    plain = np.ones(len(class_counts), np.float32)
    return loss_of(settings, class_weights(settings, class_counts) if weighted else plain)


def loss_of(settings: config.Loss, weights: jax.Array | np.ndarray) -> Loss:
    """The loss of each example of a batch.

    cross-entropy: -sum_k y_k log p_k. mse: mean over the classes of (p_k - y_k)^2. focal:
    -alpha sum_k y_k (1 - p_k)^gamma log p_k (Lin et al. 2017, eq. 5, as Keras's
    CategoricalFocalCrossentropy). y is one-hot, smoothed to (1 - s) y + s / K.

    Args:
      weights: f32[K], which multiply an example's loss by its class, as Keras's `class_weight`: a
        batch's loss is sum(weight * loss) / examples, whatever the weights add up to.
    """
    classes = len(weights)
    weights = jnp.asarray(weights)
    smoothing = settings.label_smoothing

    def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
        target = jax.nn.one_hot(labels, classes, dtype=logits.dtype)
        target = target * (1 - smoothing) + smoothing / classes
        log_probability = jax.nn.log_softmax(logits)
        if settings.name == "mse":
            values = jnp.mean(jnp.square(jnp.exp(log_probability) - target), axis=-1)
        elif settings.name == "focal":
            hard = (1 - jnp.exp(log_probability)) ** settings.focal_gamma
            values = -settings.focal_alpha * jnp.sum(target * hard * log_probability, axis=-1)
        else:
            values = -jnp.sum(target * log_probability, axis=-1)
        return values * weights[labels]

    return loss
