"""The monitor against Keras's own callbacks."""

from __future__ import annotations

import numpy as np
import pytest

from fer_jax import config
from fer_jax.training.monitor import Monitor


@pytest.mark.parametrize("min_delta", [0.0, 0.05])
@pytest.mark.parametrize("monitor", ["validation/loss", "validation/accuracy"])
@pytest.mark.parametrize("seed", range(5))
def test_stops_and_picks_as_keras(monitor: str, min_delta: float, seed: int) -> None:
    from keras.callbacks import EarlyStopping

    values = np.round(np.random.default_rng(seed).random(60), 2).tolist()
    mode = "min" if monitor.endswith("loss") else "max"

    class Net:
        stop_training = False

    keras = EarlyStopping(monitor="v", min_delta=min_delta, patience=6, mode=mode)
    keras.set_model(Net())
    keras.on_train_begin()
    settings = config.Train(
        monitor=monitor, early_stop=config.EarlyStop(patience=6, min_delta=min_delta)
    )
    ours = Monitor()
    for epoch, value in enumerate(values, 1):
        keras.on_epoch_end(epoch - 1, {"v": value})
        ours = ours.update(settings, epoch, value)
        assert ours.exhausted(settings, epoch) == keras.model.stop_training
        best = (min if mode == "min" else max)(values[:epoch])
        assert (ours.best, ours.best_epoch) == (best, values.index(best) + 1)
        if keras.model.stop_training:
            break
    assert keras.model.stop_training


def test_patience_counts_epochs_not_validations() -> None:
    settings = config.Train(early_stop=config.EarlyStop(patience=4), evaluate_every=2)
    monitor = Monitor()
    stops = []
    for epoch, value in ((2, 0.5), (4, 0.4), (6, 0.4), (8, 0.4)):
        monitor = monitor.update(settings, epoch, value)
        stops.append(monitor.exhausted(settings, epoch))
    assert stops == [False, False, True, True]


def test_no_patience_never_stops() -> None:
    settings = config.Train()
    monitor = Monitor().update(settings, 1, 0.9)
    assert not monitor.update(settings, 500, 0.1).exhausted(settings, 500)
