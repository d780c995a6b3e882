"""CNN(2) and CNN(5) against Keras with copied weights, and against their closed-form counts."""

import itertools

import numpy as np
import pytest

from fer_jax import config
from fer_jax.errors import UserError

CNN_5 = config.SmallCNN(kernels=(3,) * 5, widths=(32, 64, 128, 256, 256), padding="same")


@pytest.fixture(scope="module")
def jax():
    return pytest.importorskip("jax")


def _model(settings, shape, classes=3, frames=1, streams=("crops",), **options):
    from fer_jax.models.model import Inputs, model_of
    from fer_jax.models.small_cnn import SmallCNN

    inputs = Inputs(frames, images=streams, image_shape=shape)
    return model_of(lambda rngs: SmallCNN(settings, inputs, classes, rngs), **options)


def _batch(shape, count=4):
    frames = np.random.default_rng(0).standard_normal((count, 1, *shape)).astype(np.float32)
    return {"frames": {"crops": frames}}


def _params(jax, model, seed=1):
    """Drawn by NumPy: compiling the initialisers would take longer than all else here."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0))["params"]
    draw = lambda leaf: rng.normal(0.05, 0.2, leaf.shape).astype(np.float32)  # noqa: E731
    return jax.tree.map(draw, shapes)


def _run(jax, model, batch, train):
    """(params, seed) -> Outputs, compiled."""

    def run(params, seed):
        variables, key = {"params": params, "stats": {}}, jax.random.key(seed)
        return model.apply(variables, batch, train=train, key=key)[0]

    return jax.jit(run)


def test_parameters(jax):
    from fer_jax.models import parameter_count

    def count(settings, shape):
        model = _model(settings, shape, classes=7)
        return parameter_count(jax.eval_shape(model.init, jax.random.key(0)))

    # CNN(2) at 32x32 grey: 32 - 4 halves to 14, 14 - 6 halves to 4.
    fully_connected = (4 * 4 * 64 + 1) * 256 + 257 * 7
    assert count(config.SmallCNN(), (32, 32, 1)) == 26 * 32 + (49 * 32 + 1) * 64 + fully_connected
    # CNN(5) at 64x48: halved five times to 2x1.
    widths = (1, 32, 64, 128, 256, 256)
    convolutions = sum((9 * a + 1) * b for a, b in itertools.pairwise(widths))
    assert count(CNN_5, (64, 48, 1)) == convolutions + (2 * 256 + 1) * 256 + 257 * 7


NARROW = {
    "CNN(2)": (config.SmallCNN(widths=(4, 6), dense=(9,)), (22, 25, 1)),
    "CNN(5)": (config.SmallCNN(kernels=(3,) * 5, widths=(4, 5, 6, 7, 8), padding="same",
                               dense=(9, 7)), (33, 64, 3)),
    "no dense layer": (config.SmallCNN(kernels=(2,), widths=(3,), dense=()), (8, 9, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", NARROW)
def test_outputs_and_gradients_equal_keras(jax, name):
    import keras

    settings, shape = NARROW[name]
    model = _model(settings, shape)
    params, batch = _params(jax, model), _batch(shape)
    layers, stack = keras.layers, [keras.Input(shape)]
    for kernel, width in zip(settings.kernels, settings.widths, strict=True):
        stack.append(layers.Conv2D(width, kernel, padding=settings.padding, activation="relu"))
        stack.append(layers.MaxPooling2D())
    stack += [layers.Flatten(), *(layers.Dense(n, activation="relu") for n in settings.dense)]
    # Here and below: Keras promotes ranks. Nor are its own initial weights drawn.
    with jax.numpy_rank_promotion("allow"), keras.StatelessScope(initialize_variables=False):
        twin = keras.Sequential([*stack, layers.Dense(3)])
    order = [f"conv_{i}" for i in range(len(settings.kernels))]
    order += [f"dense_{i}" for i in range(len(settings.dense))]
    flat = lambda tree: [tree[k][p] for k in (*order, "classifier") for p in ("kernel", "bias")]  # noqa: E731
    direction = np.random.default_rng(2).standard_normal((4, 3)).astype(np.float32)

    def ours(params):
        variables = {"params": params, "stats": {}}
        outputs, stats = model.apply(variables, batch, train=True, key=jax.random.key(0))
        assert stats == {}
        return (outputs.logits * direction).sum(), outputs.logits

    def theirs(weights):
        with jax.numpy_rank_promotion("allow"):
            logits, _ = twin.stateless_call(weights, [], batch["frames"]["crops"][:, 0])
        return (logits * direction).sum(), logits

    gradient, logits = jax.jit(jax.grad(ours, has_aux=True))(params)
    expected, expected_logits = jax.jit(jax.grad(theirs, has_aux=True))(flat(params))
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-5, atol=1e-5)
    for one, other in zip(flat(gradient), expected, strict=True):
        assert np.abs(other).max() > 1e-3
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_dropout_is_before_the_classifier(jax):
    shape = (20, 20, 1)
    settings = config.SmallCNN(widths=(4, 6), dense=(9,), dropout=0.5)
    model, batch = _model(settings, shape), _batch(shape)
    params = _params(jax, model)
    train, test = (_run(jax, model, batch, train) for train in (True, False))
    one, other = train(params, 1), train(params, 2)
    assert one.embedding.shape == (4, 9)
    np.testing.assert_array_equal(one.embedding, other.embedding)
    assert not np.allclose(one.logits, other.logits)
    np.testing.assert_array_equal(test(params, 1).logits, test(params, 2).logits)


def test_bfloat16_stays_near_float32(jax):
    shape, settings = (20, 20, 1), config.SmallCNN(widths=(4, 6), dense=(9,))
    params, batch = _params(jax, _model(settings, shape)), _batch(shape)
    whole, half = (
        _run(jax, _model(settings, shape, precision=name), batch, True)
        for name in ("float32", "bfloat16")
    )
    exact, rounded = whole(params, 0).logits, half(params, 0).logits
    program = str(jax.make_jaxpr(half)(params, 0)).splitlines()
    convolutions = [line for line in program if "conv_general_dilated[" in line]
    assert len(convolutions) == 2 and all(":bf16[" in line for line in convolutions)
    assert rounded.dtype == np.float32 and not np.array_equal(rounded, exact)
    np.testing.assert_allclose(rounded, exact, atol=0.02 * np.abs(exact).max())


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        (config.SmallCNN(), {"shape": (32, 19, 1)}, "at least 20 pixels, not 19"),
        (CNN_5, {"shape": (31, 48, 1)}, "at least 32 pixels, not 31"),
        (config.SmallCNN(kernels=(3,)), {}, "model.kernels has 1 and model.widths 2 numbers"),
        (config.SmallCNN(kernels=(), widths=()), {}, "at least one"),
        (config.SmallCNN(widths=(0, 4)), {}, "must be at least 1"),
        (config.SmallCNN(), {"frames": 5}, "data.length=frames"),
        (config.SmallCNN(), {"streams": ("crops", "frontal")}, "reads 1 image stream"),
        (config.SmallCNN(), {"streams": ()}, "data.images=crops"),
    ],
)
def test_settings_that_cannot_be_are_one_clear_line(jax, settings, change, message):
    with pytest.raises(UserError, match=message) as error:
        _model(settings, **{"shape": (32, 32, 1)} | change)
    assert "\n" not in str(error.value)
