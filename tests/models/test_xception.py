"""Xception against keras.applications with copied weights, and against its counts."""

import re

import numpy as np
import pytest

from fer_jax import config
from fer_jax.errors import UserError

#: keras.applications' widths -> those that the tests have time for.
NARROW = {32: 3, 64: 4, 128: 5, 256: 6, 728: 7, 1024: 8, 1536: 9, 2048: 10}
#: The same in ours, with one middle block of the eight.
WHOLE = config.Xception(
    stem=(3, 4), entry=(5, 6, 7), middle=1, exit=(8, 9, 10), dense=0, dropout=0.0
)
SMALL = config.Xception(
    stem=(3, 4), stem_stride=1, entry=(5, 6), middle=1, exit=(), dense=5, dropout=0.0
)
#: Of the twins' layers: random initial weights would take most of the time.
CONV = {"kernel_initializer": "zeros"}
SEPARABLE = {"depthwise_initializer": "zeros", "pointwise_initializer": "zeros"}
TINY = config.Xception(stem=(2, 3), entry=(4,), middle=0, exit=(), dense=5, dropout=0.5)


@pytest.fixture(scope="module")
def models():
    from fer_jax import models

    return models


def _inputs(models, side, channels, frames=1):
    return models.Inputs(frames=frames, images=("crops",), image_shape=(side, side, channels))


def _model(models, settings, side, channels, classes=3, **options):
    from fer_jax.models.xception import Xception

    inputs = _inputs(models, side, channels)
    return models.model.model_of(lambda rngs: Xception(settings, inputs, classes, rngs), **options)


def _batch(side, channels, batch=4):
    x = np.random.default_rng(0).standard_normal((batch, 1, side, side, channels))
    return {"frames": {"crops": x.astype(np.float32)}, "frame_mask": np.ones((batch, 1), bool)}


def _variables(model):
    """Weights of Glorot's size, but no scale of one, no bias of zero, and averages as after
    training."""
    import jax

    from fer_jax.models.paths import flatten, unflatten

    rng = np.random.default_rng(1)

    def draw(path, leaf):
        if path.endswith("kernel"):
            values = rng.standard_normal(leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))
            return values * 3 if "depthwise" in path else values
        return rng.uniform(-0.3, 0.3, leaf.shape) + path.endswith(("scale", "var"))

    leaves = flatten(jax.eval_shape(model.init, jax.random.key(0)))
    return unflatten({path: np.float32(draw(path, leaf)) for path, leaf in leaves.items()})


