"""LiteRT (TensorFlow Lite): recogniser.tflite, for phones and small boards.

TensorFlow makes it; the LiteRT runtime alone runs it. Its inputs are resized to a batch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ai_edge_litert.interpreter import Interpreter

if TYPE_CHECKING:
    from fer_jax.deploy.formats import Run
    from fer_jax.deploy.recogniser import Recogniser

FILE = "recogniser.tflite"


def save(recogniser: Recogniser, directory: Path) -> None:
    """Writes recogniser.tflite, both signatures in one file, which share the weights."""
    import tensorflow as tf

    from fer_jax.deploy.formats import savedmodel

    with tempfile.TemporaryDirectory() as made:
        savedmodel.save(recogniser, Path(made))
        converter = tf.lite.TFLiteConverter.from_saved_model(
            made, signature_keys=list(recogniser.signatures)
        )
        content = converter.convert()
    (directory / FILE).write_bytes(content)


def load(directory: Path) -> Run:
    """Runs it with LiteRT's interpreter."""
    interpreter = Interpreter(str(directory / FILE))
    runners = {
        name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()
    }

    def run(name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = runners[name](**inputs)
        return {key: value.copy() for key, value in found.items()}

    return run
