"""The networks, behind one table and one pair of pure functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fer_jax import config
from fer_jax.errors import UserError
from fer_jax.models.model import Model, Outputs, model_of, parameter_count
from fer_jax.models.sequence import DenseNetwork, SequenceLSTM

__all__ = ["MODELS", "Model", "Outputs", "build", "parameter_count"]


def _lstm(settings: config.LSTM, features: int, frames: int, classes: int) -> Model:
    if settings.steps == "features" and frames != 1:
        raise UserError(
            f"model.steps=features reads one frame a sample, not {frames}: set data.length=frames"
        )
    layers = [f"lstm_{index}" for index in range(len(settings.units))]
    return model_of(
        lambda rngs: SequenceLSTM(settings, features, classes, rngs), layers, settings.kernel_l2
    )


def _dense(settings: config.Dense, features: int, frames: int, classes: int) -> Model:
    if frames != 1:
        raise UserError(
            f"model dense reads one frame a sample, not {frames}: set data.length=frames"
        )
    if len(settings.dropout) != len(settings.units):
        raise UserError(
            f"model.dropout has {len(settings.dropout)} rates for {len(settings.units)} hidden "
            "layers: give one a layer"
        )
    middle = [f"dense_{index}" for index in range(1, len(settings.units) - 1)]
    return model_of(
        lambda rngs: DenseNetwork(settings, features, classes, rngs), middle, settings.kernel_l2
    )


MODELS: dict[str, Callable[[Any, int, int, int], Model]] = {"lstm": _lstm, "dense": _dense}
"""Builders by the name in a config: (settings, features, frames, classes) -> Model."""


def build(settings: config.Model, *, features: int, frames: int, classes: int) -> Model:
    """The network of `settings` for samples of `frames` x `features` and so many classes.

    Raises:
      UserError: settings that cannot be (a one-frame network on sequences, rates and layers that
        do not match).
    """
    if not settings.units:
        raise UserError("model.units is empty: give at least one layer")
    return MODELS[settings.name](settings, features, frames, classes)
