"""Whole networks against Keras with copied weights, and against the papers' counts."""

import re

import numpy as np
import pytest

from fer_jax import config
from fer_jax.errors import UserError

PAPER_5 = {"units": (52, 16, 48, 44), "steps": "features", "activation": "selu",
           "dropout": 0.0, "kernel_l2": 1.95e-6}  # fmt: skip


@pytest.fixture(scope="module")
def models():
    from fer_jax import models

    return models


def _build(models, settings, features, frames, classes):
    return models.build(settings, models.Inputs(frames=frames, features=features), classes)


def _batch(features, frames, batch=4, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, frames + 1, batch)
    mask = np.arange(frames)[None] < lengths[:, None]
    x = rng.standard_normal((batch, frames, features)).astype(np.float32)
    return {"features": x * mask[..., None], "frame_mask": mask}


@pytest.mark.parametrize(
    ("features", "classes", "count"),
    [
        # reproduction.md 1.5; eight classes add 514
        (104, 6, 515_078),
        (136, 6, 531_462),
        (259, 6, 594_438),
        (272, 6, 601_094),
        (368, 6, 650_246),
        (259, 8, 594_438 + 514),
    ],
)
def test_parameters_of_paper_1(models, features, classes, count):
    import jax

    model = _build(models, config.LSTM(), features, 76, classes)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    assert models.parameter_count(shapes["params"]) == count


def test_parameters_of_paper_5(models):
    import jax

    model = _build(models, config.LSTM(**PAPER_5), 52, 1, 3)
    params = jax.eval_shape(model.init, jax.random.key(0))["params"]
    layers = [models.parameter_count(params[f"lstm_{i}"]) for i in range(4)]
    assert layers == [11_232, 4_416, 12_480, 16_368]
    assert models.parameter_count(params) == 44_631


def test_parameters_of_paper_3s_lstm_on_fc7(models):
    import jax

    # docs/reproduction.md 3.1: three layers of 2622 on 4096 features are 180.5 M
    settings = config.LSTM(units=(2622,) * 3, activation="relu", input_dropout=0.5)
    model = _build(models, settings, 4096, 5, 6)
    count = models.parameter_count(jax.eval_shape(model.init, jax.random.key(0))["params"])
    assert count == 4 * 2622 * (4096 + 5 * 2622 + 3) + 2622 * 6 + 6
    assert round(count / 1e6, 1) == 180.5


def _keras_recurrent(settings, frames, features, classes):
    import keras

    layers = keras.layers
    l2 = keras.regularizers.L2(settings.kernel_l2) if settings.kernel_l2 else None
    by_feature = settings.steps == "features"
    stack = [keras.Input((features, 1) if by_feature else (frames, features))]
    if settings.mask_padding:
        stack.append(layers.Masking())
    kind = layers.GRU if isinstance(settings, config.GRU) else layers.LSTM
    for index, units in enumerate(settings.units):
        stack.append(
            kind(
                units,
                activation=settings.activation,
                kernel_regularizer=l2,
                return_sequences=index + 1 < len(settings.units),
            )
        )
    if settings.dense:
        stack.append(layers.Dense(settings.dense, activation="relu"))
    return keras.Sequential([*stack, layers.Dense(classes)])


def _keras_dense(settings, features, classes):
    import keras

    stack, last = [keras.Input((features,))], len(settings.units) - 1
    for index, units in enumerate(settings.units):
        l2 = keras.regularizers.L2(settings.kernel_l2) if 0 < index < last else None
        stack.append(keras.layers.Dense(units, activation="relu", kernel_regularizer=l2))
    return keras.Sequential([*stack, keras.layers.Dense(classes)])


