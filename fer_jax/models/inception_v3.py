"""Inception-V3: paper 4's baseline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from fer_jax import config
from fer_jax.models.checks import need_images, need_one_frame, need_size
from fer_jax.models.layers.batch_norm import BatchNorm
from fer_jax.models.layers.conv import Conv
from fer_jax.models.layers.dropout import dropout
from fer_jax.models.layers.initializers import Dense
from fer_jax.models.layers.pooling import average_pool, global_average_pool, max_pool
from fer_jax.models.layers.rematerialise import end_block
from fer_jax.models.model import Inputs, Outputs


class _Unit(NamedTuple):
    """A convolution without bias, batch normalisation and a ReLU."""

    width: int
    window: tuple[int, int]
    strides: int = 1
    padding: str = "SAME"


class _Pool(NamedTuple):
    """3x3: "max" with stride 2, or "average" with stride 1."""

    kind: str


class _Fork(NamedTuple):
    """Branches on one input, each a chain of steps; their outputs are concatenated."""

    branches: tuple[Sequence[_Step], ...]


_Step = _Unit | _Pool | _Fork


def _a(pool: int) -> _Fork:
    """Mixed 0 to 2."""
    return _Fork((
        [_Unit(64, (1, 1))],
        [_Unit(48, (1, 1)), _Unit(64, (5, 5))],
        [_Unit(64, (1, 1)), _Unit(96, (3, 3)), _Unit(96, (3, 3))],
        [_Pool("average"), _Unit(pool, (1, 1))],
    ))  # fmt: skip


def _b() -> _Fork:
    """Mixed 3: halves the image."""
    return _Fork((
        [_Unit(384, (3, 3), 2, "VALID")],
        [_Unit(64, (1, 1)), _Unit(96, (3, 3)), _Unit(96, (3, 3), 2, "VALID")],
        [_Pool("max")],
    ))  # fmt: skip


def _c(width: int) -> _Fork:
    """Mixed 4 to 7."""
    row, column = (1, 7), (7, 1)
    return _Fork((
        [_Unit(192, (1, 1))],
        [_Unit(width, (1, 1)), _Unit(width, row), _Unit(192, column)],
        [_Unit(width, (1, 1)), _Unit(width, column), _Unit(width, row), _Unit(width, column),
         _Unit(192, row)],
        [_Pool("average"), _Unit(192, (1, 1))],
    ))  # fmt: skip


def _d() -> _Fork:
    """Mixed 8: halves the image."""
    return _Fork((
        [_Unit(192, (1, 1)), _Unit(320, (3, 3), 2, "VALID")],
        [_Unit(192, (1, 1)), _Unit(192, (1, 7)), _Unit(192, (7, 1)),
         _Unit(192, (3, 3), 2, "VALID")],
        [_Pool("max")],
    ))  # fmt: skip


def _e() -> _Fork:
    """Mixed 9 and 10."""
    split = _Fork(([_Unit(384, (1, 3))], [_Unit(384, (3, 1))]))
    return _Fork((
        [_Unit(320, (1, 1))],
        [_Unit(384, (1, 1)), split],
        [_Unit(448, (1, 1)), _Unit(384, (3, 3)), split],
        [_Pool("average"), _Unit(192, (1, 1))],
    ))  # fmt: skip


#: In the order in which keras.applications creates its layers.
_NETWORK: tuple[_Step, ...] = (
    _Unit(32, (3, 3), 2, "VALID"), _Unit(32, (3, 3), 1, "VALID"), _Unit(64, (3, 3)), _Pool("max"),
    _Unit(80, (1, 1)), _Unit(192, (3, 3), 1, "VALID"), _Pool("max"),
    _a(32), _a(64), _a(64), _b(), _c(128), _c(160), _c(160), _c(192), _d(), _e(), _e(),
)  # fmt: skip


class InceptionV3(nnx.Module):
    """Inception-V3 (Szegedy et al. 2016), layer for layer keras.applications.InceptionV3.

    conv2d_0 to conv2d_93, each with its batch_normalization_<i>, are numbered in Keras's order of
    creation, which is the order of its weight files.
    """

    def __init__(
        self, settings: config.InceptionV3, inputs: Inputs, classes: int, rngs: nnx.Rngs
    ) -> None:
        _, _, features = need_images(settings.name, inputs)
        need_one_frame(settings.name, inputs)
        need_size(settings.name, inputs, 75)
        self.settings = settings
        count = 0

        def build(step: _Step, features: int) -> int:
            """Makes the step's layers; the width of its output."""
            nonlocal count
            match step:
                case _Unit(width, window, strides, padding):
                    width = max(1, round(width * settings.width))
                    conv = Conv(
                        features,
                        width,
                        window,
                        strides=strides,
                        padding=padding,
                        bias=False,
                        rngs=rngs,
                    )
                    setattr(self, f"conv2d_{count}", conv)
                    norm = BatchNorm(width, scale=False, rngs=rngs)
                    setattr(self, f"batch_normalization_{count}", norm)
                    count += 1
                    return width
                case _Pool():
                    return features
                case _Fork(branches):
                    return sum(chain(branch, features) for branch in branches)

        def chain(steps: Sequence[_Step], features: int) -> int:
            for step in steps:
                features = build(step, features)
            return features

        self.classifier = Dense(chain(_NETWORK, features), classes, rngs=rngs)

    def __call__(self, batch: Mapping[str, Any], *, train: bool, key: jax.Array) -> Outputs:
        """Args: batch["frames"], one stream f32[B, 1, H, W, C], H and W at least 75."""
        (frames,) = batch["frames"].values()
        weight = batch.get("weight")
        index: Iterator[int] = iter(range(1000))

        def run(step: _Step, x: jax.Array) -> jax.Array:
            match step:
                case _Unit():
                    i = next(index)
                    x = getattr(self, f"conv2d_{i}")(x)
                    norm = getattr(self, f"batch_normalization_{i}")
                    return jax.nn.relu(norm(x, train=train, weight=weight))
                case _Pool("max"):
                    return max_pool(x, 3, 2)
                case _Pool():
                    return average_pool(x, 3, 1, "same")
                case _Fork(branches):
                    return jnp.concatenate([chain(branch, x) for branch in branches], axis=-1)

        def chain(steps: Sequence[_Step], x: jax.Array) -> jax.Array:
            for step in steps:
                x = run(step, x)
            return x

        x = frames[:, 0]
        for step in _NETWORK:
            x = end_block(run(step, x))
        embedding = global_average_pool(x)
        x = dropout(embedding, self.settings.dropout, train=train, key=key)
        return Outputs(logits=self.classifier(x), embedding=embedding)
