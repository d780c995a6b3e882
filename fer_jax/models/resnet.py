"""Residual networks of basic blocks; EmotionNet 2 is one of them (paper 4's baseline)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from fer_jax import config
from fer_jax.errors import UserError
from fer_jax.models.checks import need_images, need_one_frame
from fer_jax.models.layers.batch_norm import BatchNorm
from fer_jax.models.layers.conv import Conv
from fer_jax.models.layers.dropout import dropout
from fer_jax.models.layers.initializers import Dense, variance_scaling
from fer_jax.models.layers.pooling import global_average_pool, max_pool
from fer_jax.models.layers.rematerialise import end_block
from fer_jax.models.model import Inputs, Outputs

_he_fan_out = variance_scaling(2.0, "fan_out", "normal")


class ResNet(nnx.Module):
    """ResNet of basic blocks (He et al. 2016), as torchvision has it.

    A 7x7 convolution and a 3x3 max-pool, each of stride 2, then a stage a width; every stage but
    the first starts with stride 2. The defaults at 224x224 RGB are EmotionNet 2
    (docs/reproduction.md 4.5). Names are torchvision's, with "_" for ".", but for the classifier.

    The running variance averages the biased variance of each batch, as Keras does; PyTorch
    averages the unbiased one, n / (n - 1) times as large for n values a channel.
    """

    def __init__(
        self, settings: config.ResNet, inputs: Inputs, classes: int, rngs: nnx.Rngs
    ) -> None:
        _, _, features = need_images(settings.name, inputs)
        need_one_frame(settings.name, inputs)
        blocks, widths = settings.blocks, settings.widths
        if not blocks or len(blocks) != len(widths):
            raise UserError(
                f"model.blocks has {len(blocks)} and model.widths {len(widths)} numbers: give one "
                "a stage, at least one"
            )
        if min(*blocks, *widths) < 1:
            raise UserError("model.blocks and model.widths must be at least 1")
        self.settings = settings

        def unit(
            conv: str, norm: str, features: int, width: int, window: int, strides: int
        ) -> None:
            layer = Conv(
                features,
                width,
                window,
                strides=strides,
                padding=window // 2,
                bias=False,
                kernel_init=_he_fan_out,
                rngs=rngs,
            )
            setattr(self, conv, layer)
            setattr(self, norm, BatchNorm(width, momentum=0.9, epsilon=1e-5, rngs=rngs))

        unit("conv1", "bn1", features, widths[0], 7, 2)
        features = widths[0]
        for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            for index in range(count):
                block = f"layer{stage + 1}_{index}"
                strides = 2 if stage and not index else 1
                unit(f"{block}_conv1", f"{block}_bn1", features, width, 3, strides)
                unit(f"{block}_conv2", f"{block}_bn2", width, width, 3, 1)
                if strides != 1 or features != width:
                    down = f"{block}_downsample"
                    unit(f"{down}_0", f"{down}_1", features, width, 1, strides)
                features = width
        self.classifier = Dense(features, classes, rngs=rngs)

    def __call__(self, batch: Mapping[str, Any], *, train: bool, key: jax.Array) -> Outputs:
        """Args: batch["frames"], one stream f32[B, 1, H, W, C]."""
        (frames,) = batch["frames"].values()
        weight = batch.get("weight")

        def unit(conv: str, norm: str, x: jax.Array) -> jax.Array:
            return getattr(self, norm)(getattr(self, conv)(x), train=train, weight=weight)

        x = jax.nn.relu(unit("conv1", "bn1", frames[:, 0]))
        # After a ReLU a border of zeros wins no maximum that -inf would not: PyTorch's padding=1.
        x = end_block(max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 3, 2))
        for stage, count in enumerate(self.settings.blocks):
            for index in range(count):
                block = f"layer{stage + 1}_{index}"
                y = jax.nn.relu(unit(f"{block}_conv1", f"{block}_bn1", x))
                y = unit(f"{block}_conv2", f"{block}_bn2", y)
                if hasattr(self, f"{block}_downsample_0"):
                    x = unit(f"{block}_downsample_0", f"{block}_downsample_1", x)
                x = end_block(jax.nn.relu(x + y))
        embedding = global_average_pool(x)
        x = dropout(embedding, self.settings.dropout, train=train, key=key)
        return Outputs(logits=self.classifier(x), embedding=embedding)
