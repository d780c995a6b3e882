"""VGG-Face against Keras with copied weights, and against the counts of reproduction.md 3.1."""

import re
from functools import partial
from itertools import pairwise

import numpy as np
import pytest

from fer_jax import config
from fer_jax.errors import UserError

NARROW = {"widths": (4, 4, 6, 6, 8)}
CONVOLUTIONS = (2, 2, 3, 3, 3)
STACK = 14_714_688


@pytest.fixture(scope="module")
def models():
    from fer_jax import models

    return models


def _model(models, settings, images=("crops",), side=64, features=0, classes=3, **options):
    from fer_jax.models.vgg_face import VGGFace

    inputs = models.Inputs(frames=1, features=features, images=images, image_shape=(side, side, 3))
    make = lambda rngs: VGGFace(settings, inputs, classes, rngs)  # noqa: E731
    return models.model.model_of(make, **options)


def _variables(model):
    """Drawn so that what passes 13 ReLUs neither fades nor hides the biases, and by NumPy: no
    compilation."""
    import jax

    rng = np.random.default_rng(0)

    def draw(leaf):
        fan_in = np.prod(leaf.shape[:-1])
        scale, offset = (0, 0.1) if leaf.ndim == 1 else (np.sqrt(2 / fan_in), 0)
        return (scale * rng.standard_normal(leaf.shape) + offset).astype(np.float32)

    return jax.tree.map(draw, jax.eval_shape(model.init, jax.random.key(0)))


def _run(model, variables, batch):
    import jax

    run = jax.jit(lambda v: model.apply(v, batch, train=False, key=jax.random.key(0))[0])
    return run(variables)


def _batch(images=("crops",), side=64, features=0, batch=3):
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    frames = {name: draw(batch, 1, side, side, 3) for name in images}
    vectors = {"features": draw(batch, 1, features)} if features else {}
    return {"frames": frames, "frame_mask": np.ones((batch, 1), bool), **vectors}


@pytest.mark.parametrize(
    ("dense", "images", "features", "classes", "head", "millions"),
    [
        ((4096, 4096, 2622), ("crops",), 0, 6, 130_303_928, 130.3),
        ((4096, 4096, 2622), ("frontal",), 136, 6, 130_860_984, 130.9),
        ((1024, 1024, 512), ("crops", "frontal"), 0, 6, 52_958_726, 53.0),
        ((512, 512, 512), ("crops",), 0, 12, 13_377_036, 13.4),
    ],
)
def test_parameters_of_paper_3(models, dense, images, features, classes, head, millions):
    import jax

    settings = config.VGGFace(dense=dense)
    model = _model(models, settings, images, 224, features, classes)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    params = variables["params"]
    assert variables["stats"] == {}
    for stream in images:
        assert models.parameter_count(params[f"stack_{stream}"]) == STACK
    units = (25_088 * len(images) + features, *dense, classes)
    assert head == sum((a + 1) * b for a, b in pairwise(units))
    assert models.parameter_count(params) - STACK * len(images) == head
    assert round(head / 1e6, 1) == millions


def _twin(settings, images, side, features, classes):
    """The network in Keras; its layers are named by our paths, with "." for "/"."""
    import keras

    layers, inputs, parts = keras.layers, [], []
    for stream in images:
        x = keras.Input((side, side, 3), name=stream)
        inputs.append(x)
        for block, (count, width) in enumerate(zip(CONVOLUTIONS, settings.widths, strict=True), 1):
            for index in range(1, count + 1):
                name = f"stack_{stream}.conv{block}_{index}"
                x = layers.Conv2D(width, 3, padding="same", activation="relu", name=name)(x)
            x = layers.MaxPooling2D()(x)
        pool = {
            "flatten": layers.Flatten,
            "average": layers.GlobalAveragePooling2D,
            "max": layers.GlobalMaxPooling2D,
        }
        parts.append(pool[settings.pooling]()(x))
    if features:
        parts.append(keras.Input((features,), name="features"))
        inputs.append(parts[-1])
    x = layers.Concatenate()(parts) if len(parts) > 1 else parts[0]
    for index, units in enumerate(settings.dense):
        x = layers.Dense(units, activation="relu", name=f"fc{6 + index}")(x)
    inputs = inputs if len(inputs) > 1 else inputs[0]
    return keras.Model(inputs, layers.Dense(classes, name="classifier")(x))


