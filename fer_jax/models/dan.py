"""EmotionalDAN: facial landmarks and emotion from one image, in two stages (emotionaldan2018)."""

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
from fer_jax.models.layers.initializers import Dense, glorot_uniform, variance_scaling
from fer_jax.models.layers.pooling import max_pool
from fer_jax.models.layers.rematerialise import end_block
from fer_jax.models.layers.warp import Similarity, heat_map, similarity, warp_image
from fer_jax.models.model import Inputs, Outputs

LANDMARKS = 68

_glorot_relu = variance_scaling(2.0, "fan_avg", "uniform")


# DAN is Theano's Lasagne, EmotionalDAN TensorFlow: they differ in the gain of the layers before a
# ReLU and in what batch normalisation is unless told otherwise.
def _initializer(settings: config.EmotionalDAN) -> jax.nn.initializers.Initializer:
    return _glorot_relu if settings.order == "bn-relu" else glorot_uniform


def _norm(settings: config.EmotionalDAN, width: int, rngs: nnx.Rngs) -> BatchNorm:
    if settings.order == "bn-relu":
        return BatchNorm(width, momentum=0.9, epsilon=1e-4, rngs=rngs)
    return BatchNorm(width, rngs=rngs)


class Stage(nnx.Module):
    """A VGG-like CNN on an image that says where its landmarks should move.

    conv1a, conv1b, pool, ... conv4b, pool, dropout, fc1, fc2. Source: docs/reproduction.md 4.1.
    """

    def __init__(
        self, settings: config.EmotionalDAN, side: int, channels: int, rngs: nnx.Rngs
    ) -> None:
        self.settings = settings
        self.convolutions = tuple(
            (f"conv{level}{letter}", width)
            for level, width in enumerate(settings.widths, start=1)
            for letter in "ab"
        )
        bias = settings.order == "relu-bn"
        options: dict[str, Any] = {"kernel_init": _initializer(settings), "rngs": rngs}
        for name, width in self.convolutions:
            setattr(self, name, Conv(channels, width, 3, bias=bias, **options))
            setattr(self, f"{name}_bn", _norm(settings, width, rngs))
            channels = width
        flat = (side // 2 ** len(settings.widths)) ** 2 * channels
        self.fc1 = nnx.Linear(flat, settings.dense, use_bias=bias, **options)
        self.fc1_bn = _norm(settings, settings.dense, rngs)
        self.fc2 = Dense(settings.dense, LANDMARKS * 2, rngs=rngs)

    @property
    def frozen(self) -> bool:
        """All its normalisation is frozen: the stage as a whole does not train."""
        parts = (part for _, part in nnx.iter_modules(self))
        return all(part.frozen for part in parts if isinstance(part, BatchNorm))

    def _activate(self, name: str, x: jax.Array, **norm: Any) -> jax.Array:
        """ReLU and the normalisation that belongs to the layer, in the order of the settings."""
        layer = getattr(self, f"{name}_bn")
        if self.settings.order == "bn-relu":
            return jax.nn.relu(layer(x, **norm))
        return layer(jax.nn.relu(x), **norm)

    def __call__(
        self,
        x: jax.Array,
        *,
        train: bool,
        key: jax.Array,
        weight: jax.Array | None = None,
        layer: int = 0,
    ) -> tuple[jax.Array, jax.Array]:
        """[B, side, side, C] to how far landmarks should move, [B, 68, 2], and fc1, [B, D]."""
        norm = {"train": train, "weight": weight}
        for name, _ in self.convolutions:
            x = self._activate(name, getattr(self, name)(x), **norm)
            if name.endswith("b"):
                x = end_block(max_pool(x, 2))
        x = x.reshape(x.shape[0], -1)
        # A stage that does not train is what the next one will see in use.
        x = dropout(x, self.settings.dropout, train=train and not self.frozen, key=key, layer=layer)
        embedding = self._activate("fc1", self.fc1(x), **norm)
        return self.fc2(embedding).reshape(-1, LANDMARKS, 2), embedding


class ConnectedStage(Stage):
    """A stage that reads what the one before it made of the image.

    Its input: the image and the heat map of its landmarks, both moved to where the mean shape is,
    and an image that the layer `feature` makes of the embedding. Source: docs/reproduction.md 4.2.
    """

    def __init__(
        self, settings: config.EmotionalDAN, side: int, channels: int, rngs: nnx.Rngs
    ) -> None:
        super().__init__(settings, side, channels + 2, rngs)
        self.side = side
        self.feature = Dense(
            settings.dense, (side // 2) ** 2, kernel_init=_initializer(settings), rngs=rngs
        )
        self.input_bn = _norm(settings, channels + 2, rngs)

    def connect(
        self,
        image: jax.Array,
        landmarks: jax.Array,
        embedding: jax.Array,
        transform: Similarity,
        *,
        train: bool,
        weight: jax.Array | None = None,
    ) -> jax.Array:
        """The stage's input, [B, side, side, C + 2].

        Args:
          image: [B, side, side, C].
          landmarks: f32[B, 68, 2], where the transform moved them.
          embedding: [B, D] of the stage before.
          transform: of B images.
        """
        feature = jax.nn.relu(self.feature(embedding)).reshape(-1, self.side // 2, self.side // 2)
        feature = jnp.repeat(jnp.repeat(feature, 2, axis=1), 2, axis=2)
        heat = heat_map(landmarks, self.side, self.settings.patch).astype(image.dtype)
        parts = [warp_image(image, transform), heat[..., None], feature[..., None]]
        return self.input_bn(jnp.concatenate(parts, axis=-1), train=train, weight=weight)


class EmotionalDAN(nnx.Module):
    """A Deep Alignment Network (Kowalski et al. 2017) that also tells the emotion.

    Stage 1 moves the mean shape's landmarks; stage 2 corrects them on the normalised image, and
    the emotion is read off its fc1. With one stage there is no emotion: the logits are zero.

    Raises:
      UserError: no landmarks, not one image of one frame, or a size that the layers do not fit.
    """

    def __init__(
        self, settings: config.EmotionalDAN, inputs: Inputs, classes: int, rngs: nnx.Rngs
    ) -> None:
        need_one_frame(settings.name, inputs)
        height, side, channels = need_images(settings.name, inputs)
        _check(settings, inputs, height, side)
        (self.stream,) = inputs.images
        self.classes = classes
        self.stage1 = Stage(settings, side, channels, rngs)
        if settings.stages == 2:
            self.stage2 = ConnectedStage(settings, side, channels, rngs)
            self.classifier = Dense(settings.dense, classes, rngs=rngs)
        else:
            self.stage2 = None

    def __call__(self, batch: Mapping[str, Any], *, train: bool, key: jax.Array) -> Outputs:
        """Args: batch["frames"][stream] f32[B, 1, H, W, C], batch["mean_shape"] f32[68, 2]."""
        image, mean_shape = batch["frames"][self.stream][:, 0], batch["mean_shape"]
        norm = {"train": train, "weight": batch.get("weight")}
        offset, embedding = self.stage1(image, key=key, layer=0, **norm)
        # In bfloat16, too, the mean shape makes this float32: coordinates need the digits.
        landmarks = mean_shape[None] + offset
        if self.stage2 is None:
            logits = jnp.zeros((image.shape[0], self.classes), jnp.float32)
            return Outputs(logits=logits, embedding=embedding, landmarks=landmarks)
        transform = similarity(landmarks, mean_shape[None])
        landmarks = transform.apply(landmarks)
        x = self.stage2.connect(image, landmarks, embedding, transform, **norm)
        offset, embedding = self.stage2(x, key=key, layer=1, **norm)
        landmarks = transform.inverse().apply(landmarks + offset)
        return Outputs(self.classifier(embedding), embedding, landmarks)


def _check(settings: config.EmotionalDAN, inputs: Inputs, height: int, side: int) -> None:
    name = settings.name
    if not inputs.landmarks:
        raise UserError(f"model {name} localises landmarks: set data.landmarks=true")
    if not settings.widths:
        raise UserError("model.widths is empty: give at least one level")
    if height != side:
        raise UserError(
            f"model {name} reads square images, not {height}x{side}: set data.image_size={side}"
        )
    multiple = 2 ** len(settings.widths)
    if side % multiple:
        raise UserError(
            f"model {name} halves the image {len(settings.widths)} times, which {side} pixels do "
            f"not allow: set data.image_size={max(side // multiple, 1) * multiple}"
        )
    if settings.patch >= side:
        raise UserError(
            f"model.patch={settings.patch} does not fit in images of {side} pixels: set a smaller "
            "patch or a larger data.image_size"
        )
