"""CNN-LSTM and CNN-GRU against Keras with copied weights; padding; transfer and freezing."""

import re
from functools import partial

import numpy as np
import pytest

from fer_jax import config
from fer_jax.errors import UserError

B, T, SIDE = 3, 4, 32
XCEPTION = config.Xception(stem=(4, 6), entry=(8,), middle=0, exit=(), dense=10)
VGG_FACE = config.VGGFace(widths=(4, 4, 6, 6, 8), dense=(12, 10, 9))
SETTINGS = {
    "VGG-Face, GRU": config.CNNRNN(cnn=VGG_FACE, rnn=config.GRU(units=(7, 6), dense=5)),
    "Xception, LSTM, masked": config.CNNRNN(
        cnn=XCEPTION, rnn=config.LSTM(units=(7,), mask_padding=True)
    ),
}


@pytest.fixture(scope="module")
def models():
    from fer_jax import models

    return models


def _inputs(models, **changes):
    shape = {"frames": T, "images": ("crops",), "image_shape": (SIDE, SIDE, 3)}
    return models.Inputs(**shape | changes)


def _model(models, settings, **options):
    from fer_jax.models.cnn_rnn import CNNRNN

    make = lambda rngs: CNNRNN(settings, _inputs(models), 3, rngs)  # noqa: E731
    return models.model.model_of(make, **options)


def _variables(model):
    """Drawn so that every parameter and average matters, and by NumPy: no compilation."""
    import jax

    rng = np.random.default_rng(0)

    def draw(leaf):
        if leaf.ndim == 1:
            return rng.uniform(0.05, 0.2, leaf.shape).astype(np.float32)
        fan_in = np.prod(leaf.shape[:-1])
        return (np.sqrt(2 / fan_in) * rng.standard_normal(leaf.shape)).astype(np.float32)

    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(draw, shapes)


def _batch(lengths=(T, 2, 3), seed=0):
    frames = np.random.default_rng(seed).standard_normal((B, T, SIDE, SIDE, 3))
    mask = np.arange(T)[None] < np.array(lengths)[:, None]
    return {"frames": {"crops": frames.astype(np.float32)}, "frame_mask": mask}