@pytest.mark.parametrize(
    ("pooling", "dense", "images", "features"),
    [
        ("flatten", (7, 6, 5), ("crops", "frontal"), 4),
        ("average", (7, 6), ("frontal",), 5),
        ("max", (), ("crops",), 0),
    ],
)
def test_loss_and_gradients_equal_keras_with_the_same_weights(
    models, pooling, dense, images, features
):
    import jax
    import jax.numpy as jnp
    import optax

    from fer_jax.models.paths import flatten

    settings = config.VGGFace(pooling=pooling, dense=dense, **NARROW)
    model = _model(models, settings, images, features=features)
    params = _variables(model)["params"]
    batch, labels = _batch(images, features=features), jnp.array([0, 2, 1])
    with jax.numpy_rank_promotion("allow"):  # here and below: Keras promotes ranks
        twin = _twin(settings, images, 64, features, 3)
    x = [batch["frames"][name][:, 0] for name in images]
    x += [batch["features"][:, 0]] if features else []
    leaves = flatten(params)
    paths = [variable.path.replace(".", "/") for variable in twin.trainable_variables]
    assert sorted(paths) == sorted(leaves)

    def cross_entropy(logits):
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def ours(params):
        outputs, _ = model.apply(
            {"params": params, "stats": {}}, batch, train=False, key=jax.random.key(0)
        )
        return cross_entropy(outputs.logits), outputs.logits

    def theirs(weights):
        with jax.numpy_rank_promotion("allow"):
            logits, _ = twin.stateless_call(weights, [], x if len(x) > 1 else x[0])
        return cross_entropy(logits), logits

    (_, logits), gradient = jax.jit(jax.value_and_grad(ours, has_aux=True))(params)
    (_, expected), other = jax.jit(jax.value_and_grad(theirs, has_aux=True))(
        [leaves[path] for path in paths]
    )
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    assert np.ptp(np.asarray(logits), axis=0).max() > 1e-3, "the images must matter"
    gradient = flatten(gradient)
    for path, theirs_too in zip(paths, other, strict=True):
        scale = np.abs(theirs_too).max()
        assert scale > 0, path
        np.testing.assert_allclose(
            gradient[path], theirs_too, rtol=1e-4, atol=2e-5 * scale, err_msg=path
        )


def test_convolutions_equal_keras_vgg16_at_full_width(models):
    import jax
    import keras

    model = _model(models, config.VGGFace(dense=()), side=32)
    variables = _variables(model)
    params = variables["params"]
    batch = _batch(side=32, batch=2)
    with jax.numpy_rank_promotion("allow"):
        twin = keras.applications.VGG16(include_top=False, weights=None, input_shape=(32, 32, 3))
        for block, count in enumerate(CONVOLUTIONS, 1):
            for index in range(1, count + 1):
                layer = params["stack_crops"][f"conv{block}_{index}"]
                twin.get_layer(f"block{block}_conv{index}").set_weights(
                    [np.asarray(layer["kernel"]), np.asarray(layer["bias"])]
                )
        expected = np.asarray(twin(batch["frames"]["crops"][:, 0])).reshape(2, 512)
    outputs = _run(model, variables, batch)
    assert expected.std() > 0
    np.testing.assert_allclose(
        outputs.embedding, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max()
    )


def test_names_serve_freezing_and_transfer(models):
    import jax

    from fer_jax.models.paths import flatten, matches

    def paths(images):
        model = _model(models, config.VGGFace(**NARROW), images)
        return set(flatten(jax.eval_shape(model.init, jax.random.key(0))["params"]))

    both = paths(("crops", "frontal"))
    convolutions = {path for path in both if path.startswith("stack_")}
    assert len(convolutions) == 2 * 13 * 2
    assert {p.split("/")[0] for p in both - convolutions} == {"fc6", "fc7", "fc8", "classifier"}
    assert convolutions == {path for path in both if matches(path, ("stack_*",))}
    first = {path for path in both if matches(path, ("stack_*/conv1_*", "stack_*/conv2_*"))}
    assert first == {
        f"stack_{stream}/conv{block}_{index}/{part}"
        for stream in ("crops", "frontal")
        for block in (1, 2)
        for index in (1, 2)
        for part in ("kernel", "bias")
    }
    # a two-stream network's stacks are where two single networks have theirs
    assert convolutions < paths(("crops",)) | paths(("frontal",))


@pytest.mark.parametrize(("feature", "layer"), [(0, None), (2, 7), (9, 8)])
def test_embedding_is_the_chosen_layer_after_relu(models, feature, layer):
    settings = config.VGGFace(feature=feature, dense=(7, 6, 5), **NARROW)
    model = _model(models, settings)
    variables = _variables(model)
    outputs = _run(model, variables, _batch())
    x = np.asarray(outputs.embedding, np.float64)
    assert x.shape == (3, 2 * 2 * 8 if layer is None else settings.dense[layer - 6])
    assert (x >= 0).all() and (x > 0).any()
    # what follows the embedding, in NumPy, gives the logits
    for index in range(6 if layer is None else layer + 1, 9):
        dense = variables["params"][f"fc{index}"]
        x = np.maximum(x @ np.float64(dense["kernel"]) + np.float64(dense["bias"]), 0)
    last = variables["params"]["classifier"]
    x = x @ np.float64(last["kernel"]) + np.float64(last["bias"])
    np.testing.assert_allclose(outputs.logits, x, rtol=1e-4, atol=1e-6)


