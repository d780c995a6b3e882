"""C3D against Keras with copied weights, and against the known counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fer_jax import config
from fer_jax.errors import UserError
from fer_jax.models.c3d import C3D, Backbone
from fer_jax.models.model import Inputs, model_of, parameter_count

NARROW = {"widths": (4, 5, 6, 7, 8), "dense": (10, 9)}


def _model(settings, frames, height, width, channels=3, classes=4, **more):
    inputs = Inputs(frames=frames, images=("crops",), image_shape=(height, width, channels))
    return model_of(lambda rngs: C3D(settings, inputs, classes, rngs), **more)


def _params(model, seed=0):
    """Random values, also for biases: zeros would hide how they are used."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0))["params"]

    def draw(leaf):
        deviation = 0.1 if leaf.ndim == 1 else (2 / np.prod(leaf.shape[:-1])) ** 0.5
        return (deviation * rng.standard_normal(leaf.shape)).astype(np.float32)

    return jax.tree.map(draw, shapes)


def _batch(*shape):
    frames = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return {"frames": {"crops": frames}, "frame_mask": np.ones(shape[:2], bool)}


@pytest.mark.parametrize(
    ("pools", "frames", "classes", "count", "flat"),
    [("original", 16, 487, 79_991_015, 8192), ("thesis", 5, 12, 96_919_308, 12_800)],
)
def test_parameters_of_both_forms(pools, frames, classes, count, flat):
    # reproduction.md 3.3
    model = _model(config.C3D(pools=pools), frames, 112, 112, classes=classes)
    params = jax.eval_shape(model.init, jax.random.key(0))["params"]
    assert parameter_count(params) == count
    convs = [params[name] for name in params if name.startswith("conv")]
    assert (len(convs), parameter_count(convs)) == (8, 27_655_936)
    assert params["fc6"]["kernel"].shape == (flat, 4096)
    assert params["fc7"]["kernel"].shape == (4096, 4096)


def _keras(pools, shape, classes):
    import keras

    layers = keras.layers
    zeros = {"kernel_initializer": "zeros"}  # random ones take seconds to compile
    conv = lambda name, width: layers.Conv3D(  # noqa: E731
        width, 3, padding="same", activation="relu", name=name, **zeros
    )
    pool = layers.MaxPooling3D
    later = {"original": lambda: pool(2), "thesis": lambda: pool(1, strides=2)}[pools]
    one, two, three, four, five = NARROW["widths"]
    six, seven = NARROW["dense"]
    return keras.Sequential(
        [
            keras.Input(shape),
            conv("conv1", one), pool((1, 2, 2)),
            conv("conv2", two), pool(2),
            conv("conv3a", three), conv("conv3b", three), later(),
            conv("conv4a", four), conv("conv4b", four), later(),
            conv("conv5a", five), conv("conv5b", five),
            layers.ZeroPadding3D((0, 1, 1)), later(),
            layers.Flatten(),
            layers.Dense(six, activation="relu", name="fc6", **zeros),
            layers.Dense(seven, activation="relu", name="fc7", **zeros),
            layers.Dense(classes, name="classifier", **zeros),
        ]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("pools", "frames", "side"), [("original", 17, (48, 32)), ("thesis", 5, (44, 22))]
)
def test_logits_and_gradients_equal_keras_with_the_same_weights(pools, frames, side):
    model = _model(config.C3D(pools=pools, **NARROW), frames, *side)
    params = _params(model)
    batch = _batch(2, frames, *side, 3)
    with jax.numpy_rank_promotion("allow"):  # here and below: Keras promotes ranks
        twin = _keras(pools, (frames, *side, 3), 4)
    for name, layer in params.items():
        twin.get_layer(name).set_weights([layer["kernel"], layer["bias"]])

    def objective(logits):
        return jnp.sum(jnp.sin(logits) * jnp.arange(logits.size).reshape(logits.shape)), logits

    def ours(params):
        variables = {"params": params, "stats": {}}
        outputs, _ = model.apply(variables, batch, train=False, key=jax.random.key(0))
        return objective(outputs.logits)

    def theirs(weights):
        with jax.numpy_rank_promotion("allow"):
            return objective(twin.stateless_call(weights, [], batch["frames"]["crops"])[0])

    gradient, logits = jax.jit(jax.grad(ours, has_aux=True))(params)
    expected_gradient, expected = jax.jit(jax.grad(theirs, has_aux=True))(
        [v.value for v in twin.trainable_variables]
    )
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    for variable, other in zip(twin.trainable_variables, expected_gradient, strict=True):
        name, part = variable.path.split("/")[-2:]
        scale = float(np.abs(other).max())
        assert scale > 0
        np.testing.assert_allclose(gradient[name][part], other, rtol=1e-4, atol=1e-5 * scale)


