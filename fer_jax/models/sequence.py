"""Networks on feature sequences: the LSTM and GRU of papers 1, 2, 3 and 5, and paper 5's dense
ablation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from fer_jax import config
from fer_jax.errors import UserError
from fer_jax.models.checks import need_features, need_one_frame
from fer_jax.models.layers import cudnn_lstm
from fer_jax.models.layers.dropout import dropout
from fer_jax.models.layers.gru import GRU
from fer_jax.models.layers.lstm import LSTM, State
from fer_jax.models.layers.rematerialise import end_block
from fer_jax.models.model import Inputs, Outputs

_glorot = jax.nn.initializers.glorot_uniform()


class RecurrentNetwork(nnx.Module):
    """Stacked LSTM or GRU layers, the last one's last state, and a linear classifier.

    With `steps="frames"` the recurrence runs over the clip's T frames (ryumina2020, abdullah2020,
    zennou2023). With `steps="features"` a sample is one frame, and the recurrence runs over its F
    features, one scalar a step (attrah2024).
    """

    def __init__(
        self,
        settings: config.LSTM,
        inputs: Inputs,
        classes: int,
        rngs: nnx.Rngs,
        *,
        group: str = "model",
    ) -> None:
        """Args:
        group: where a config has these settings, for what it says of mistakes.
        """
        features = need_features(settings.name, inputs)
        if not settings.units:
            raise UserError(f"{group}.units is empty: give at least one layer")
        if settings.steps == "features":
            if inputs.frames != 1:
                raise UserError(
                    f"{group}.steps=features reads one frame a sample, not {inputs.frames}: set "
                    "data.length=frames"
                )
            features = 1
        self.settings = settings
        kind: Any = LSTM if settings.name == "lstm" else GRU
        how: Any = {"implementation": settings.implementation} if kind is LSTM else {}
        if settings.implementation == "cudnn":
            obstacle = cudnn_lstm.obstacle(settings.activation)
            if kind is GRU:
                obstacle = "JAX calls cuDNN for an LSTM alone"
            if obstacle:
                raise UserError(f"{group}.implementation=cudnn: {obstacle}; set it to auto")
        self.layers = tuple(f"{settings.name}_{index}" for index in range(len(settings.units)))
        width = features
        for name, units in zip(self.layers, settings.units, strict=True):
            layer = kind(width, units, activation=settings.activation, rngs=rngs, **how)
            setattr(self, name, layer)
            width = units
        if settings.dense:
            self.dense = nnx.Linear(width, settings.dense, kernel_init=_glorot, rngs=rngs)
            width = settings.dense
        self.classifier = nnx.Linear(width, classes, kernel_init=_glorot, rngs=rngs)

    @property
    def penalised(self) -> tuple[str, ...]:
        return self.layers

    def __call__(self, batch: Mapping[str, Any], *, train: bool, key: jax.Array) -> Outputs:
        """Args: batch["features"] f32[B, T, F], batch["frame_mask"] bool[B, T] and, for frames that
        come one after the other, batch["state"]."""
        settings = self.settings
        before, after = batch.get("state"), {}
        x, mask = batch["features"], None
        if settings.steps == "features":
            x = jnp.swapaxes(x, 1, 2)
        elif settings.mask_padding:
            mask = batch["frame_mask"]
        # Time-major between the layers: the scans then read and write without transposing.
        x = jnp.swapaxes(x, 0, 1)
        draw = {"train": train, "key": key}
        last: Any = None
        for index, name in enumerate(self.layers):
            if train and not config.off(settings.input_dropout):
                # Keras's LSTM(dropout=...) drops an input at every step or at none.
                whole = jnp.ones_like(x[:1])
                kept = dropout(
                    whole, settings.input_dropout, layer=100 + index, example_axis=1, **draw
                )
                x = x * kept
            initial = _join_state(name, before) if before else None
            x, last = getattr(self, name)(end_block(x), initial=initial, mask=mask, time_major=True)
            after |= _split_state(name, last)
            if index + 1 < len(self.layers):
                x = dropout(x, settings.dropout, layer=index, example_axis=1, **draw)
        # States are float32 whatever the network computes in.
        embedding = (last.h if isinstance(last, State) else last).astype(x.dtype)
        x = dropout(embedding, settings.dropout, layer=len(self.layers) - 1, **draw)
        if settings.dense:
            embedding = jax.nn.relu(self.dense(x))
            x = dropout(embedding, settings.dropout, layer=len(self.layers), **draw)
        handed = after if before is not None and settings.steps == "frames" else None
        return Outputs(logits=self.classifier(x), embedding=embedding, state=handed)


def _split_state(layer: str, state: Any) -> dict[str, jax.Array]:
    """A layer's state as arrays by name."""
    return {
        f"{layer}_{part}": value for part, value in zip("hc", jax.tree.leaves(state), strict=False)
    }


def _join_state(layer: str, state: Mapping[str, jax.Array]) -> Any:
    """What `_split_state` split: an LSTM has h and c, a GRU h alone."""
    h, c = state[f"{layer}_h"], state.get(f"{layer}_c")
    return h if c is None else State(h, c)


class DenseNetwork(nnx.Module):
    """Fully connected ReLU layers on one frame's features (attrah2024, ablation)."""

    def __init__(
        self, settings: config.Dense, inputs: Inputs, classes: int, rngs: nnx.Rngs
    ) -> None:
        width = need_features(settings.name, inputs)
        need_one_frame(settings.name, inputs)
        if not settings.units:
            raise UserError("model.units is empty: give at least one layer")
        if len(settings.dropout) != len(settings.units):
            raise UserError(
                f"model.dropout has {len(settings.dropout)} rates for {len(settings.units)} hidden "
                "layers: give one a layer"
            )
        self.settings = settings
        self.penalised = tuple(f"dense_{i}" for i in range(1, len(settings.units) - 1))
        for index, units in enumerate(settings.units):
            layer = nnx.Linear(width, units, kernel_init=_glorot, rngs=rngs)
            setattr(self, f"dense_{index}", layer)
            width = units
        self.classifier = nnx.Linear(width, classes, kernel_init=_glorot, rngs=rngs)

    def __call__(self, batch: Mapping[str, Any], *, train: bool, key: jax.Array) -> Outputs:
        """Args: batch["features"] f32[B, 1, F]."""
        settings = self.settings
        x = batch["features"][:, 0]
        embedding = x
        for index, rate in enumerate(settings.dropout):
            embedding = jax.nn.relu(getattr(self, f"dense_{index}")(x))
            x = dropout(embedding, rate, train=train, key=key, layer=index)
        return Outputs(logits=self.classifier(x), embedding=embedding)
