"""Small convolutional networks: paper 4's CNN(2) and CNN(5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from fer_jax import config
from fer_jax.errors import UserError
from fer_jax.models.checks import need_images, need_one_frame, need_size
from fer_jax.models.layers.conv import Conv
from fer_jax.models.layers.dropout import dropout
from fer_jax.models.layers.initializers import Dense
from fer_jax.models.layers.pooling import max_pool
from fer_jax.models.layers.rematerialise import end_block
from fer_jax.models.model import Inputs, Outputs


class SmallCNN(nnx.Module):
    """Convolutions, each with a ReLU and a 2x2 max-pool, and dense ReLU layers.

    The defaults on 32x32 grey images are CNN(2), the network of Lopes et al. 2015; CNN(5) has
    kernels 3, widths 32, 64, 128, 256 and 256, and padding "same" (docs/reproduction.md 4.5).
    """

    def __init__(
        self, settings: config.SmallCNN, inputs: Inputs, classes: int, rngs: nnx.Rngs
    ) -> None:
        height, width, features = need_images(settings.name, inputs)
        need_one_frame(settings.name, inputs)
        kernels, widths, same = settings.kernels, settings.widths, settings.padding == "same"
        if not kernels or len(kernels) != len(widths):
            raise UserError(
                f"model.kernels has {len(kernels)} and model.widths {len(widths)} numbers: give "
                "one a convolution, at least one"
            )
        if min(*kernels, *widths, *settings.dense) < 1:
            raise UserError("model.kernels, model.widths and model.dense must be at least 1")
        least = 1  # a pixel after the last pool, seen backwards
        for kernel in reversed(kernels):
            least = 2 * least + (0 if same else kernel - 1)
        need_size(settings.name, inputs, least)

        self.settings = settings
        for index, (kernel, channels) in enumerate(zip(kernels, widths, strict=True)):
            layer = Conv(features, channels, kernel, padding=settings.padding.upper(), rngs=rngs)
            setattr(self, f"conv_{index}", layer)
            height, width = ((side - (0 if same else kernel - 1)) // 2 for side in (height, width))
            features = channels
        features *= height * width
        for index, units in enumerate(settings.dense):
            layer = Dense(features, units, rngs=rngs)
            setattr(self, f"dense_{index}", layer)
            features = units
        self.classifier = Dense(features, classes, rngs=rngs)

    def __call__(self, batch: Mapping[str, Any], *, train: bool, key: jax.Array) -> Outputs:
        """Args: batch["frames"], one stream f32[B, 1, H, W, C]."""
        (frames,) = batch["frames"].values()
        x = frames[:, 0]
        for index in range(len(self.settings.kernels)):
            x = end_block(max_pool(jax.nn.relu(getattr(self, f"conv_{index}")(x)), 2))
        x = x.reshape(x.shape[0], -1)
        for index in range(len(self.settings.dense)):
            x = jax.nn.relu(getattr(self, f"dense_{index}")(x))
        dropped = dropout(x, self.settings.dropout, train=train, key=key)
        return Outputs(logits=self.classifier(dropped), embedding=x)