def _keras_vgg_face(settings, x):
    from keras import layers

    for block, (count, width) in enumerate(zip((2, 2, 3, 3, 3), settings.widths, strict=True), 1):
        for index in range(1, count + 1):
            name = f"cnn.stack_crops.conv{block}_{index}"
            x = layers.Conv2D(width, 3, padding="same", activation="relu", name=name)(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Flatten()(x)
    for index, units in enumerate(settings.dense[: settings.feature]):
        x = layers.Dense(units, activation="relu", name=f"cnn.fc{6 + index}")(x)
    return x


def _keras_xception(settings, x):
    """Its stem and one entry block."""
    from keras import layers

    def normalise(name, x):
        return layers.BatchNormalization(name=f"cnn.{name}_bn")(x)

    def convolve(name, kind, width, x, **options):
        return normalise(name, kind(width, use_bias=False, name=f"cnn.{name}", **options)(x))

    (first, second), (width,), conv = settings.stem, settings.entry, layers.Conv2D
    x = layers.ReLU()(convolve("block1_conv1", conv, first, x, kernel_size=3, strides=2))
    x = layers.ReLU()(convolve("block1_conv2", conv, second, x, kernel_size=3))
    halved = {"kernel_size": 1, "strides": 2, "padding": "same"}
    residual = convolve("block2_residual", conv, width, x, **halved)
    separable = {"kind": layers.SeparableConv2D, "kernel_size": 3, "padding": "same"}
    x = convolve("block2_sepconv1", width=width, x=x, **separable)
    x = convolve("block2_sepconv2", width=width, x=layers.ReLU()(x), **separable)
    x = layers.Add()([residual, layers.MaxPooling2D(3, 2, padding="same")(x)])
    x = layers.GlobalAveragePooling2D()(x)
    return layers.Dense(settings.dense, activation="relu", name="cnn.feature")(x)


def _twin(settings):
    """The network in Keras; its layers are named by our paths, with "." for "/".

    Frames become rows by a reshape: Keras's TimeDistributed normalises each step by itself.
    """
    import keras
    from keras import layers

    frames = keras.Input(batch_shape=(B, T, SIDE, SIDE, 3))
    mask = keras.Input(batch_shape=(B, T), dtype="bool")
    x = keras.ops.reshape(frames, (B * T, SIDE, SIDE, 3))
    embed = _keras_xception if isinstance(settings.cnn, config.Xception) else _keras_vgg_face
    x = keras.ops.reshape(embed(settings.cnn, x), (B, T, -1))
    x = x * keras.ops.cast(mask, "float32")[:, :, None]
    rnn = settings.rnn
    kind = layers.GRU if isinstance(rnn, config.GRU) else layers.LSTM
    for index, units in enumerate(rnn.units):
        last = index + 1 == len(rnn.units)
        layer = kind(units, return_sequences=not last, name=f"rnn.{rnn.name}_{index}")
        x = layer(x, mask=mask if rnn.mask_padding else None)
    if rnn.dense:
        x = layers.Dense(rnn.dense, activation="relu", name="rnn.dense")(x)
    return keras.Model([frames, mask], layers.Dense(3, name="rnn.classifier")(x))


def _path(variable):
    """Our path of Keras's variable."""
    path = re.sub("/(lstm|gru)_cell", "", variable.path.replace(".", "/"))
    names = {"gamma": "scale", "beta": "bias", "moving_mean": "mean", "moving_variance": "var"}
    for theirs, ours in names.items():
        path = path.replace(f"/{theirs}", f"/{ours}")
    return path


@pytest.mark.parametrize("name", SETTINGS)
def test_logits_gradients_and_averages_equal_keras(models, name):
    """As frozen with padded clips; Xception in training too, with whole clips, since Keras's
    normalisation counts padding."""
    import jax
    import jax.numpy as jnp

    from fer_jax.models.paths import flatten

    settings = SETTINGS[name]
    model = _model(models, settings)
    variables = _variables(model)
    with jax.numpy_rank_promotion("allow"):  # here and below: Keras promotes ranks
        twin = _twin(settings)
    paths = [_path(variable) for variable in twin.trainable_variables]
    kept_paths = [_path(variable) for variable in twin.non_trainable_variables]
    params, averages = flatten(variables["params"]), flatten(variables["stats"])
    # Besides averages Keras keeps the recurrent layers' seeds.
    kept = [averages.get(_path(v), v.value) for v in twin.non_trainable_variables]
    average_paths = [path for path in kept_paths if "seed" not in path]
    assert sorted(paths) == sorted(params)
    assert sorted(average_paths) == sorted(averages)
    labels = jnp.eye(3)[jnp.array([0, 2, 1])]

    def loss(logits):
        return -jnp.sum(jax.nn.log_softmax(logits) * labels)

    training = settings.cnn is XCEPTION
    no_dropout = {"dropout": 0.0}
    if training:
        rnn = type(settings.rnn)(**vars(settings.rnn) | no_dropout)
        model = _model(models, config.CNNRNN(cnn=settings.cnn, rnn=rnn))
    for train in (False, True) if training else (False,):
        batch = _batch((T,) * B if train else (T, 2, 3))

        def ours(params, batch=batch, train=train):
            outputs, stats = model.apply(
                {**variables, "params": params}, batch, train=train, key=jax.random.key(0)
            )
            return loss(outputs.logits), (outputs.logits, stats)

        def theirs(weights, batch=batch, train=train):
            with jax.numpy_rank_promotion("allow"):
                logits, state = twin.stateless_call(
                    weights,
                    kept,
                    [batch["frames"]["crops"], batch["frame_mask"]],
                    training=train,
                )
            return loss(logits), (logits, state)

        (_, (logits, stats)), gradient = jax.jit(jax.value_and_grad(ours, has_aux=True))(
            variables["params"]
        )
        (_, (expected, state)), other = jax.jit(jax.value_and_grad(theirs, has_aux=True))(
            [params[path] for path in paths]
        )
        np.testing.assert_allclose(logits, expected, rtol=2e-5, atol=2e-6)
        stats, gradient = flatten(stats), flatten(gradient)
        state = dict(zip(kept_paths, state, strict=True))
        for path in average_paths:
            np.testing.assert_allclose(stats[path], state[path], rtol=1e-5, atol=1e-6, err_msg=path)
        for path, expected in zip(paths, other, strict=True):
            scale = np.abs(expected).max()
            assert scale > 1e-7, path
            np.testing.assert_allclose(
                gradient[path], expected, rtol=1e-3, atol=1e-4 * scale, err_msg=path
            )


@pytest.mark.parametrize("mask_padding", [False, True])
def test_padded_frames_and_filler_examples_change_nothing(models, mask_padding):
    import jax
    from flax import nnx

    from fer_jax.models.xception import Xception

    rnn = config.LSTM(units=(5,), mask_padding=mask_padding)
    model = _model(models, config.CNNRNN(cnn=XCEPTION, rnn=rnn))
    variables, batch = _variables(model), _batch()
    weight = np.array([1, 1, 0], np.float32)
    noise = 10 + 5 * _batch(seed=1)["frames"]["crops"]
    real = batch["frame_mask"] & (weight > 0)[:, None]
    frames = batch["frames"]["crops"]
    spoilt = np.where(real[:, :, None, None, None], frames, noise)

    @jax.jit
    def step(frames):
        def loss(params):
            outputs, stats = model.apply(
                {**variables, "params": params},
                {**batch, "frames": {"crops": frames}, "weight": weight},
                train=True,
                key=jax.random.key(0),
            )
            return jax.numpy.sum(outputs.logits[:2] ** 2), (outputs.logits[:2], stats)

        return jax.grad(loss, has_aux=True)(variables["params"])

    one, other = step(frames), step(spoilt)
    for mine, theirs in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
    # and the averages are those of the real frames alone
    blank = nnx.eval_shape(lambda: Xception(XCEPTION, _inputs(models, frames=1), 0, nnx.Rngs(0)))
    parts = [variables[kind]["cnn"] for kind in ("params", "stats")]
    cnn = nnx.merge(nnx.graphdef(blank), *parts)
    cnn.embed(frames[real], train=True, key=jax.random.key(0))
    averages = {"cnn": nnx.to_pure_dict(nnx.state(cnn, nnx.BatchStat))}
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), one[1][1], averages)


