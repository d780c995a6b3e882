"""The networks, behind one table and one pair of pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flax import nnx

from fer_jax import config
from fer_jax.models.c3d import C3D
from fer_jax.models.cnn_rnn import CNNRNN
from fer_jax.models.dan import EmotionalDAN
from fer_jax.models.inception_v3 import InceptionV3
from fer_jax.models.model import Inputs, Model, Outputs, model_of, parameter_count
from fer_jax.models.nested_lstm import NestedLSTM
from fer_jax.models.resnet import ResNet
from fer_jax.models.sequence import DenseNetwork, RecurrentNetwork
from fer_jax.models.small_cnn import SmallCNN
from fer_jax.models.vgg_face import VGGFace
from fer_jax.models.xception import Xception

__all__ = ["NETWORKS", "Inputs", "Model", "Outputs", "build", "parameter_count"]

#: By the name in a config: (settings, inputs, classes, rngs) -> an NNX module (`model.Network`).
NETWORKS: dict[str, Callable[[Any, Inputs, int, nnx.Rngs], nnx.Module]] = {
    "lstm": RecurrentNetwork,
    "gru": RecurrentNetwork,
    "dense": DenseNetwork,
    "xception": Xception,
    "vgg-face": VGGFace,
    "cnn-rnn": CNNRNN,
    "c3d": C3D,
    "nested-lstm": NestedLSTM,
    "emotional-dan": EmotionalDAN,
    "small-cnn": SmallCNN,
    "inception-v3": InceptionV3,
    "resnet": ResNet,
}


def build(
    settings: config.Model,
    inputs: Inputs,
    classes: int,
    *,
    axis: str | None = None,
    freeze: Sequence[str] = (),
    precision: str = "float32",
    remat: str = "none",
) -> Model:
    """The network of `settings` for samples of this shape and so many classes.

    Args:
      axis, freeze, precision, remat: see `model.model_of`.

    Raises:
      UserError: settings that cannot be (a one-frame network on sequences, rates and layers that
        do not match), or an input that the network lacks.
    """
    network = NETWORKS[settings.name]
    return model_of(
        lambda rngs: network(settings, inputs, classes, rngs),
        axis=axis,
        freeze=freeze,
        precision=precision,
        remat=remat,
        kernel_l2=getattr(settings, "kernel_l2", 0.0),
    )
