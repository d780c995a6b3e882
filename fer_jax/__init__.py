"""FER-JAX: train and run facial-expression recognisers from face videos, in JAX.

`import fer_jax` is light on purpose: it loads neither JAX nor OpenCV, dlib, MediaPipe or
TensorFlow. `fer_jax.load(run)` brings in what a predictor needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fer_jax.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from fer_jax.deploy.predictor import Predictor

__version__ = "0.1.0"
__all__ = ["UserError", "__version__", "load"]


def load(run: str | Path) -> Predictor:
    """The trained recogniser of a run directory or an export, ready to predict.

    Args:
      run: a run directory, as written by `fer-jax train`, or a folder that `fer-jax export` wrote.

    Raises:
      UserError: `run` is neither, is damaged, or needs a package that is not installed.
    """
    from fer_jax.deploy.predictor import load_predictor

    return load_predictor(run)
