"""Inception-V3 against keras.applications with copied weights."""

import functools
import re

import numpy as np
import pytest

from fer_jax import config
from fer_jax.errors import UserError

WIDTH, SHAPE, ROWS = 0.08, (75, 76, 1), 6
#: Compiling a network of 94 convolutions takes far longer than running it.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@pytest.fixture(scope="module")
def jax():
    return pytest.importorskip("jax")


def _model(shape=SHAPE, classes=3, frames=1, streams=("crops",), **settings):
    from fer_jax.models.inception_v3 import InceptionV3
    from fer_jax.models.model import Inputs, model_of

    options = {"precision": settings.pop("precision", "float32")}
    inputs = Inputs(frames, images=streams, image_shape=shape)
    settings = config.InceptionV3(**settings)
    return model_of(lambda rngs: InceptionV3(settings, inputs, classes, rngs), **options)


def _batch(rows=ROWS):
    frames = np.random.default_rng(0).standard_normal((rows, 1, *SHAPE)).astype(np.float32)
    return {"frames": {"crops": frames}}


def _variables(jax, model, seed=1):
    """Drawn by NumPy: compiling the initialisers would take longer than all else here."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        positive = path[-1].key == "var"
        values = rng.uniform(0.5, 1.5, leaf.shape) if positive else rng.normal(0, 0.3, leaf.shape)
        return values.astype(np.float32)

    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree_util.tree_map_with_path(draw, shapes)


def _narrow_keras(monkeypatch):
    """keras.applications' own network, each width times WIDTH; its weights are not drawn."""
    import jax
    import keras
    from keras.src.applications import inception_v3

    real = inception_v3.conv2d_bn

    def narrow(x, filters, *arguments, **settings):
        return real(x, max(1, round(filters * WIDTH)), *arguments, **settings)

    monkeypatch.setattr(inception_v3, "conv2d_bn", narrow)
    with jax.numpy_rank_promotion("allow"), keras.StatelessScope(initialize_variables=False):
        return inception_v3.InceptionV3(
            weights=None, input_shape=SHAPE, classes=3, classifier_activation=None
        )


def _in_order(variables, twin):
    """Our weights as Keras orders its own: the i-th conv2d that it made is our conv2d_<i>."""
    ours = {"predictions": "classifier", "beta": "bias", "moving_mean": "mean",
            "moving_variance": "var"}  # fmt: skip
    number = lambda name: int((re.findall(r"_(\d+)$", name) or ["0"])[0])  # noqa: E731
    for kind in ("conv2d", "batch_normalization"):
        names = [layer.name for layer in twin.layers if layer.name.startswith(kind)]
        names.sort(key=number)
        ours |= {name: f"{kind}_{index}" for index, name in enumerate(names)}

    def pick(tree, theirs):
        assert len(theirs) == sum(map(len, tree.values()))
        paths = [variable.path.split("/")[-2:] for variable in theirs]
        return [tree[ours[layer]][ours.get(part, part)] for layer, part in paths]

    return (
        pick(variables["params"], twin.trainable_variables),
        pick(variables["stats"], twin.non_trainable_variables),
    )


def test_parameters(jax):
    from fer_jax.models import parameter_count

    variables = jax.eval_shape(_model((299, 299, 3), 1000).init, jax.random.key(0))
    assert parameter_count(variables) == 23_851_784  # keras.applications, ImageNet's classes
    assert parameter_count(variables["params"]) == 23_817_352
    assert len(variables["stats"]) == 94
    assert all(f"conv2d_{i}" in variables["params"] for i in range(94))
    half = jax.eval_shape(_model(width=0.5).init, jax.random.key(0))["params"]
    assert half["conv2d_93"]["kernel"].shape == (1, 1, 1024, 96)
    assert half["classifier"]["kernel"].shape == (1024, 3)


def test_outputs_gradients_and_averages_equal_keras(jax, monkeypatch):
    twin, model, batch = _narrow_keras(monkeypatch), _model(width=WIDTH), _batch()
    variables = _variables(jax, model)
    direction = np.random.default_rng(3).standard_normal((ROWS, 3)).astype(np.float32)

    def ours(params, stats):
        seen = {"params": params, "stats": stats}
        outputs, stats = model.apply(seen, batch, train=True, key=jax.random.key(0))
        return (outputs.logits * direction).sum(), (outputs.logits, stats)

    def theirs(weights, averages):
        with jax.numpy_rank_promotion("allow"):
            image = batch["frames"]["crops"][:, 0]
            logits, averages = twin.stateless_call(weights, averages, image, training=True)
        return (logits * direction).sum(), (logits, averages)

    def run(function, *arguments):
        gradient = jax.jit(jax.grad(function, has_aux=True), compiler_options=QUICK)
        return gradient(*arguments)

    gradient, (logits, stats) = run(ours, variables["params"], variables["stats"])
    expected, (expected_logits, averages) = run(theirs, *_in_order(variables, twin))
    gradient, stats = _in_order({"params": gradient, "stats": stats}, twin)
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-4, atol=1e-4)
    for one, other in zip(stats, averages, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    for one, other in zip(gradient, expected, strict=True):
        largest = np.abs(other).max()
        assert largest > 1e-3
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * largest)


def test_filler_rows_and_dropout(jax):
    model, batch = _model(width=0.02, dropout=0.5), _batch()
    variables = _variables(jax, model)
    assert variables["params"]["conv2d_0"]["kernel"].shape == (3, 3, 1, 1)  # round(0.64)
    assert variables["params"]["conv2d_93"]["kernel"].shape == (1, 1, 42, 4)
    batch["weight"] = np.float32([1] * (ROWS - 2) + [0, 0])

    @functools.partial(jax.jit, compiler_options=QUICK)
    def run(batch, seed):
        return model.apply(variables, batch, train=True, key=jax.random.key(seed))

    outputs, stats = run(batch, 1)
    # Not in place: the first run may still be reading the array.
    crops = batch["frames"]["crops"].copy()
    crops[-2:] *= -3
    others, others_stats = run({**batch, "frames": {"crops": crops}}, 2)
    real = slice(ROWS - 2)
    np.testing.assert_allclose(outputs.embedding[real], others.embedding[real], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), stats, others_stats)
    assert not np.allclose(outputs.embedding[-2:], others.embedding[-2:], atol=1e-2)
    assert not np.allclose(outputs.logits[real], others.logits[real], atol=1e-2)  # another key


def test_bfloat16_convolutions_and_float32_averages(jax):
    model = _model(width=WIDTH, precision="bfloat16")
    run = lambda v: model.apply(v, _batch(), train=True, key=jax.random.key(0))  # noqa: E731
    program, (outputs, stats) = jax.make_jaxpr(run, return_shape=True)(_variables(jax, model))
    lines = str(program).splitlines()
    convolutions = [line for line in lines if "conv_general_dilated[" in line]
    assert len(convolutions) == 94 and all(":bf16[" in line for line in convolutions)
    assert outputs.logits.dtype == np.float32
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(stats))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": (75, 74, 3)}, "at least 75 pixels, not 74"),
        ({"frames": 3}, "data.length=frames"),
        ({"streams": ("crops", "frontal")}, "reads 1 image stream"),
        ({"streams": ()}, "data.images=crops"),
    ],
)
def test_settings_that_cannot_be_are_one_clear_line(jax, change, message):
    with pytest.raises(UserError, match=message) as error:
        _model(**change)
    assert "\n" not in str(error.value)
