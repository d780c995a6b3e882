"""VGG-Face: VGG16's convolutions with the heads of paper 3's CNNs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from fer_jax import config
from fer_jax.errors import UserError
from fer_jax.models.checks import need_images, need_one_frame, need_size
from fer_jax.models.layers.conv import Conv
from fer_jax.models.layers.dropout import dropout
from fer_jax.models.layers.initializers import Dense
from fer_jax.models.layers.pooling import global_average_pool, global_max_pool, max_pool
from fer_jax.models.layers.rematerialise import end_block
from fer_jax.models.model import Inputs, Outputs

_CONVOLUTIONS = (2, 2, 3, 3, 3)


class Stack(nnx.Module):
    """VGG16's five blocks: 3x3 convolutions conv1_1, conv1_2, conv2_1 ... conv5_3, each with a
    ReLU, and a 2x2 max-pool after each block (docs/reproduction.md 3.1)."""

    def __init__(self, features: int, widths: tuple[int, ...], rngs: nnx.Rngs) -> None:
        self.blocks = tuple(
            tuple(f"conv{block}_{index}" for index in range(1, count + 1))
            for block, count in enumerate(_CONVOLUTIONS, 1)
        )
        for block, width in zip(self.blocks, widths, strict=True):
            for name in block:
                setattr(self, name, Conv(features, width, 3, rngs=rngs))
                features = width

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] -> [N, H // 32, W // 32, D]."""
        for block in self.blocks:
            for name in block:
                x = jax.nn.relu(getattr(self, name)(x))
            x = end_block(max_pool(x, 2))
        return x


class VGGFace(nnx.Module):
    """VGG-Face on single images: convolutions, dense ReLU layers fc6, fc7, fc8, a classifier.

    Every image stream has convolutions of its own, `stack_crops/conv1_1/kernel` and so on. What
    they give is pooled, and the streams and the feature vector, if there is one, are concatenated.
    Layers have rcmalli's keras-vggface names.

    Paper 3's systems and its table 6 are settings (docs/reproduction.md 3.1, 3.6):
      * two-stream: data.images=crops,frontal, dense=(1024, 1024, 512), and the stacks of two
        single networks, which have the same names there;
      * CNN + geometry: data.features=geometry-136;
      * no pooling, average, max: `pooling`, with dense=() for a classifier alone and
        dense=(512, 512, 512) or (4096, 4096, 2622) for "3 fully connected";
      * all frozen: train.freeze=stack_*; no freeze: none; first frozen:
        train.freeze=stack_*/conv1_*,stack_*/conv2_*.
    """

    def __init__(
        self, settings: config.VGGFace, inputs: Inputs, classes: int, rngs: nnx.Rngs
    ) -> None:
        """Args:
        classes: 0 makes a part of another network, which only embeds: without the classifier and
          the dense layers after the embedding.
        """
        name = settings.name
        height, width, channels = need_images(name, inputs, streams=2, features=True)
        need_one_frame(name, inputs)
        if len(settings.widths) != len(_CONVOLUTIONS):
            raise UserError(
                f"model {name} has {len(_CONVOLUTIONS)} blocks, not {len(settings.widths)}: give "
                "widths one number a block"
            )
        if min(*settings.widths, *settings.dense) < 1:
            raise UserError(f"model {name} needs layers of at least 1: change widths or dense")
        need_size(name, inputs, 32)

        self.settings = settings
        self.streams = inputs.images
        self.reads_features = inputs.features > 0
        for stream in self.streams:
            setattr(self, f"stack_{stream}", Stack(channels, settings.widths, rngs))
        size = settings.widths[-1]
        if settings.pooling == "flatten":
            size *= (height // 32) * (width // 32)
        size = size * len(self.streams) + inputs.features

        self.feature = min(settings.feature, len(settings.dense))
        units = settings.dense if classes else settings.dense[: self.feature]
        sizes = (size, *units)
        #: D of `embed`.
        self.embedding_size = sizes[self.feature]
        self.dense = tuple(f"fc{index}" for index in range(6, 6 + len(units)))
        for layer, before, after in zip(self.dense, sizes, units, strict=False):
            setattr(self, layer, Dense(before, after, rngs=rngs))
        if classes:
            self.classifier = Dense(sizes[-1], classes, rngs=rngs)

    def __call__(self, batch: Mapping[str, Any], *, train: bool, key: jax.Array) -> Outputs:
        """Args: batch["frames"] of the streams, f32[B, 1, H, W, C]; batch["features"] f32[B, 1, F],
        where the network was made for features."""
        parts = [self._pooled(name, batch["frames"][name][:, 0]) for name in self.streams]
        if self.reads_features:
            parts.append(batch["features"][:, 0])
        embedding, x = self._head(jnp.concatenate(parts, axis=-1), train=train, key=key)
        return Outputs(logits=self.classifier(x), embedding=embedding)

    def embed(
        self, x: jax.Array, *, train: bool, key: jax.Array, weight: jax.Array | None = None
    ) -> jax.Array:
        """The embedding [N, D] of one stream's images [N, H, W, C]: dense layer
        `settings.feature` after its ReLU, or the pooled convolutions if that is 0.

        Args:
          key: of the dropout between the dense layers, one an image or one for all.
          weight: not used; nothing here depends on the other rows.
        """
        del weight
        (stream,) = self.streams
        return self._head(self._pooled(stream, x), train=train, key=key)[0]

    def _pooled(self, stream: str, x: jax.Array) -> jax.Array:
        """[N, H, W, C] -> [N, D]."""
        x = getattr(self, f"stack_{stream}")(x)
        match self.settings.pooling:
            case "flatten":
                return x.reshape(x.shape[0], -1)
            case "average":
                return global_average_pool(x)
            case "max":
                return global_max_pool(x)

    def _head(self, x: jax.Array, *, train: bool, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The embedding, and what the classifier reads."""
        embedding = x
        for index, name in enumerate(self.dense):
            x = jax.nn.relu(getattr(self, name)(x))
            if index < self.feature:
                embedding = x
            x = dropout(x, self.settings.dropout, train=train, key=key, layer=index)
        return embedding, x