def _application(monkeypatch, side, channels, classes):
    """keras.applications.Xception, narrow, with one middle block, and for images of any size."""
    import keras
    from keras.src.applications import xception

    class Layers:
        def __getattr__(self, name):
            return getattr(keras.layers, name)

        def Conv2D(self, width, *args, **kwargs):
            return keras.layers.Conv2D(NARROW[width], *args, **CONV, **kwargs)

        def SeparableConv2D(self, width, *args, **kwargs):
            return keras.layers.SeparableConv2D(NARROW[width], *args, **SEPARABLE, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(xception, "layers", Layers())
        patch.setattr(xception, "range", lambda blocks: range(1), raising=False)
        patch.setattr(
            xception.imagenet_utils, "obtain_input_shape", lambda shape, **_: tuple(shape)
        )
        return xception.Xception(
            weights=None,
            input_shape=(side, side, channels),
            classes=classes,
            classifier_activation=None,
        )


def _small_twin(side, channels, classes):
    """SMALL in Keras."""
    import keras

    layers = keras.layers

    def normed(x, layer):
        x = layer(x)
        return layers.BatchNormalization(name=f"{layer.name}_bn")(x)

    image = x = keras.Input((side, side, channels))
    for index, width in enumerate(SMALL.stem, 1):
        x = normed(x, layers.Conv2D(width, 3, use_bias=False, name=f"block1_conv{index}", **CONV))
        x = layers.ReLU()(x)
    plan = [(2, (5, 5), True), (3, (6, 6), True), (4, (6, 6, 6), False)]
    for block, widths, halves in plan:
        y = x
        for index, width in enumerate(widths, 1):
            if index > 1 or block > 2:
                y = layers.ReLU()(y)
            name = f"block{block}_sepconv{index}"
            y = normed(
                y,
                layers.SeparableConv2D(
                    width, 3, padding="same", use_bias=False, name=name, **SEPARABLE
                ),
            )
        if halves:
            y = layers.MaxPooling2D(3, 2, padding="same")(y)
            name = f"block{block}_residual"
            x = normed(x, layers.Conv2D(width, 1, strides=2, use_bias=False, name=name, **CONV))
        x = layers.Add()([x, y])
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(SMALL.dense, activation="relu", name="feature")(x)
    return keras.Model(image, layers.Dense(classes, name="classifier")(x))


def _our_paths(twin):
    """Our paths of the twin's weights, by identity."""
    numbered = {"conv2d": "", "batch_normalization": "_bn"}
    shortcuts = [f"block{block}_residual" for block in (2, 3, 4, 6)]
    names = {"predictions": "classifier"}
    for layer in twin.layers:  # blocks 13 and 14, after seven middle blocks that are not there
        if found := re.fullmatch(r"block(1[34])_(\w+)", layer.name):
            names[layer.name] = f"block{int(found[1]) - 7}_{found[2]}"
    for kind, ending in numbered.items():
        found = [layer.name for layer in twin.layers if re.fullmatch(rf"{kind}(_\d+)?", layer.name)]
        found.sort(key=lambda name: int((name.removeprefix(kind) or "_0")[1:]))
        names |= dict(zip(found, [f"{name}{ending}" for name in shortcuts], strict=bool(found)))
    leaves = {"gamma": "scale", "beta": "bias", "moving_mean": "mean", "moving_variance": "var"}
    return {
        id(weight): f"{names.get(layer.name, layer.name)}/{leaves.get(weight.name, weight.name)}"
        for layer in twin.layers
        for weight in layer.weights
    }


def _assert_near(found, expected, tolerance):
    """Each array within `tolerance` of the largest of its own values."""
    assert set(found) == set(expected)
    for path, value in expected.items():
        atol = tolerance * float(np.abs(value).max())
        np.testing.assert_allclose(found[path], value, rtol=0, atol=atol, err_msg=path)


@pytest.mark.parametrize("name", ["application", "small"])
def test_network_equals_keras_with_the_same_weights(models, monkeypatch, name):
    import jax
    import jax.numpy as jnp
    import optax

    from fer_jax.models.paths import flatten

    settings, side = (WHOLE, 48) if name == "application" else (SMALL, 21)
    with jax.numpy_rank_promotion("allow"):  # here and below: Keras promotes ranks
        if settings is SMALL:
            twin = _small_twin(side, 1, 3)
        else:
            twin = _application(monkeypatch, side, 1, 3)
    model = _model(models, settings, side, 1)
    variables, paths = _variables(model), _our_paths(twin)
    weights = flatten(variables["params"]) | flatten(variables["stats"])
    assert sorted(weights) == sorted(paths.values())
    for weight in twin.weights:
        weight.assign(weights[paths[id(weight)]])
    batch, labels = _batch(side, 1), jnp.array([0, 2, 1, 1])

    def ours(params, train):
        outputs, stats = model.apply(
            {**variables, "params": params}, batch, train=train, key=jax.random.key(0)
        )
        loss = optax.softmax_cross_entropy_with_integer_labels(outputs.logits, labels).mean()
        return loss, (outputs.logits, stats)

    def theirs(values, train):
        with jax.numpy_rank_promotion("allow"):
            logits, rest = twin.stateless_call(
                values,
                [v.value for v in twin.non_trainable_variables],
                batch["frames"]["crops"][:, 0],
                training=train,
            )
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, (logits, rest)

    def by_path(variables, values):
        named = {paths[id(v)]: value for v, value in zip(variables, values, strict=True)}
        return {path: value for path, value in named.items() if path in weights}

    values = [v.value for v in twin.trainable_variables]
    logits = jax.jit(ours, static_argnums=1)(variables["params"], False)[1][0]
    expected = jax.jit(theirs, static_argnums=1)(values, False)[1][0]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)

    # Unoptimised: the gradients would take longer to compile than all else here.
    options = {"xla_backend_optimization_level": 0}
    ours, theirs = (
        jax.jit(jax.value_and_grad(f, has_aux=True), static_argnums=1, compiler_options=options)
        for f in (ours, theirs)
    )
    (loss, (logits, stats)), gradient = ours(variables["params"], True)
    (their_loss, (expected, rest)), their_gradient = theirs(values, True)
    np.testing.assert_allclose(loss, their_loss, rtol=1e-4)
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)
    _assert_near(flatten(stats), by_path(twin.non_trainable_variables, rest), 1e-5)
    found = by_path(twin.trainable_variables, their_gradient)
    _assert_near(flatten(gradient), found, 1e-4)


def test_parameters_of_keras_applications(models):
    """keras.applications.Xception() has 22,910,480, of which 22,855,952 train."""
    import jax

    shapes = jax.eval_shape(
        _model(models, config.Xception(dense=0), 299, 3, classes=1000).init, jax.random.key(0)
    )
    assert models.parameter_count(shapes["params"]) == 22_855_952
    assert models.parameter_count(shapes["params"]) + models.parameter_count(shapes["stats"]) == (
        22_910_480
    )


