"""Xception: paper 2's CNN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from flax import nnx

from fer_jax import config
from fer_jax.errors import UserError
from fer_jax.models.checks import need_images, need_one_frame, need_size
from fer_jax.models.layers.batch_norm import BatchNorm
from fer_jax.models.layers.conv import Conv
from fer_jax.models.layers.depthwise import PointwiseConv, SeparableConv
from fer_jax.models.layers.dropout import dropout
from fer_jax.models.layers.initializers import Dense
from fer_jax.models.layers.pooling import global_average_pool, max_pool
from fer_jax.models.layers.rematerialise import end_block
from fer_jax.models.model import Inputs, Outputs


class _Block(NamedTuple):
    """Separable convolutions of these widths; the last block alone is not residual."""

    widths: tuple[int, ...]
    halves: bool = False
    residual: bool = True


def _blocks(settings: config.Xception) -> list[_Block]:
    """Blocks 2 and on."""
    blocks = [_Block((width, width), halves=True) for width in settings.entry]
    width = (settings.stem + settings.entry)[-1]
    blocks += [_Block((width, width, width))] * settings.middle
    if settings.exit:
        blocks.append(_Block((width, settings.exit[0]), halves=True))
    if settings.exit[1:]:
        blocks.append(_Block(settings.exit[1:], residual=False))
    return blocks


class Xception(nnx.Module):
    """Xception (Chollet 2017) on single images, layer for layer keras.applications.Xception, with
    paper 2's head (docs/reproduction.md 2.2).

    Layers have Keras's names, block1_conv1 and block1_conv1_bn to block14_sepconv2_bn; under other
    settings the blocks are numbered as they come. Keras does not name the layers of the residual
    branches: its conv2d and batch_normalization, conv2d_1 and batch_normalization_1, ... are, in
    that order, block2_residual and block2_residual_bn, and so on for every block that halves the
    image (2, 3, 4 and 13).
    """

    def __init__(
        self, settings: config.Xception, inputs: Inputs, classes: int, rngs: nnx.Rngs
    ) -> None:
        """Args:
        classes: 0 makes a part of another network, which only embeds: without the classifier.
        """
        name = settings.name
        _, _, features = need_images(name, inputs)
        need_one_frame(name, inputs)
        if len(settings.stem) != 2:
            raise UserError(f"model {name} has two stem convolutions: give stem two widths")
        if min(*settings.stem, *settings.entry, *settings.exit) < 1:
            raise UserError(f"model {name} needs widths of at least 1: change stem, entry or exit")
        # The stem's convolutions are valid; the blocks keep the size or halve it, rounded up.
        need_size(name, inputs, 3 + 2 * settings.stem_stride)

        self.settings = settings
        for index, width in enumerate(settings.stem, 1):
            strides = settings.stem_stride if index == 1 else 1
            conv = Conv(features, width, 3, strides=strides, padding="VALID", bias=False, rngs=rngs)
            setattr(self, f"block1_conv{index}", conv)
            setattr(self, f"block1_conv{index}_bn", BatchNorm(width, rngs=rngs))
            features = width
        for number, block in enumerate(_blocks(settings), 2):
            if block.halves:
                last = block.widths[-1]
                shortcut = PointwiseConv(features, last, strides=2, rngs=rngs)
                setattr(self, f"block{number}_residual", shortcut)
                setattr(self, f"block{number}_residual_bn", BatchNorm(last, rngs=rngs))
            for index, width in enumerate(block.widths, 1):
                conv = SeparableConv(features, width, rngs=rngs)
                setattr(self, f"block{number}_sepconv{index}", conv)
                setattr(self, f"block{number}_sepconv{index}_bn", BatchNorm(width, rngs=rngs))
                features = width
        if settings.dense:
            self.feature = Dense(features, settings.dense, rngs=rngs)
        #: D of `embed`.
        self.embedding_size = settings.dense or features
        if classes:
            self.classifier = Dense(self.embedding_size, classes, rngs=rngs)

    def __call__(self, batch: Mapping[str, Any], *, train: bool, key: jax.Array) -> Outputs:
        """Args: batch["frames"], one stream f32[B, 1, H, W, C]."""
        (frames,) = batch["frames"].values()
        embedding = self.embed(frames[:, 0], train=train, key=key, weight=batch.get("weight"))
        x = dropout(embedding, self.settings.dropout, train=train, key=key)
        return Outputs(logits=self.classifier(x), embedding=embedding)

    def embed(
        self, x: jax.Array, *, train: bool, key: jax.Array, weight: jax.Array | None = None
    ) -> jax.Array:
        """The embedding [N, D] of images [N, H, W, C]: the dense layer `feature` after its ReLU,
        or the global average.

        Args:
          key: not used; there is no dropout before the embedding.
          weight: f32[N], 0 for images that only fill the batch.
        """
        del key

        def layer(name: str, x: jax.Array) -> jax.Array:
            norm = getattr(self, f"{name}_bn")
            return norm(getattr(self, name)(x), train=train, weight=weight)

        for index in (1, 2):
            x = jax.nn.relu(layer(f"block1_conv{index}", x))
        for number, block in enumerate(_blocks(self.settings), 2):
            y = x
            for index in range(1, len(block.widths) + 1):
                # Keras has no ReLU at the start of blocks 2 and 14. There it changes nothing in
                # the first, whose input is a ReLU's.
                if block.residual or index > 1:
                    y = jax.nn.relu(y)
                y = layer(f"block{number}_sepconv{index}", y)
            if block.halves:
                x, y = layer(f"block{number}_residual", x), max_pool(y, 3, 2, "same")
            x = end_block(x + y if block.residual else jax.nn.relu(y))
        x = global_average_pool(x)
        return jax.nn.relu(self.feature(x)) if self.settings.dense else x