def test_levels_are_eight_maps_that_keep_the_frames():
    blank = nnx.eval_shape(lambda: Backbone(6, (4, 5, 6, 7, 8), "glorot", rngs=nnx.Rngs(0)))
    graph, state = nnx.split(blank)
    rng = np.random.default_rng(0)
    state = jax.tree.map(lambda leaf: 0.2 * rng.standard_normal(leaf.shape).astype("f"), state)
    x = np.random.default_rng(0).standard_normal((2, 3, 32, 48, 6)).astype(np.float32)
    levels = jax.jit(lambda x, mask: nnx.merge(graph, state).levels(x, mask=mask))
    maps = levels(x, np.ones((2, 3), bool))
    assert [map.shape[1:] for map in maps] == [
        (3, 32, 48, 4), (3, 16, 24, 5), (3, 8, 12, 6), (3, 8, 12, 6), (3, 4, 6, 7), (3, 4, 6, 7),
        (3, 2, 3, 8), (3, 2, 3, 8),
    ]  # fmt: skip
    assert all((map >= 0).all() and (map > 0).any() for map in maps)
    # Without its padding a clip gives the same: two real frames, then whatever stands there.
    padded = levels(x, np.array([[True, True, False]] * 2))
    for alone, map in zip(levels(x[:, :2], np.ones((2, 2), bool)), padded, strict=True):
        np.testing.assert_allclose(map[:, :2], alone, rtol=1e-5, atol=1e-6)
        assert not map[:, 2].any()


def test_dropout_follows_the_key_and_only_in_training():
    model = _model(config.C3D(pools="thesis", **NARROW), 3, 20, 20)
    variables, batch = {"params": _params(model), "stats": {}}, _batch(2, 3, 20, 20, 3)
    apply = jax.jit(model.apply, static_argnames="train")

    def logits(seed, train):
        outputs, stats = apply(variables, batch, train=train, key=jax.random.key(seed))
        assert stats == {} and outputs.landmarks is None and outputs.embedding.shape == (2, 9)
        return np.asarray(outputs.logits)

    assert not np.allclose(logits(1, True), logits(2, True))
    assert not np.allclose(logits(1, True), logits(1, False))
    np.testing.assert_array_equal(logits(1, False), logits(2, False))


def test_the_classifier_may_read_the_maps():
    model = _model(config.C3D(pools="thesis", widths=(4, 4, 4, 4, 4), dense=()), 2, 20, 20)
    shapes = jax.eval_shape(model.init, jax.random.key(0))["params"]
    assert shapes["classifier"]["kernel"].shape == (1 * 2 * 2 * 4, 4)


def test_bfloat16_convolves_in_bfloat16():
    model = _model(config.C3D(pools="thesis", **NARROW), 5, 20, 20, precision="bfloat16")
    variables = jax.eval_shape(model.init, jax.random.key(0))
    run = jax.jit(lambda v, b: model.apply(v, b, train=True, key=jax.random.key(0))[0])
    traced = run.trace(variables, _batch(2, 5, 20, 20, 3))
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    products = [line for line in text.splitlines() if "convolution(" in line or "dot_" in line]
    assert len(products) == 8 + 3 and all("f32" not in line for line in products)
    assert traced.out_info.logits.dtype == jnp.float32


@pytest.mark.parametrize(
    ("settings", "inputs", "message"),
    [
        (
            config.C3D(),
            {"frames": 5},
            r"pools=original needs samples of at least 16 frames, not 5: set data.frames=16",
        ),
        (config.C3D(pools="thesis"), {"frames": 1}, r"at least 2 frames, not 1"),
        (config.C3D(), {"image_shape": (15, 20, 3)}, r"at least 16 pixels, not 15"),
        (config.C3D(widths=(4, 4)), {}, r"model.widths has 2 widths: give 5"),
        (config.C3D(), {"images": ()}, r"model c3d reads images"),
        (config.C3D(), {"features": 3}, r"reads images alone: set data\.features=none"),
        (config.C3D(), {"images": ("crops", "frontal")}, r"reads 1 image stream"),
    ],
)
def test_settings_that_cannot_be_are_one_clear_line(settings, inputs, message):
    usual = {"frames": 16, "images": ("crops",), "image_shape": (32, 32, 3)}
    with pytest.raises(UserError, match=message) as error:
        model_of(lambda rngs: C3D(settings, Inputs(**{**usual, **inputs}), 4, rngs))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("pools", "frames", "side"), [("original", 16, 16), ("thesis", 2, 20)])
def test_the_smallest_clips_survive_the_pools(pools, frames, side):
    model = _model(config.C3D(pools=pools, **NARROW), frames, side, side)
    variables, batch = {"params": _params(model), "stats": {}}, _batch(1, frames, side, side, 3)
    outputs = jax.eval_shape(
        lambda: model.apply(variables, batch, train=False, key=jax.random.key(0))[0]
    )
    assert outputs.logits.shape == (1, 4)