NETWORKS = {
    "paper 1": (config.LSTM(units=(12, 20), dropout=0.5), 9, 11),
    "paper 1, masked": (config.LSTM(units=(12, 20), dropout=0.5, mask_padding=True), 9, 11),
    "paper 5": (config.LSTM(**PAPER_5), 52, 1),
    "paper 2, dense layer": (config.LSTM(units=(14,), dense=6, mask_padding=True), 9, 5),
    "paper 3, GRU": (config.GRU(units=(12, 10, 8), activation="relu", kernel_l2=1e-3), 9, 5),
    "GRU, masked": (config.GRU(units=(12, 20), mask_padding=True), 9, 7),
    "dense": (config.Dense(), 52, 1),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_loss_and_gradients_equal_keras_with_the_same_weights(models, name):
    import jax
    import jax.numpy as jnp
    import optax

    settings, features, frames = NETWORKS[name]
    model = _build(models, settings, features, frames, 3)
    params = model.init(jax.random.key(3))["params"]
    batch, labels = _batch(features, frames), jnp.array([0, 2, 1, 1])
    # Keras' order: the layers in turn, kernel, recurrent kernel, bias.
    last = ("dense", "classifier")
    order = [k for k in params if k not in last] + [k for k in last if k in params]
    flat = lambda tree: [  # noqa: E731
        tree[layer][part]
        for layer in order
        for part in ("kernel", "recurrent_kernel", "bias")
        if part in tree[layer]
    ]
    with jax.numpy_rank_promotion("allow"):  # here and below: Keras promotes ranks
        if isinstance(settings, config.Dense):
            twin, x = _keras_dense(settings, features, 3), batch["features"][:, 0]
        else:
            twin, x = _keras_recurrent(settings, frames, features, 3), batch["features"]
            x = x.swapaxes(1, 2) if settings.steps == "features" else x
    twin.set_weights([np.asarray(leaf) for leaf in flat(params)])

    def cross_entropy(logits):
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def ours(params):
        variables = {"params": params, "stats": {}}
        outputs, _ = model.apply(variables, batch, train=False, key=jax.random.key(0))
        return cross_entropy(outputs.logits) + model.penalty(params)

    def theirs(weights):
        with jax.numpy_rank_promotion("allow"):
            logits, _, losses = twin.stateless_call(
                weights, [v.value for v in twin.non_trainable_variables], x, return_losses=True
            )
        return cross_entropy(logits) + sum(losses)

    loss, gradient = jax.jit(jax.value_and_grad(ours))(params)
    expected, expected_gradient = jax.jit(jax.value_and_grad(theirs))(
        [v.value for v in twin.trainable_variables]
    )
    np.testing.assert_allclose(loss, expected, rtol=2e-6)
    for one, other in zip(flat(gradient), expected_gradient, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=2e-6)
    if settings.kernel_l2:
        squares = sum(float(np.sum(np.square(params[k]["kernel"]))) for k in _regularised(settings))
        np.testing.assert_allclose(model.penalty(params), settings.kernel_l2 * squares, rtol=1e-5)
    else:
        assert model.penalty(params) == 0


def _regularised(settings):
    if isinstance(settings, config.Dense):
        return [f"dense_{i}" for i in range(1, len(settings.units) - 1)]
    return [f"{settings.name}_{i}" for i in range(len(settings.units))]


def test_padding_is_read_unless_masked(models):
    import jax

    batch = _batch(5, 6)
    longer = {
        "features": np.pad(batch["features"], ((0, 0), (0, 4), (0, 0))),
        "frame_mask": np.pad(batch["frame_mask"], ((0, 0), (0, 4))),
    }
    for masked in (False, True):
        model = _build(models, config.LSTM(units=(4, 3), mask_padding=masked), 5, 6, 2)
        variables = model.init(jax.random.key(0))
        one, two = (
            model.apply(variables, b, train=False, key=jax.random.key(0))[0].logits
            for b in (batch, longer)
        )
        assert np.allclose(one, two, atol=1e-6) == masked


@pytest.mark.parametrize(
    ("settings", "frames"),
    [
        (config.LSTM(units=(8, 6)), 5),
        (config.GRU(units=(8, 6), dropout=0.0, input_dropout=0.5), 5),
        (config.Dense(units=(8, 6), dropout=(0.3, 0.2)), 1),
    ],
)
def test_dropout_follows_the_key_and_only_in_training(models, settings, frames):
    import jax

    model = _build(models, settings, 7, frames, 3)
    variables = model.init(jax.random.key(0))
    batch = _batch(7, frames)

    def logits(seed, train):
        outputs, stats = model.apply(variables, batch, train=train, key=jax.random.key(seed))
        assert stats == {} and outputs.landmarks is None
        assert outputs.embedding.shape == (4, settings.units[-1])
        return np.asarray(outputs.logits)

    np.testing.assert_array_equal(logits(1, True), logits(1, True))
    assert not np.allclose(logits(1, True), logits(2, True))
    np.testing.assert_array_equal(logits(1, False), logits(2, False))
    assert not np.allclose(logits(1, True), logits(1, False))


def test_input_dropout_drops_an_input_at_every_step_or_at_none(models):
    import jax
    import jax.numpy as jnp

    model = _build(models, config.LSTM(units=(4,), input_dropout=0.5, dropout=0.0), 40, 6, 2)
    variables, batch = model.init(jax.random.key(0)), _batch(40, 6)

    def logits(x):
        outputs, _ = model.apply(
            variables, {**batch, "features": x}, train=True, key=jax.random.key(1)
        )
        return jnp.sum(outputs.logits * jnp.array([[1.0, -2.0]]))

    ignored = np.asarray(jax.grad(logits)(batch["features"])) == 0
    assert (ignored == ignored[:, :1]).all()
    assert 0.3 < ignored.mean() < 0.7
    assert not (ignored[0] == ignored[1]).all()


@pytest.mark.parametrize("kind", [config.LSTM, config.GRU])
def test_a_bfloat16_step_is_close_to_float32(models, kind):
    import jax
    import optax

    settings = kind(units=(24, 16), dropout=0.0, dense=8)
    inputs = models.Inputs(frames=40, features=9)
    batch, labels = _batch(9, 40, batch=16), np.arange(16) % 3
    variables = models.build(settings, inputs, 3).init(jax.random.key(0))

    def gradient(precision):
        model = models.build(settings, inputs, 3, precision=precision)

        def loss(params):
            outputs, _ = model.apply(
                {**variables, "params": params}, batch, train=True, key=jax.random.key(0)
            )
            assert outputs.logits.dtype == outputs.embedding.dtype == np.float32
            losses = optax.softmax_cross_entropy_with_integer_labels(outputs.logits, labels)
            return losses.mean()

        # The projection of all 40 steps is one matmul, whose result is as narrow as its inputs.
        graph = str(jax.make_jaxpr(loss)(variables["params"]))
        outputs = re.findall(r":(\w+)\[40,16,\d+\] = dot_general", graph)
        assert set(outputs) == {"bf16" if precision == "bfloat16" else "f32"}
        return jax.jit(jax.grad(loss))(variables["params"])

    for one, other in zip(
        *map(jax.tree.leaves, (gradient("bfloat16"), gradient("float32"))), strict=True
    ):
        assert one.dtype == np.float32
        one, other = np.float64(one).ravel(), np.float64(other).ravel()
        assert one @ other / np.linalg.norm(one) / np.linalg.norm(other) > 0.99


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.9])
def test_dropout_keeps_its_share_and_the_mean(models, rate):
    import jax
    import jax.numpy as jnp

    from fer_jax.models.layers.dropout import dropout

    x = jnp.ones((301, 333))
    y = np.asarray(dropout(x, rate, train=True, key=jax.random.key(0)))
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / (1 - rate))}
    deviation = np.sqrt(rate * (1 - rate) / x.size)
    assert abs((y == 0).mean() - rate) < 4 * deviation
    # neighbours share a random word; they must be dropped independently all the same
    both = ((y[:, :-1] == 0) & (y[:, 1:] == 0)).mean()
    assert abs(both - rate**2) < 8 * deviation


