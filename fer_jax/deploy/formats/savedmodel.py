"""SavedModel: a directory that TensorFlow and its servers load, with a signature each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from fer_jax.deploy.formats import Run
    from fer_jax.deploy.recogniser import Recogniser


def save(recogniser: Recogniser, directory: Path) -> None:
    """Writes saved_model.pb and variables/ into the directory."""
    from fer_jax.deploy.lowering.tensorflow_graph import module_of

    module, functions = module_of(recogniser)
    tf.saved_model.save(module, str(directory), signatures=functions)


def load(directory: Path) -> Run:
    """Runs it with TensorFlow."""
    loaded = tf.saved_model.load(str(directory))

    def run(name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        tensors = {key: tf.constant(value) for key, value in inputs.items()}
        found = loaded.signatures[name](**tensors)
        return {key: value.numpy() for key, value in found.items()}

    return run
