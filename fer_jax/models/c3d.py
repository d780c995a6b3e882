"""C3D (Tran et al. 2015), as paper 3 found it and as paper 3's thesis changed it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from fer_jax import config
from fer_jax.errors import UserError
from fer_jax.models.checks import need_images, need_size
from fer_jax.models.layers.conv3d import Conv3D
from fer_jax.models.layers.dropout import dropout
from fer_jax.models.layers.initializers import INITIALIZERS, Dense
from fer_jax.models.layers.pooling import max_pool
from fer_jax.models.layers.rematerialise import end_block
from fer_jax.models.model import Inputs, Outputs

#: The convolutions of the five levels, with a pool after each level.
LEVELS = (
    ("conv1",),
    ("conv2",),
    ("conv3a", "conv3b"),
    ("conv4a", "conv4b"),
    ("conv5a", "conv5b"),
)
LAYERS = tuple(name for level in LEVELS for name in level)

Pool = Callable[[jax.Array], jax.Array]


def _every_second(x: jax.Array) -> jax.Array:
    """A max-pool with a window of 1 and stride 2."""
    return x[:, ::2, ::2, ::2]


def _after_padding(pool: Pool, x: jax.Array) -> jax.Array:
    return pool(jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0))))


#: Halves the maps and keeps T.
spatial: Pool = partial(max_pool, window=(1, 2, 2))
_halving: Pool = partial(max_pool, window=(2, 2, 2))

#: config.C3D.pools -> pool1 to pool5, and the fewest frames and pixels of which more than padding
#: survives them.
_POOLS: dict[str, tuple[tuple[Pool, ...], int, int]] = {
    "original": ((spatial, *(_halving,) * 3, partial(_after_padding, _halving)), 16, 16),
    "thesis": (
        (spatial, _halving, *(_every_second,) * 2, partial(_after_padding, _every_second)), 2, 20,
    ),
}  # fmt: skip


class Backbone(nnx.Module):
    """C3D's eight convolutions: 3x3x3, ReLU.

    Its layers are conv1, conv2, conv3a, conv3b, conv4a, conv4b, conv5a and conv5b.
    """

    def __init__(self, channels: int, widths: Sequence[int], init: str, *, rngs: nnx.Rngs) -> None:
        """Args:
        channels: of the images.
        widths: of the five levels.
        init: of `INITIALIZERS`.

        Raises:
          UserError: there are not five widths.
        """
        if len(widths) != len(LEVELS):
            raise UserError(
                f"model.widths has {len(widths)} widths: give {len(LEVELS)}, one a level"
            )
        for level, width in zip(LEVELS, widths, strict=True):
            for name in level:
                kernel_init = INITIALIZERS[init]
                setattr(self, name, Conv3D(channels, width, kernel_init=kernel_init, rngs=rngs))
                channels = width

    def levels(
        self,
        x: jax.Array,
        pools: Sequence[Pool] = (spatial,) * 4,
        mask: jax.Array | None = None,
    ) -> list[jax.Array]:
        """The ReLU output of every convolution.

        Args:
          x: f[B, T, H, W, C].
          pools: after the first four levels; spatial ones by default, which keep T.
          mask: bool[B, T], True where a frame is real. The others are zeros in every map, so that
            a padded clip gives what the clip alone does. Only with pools that keep T.

        Returns:
          eight f[B, T', H', W', width], shallow to deep.
        """

        def real(x: jax.Array) -> jax.Array:
            if mask is None:
                return x
            return jnp.where(mask[:, :, None, None, None], x, jnp.zeros((), x.dtype))

        x, maps = real(x), []
        for level, pool in zip(LEVELS, (*pools, None), strict=True):
            for name in level:
                x = real(jax.nn.relu(getattr(self, name)(x)))
                maps.append(x)
            x = end_block(pool(x)) if pool else x
        return maps


class C3D(Backbone):
    """C3D on clips of one image stream: the backbone, fc6, fc7 and a linear classifier.

    pools="original" is Tran et al.'s (16 frames of 112 pixels give 1x4x4x512 = 8192 values),
    pools="thesis" what paper 3 trained (5 frames give 1x5x5x512 = 12800); docs/reproduction.md
    3.3.
    """

    def __init__(self, settings: config.C3D, inputs: Inputs, classes: int, rngs: nnx.Rngs) -> None:
        height, width, channels = need_images(settings.name, inputs)
        pools, frames, side = _POOLS[settings.pools]
        if inputs.frames < frames:
            raise UserError(
                f"model c3d with pools={settings.pools} needs samples of at least {frames} frames, "
                f"not {inputs.frames}: set data.frames={frames}"
            )
        need_size(settings.name, inputs, side)
        super().__init__(channels, settings.widths, settings.init, rngs=rngs)
        self.pools = pools
        self.stream = inputs.images[0]
        self.rate = settings.dropout
        shape = (1, inputs.frames, height, width, settings.widths[-1])
        size = jax.eval_shape(
            lambda x: reduce(lambda x, pool: pool(x), pools, x),
            jax.ShapeDtypeStruct(shape, jnp.float32),
        ).size
        self.dense = tuple(f"fc{6 + index}" for index in range(len(settings.dense)))
        for name, units in zip(self.dense, settings.dense, strict=True):
            kernel_init = INITIALIZERS[settings.init]
            setattr(self, name, Dense(size, units, kernel_init=kernel_init, rngs=rngs))
            size = units
        self.classifier = Dense(size, classes, rngs=rngs)

    def _convolved(self, x: jax.Array) -> jax.Array:
        """f[B, T, H, W, C] -> f[B, D], what is left after pool5."""
        *between, last = self.pools
        x = self.levels(x, between)[-1]
        return last(x).reshape(x.shape[0], -1)

    def __call__(self, batch: Mapping[str, Any], *, train: bool, key: jax.Array) -> Outputs:
        """Args: batch["frames"], one stream of f32[B, T, H, W, C]."""
        x = embedding = self._convolved(batch["frames"][self.stream])
        for index, name in enumerate(self.dense):
            embedding = jax.nn.relu(getattr(self, name)(x))
            x = dropout(embedding, self.rate, train=train, key=key, layer=index)
        return Outputs(logits=self.classifier(x), embedding=embedding)