def test_an_examples_dropout_depends_on_its_own_key_alone(models):
    import jax
    import jax.numpy as jnp

    from fer_jax.models.layers.dropout import dropout

    x = jnp.ones((6, 5, 7))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(3), jnp.arange(6))
    whole = dropout(x, 0.4, train=True, key=jax.random.key(3), layer=2)
    np.testing.assert_array_equal(whole, dropout(x, 0.4, train=True, key=keys, layer=2))
    half = dropout(x[4:], 0.4, train=True, key=keys[4:], layer=2)
    np.testing.assert_array_equal(whole[4:], half)
    time_major = dropout(jnp.swapaxes(x, 0, 1), 0.4, train=True, key=keys, layer=2, example_axis=1)
    np.testing.assert_array_equal(jnp.swapaxes(whole, 0, 1), time_major)
    assert not np.array_equal(whole[0], whole[1])
    assert not np.array_equal(whole, dropout(x, 0.4, train=True, key=keys, layer=1))


def test_population_of_networks_equals_each_alone(models):
    import jax

    model = _build(models, config.LSTM(units=(6, 5)), 4, 7, 3)
    keys = jax.random.split(jax.random.key(0), 3)
    population = jax.vmap(model.init)(keys)
    batch = _batch(4, 7)

    def gradient(variables, key):
        def loss(params):
            outputs, _ = model.apply({**variables, "params": params}, batch, train=True, key=key)
            return (outputs.logits**2).sum()

        return jax.grad(loss)(variables["params"])

    together, gradient = jax.jit(jax.vmap(gradient))(population, keys), jax.jit(gradient)
    for index, key in enumerate(keys):
        alone = gradient(model.init(key), key)
        for one, other in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(one[index], other, rtol=1e-4, atol=1e-6)


def test_init_follows_the_key_and_gives_plain_dicts(models):
    import jax

    model = _build(models, config.LSTM(units=(6, 5)), 4, 7, 3)
    one, same, other = (model.init(jax.random.key(seed)) for seed in (0, 0, 1))
    assert set(one) == {"params", "stats"} and one["stats"] == {}
    assert type(one["params"]["lstm_0"]) is dict
    assert set(one["params"]) == {"lstm_0", "lstm_1", "classifier"}
    jax.tree.map(np.testing.assert_array_equal, one, same)
    assert not np.array_equal(
        one["params"]["lstm_0"]["kernel"], other["params"]["lstm_0"]["kernel"]
    )


@pytest.mark.parametrize(
    ("settings", "frames", "message"),
    [
        (config.LSTM(steps="features"), 76, "data.length=frames"),
        (config.Dense(), 76, "data.length=frames"),
        (config.Dense(units=(8, 6), dropout=(0.1,)), 1, "1 rates for 2 hidden layers"),
        (config.LSTM(units=()), 76, "model.units is empty"),
    ],
)
def test_settings_that_cannot_be_are_one_clear_line(models, settings, frames, message):
    with pytest.raises(UserError, match=message) as error:
        _build(models, settings, 52, frames, 3)
    assert "\n" not in str(error.value)