def test_a_cnn_that_was_trained_alone_becomes_its_part(models):
    import jax

    from fer_jax.models.paths import flatten
    from fer_jax.models.xception import Xception

    alone = models.model.model_of(
        lambda rngs: Xception(XCEPTION, _inputs(models, frames=1), 7, rngs)
    )
    settings = config.CNNRNN(cnn=XCEPTION, rnn=config.GRU(units=(5,)))
    for kind in ("params", "stats"):
        single, whole = (
            {path: leaf.shape for path, leaf in flatten(shapes[kind]).items()}
            for shapes in (
                jax.eval_shape(model.init, jax.random.key(0))
                for model in (alone, _model(models, settings))
            )
        )
        renamed = {
            f"cnn/{path}": shape for path, shape in single.items() if "classifier" not in path
        }
        assert renamed == {path: shape for path, shape in whole.items() if path[:4] == "cnn/"}
        rest = {path for path in whole if path[:4] != "cnn/"}
        assert {path.split("/")[1] for path in rest} == (
            {"gru_0", "classifier"} if kind == "params" else set()
        )


@pytest.mark.parametrize("freeze", [("cnn",), ("cnn/*",)])
def test_a_frozen_cnn_runs_on_its_averages(models, freeze):
    import jax

    settings = config.CNNRNN(cnn=XCEPTION, rnn=config.LSTM(units=(5,), dropout=0.0))
    model, frozen = _model(models, settings), _model(models, settings, freeze=freeze)
    variables, batch = _variables(model), _batch()

    def run(model, train):
        return model.apply(variables, batch, train=train, key=jax.random.key(0))

    (still, _), (trained, stats) = run(model, False), run(model, True)
    assert not np.allclose(still.logits, trained.logits)
    moved = jax.tree.map(lambda a, b: not np.allclose(a, b), stats, variables["stats"])
    assert all(jax.tree.leaves(moved))
    outputs, stats = run(frozen, True)
    np.testing.assert_allclose(outputs.logits, still.logits, rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, stats, variables["stats"])


