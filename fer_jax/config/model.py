"""Settings of the networks, one group a network; `Model` is any of them, told by `name`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fer_jax.config.base import STRICT, Floats, Ints, validated

Rate = Annotated[float, Field(ge=0, lt=1)]
Width = Annotated[int, Field(ge=0)]


@validated(frozen=True, kw_only=True, config=STRICT)
class LSTM:
    """Stacked LSTM and a softmax layer: papers 1, 2, 3 and 5."""

    name: Literal["lstm"] = "lstm"
    units: Ints = (128, 256)
    input_dropout: Rate = 0.0
    """On the input of each layer."""
    dropout: Rate = 0.5
    """After each layer."""
    activation: Literal["tanh", "selu", "relu", "leaky_relu"] = "tanh"
    """Of the candidate and of the cell output."""
    steps: Literal["frames", "features"] = "frames"
    """What the recurrence runs over: the clip's frames, or one frame's features (paper 5)."""
    dense: Width = 0
    """Units of a ReLU layer, with dropout, before the classifier; 0 has none."""
    kernel_l2: float = Field(default=0.0, ge=0)
    """L2 penalty on the input weights."""
    mask_padding: bool = False
    """Skip padded steps instead of reading zeros (paper 1 reads zeros)."""
    implementation: Literal["auto", "scan", "cudnn"] = "auto"
    """What runs the recurrence: "auto" takes cuDNN on NVIDIA GPUs, where it has such a layer."""


@validated(frozen=True, kw_only=True, config=STRICT)
class GRU(LSTM):
    """Stacked GRU (Keras's, reset_after) and a softmax layer: paper 3."""

    name: Literal["gru"] = "gru"  # type: ignore[assignment]


@validated(frozen=True, kw_only=True, config=STRICT)
class Dense:
    """Fully connected network on the features of one frame: paper 5's ablation."""

    name: Literal["dense"] = "dense"
    units: Ints = (330, 300, 250, 220, 200, 150, 10)
    dropout: Floats = (0.0, 0.2, 0.2, 0.2, 0.2, 0.2, 0.0)
    """After each hidden layer."""
    kernel_l2: float = Field(default=0.01, ge=0)
    """L2 penalty on the hidden layers but the first and last."""


@validated(frozen=True, kw_only=True, config=STRICT)
class Xception:
    """Xception (Chollet 2017) on single images: paper 2's CNN."""

    name: Literal["xception"] = "xception"
    stem: Ints = (32, 64)
    """Widths of the two 3x3 convolutions."""
    stem_stride: Literal[1, 2] = 2
    """Of the first of them."""
    entry: Ints = (128, 256, 728)
    """Width of each entry block; each halves the image."""
    middle: Width = 8
    """Middle blocks, as wide as the last entry block."""
    exit: Ints = (1024, 1536, 2048)
    """Width of the exit block's end and of the two separable convolutions after it; empty has
    none."""
    dense: Width = 1024
    """Units of the ReLU layer whose output is the feature; 0 takes the global average pool."""
    dropout: Rate = 0.5
    """Before the classifier."""


@validated(frozen=True, kw_only=True, config=STRICT)
class VGGFace:
    """VGG-Face (VGG16) on single images, one stack an image stream, with paper 3's heads.

    Two image streams are fused after the last pooling; features (the geometry) join there too.
    """

    name: Literal["vgg-face"] = "vgg-face"
    widths: Ints = (64, 128, 256, 512, 512)
    """Of the five blocks of 2, 2, 3, 3 and 3 convolutions."""
    pooling: Literal["flatten", "average", "max"] = "flatten"
    """After the last block: every value, or one a channel."""
    dense: Ints = (4096, 4096, 2622)
    """ReLU layers (fc6, fc7, fc8) before the classifier; may be empty."""
    feature: Width = 2
    """Which dense layer, from 1, is the embedding (fc7 is 2); beyond the last, the last."""
    dropout: Rate = 0.0
    """After each dense layer."""


CNN = Annotated[Xception | VGGFace, Field(discriminator="name")]


@validated(frozen=True, kw_only=True, config=STRICT)
class CNNRNN:
    """A CNN's embedding of every frame, read by a recurrent network, trained end to end."""

    name: Literal["cnn-rnn"] = "cnn-rnn"
    cnn: CNN = Field(default_factory=Xception)
    rnn: Annotated[LSTM | GRU, Field(discriminator="name")] = Field(default_factory=LSTM)


@validated(frozen=True, kw_only=True, config=STRICT)
class C3D:
    """C3D (Tran et al. 2015) on clips of 16 frames, or in paper 3's form for 5."""

    name: Literal["c3d"] = "c3d"
    widths: Ints = (64, 128, 256, 512, 512)
    """Of the five levels of 1, 1, 2, 2 and 2 convolutions."""
    pools: Literal["original", "thesis"] = "original"
    """original: 2x2x2 after the first; thesis: a window of 1 with stride 2 from the third on
    (docs/reproduction.md 3.3)."""
    dense: Ints = (4096, 4096)
    dropout: Rate = 0.5
    init: Literal["glorot", "he"] = "glorot"
    """First kernels before a ReLU. glorot is Keras's, which the paper used: the signal halves in
    every layer, and training from scratch may stay at chance for long; he keeps it."""


@validated(frozen=True, kw_only=True, config=STRICT)
class NestedLSTM:
    """Paper 3's proposal (STC-NLSTM): C3D levels, MSPP, a Temp-LSTM a level, a Conv-LSTM."""

    name: Literal["nested-lstm"] = "nested-lstm"
    widths: Ints = (64, 128, 256, 512, 512)
    bins: Literal[2, 4, 8] = 4
    """n of the multi-dimensional spatial pyramid pooling."""
    channel_max: bool = False
    """Pool over channels too, n * n values a frame, instead of projecting them."""
    projection: int = Field(default=256, ge=1)
    """D of the linear layer that gives every level one width."""
    temporal_units: int = Field(default=256, ge=1)
    convolutional_units: int = Field(default=256, ge=1)
    dropout: Rate = 0.5
    init: Literal["glorot", "he"] = "glorot"
    """First kernels of the convolutions, see `C3D.init`."""
    fusion: Literal["channels", "backbones"] = "channels"
    """Two image streams: stacked as channels, or a backbone each whose levels all feed the
    Conv-LSTM."""


@validated(frozen=True, kw_only=True, config=STRICT)
class EmotionalDAN:
    """EmotionalDAN: landmarks and emotion from one image, in stages (paper 4)."""

    name: Literal["emotional-dan"] = "emotional-dan"
    stages: Literal[1, 2] = 2
    """1 localises landmarks only. With 2, stage 1 is whatever it was initialised with: freeze it
    with `train.freeze`."""
    widths: Ints = (64, 128, 256, 512)
    dense: int = Field(default=256, ge=1)
    order: Literal["relu-bn", "bn-relu"] = "relu-bn"
    """relu-bn with biases (EmotionalDAN's code) or bn-relu without (DAN's)."""
    patch: int = Field(default=16, ge=2)
    """Side of the landmark heat map's patches, pixels."""
    dropout: Rate = 0.5


@validated(frozen=True, kw_only=True, config=STRICT)
class SmallCNN:
    """Convolutions, each with a 2x2 max-pool, and dense layers: paper 4's CNN(2) and CNN(5)."""

    name: Literal["small-cnn"] = "small-cnn"
    kernels: Ints = (5, 7)
    widths: Ints = (32, 64)
    padding: Literal["valid", "same"] = "valid"
    dense: Ints = (256,)
    dropout: Rate = 0.0


@validated(frozen=True, kw_only=True, config=STRICT)
class InceptionV3:
    """Inception-V3 (Szegedy et al. 2016) as Keras has it: paper 4's baseline."""

    name: Literal["inception-v3"] = "inception-v3"
    width: float = Field(default=1.0, gt=0)
    """Times every layer's width."""
    dropout: Rate = 0.0


@validated(frozen=True, kw_only=True, config=STRICT)
class ResNet:
    """ResNet of basic blocks (He et al. 2016): EmotionNet 2 is [3, 4, 23, 3] (paper 4)."""

    name: Literal["resnet"] = "resnet"
    blocks: Ints = (3, 4, 23, 3)
    widths: Ints = (64, 128, 256, 512)
    dropout: Rate = 0.0


Model = Annotated[
    LSTM | GRU | Dense | Xception | VGGFace | CNNRNN | C3D | NestedLSTM | EmotionalDAN | SmallCNN
    | InceptionV3 | ResNet,
    Field(discriminator="name"),
]  # fmt: skip
