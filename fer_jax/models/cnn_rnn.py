"""A CNN on every frame and a recurrent network on what it says, trained end to end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from fer_jax import config
from fer_jax.errors import UserError
from fer_jax.models.checks import need_images
from fer_jax.models.model import Inputs, Outputs
from fer_jax.models.sequence import RecurrentNetwork
from fer_jax.models.vgg_face import VGGFace
from fer_jax.models.xception import Xception

_FRAMES = 1_000_000
"""Sets the keys of the CNN's dropout apart from the recurrent network's, whose layers are few."""


class CNNRNN(nnx.Module):
    """CNN-LSTM and CNN-GRU (papers 2 and 3): the CNN's embedding of every frame, read by
    `RecurrentNetwork`.

    Parameters are those of the two under `cnn` and `rnn`: a CNN that was trained alone starts
    this one with train.init.rename={"": "cnn"}, and train.freeze=cnn leaves it as it is, its
    normalisation included. `cnn` has no classifier; the network's is `rnn/classifier`.
    Padded frames embed as zeros and count in no normalisation.
    """

    def __init__(
        self, settings: config.CNNRNN, inputs: Inputs, classes: int, rngs: nnx.Rngs
    ) -> None:
        name, rnn = settings.name, settings.rnn
        need_images(name, inputs)
        if rnn.steps == "features":
            raise UserError(f"model {name} runs over frames: set model.rnn.steps=frames")
        if rnn.kernel_l2:
            raise UserError(f"model {name} has no kernel_l2: leave model.rnn.kernel_l2 at 0")
        one = replace(inputs, frames=1)
        if isinstance(settings.cnn, config.VGGFace):
            self.cnn = VGGFace(settings.cnn, one, 0, rngs)
        else:
            self.cnn = Xception(settings.cnn, one, 0, rngs)
        embedded = Inputs(frames=inputs.frames, features=self.cnn.embedding_size)
        self.rnn = RecurrentNetwork(rnn, embedded, classes, rngs, group="model.rnn")

    def __call__(self, batch: Mapping[str, Any], *, train: bool, key: jax.Array) -> Outputs:
        """Args: batch["frames"], one stream f32[B, T, H, W, C]; batch["frame_mask"] bool[B, T]; see
        `RecurrentNetwork` for batch["state"]."""
        (frames,) = batch["frames"].values()
        mask, weight = batch["frame_mask"], batch.get("weight")
        count, steps = mask.shape
        if train and not key.ndim:
            key = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))
        real = mask.astype(jnp.float32)
        embeddings = self.cnn.embed(
            frames.reshape(count * steps, *frames.shape[2:]),
            train=train,
            key=_frame_keys(key, steps).reshape(-1) if train else key,
            weight=(real if weight is None else real * weight[:, None]).reshape(-1),
        )
        features = embeddings.reshape(count, steps, -1)
        features = jnp.where(mask[:, :, None], features, jnp.zeros_like(features))
        read = {"features": features, "frame_mask": mask}
        if "state" in batch:
            read["state"] = batch["state"]
        return self.rnn(read, train=train, key=key)


def _frame_keys(keys: jax.Array, steps: int) -> jax.Array:
    """A key for every frame, [B, T], from one an example, [B]."""

    def split(key: jax.Array) -> jax.Array:
        return jax.vmap(jax.random.fold_in, (None, 0))(
            jax.random.fold_in(key, _FRAMES), jnp.arange(steps)
        )

    return jax.vmap(split)(keys)