def test_every_frame_and_example_has_its_own_dropout(models):
    import jax

    cnn = config.VGGFace(
        widths=(2, 2, 2, 2, 4), dense=(40, 30), feature=2, pooling="max", dropout=0.5
    )
    settings = config.CNNRNN(cnn=cnn, rnn=config.LSTM(units=(5,), dropout=0.5))
    model = _model(models, settings)
    variables = _variables(model)
    frame = np.random.default_rng(0).standard_normal((1, 1, SIDE, SIDE, 3)).astype(np.float32)
    frames = np.broadcast_to(frame, (B, T, SIDE, SIDE, 3))
    mask = np.ones((B, T), bool)

    @partial(jax.jit, static_argnames="train")
    def run(key, mask=mask, train=True):
        batch = {"frames": {"crops": frames[: len(mask)]}, "frame_mask": mask}
        return model.apply(variables, batch, train=train, key=key)[0].embedding

    key = jax.random.key(5)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(B))
    whole = np.asarray(run(key))
    np.testing.assert_allclose(whole, run(keys), rtol=1e-6)
    np.testing.assert_allclose(whole[2:], run(keys[2:], mask[2:]), rtol=1e-5, atol=1e-6)
    assert not np.allclose(whole[0], whole[1])
    assert not np.allclose(whole, run(jax.random.key(6)))
    still = np.asarray(run(key, train=False))
    np.testing.assert_allclose(still[0], still[1], rtol=1e-6)
    # the first frame's images are the same, not what is dropped of them
    first, second = (np.arange(T)[None] == t for t in (0, 1))
    one, other = (run(key, np.repeat(only, B, axis=0)) for only in (first, second))
    assert not np.allclose(one, other)


def test_a_bfloat16_step_is_close_to_float32(models):
    import jax

    settings = config.CNNRNN(
        cnn=XCEPTION, rnn=config.GRU(units=(7,), dropout=0.0, mask_padding=True)
    )
    variables, batch = _variables(_model(models, settings)), _batch()

    def gradient(precision):
        model = _model(models, settings, precision=precision)

        def loss(params):
            outputs, stats = model.apply(
                {**variables, "params": params}, batch, train=True, key=jax.random.key(0)
            )
            assert {leaf.dtype for leaf in jax.tree.leaves(stats)} == {np.dtype("float32")}
            return jax.numpy.sum(jax.nn.log_softmax(outputs.logits)[:, 0])

        graph = str(jax.make_jaxpr(jax.grad(loss))(variables["params"]))
        kinds = re.findall(r":(\w+)\[[\d,]*\] = (?:conv_general_dilated|dot_general)", graph)
        assert ("bf16" in kinds) == (precision == "bfloat16")
        leaves = jax.tree.leaves(jax.jit(jax.grad(loss))(variables["params"]))
        return np.concatenate([np.float64(leaf).ravel() for leaf in leaves])

    half, whole = gradient("bfloat16"), gradient("float32")
    assert np.isfinite(half).all()
    assert half @ whole / np.linalg.norm(half) / np.linalg.norm(whole) > 0.99


@pytest.mark.parametrize(
    ("settings", "inputs", "message"),
    [
        ({}, {"images": ("crops", "frontal")}, "1 image stream"),
        ({}, {"images": ()}, "data.images=crops"),
        ({}, {"features": 5}, "data.features=none"),
        ({"rnn": config.LSTM(steps="features")}, {}, "model.rnn.steps=frames"),
        ({"rnn": config.GRU(units=())}, {}, "model.rnn.units is empty"),
        ({"rnn": config.LSTM(kernel_l2=1e-3)}, {}, "model.rnn.kernel_l2"),
    ],
)
def test_settings_that_cannot_be_are_one_clear_line(models, settings, inputs, message):
    import jax
    from flax import nnx

    from fer_jax.models.cnn_rnn import CNNRNN

    settings = config.CNNRNN(**{"cnn": XCEPTION, **settings})
    with pytest.raises(UserError, match=message) as error:
        jax.eval_shape(
            lambda: nnx.state(CNNRNN(settings, _inputs(models, **inputs), 3, nnx.Rngs(0)))
        )
    assert "\n" not in str(error.value)