def test_a_part_only_embeds_and_each_image_has_its_own_dropout(models):
    import jax
    from flax import nnx

    from fer_jax.models.vgg_face import VGGFace

    settings = config.VGGFace(dense=(40, 30, 20), dropout=0.5, **NARROW)
    inputs = models.Inputs(frames=1, images=("crops",), image_shape=(32, 32, 3))
    blank = nnx.eval_shape(lambda: VGGFace(settings, inputs, 0, nnx.Rngs(0)))
    assert blank.embedding_size == 30
    graph, params = nnx.split(blank)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: 0.2 * rng.standard_normal(s.shape, np.float32), params)
    assert set(nnx.to_pure_dict(params)) == {"stack_crops", "fc6", "fc7"}

    @partial(jax.jit, static_argnames="train")
    def embed(x, keys, train=True):
        return nnx.merge(graph, params).embed(x, train=train, key=keys)

    x = np.random.default_rng(0).standard_normal((4, 32, 32, 3)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 4)
    whole = embed(x, keys)
    assert whole.shape == (4, 30)
    turned = embed(x[::-1], keys[::-1])
    np.testing.assert_allclose(whole, turned[::-1], rtol=1e-5, atol=1e-6)
    assert not np.allclose(whole, embed(x, keys[::-1]))
    assert not np.allclose(whole, embed(x, keys, train=False))


def test_dropout_follows_the_key_and_only_in_training(models):
    import jax

    settings = config.VGGFace(dense=(40, 30), dropout=0.5, **NARROW)
    model, batch = _model(models, settings, side=32), _batch(side=32)
    variables = _variables(model)

    @partial(jax.jit, static_argnums=1)
    def logits(seed, train):
        outputs, _ = model.apply(variables, batch, train=train, key=jax.random.key(seed))
        return outputs.logits

    np.testing.assert_array_equal(logits(1, True), logits(1, True))
    assert not np.allclose(logits(1, True), logits(2, True))
    np.testing.assert_array_equal(logits(1, False), logits(2, False))


def test_a_bfloat16_step_is_close_to_float32(models):
    import jax

    settings = config.VGGFace(dense=(20, 16), **NARROW)
    batch = _batch(side=32, features=5)
    variables = _variables(_model(models, settings, side=32, features=5))

    def gradient(precision):
        model = _model(models, settings, side=32, features=5, precision=precision)

        def loss(params):
            outputs, _ = model.apply(
                {**variables, "params": params}, batch, train=True, key=jax.random.key(0)
            )
            return jax.numpy.sum(jax.nn.log_softmax(outputs.logits)[:, 0])

        graph = str(jax.make_jaxpr(jax.grad(loss))(variables["params"]))
        kinds = re.findall(r":(\w+)\[[\d,]*\] = conv_general_dilated", graph)
        assert len(kinds) >= 3 * 13 - 1
        assert set(kinds) == {"bf16" if precision == "bfloat16" else "f32"}
        return jax.jit(jax.grad(loss))(variables["params"])

    half, whole = (
        np.concatenate([np.float64(leaf).ravel() for leaf in jax.tree.leaves(gradient(precision))])
        for precision in ("bfloat16", "float32")
    )
    assert np.isfinite(half).all()
    assert half @ whole / np.linalg.norm(half) / np.linalg.norm(whole) > 0.99


@pytest.mark.parametrize(
    ("settings", "inputs", "message"),
    [
        ({}, {"frames": 5}, "data.length=frames"),
        ({}, {"image_shape": (31, 31, 3)}, "at least 32 pixels"),
        ({}, {"images": ()}, "data.images=crops"),
        ({"widths": (64, 128, 256)}, {}, "5 blocks, not 3"),
        ({"dense": (64, 0)}, {}, "at least 1"),
    ],
)
def test_settings_that_cannot_be_are_one_clear_line(models, settings, inputs, message):
    from fer_jax.models.vgg_face import VGGFace

    inputs = {"frames": 1, "images": ("crops",), "image_shape": (64, 64, 3), **inputs}
    with pytest.raises(UserError, match=message) as error:
        VGGFace(config.VGGFace(**settings), models.Inputs(**inputs), 3, None)
    assert "\n" not in str(error.value)
