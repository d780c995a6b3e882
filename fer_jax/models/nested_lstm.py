"""Paper 3's proposal, the nested LSTM (STC-NLSTM): what every layer of a 3-D CNN sees, through time
and then through the layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from fer_jax import config
from fer_jax.errors import UserError
from fer_jax.models.c3d import LAYERS, Backbone
from fer_jax.models.checks import need_images, need_size
from fer_jax.models.layers.dropout import dropout
from fer_jax.models.layers.initializers import Dense
from fer_jax.models.layers.lstm import LSTM
from fer_jax.models.layers.mspp import mspp
from fer_jax.models.model import Inputs, Outputs


class NestedLSTM(nnx.Module):
    """A 3-D CNN, a Temp-LSTM a convolution, and a Conv-LSTM over their last states.

    Every convolution's map is pooled to bins x bins a channel (MSPP), projected to one width and
    read through time by its own Temp-LSTM; the Conv-LSTM reads the Temp-LSTMs' last states from
    shallow to deep, and its last state o is classified, after dropout. Features (the geometry), as
    their mean over the clip's frames, join o.

    Layers: backbone, and of each convolution NAME projection_NAME and temp_lstm_NAME; conv_lstm;
    classifier. With fusion="backbones" and two image streams there is one of each a stream:
    backbone_crops, projection_crops_conv1, temp_lstm_crops_conv1 and so on; the Conv-LSTM then
    reads both streams of a convolution before the next.

    Source: zennou2023, section 3; docs/reproduction.md 3.5.
    """

    def __init__(
        self, settings: config.NestedLSTM, inputs: Inputs, classes: int, rngs: nnx.Rngs
    ) -> None:
        channels = need_images(settings.name, inputs, streams=2, features=True)[2]
        need_size(settings.name, inputs, 16)
        self.settings = settings
        # Each backbone's part of the layers' names, and the streams that it reads as channels.
        self.backbones: tuple[tuple[str, tuple[str, ...]], ...] = (("", inputs.images),)
        if settings.fusion == "backbones":
            if len(inputs.images) < 2:
                raise UserError(
                    "model.fusion=backbones reads two image streams: set data.images=crops,frontal"
                )
            self.backbones = tuple((f"_{stream}", (stream,)) for stream in inputs.images)
        for suffix, streams in self.backbones:
            backbone = Backbone(channels * len(streams), settings.widths, settings.init, rngs=rngs)
            setattr(self, f"backbone{suffix}", backbone)
            for name in LAYERS:
                width = settings.bins**2
                if not settings.channel_max:
                    pooled = width * getattr(backbone, name).bias.shape[0]
                    width = settings.projection
                    projection = Dense(pooled, width, rngs=rngs)
                    setattr(self, f"projection{suffix}_{name}", projection)
                temporal = LSTM(width, settings.temporal_units, rngs=rngs)
                setattr(self, f"temp_lstm{suffix}_{name}", temporal)
        self.conv_lstm = LSTM(settings.temporal_units, settings.convolutional_units, rngs=rngs)
        width = settings.convolutional_units + inputs.features
        self.classifier = Dense(width, classes, rngs=rngs)
        self.geometry = inputs.features > 0

    def __call__(self, batch: Mapping[str, Any], *, train: bool, key: jax.Array) -> Outputs:
        """Args: batch["frames"], one or two streams of f32[B, T, H, W, C], batch["frame_mask"]
        bool[B, T] and, for the geometry, batch["features"] f32[B, T, F]."""
        mask = batch["frame_mask"]
        states = []
        for suffix, streams in self.backbones:
            x = jnp.concatenate([batch["frames"][stream] for stream in streams], axis=-1)
            states.append(self._temporal(suffix, x, mask))
        # [L, S, B, H]: the streams of a convolution, then the next one.
        steps = jnp.stack(states, axis=1).reshape(-1, *states[0].shape[1:])
        embedding = self.conv_lstm(steps, time_major=True)[1].h.astype(steps.dtype)
        if self.geometry:
            real = mask[:, :, None]
            total = jnp.sum(jnp.where(real, batch["features"], 0), axis=1)
            mean = total / jnp.maximum(jnp.sum(real, axis=1), 1).astype(total.dtype)
            embedding = jnp.concatenate([embedding, mean], axis=-1)
        x = dropout(embedding, self.settings.dropout, train=train, key=key)
        return Outputs(logits=self.classifier(x), embedding=embedding)

    def _temporal(self, suffix: str, x: jax.Array, mask: jax.Array) -> jax.Array:
        """f[B, T, H, W, C] -> f[L, B, H]: the last state of every convolution's Temp-LSTM."""
        states = []
        maps = getattr(self, f"backbone{suffix}").levels(x, mask=mask)
        for name, x in zip(LAYERS, maps, strict=True):
            x = mspp(x, self.settings.bins, channel_max=self.settings.channel_max)
            if not self.settings.channel_max:
                x = getattr(self, f"projection{suffix}_{name}")(x)
            cell = getattr(self, f"temp_lstm{suffix}_{name}")
            states.append(cell(jnp.swapaxes(x, 0, 1), mask=mask, time_major=True)[1].h)
        # States are float32 whatever the network computes in.
        return jnp.stack(states).astype(maps[0].dtype)