@pytest.mark.parametrize("side", [48, 71, 96, 299])
def test_paper_2s_head_at_every_size(models, side):
    import jax

    model = _model(models, config.Xception(), side, 1, classes=7)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    params = variables["params"]
    assert params["block1_conv1"]["kernel"].shape == (3, 3, 1, 32)
    assert params["feature"]["kernel"].shape == (2048, 1024)
    assert params["classifier"]["kernel"].shape == (1024, 7)
    run = lambda v: model.apply(v, _batch(side, 1, 2), train=False, key=jax.random.key(0))[0]  # noqa: E731
    outputs = jax.eval_shape(run, variables)
    assert outputs.logits.shape == (2, 7) and outputs.embedding.shape == (2, 1024)
    assert outputs.landmarks is None


def test_embed_is_the_embedding_and_needs_no_classifier(models):
    import jax
    from flax import nnx

    from fer_jax.models.xception import Xception

    batch, keys = _batch(12, 1), jax.random.split(jax.random.key(0), 4)

    @jax.jit
    def run():
        whole = Xception(TINY, _inputs(models, 12, 1), 3, nnx.Rngs(0))
        part = Xception(TINY, _inputs(models, 12, 1), 0, nnx.Rngs(0))
        assert not hasattr(part, "classifier") and part.embedding_size == TINY.dense
        embedding = part.embed(batch["frames"]["crops"][:, 0], train=False, key=keys)
        return embedding, whole(batch, train=False, key=keys).embedding

    embedding, expected = run()
    np.testing.assert_allclose(embedding, expected, rtol=1e-6)
    assert embedding.shape == (4, TINY.dense)


def test_dropout_acts_before_the_classifier_and_filler_counts_nothing(models):
    import jax

    model = _model(models, TINY, 12, 1)
    variables, batch = _variables(model), _batch(12, 1)
    run = jax.jit(lambda batch, key: model.apply(variables, batch, train=True, key=key))
    one, stats = run(batch, jax.random.key(1))
    two, _ = run(batch, jax.random.key(2))
    np.testing.assert_array_equal(one.embedding, two.embedding)
    assert not np.allclose(one.logits, two.logits)

    frames = batch["frames"]["crops"]
    filled = {
        **batch,
        "frames": {"crops": np.concatenate([frames, 100 + frames[:2]])},
        "frame_mask": np.ones((6, 1), bool),
        "weight": np.float32([1, 1, 1, 1, 0, 0]),
    }
    same, same_stats = run(filled, jax.random.key(1))
    np.testing.assert_allclose(same.logits[:4], one.logits, rtol=1e-4, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), same_stats, stats
    )


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_bfloat16_leaves_no_float32_product(models, platform):
    import jax

    model = _model(models, TINY, 12, 1, precision="bfloat16")
    variables = _variables(model)
    run = jax.jit(lambda v: model.apply(v, _batch(12, 1), train=True, key=jax.random.key(0)))
    text = run.trace(variables).lower(lowering_platforms=(platform,)).as_text()
    products = [
        line
        for line in text.splitlines()
        if "stablehlo.convolution" in line or "stablehlo.dot_general" in line
    ]
    # two of the stem, a shortcut, two pointwise, two dense; depthwise ones are none on a CPU
    assert len(products) == (7 if platform == "cpu" else 9)
    assert not [line for line in products if "f32" in line]


@pytest.mark.parametrize(
    ("settings", "side", "frames", "message"),
    [
        (config.Xception(), 6, 1, "at least 7 pixels, not 6: set data.image_size=7"),
        (config.Xception(stem_stride=1), 4, 1, "at least 5 pixels"),
        (config.Xception(stem=(8,)), 48, 1, "give stem two widths"),
        (config.Xception(exit=(8, 0)), 48, 1, "widths of at least 1"),
        (config.Xception(), 48, 5, "data.length=frames"),
    ],
)
def test_settings_that_cannot_be_are_one_clear_line(models, settings, side, frames, message):
    from flax import nnx

    from fer_jax.models.xception import Xception

    with pytest.raises(UserError, match=message) as error:
        Xception(settings, _inputs(models, side, 1, frames), 3, nnx.Rngs(0))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("stem_stride", [1, 2])
def test_smallest_image_has_an_output(models, stem_stride):
    import jax

    side = 3 + 2 * stem_stride
    model = _model(models, config.Xception(stem_stride=stem_stride), side, 1)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    run = lambda v: model.apply(v, _batch(side, 1), train=False, key=jax.random.key(0))[0]  # noqa: E731
    assert jax.eval_shape(run, variables).logits.shape == (4, 3)
