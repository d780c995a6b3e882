"""An experiment as frozen dataclasses, and how files, overrides and JSON become one.

A config file is Python with `def experiment() -> Experiment`; its docstring records what to
expect. `load_config` runs it, applies `--train.epochs 5` style overrides and validates. Nothing
here imports JAX: looking at a config is cheap.
"""

from fer_jax.config.base import Given, off, with_values
from fer_jax.config.data import Augment, Data, Features, Image, Importance, Protocol
from fer_jax.config.experiment import (
    Experiment,
    differences,
    from_json,
    load_config,
    load_sweep,
    override,
)
from fer_jax.config.model import (
    C3D,
    CNNRNN,
    GRU,
    LSTM,
    Dense,
    EmotionalDAN,
    InceptionV3,
    Model,
    NestedLSTM,
    ResNet,
    SmallCNN,
    VGGFace,
    Xception,
)
from fer_jax.config.sweep import (
    Choice,
    Integers,
    Sweep,
    Uniform,
    choice,
    integers,
    log_uniform,
    uniform,
)
from fer_jax.config.training import (
    Checkpoint,
    EarlyStop,
    Init,
    Loss,
    Optim,
    Parallel,
    Track,
    Train,
)

__all__ = [
    "C3D", "CNNRNN", "GRU", "LSTM", "Augment", "Checkpoint", "Choice", "Data", "Dense", "EarlyStop",
    "EmotionalDAN", "Experiment", "Features", "Given", "Image", "Importance", "InceptionV3", "Init",
    "Integers", "Loss", "Model", "NestedLSTM", "Optim", "Parallel", "Protocol", "ResNet",
    "SmallCNN", "Sweep", "Track", "Train", "Uniform", "VGGFace", "Xception", "choice",
    "differences", "from_json", "integers", "load_config", "load_sweep", "log_uniform", "off",
    "override", "uniform", "with_values",
]  # fmt: skip
