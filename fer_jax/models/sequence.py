"""Networks on feature sequences: paper 1's and paper 5's LSTM, and paper 5's dense ablation."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from fer_jax import config
from fer_jax.models.layers.dropout import dropout
from fer_jax.models.layers.lstm import LSTM
from fer_jax.models.model import Outputs

_glorot = jax.nn.initializers.glorot_uniform()


class SequenceLSTM(nnx.Module):
    """Stacked LSTM layers, the last one's last state, and a linear classifier.

    With `steps="frames"` the recurrence runs over the clip's T frames (ryumina2020). With
    `steps="features"` a sample is one frame, and the recurrence runs over its F features, one
    scalar a step (attrah2024).
    """

    def __init__(self, settings: config.LSTM, features: int, classes: int, rngs: nnx.Rngs) -> None:
        self.settings = settings
        width = 1 if settings.steps == "features" else features
        for index, units in enumerate(settings.units):
            layer = LSTM(width, units, activation=settings.activation, rngs=rngs)
            setattr(self, f"lstm_{index}", layer)
            width = units
        self.classifier = nnx.Linear(width, classes, kernel_init=_glorot, rngs=rngs)

    def __call__(self, batch: Mapping[str, jax.Array], *, train: bool, key: jax.Array) -> Outputs:
        """Args: batch["features"] f32[B, T, F], batch["frame_mask"] bool[B, T]."""
        settings = self.settings
        x, mask = batch["features"], None
        if settings.steps == "features":
            x = jnp.swapaxes(x, 1, 2)
        elif settings.mask_padding:
            mask = batch["frame_mask"]
        # Time-major between the layers: the scans then read and write without transposing.
        x = jnp.swapaxes(x, 0, 1)
        for index in range(len(settings.units) - 1):
            x, _ = getattr(self, f"lstm_{index}")(x, mask=mask, time_major=True)
            x = dropout(x, settings.dropout, train=train, key=key, layer=index, example_axis=1)
        index = len(settings.units) - 1
        _, last = getattr(self, f"lstm_{index}")(x, mask=mask, time_major=True)
        x = dropout(last.h, settings.dropout, train=train, key=key, layer=index)
        return Outputs(logits=self.classifier(x), embedding=last.h)


class DenseNetwork(nnx.Module):
    """Fully connected ReLU layers on one frame's features (attrah2024, ablation)."""

    def __init__(self, settings: config.Dense, features: int, classes: int, rngs: nnx.Rngs) -> None:
        self.settings = settings
        width = features
        for index, units in enumerate(settings.units):
            layer = nnx.Linear(width, units, kernel_init=_glorot, rngs=rngs)
            setattr(self, f"dense_{index}", layer)
            width = units
        self.classifier = nnx.Linear(width, classes, kernel_init=_glorot, rngs=rngs)

    def __call__(self, batch: Mapping[str, jax.Array], *, train: bool, key: jax.Array) -> Outputs:
        """Args: batch["features"] f32[B, 1, F]."""
        settings = self.settings
        x = batch["features"][:, 0]
        embedding = x
        for index, rate in enumerate(settings.dropout):
            embedding = jax.nn.relu(getattr(self, f"dense_{index}")(x))
            x = dropout(embedding, rate, train=train, key=key, layer=index)
        return Outputs(logits=self.classifier(x), embedding=embedding)
