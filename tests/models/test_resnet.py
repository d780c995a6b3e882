"""ResNet against a twin built of Keras layers, with copied weights, and the field's counts."""

import numpy as np
import pytest

from fer_jax import config
from fer_jax.errors import UserError

NARROW = config.ResNet(blocks=(1, 2), widths=(4, 6))
SHAPE, ROWS = (33, 38, 3), 5


@pytest.fixture(scope="module")
def jax():
    return pytest.importorskip("jax")


def _model(settings=NARROW, shape=SHAPE, classes=3, frames=1, **options):
    from fer_jax.models.model import Inputs, model_of
    from fer_jax.models.resnet import ResNet

    inputs = Inputs(frames, images=("crops",), image_shape=shape)
    return model_of(lambda rngs: ResNet(settings, inputs, classes, rngs), **options)


def _batch(rows=ROWS):
    frames = np.random.default_rng(0).standard_normal((rows, 1, *SHAPE)).astype(np.float32)
    return {"frames": {"crops": frames}}


def _variables(jax, model, seed=1):
    """Drawn by NumPy: compiling the initialisers would take longer than all else here."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        positive = path[-1].key in ("scale", "var")
        values = rng.uniform(0.5, 1.5, leaf.shape) if positive else rng.normal(0, 0.3, leaf.shape)
        return values.astype(np.float32)

    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree_util.tree_map_with_path(draw, shapes)


def _run(jax, model, train=True):
    """(variables, batch, seed) -> Outputs, stats; compiled."""

    def run(variables, batch, seed):
        return model.apply(variables, batch, train=train, key=jax.random.key(seed))

    return jax.jit(run)


def test_parameters(jax):
    from fer_jax.models import parameter_count

    def count(settings, classes):
        model = _model(settings, (224, 224, 3), classes)
        return parameter_count(jax.eval_shape(model.init, jax.random.key(0))["params"])

    # torchvision's resnet34, and its resnet18
    assert count(config.ResNet(blocks=(3, 4, 6, 3)), 1000) == 21_797_672
    assert count(config.ResNet(blocks=(2, 2, 2, 2)), 1000) == 11_689_512
    # EmotionNet 2: a block of width w has two 3x3 convolutions and 4 w of scales and biases.
    total = 49 * 3 * 64 + 2 * 64 + 513 * 7
    for blocks, width, before in ((3, 64, 64), (4, 128, 64), (23, 256, 128), (3, 512, 256)):
        total += blocks * (2 * 9 * width**2 + 4 * width)
        if before != width:
            total += 9 * (before - width) * width + before * width + 2 * width
    assert count(config.ResNet(), 7) == total == 41_359_687


def _twin(settings):
    """The network as a Keras function; layers carry our names."""
    import keras

    layers, ops = keras.layers, keras.ops

    def unit(x, conv, norm, width, window, strides=1):
        x = layers.ZeroPadding2D(window // 2)(x)
        x = layers.Conv2D(width, window, strides, use_bias=False, name=conv)(x)
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=norm)(x)

    image = keras.Input(SHAPE)
    x = ops.relu(unit(image, "conv1", "bn1", settings.widths[0], 7, 2))
    x = ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-1e9)
    x = layers.MaxPooling2D(3, 2)(x)
    for stage, (count, width) in enumerate(zip(settings.blocks, settings.widths, strict=True), 1):
        for index in range(count):
            name, strides = f"layer{stage}_{index}", 2 if stage > 1 and index == 0 else 1
            y = ops.relu(unit(x, f"{name}_conv1", f"{name}_bn1", width, 3, strides))
            y = unit(y, f"{name}_conv2", f"{name}_bn2", width, 3)
            if strides == 2:
                x = unit(x, f"{name}_downsample_0", f"{name}_downsample_1", width, 1, 2)
            x = ops.relu(x + y)
    x = layers.Dense(3, name="classifier")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, x)


def _in_order(variables, twin):
    """Our weights as Keras orders its own: trainable, then averages."""
    ours = {"gamma": "scale", "beta": "bias", "moving_mean": "mean", "moving_variance": "var"}

    def pick(tree, theirs):
        paths = [variable.path.split("/")[-2:] for variable in theirs]
        assert len(paths) == sum(map(len, tree.values()))
        return [tree[layer][ours.get(part, part)] for layer, part in paths]

    return (
        pick(variables["params"], twin.trainable_variables),
        pick(variables["stats"], twin.non_trainable_variables),
    )


@pytest.mark.parametrize("train", [True, False])
def test_outputs_gradients_and_averages_equal_keras(jax, train):
    import keras

    model, batch = _model(), _batch()
    variables = _variables(jax, model)
    # Here and below: Keras promotes ranks. Nor are its own initial weights drawn.
    with jax.numpy_rank_promotion("allow"), keras.StatelessScope(initialize_variables=False):
        twin = _twin(NARROW)
    direction = np.random.default_rng(3).standard_normal((ROWS, 3)).astype(np.float32)

    def ours(params):
        seen = {**variables, "params": params}
        outputs, stats = model.apply(seen, batch, train=train, key=jax.random.key(0))
        return (outputs.logits * direction).sum(), (outputs.logits, stats)

    def theirs(weights, averages):
        with jax.numpy_rank_promotion("allow"):
            image = batch["frames"]["crops"][:, 0]
            logits, averages = twin.stateless_call(weights, averages, image, training=train)
        return (logits * direction).sum(), (logits, averages)

    gradient, (logits, stats) = jax.jit(jax.grad(ours, has_aux=True))(variables["params"])
    expected, (expected_logits, averages) = jax.jit(jax.grad(theirs, has_aux=True))(
        *_in_order(variables, twin)
    )
    gradient, stats = _in_order({"params": gradient, "stats": stats}, twin)
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-4, atol=1e-5)
    for one, other in zip(stats, averages, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    for one, other in zip(gradient, expected, strict=True):
        largest = np.abs(other).max()
        assert largest > 1e-3
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * largest)


def test_filler_rows_and_dropout(jax):
    settings = config.ResNet(blocks=(1, 1), widths=(4, 4), dropout=0.5)
    model, batch = _model(settings), _batch(ROWS + 2)
    variables = _variables(jax, model)
    batch["weight"] = np.float32([1] * ROWS + [0, 0])
    run, test = _run(jax, model), _run(jax, model, train=False)
    outputs, stats = run(variables, batch, 1)
    others, others_stats = run(variables, _batch(), 2)
    np.testing.assert_allclose(outputs.embedding[:ROWS], others.embedding, rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), stats, others_stats)
    assert not np.allclose(outputs.logits[:ROWS], others.logits, atol=1e-2)  # another key
    first, second = (test(variables, batch, seed)[0].logits for seed in (1, 2))
    np.testing.assert_array_equal(first, second)


def test_frozen_layers_keep_their_averages(jax):
    model, batch = _model(freeze=("conv1", "bn1", "layer1_*")), _batch()
    variables = _variables(jax, model)
    _, stats = _run(jax, model)(variables, batch, 0)
    for name, averages in stats.items():
        same = np.array_equal(averages["mean"], variables["stats"][name]["mean"])
        assert same == (name == "bn1" or name.startswith("layer1_")), name


def test_initial_convolutions_are_he_normal_by_fan_out(jax):
    model = _model(config.ResNet(blocks=(1,), widths=(24,)))
    params = model.init(jax.random.key(0))["params"]
    for name, fan_out in (("conv1", 49 * 24), ("layer1_0_conv1", 9 * 24)):
        kernel = np.asarray(params[name]["kernel"])
        deviations = kernel.std() * np.sqrt(fan_out / 2)
        assert abs(deviations - 1) < 4 / np.sqrt(2 * kernel.size), name
        assert abs(kernel).max() > 2.5 * kernel.std()  # not truncated


def test_bfloat16_convolutions_and_float32_averages(jax):
    model, batch = _model(precision="bfloat16"), _batch()
    variables = _variables(jax, model)
    run = _run(jax, model)
    outputs, stats = run(variables, batch, 0)
    exact, exact_stats = _run(jax, _model())(variables, batch, 0)
    program = str(jax.make_jaxpr(run)(variables, batch, 0)).splitlines()
    convolutions = [line for line in program if "conv_general_dilated[" in line]
    assert len(convolutions) == 8 and all(":bf16[" in line for line in convolutions)
    for one, other in zip(*map(jax.tree.leaves, (stats, exact_stats)), strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, rtol=0.05, atol=0.01)
    assert outputs.logits.dtype == np.float32
    np.testing.assert_allclose(outputs.logits, exact.logits, atol=0.1 * np.abs(exact.logits).max())


@pytest.mark.parametrize(
    ("settings", "frames", "message"),
    [
        (config.ResNet(blocks=(3, 4)), 1, "model.blocks has 2 and model.widths 4 numbers"),
        (config.ResNet(blocks=(), widths=()), 1, "at least one"),
        (config.ResNet(blocks=(1, 0), widths=(4, 4)), 1, "must be at least 1"),
        (config.ResNet(), 16, "data.length=frames"),
    ],
)
def test_settings_that_cannot_be_are_one_clear_line(jax, settings, frames, message):
    with pytest.raises(UserError, match=message) as error:
        _model(settings, frames=frames)
    assert "\n" not in str(error.value)
