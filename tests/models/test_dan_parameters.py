"""EmotionalDAN's parameters against the paper's counts, and what it says of wrong settings."""

import math

import numpy as np
import pytest

from fer_jax import config
from fer_jax.errors import UserError


def _inputs(side, **changes):
    from fer_jax.models.model import Inputs

    given = {"frames": 1, "images": ("crops",), "image_shape": (side, side, 1)}
    return Inputs(**{**given, "landmarks": True, **changes})


def _model(settings, side, classes=7):
    from fer_jax.models.dan import EmotionalDAN
    from fer_jax.models.model import model_of

    return model_of(lambda rngs: EmotionalDAN(settings, _inputs(side), classes, rngs))


@pytest.mark.parametrize(
    ("side", "stage_1", "stage_2"),
    # reproduction.md 4.1: the 33,640,661 of 224 pixels hold the emotion's 7 * 257
    [(112, 11_146_312, 11_953_422), (224, 30_413_896, 33_640_661 - 1_799)],
)
def test_parameters_of_paper_4(side, stage_1, stage_2):
    import jax

    from fer_jax.models.model import parameter_count

    model = _model(config.EmotionalDAN(), side)
    params = jax.eval_shape(model.init, jax.random.key(0))["params"]
    counts = {name: parameter_count(part) for name, part in params.items()}
    assert counts == {"stage1": stage_1, "stage2": stage_2, "classifier": 1_799}
    alone = _model(config.EmotionalDAN(stages=1), side)
    params = jax.eval_shape(alone.init, jax.random.key(0))["params"]
    assert {name: parameter_count(part) for name, part in params.items()} == {"stage1": stage_1}


def test_parameter_names_are_the_papers():
    import jax

    from fer_jax.models.paths import flatten

    for order in ("relu-bn", "bn-relu"):
        settings = config.EmotionalDAN(order=order)
        params = jax.eval_shape(_model(settings, 112).init, jax.random.key(0))["params"]
        found = {path: leaf.shape for path, leaf in flatten(params).items()}
        biased = order == "relu-bn"  # DAN's normalised layers have none
        assert ("stage1/conv1a/bias" in found) == ("stage2/fc1/bias" in found) == biased
        assert found["stage1/conv1a/kernel"] == (3, 3, 1, 64)
        assert found["stage2/conv1a/kernel"] == (3, 3, 3, 64)
        assert found["stage2/conv4b_bn/scale"] == (512,)
        assert found["stage2/input_bn/bias"] == (3,)
        assert found["stage2/feature/kernel"] == (256, 56 * 56)
        assert found["stage1/fc1/kernel"] == (25_088, 256)
        assert found["stage1/fc2/bias"] == (136,)
        assert found["classifier/kernel"] == (256, 7)


@pytest.mark.parametrize(
    ("order", "stages", "gain"), [("relu-bn", 1, 1), ("bn-relu", 2, math.sqrt(2))]
)
def test_layers_start_as_glorot_says(order, stages, gain):
    import jax

    settings = config.EmotionalDAN(stages=stages, widths=(16,), dense=64, order=order)
    params = _model(settings, 18).init(jax.random.key(0))["params"][f"stage{stages}"]
    fans = {"conv1b": 9 * (16 + 16), "fc1": 81 * 16 + 64, "feature": 64 + 81, "fc2": 64 + 136}
    assert set(fans) - set(params) == ({"feature"} if stages == 1 else set())
    for name in set(fans) & set(params):
        limit = (1 if name == "fc2" else gain) * math.sqrt(6 / fans[name])
        kernel = np.asarray(params[name]["kernel"])
        assert np.abs(kernel).max() <= limit * 1.0001
        np.testing.assert_allclose(kernel.std(), limit / math.sqrt(3), rtol=0.1)


@pytest.mark.parametrize(
    ("settings", "inputs", "message"),
    [
        ({}, {"landmarks": False}, "data.landmarks=true"),
        ({}, {"images": ()}, "data.images=crops"),
        ({}, {"images": ("crops", "frontal")}, r"1 image stream\(s\), not 2"),
        ({}, {"frames": 5}, "data.length=frames"),
        ({}, {"image_shape": (112, 96, 1)}, "data.image_size=96"),
        ({}, {"image_shape": (90, 90, 1)}, "data.image_size=80"),
        ({"patch": 32}, {"image_shape": (32, 32, 1)}, "model.patch=32 does not fit"),
        ({"widths": ()}, {}, "model.widths is empty"),
    ],
)
def test_settings_that_cannot_be_are_one_clear_line(settings, inputs, message):
    from flax import nnx

    from fer_jax.models.dan import EmotionalDAN

    with pytest.raises(UserError, match=message) as error:
        EmotionalDAN(config.EmotionalDAN(**settings), _inputs(112, **inputs), 7, nnx.Rngs(0))
    assert "\n" not in str(error.value)
