"""Settings of training: loss, optimizer, loop, devices, checkpoints."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fer_jax.config.base import STRICT, Floats, Ints, Strings, validated


@validated(frozen=True, kw_only=True, config=STRICT)
class Loss:
    name: Literal["cross-entropy", "mse", "focal"] = "cross-entropy"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    focal_gamma: float = Field(default=2.0, ge=0)
    focal_alpha: float = Field(default=0.25, gt=0)
    class_weights: Literal["none", "balanced"] | Floats = "none"
    """balanced: n / (K n_k) of the training set; or one weight a class."""
    emotion: float = Field(default=1.0, ge=0)
    """Times the loss of the emotion (paper 4: 0.6)."""
    landmarks: float = Field(default=0.0, ge=0)
    """Times the landmark error, in inter-pupil distances (paper 4: 0.4)."""


@validated(frozen=True, kw_only=True, config=STRICT)
class Optim:
    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = Field(default=1e-3, gt=0)
    schedule: Literal["constant", "inverse-time", "cosine", "triangular"] = "constant"
    """triangular: between `lr_low` and `lr`, `half_cycle` steps each way (Smith 2017; paper 4)."""
    decay: float = Field(default=0.0, ge=0)
    """inverse-time: lr / (1 + decay * step), as Keras 2's `decay`."""
    lr_low: float = Field(default=0.0, ge=0)
    half_cycle: int = Field(default=10_000, ge=1)
    warmup_epochs: float = Field(default=0.0, ge=0)
    """Linear from 0, before any schedule."""
    weight_decay: float = Field(default=0.0, ge=0)
    """adam, sgd: L2 added to the gradient; adamw: decoupled."""
    decay_kernels_only: bool = False
    """No weight decay on biases and normalisation."""
    amsgrad: bool = False
    momentum: float = Field(default=0.0, ge=0, lt=1)
    nesterov: bool = False
    clip_norm: float = Field(default=0.0, ge=0)
    """Clip the global gradient norm; 0 does not."""


@validated(frozen=True, kw_only=True, config=STRICT)
class EarlyStop:
    patience: int = Field(default=0, ge=0)
    """Epochs without improvement of `train.monitor` before training stops; 0 never stops."""
    min_delta: float = Field(default=0.0, ge=0)


@validated(frozen=True, kw_only=True, config=STRICT)
class Init:
    """Parameters to start from, instead of random ones."""

    run: Strings = ()
    """Another run's directory: its best parameters. Of several the first that has a path counts."""
    weights: str = ""
    """A weight file: Keras .h5 or .safetensors."""
    rename: dict[str, str] = Field(default_factory=dict)
    """Path prefix there -> path prefix here, e.g. {"": "cnn"} for a CNN that becomes a part. A *
    here stands for every such part: {"stack_crops": "stack_*"}."""
    skip: Strings = ()
    """Paths here that stay random, with * wildcards: "classifier/*" for other classes."""


@validated(frozen=True, kw_only=True, config=STRICT)
class Train:
    epochs: int = Field(default=30, ge=1)
    batch: int = Field(default=64, ge=1)
    """Of all devices together."""
    accumulate: int = Field(default=1, ge=1)
    """Parts that a batch is computed in, one after another, to save memory."""
    seed: int = 0
    steps_per_call: int = Field(default=0, ge=0)
    """Steps in one device call; 0 chooses."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in; parameters are float32 always."""
    remat: Literal["none", "blocks"] = "none"
    """blocks: keep the end of each of the network's blocks alone, and compute what is between them
    again in the backward pass: less memory, about a third more work."""
    init: Init = Field(default_factory=Init)
    freeze: Strings = ()
    """Parameter paths that do not train, with * wildcards: "cnn/*". Their normalisation runs on
    its averages."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay of the parameters' running average, which is what is evaluated; 0 keeps none."""
    loss: Loss = Field(default_factory=Loss)
    monitor: Literal[
        "validation/accuracy", "validation/uar", "validation/macro_f1", "validation/loss",
        "validation/landmark_error", "train/loss", "train/accuracy",
    ] = "validation/accuracy"  # fmt: skip
    """What chooses the best checkpoint and stops early; train/* where nothing validates."""
    early_stop: EarlyStop = Field(default_factory=EarlyStop)
    evaluate_every: int = Field(default=1, ge=1)
    """Epochs between validations."""


@validated(frozen=True, kw_only=True, config=STRICT)
class Parallel:
    mapper: Literal["shard_map", "pmap"] = "shard_map"
    devices: int = Field(default=0, ge=0)
    """Devices to use, of all processes together; 0 is all of them."""
    input: Literal["auto", "resident", "sharded", "stream"] = "auto"
    """Where the data lies: whole on every device, dealt to them, or in the records, from which
    batches are read ahead; auto is the first that it fits in."""
    input_gb: float = Field(default=0.0, ge=0)
    """Gigabytes of a device's memory that data may take; 0 is half of it."""
    decode_processes: int = Field(default=0, ge=0)
    """Processes that read and decode a stream; 0 is a thread a core."""
    timeout_s: float = Field(default=60.0, ge=1)
    """Of a job of several processes: one that nothing is heard of for so long is lost."""


@validated(frozen=True, kw_only=True, config=STRICT)
class Checkpoint:
    every_epochs: int = Field(default=1, ge=1)
    every_seconds: float = Field(default=30.0, ge=0)
    """Save the last state no more often than this (the best is always saved)."""
    keep: int = Field(default=1, ge=1)
    """How many of the last to keep."""


@validated(frozen=True, kw_only=True, config=STRICT)
class Track:
    tensorboard: bool = True
    """Write TensorBoard events beside history.jsonl (needs the extra `track`)."""
    profile: Ints = ()
    """First and last of the steps that JAX's profiler records in RUN/profile: 20,30."""

    def __post_init__(self) -> None:
        if self.profile and not (len(self.profile) == 2 and 0 <= self.profile[0] < self.profile[1]):
            raise ValueError("profile is two steps, first below last, as in 20,30")
