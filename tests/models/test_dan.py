"""EmotionalDAN against Keras (its CNNs), NumPy and SciPy (what joins them)."""

import math
import re

import numpy as np
import pytest

from fer_jax import config

SIDE, CLASSES = 16, 3
SMALL = {"widths": (4,), "dense": 8, "patch": 6, "dropout": 0.0}
ORDERS = ("relu-bn", "bn-relu")


def _inputs(side=SIDE, channels=1, **changes):
    from fer_jax.models.model import Inputs

    given = {"frames": 1, "images": ("crops",), "image_shape": (side, side, channels)}
    return Inputs(**{**given, "landmarks": True, **changes})


def _model(settings, side=SIDE, channels=1, classes=CLASSES, **options):
    from fer_jax.models.dan import EmotionalDAN
    from fer_jax.models.model import model_of

    inputs = _inputs(side, channels)
    return model_of(lambda rngs: EmotionalDAN(settings, inputs, classes, rngs), **options)


def _batch(side=SIDE, channels=1, batch=4, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.standard_normal((batch, 1, side, side, channels)).astype(np.float32)
    mean_shape = rng.uniform(0.2 * side, 0.8 * side, (68, 2)).astype(np.float32)
    return {"frames": {"crops": image}, "mean_shape": mean_shape}


def _trained(model, seed=1, reach=1.0):
    """Variables as training leaves them: biases and averages that are not 0 and 1.

    Landmarks move by about `reach` pixels.
    """
    import jax

    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        *_, layer, name = (part.key for part in path)
        noise = rng.standard_normal(leaf.shape).astype(np.float32)
        if name in ("scale", "var"):
            return np.exp(0.3 * noise)
        if name == "kernel":
            fans = math.prod(leaf.shape[:-1])
            return noise * np.float32((reach if layer == "fc2" else 1) / math.sqrt(fans))
        return noise * np.float32(reach if layer == "fc2" else 0.2)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(model.init, jax.random.key(0)))


def _apply(model):
    import jax

    return jax.jit(model.apply, static_argnames="train")


def _keras_stage(settings, side, channels, connected):
    """A stage without its dropout, from the image (and the features before it)."""
    import keras

    layers, dan = keras.layers, settings.order == "bn-relu"
    averages = {"momentum": 0.9, "epsilon": 1e-4} if dan else {}
    empty = {"kernel_initializer": "zeros"}  # random ones would each be compiled

    def norm(name):
        return layers.BatchNormalization(name=name, **averages)

    def activate(name, x):
        if dan:
            return layers.ReLU()(norm(f"{name}_bn")(x))
        return norm(f"{name}_bn")(layers.ReLU()(x))

    first = x = keras.Input((side, side, channels))
    inputs = [first]
    if connected:
        inputs.append(keras.Input((settings.dense,)))
        feature = layers.Dense((side // 2) ** 2, activation="relu", name="feature", **empty)(
            inputs[1]
        )
        feature = layers.UpSampling2D(2)(layers.Reshape((side // 2, side // 2, 1))(feature))
        x = norm("input_bn")(layers.Concatenate()([x, feature]))
    for level, width in enumerate(settings.widths, start=1):
        for letter in "ab":
            name = f"conv{level}{letter}"
            x = layers.Conv2D(width, 3, padding="same", use_bias=not dan, name=name, **empty)(x)
            x = activate(name, x)
        x = layers.MaxPooling2D()(x)
    x = layers.Dense(settings.dense, use_bias=not dan, name="fc1", **empty)(layers.Flatten()(x))
    embedding = activate("fc1", x)
    offset = layers.Reshape((68, 2))(layers.Dense(136, name="fc2", **empty)(embedding))
    return keras.Model(inputs, [offset, embedding])


_PARTS = {"gamma": "scale", "beta": "bias", "moving_mean": "mean", "moving_variance": "var"}


def _place(variable):
    layer, part = variable.path.split("/")[-2:]
    return layer, _PARTS.get(part, part)


def _twin(settings, variables, stage, channels):
    import jax

    with jax.numpy_rank_promotion("allow"):  # here and below: Keras promotes ranks
        twin = _keras_stage(settings, SIDE, channels, stage == "stage2")
    for variable in twin.variables:
        layer, part = _place(variable)
        kind = "stats" if part in ("mean", "var") else "params"
        variable.assign(variables[kind][stage][layer][part])
    return twin


def _connect(images, landmarks, mean_shape, patch):
    """Warped images and heat maps [B, S, S, C + 1], and A and t [B, 3, 2]: NumPy and SciPy."""
    from scipy.ndimage import map_coordinates

    side, maps, transforms = images.shape[1], [], []
    one, zero = np.ones(68), np.zeros(68)
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2)
    for image, points in zip(images, landmarks.astype(np.float64), strict=True):
        x, y = points.T
        columns = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
        a, b, *t = np.linalg.lstsq(columns, mean_shape.T.reshape(-1), rcond=None)[0]
        matrix = np.array([[a, b], [-b, a]])
        source = np.clip((grid - t) @ np.linalg.inv(matrix), 0, side - 2)
        parts = [
            map_coordinates(image[..., c].astype(np.float64), source.T[::-1], order=1)
            for c in range(image.shape[-1])
        ]
        heat, half = np.zeros((side, side)), patch // 2
        for x, y in np.clip(points @ matrix + t, half, side - 1 - half):
            rows = np.arange(int(y) - half, int(y) + patch - half)[:, None]
            columns = np.arange(int(x) - half, int(x) + patch - half)[None]
            value = 1 / (1 + np.hypot(rows - y, columns - x))
            heat[rows, columns] = np.maximum(heat[rows, columns], value)
        maps.append(np.stack([*(part.reshape(side, side) for part in parts), heat], -1))
        transforms.append(np.stack([*matrix, t]))
    return np.float32(maps), np.float32(transforms)


def _says(twin, train):
    """A jitted function of (weights, inputs) to ((offset, embedding), new averages)."""
    import jax

    averages = [v.value for v in twin.non_trainable_variables]

    @jax.jit
    def run(weights, inputs):
        with jax.numpy_rank_promotion("allow"):
            return twin.stateless_call(weights, averages, inputs, training=train)

    return run, [v.value for v in twin.trainable_variables]


@pytest.mark.parametrize(("order", "channels"), [("relu-bn", 1), ("bn-relu", 3)])
def test_network_and_gradients_equal_keras_and_numpy(order, channels):
    import jax
    import jax.numpy as jnp

    settings = config.EmotionalDAN(order=order, **SMALL)
    model, batch = _model(settings, channels=channels), _batch(channels=channels)
    variables = _trained(model)
    params, stats, mean_shape = variables["params"], variables["stats"], batch["mean_shape"]
    rng = np.random.default_rng(9)
    on_logits = rng.standard_normal((4, CLASSES)).astype(np.float32)
    on_landmarks = rng.standard_normal((4, 68, 2)).astype(np.float32)

    def ours(params):
        outputs, new = model.apply(
            {"params": params, "stats": stats}, batch, train=True, key=jax.random.key(0)
        )
        loss = jnp.sum(on_logits * outputs.logits) + jnp.sum(on_landmarks * outputs.landmarks)
        return loss, (outputs, new)

    (_, (outputs, new)), gradient = jax.jit(jax.value_and_grad(ours, has_aux=True))(params)

    def compare_averages(stage, twin, averages):
        for variable, value in zip(twin.non_trainable_variables, averages, strict=True):
            layer, part = _place(variable)
            np.testing.assert_allclose(new[stage][layer][part], value, rtol=1e-4, atol=1e-5)

    image = batch["frames"]["crops"][:, 0]
    twin = _twin(settings, variables, "stage1", channels)
    run, weights = _says(twin, train=True)
    (offset, embedding), averages = run(weights, [image])
    compare_averages("stage1", twin, averages)
    landmarks = mean_shape[None] + np.asarray(offset)
    maps, transform = _connect(image, landmarks, mean_shape, settings.patch)
    moved = landmarks @ transform[:, :2] + transform[:, 2:]
    back = np.linalg.inv(transform[:, :2])
    twin = _twin(settings, variables, "stage2", channels + 1)
    run, weights = _says(twin, train=True)

    def theirs(weights, classifier):
        (offset, embedding_2), averages = run(weights, [maps, embedding])
        logits = embedding_2 @ classifier["kernel"] + classifier["bias"][None]
        found = (moved + offset - transform[:, 2:]) @ back
        loss = jnp.sum(on_logits * logits) + jnp.sum(on_landmarks * found)
        return loss, (logits, embedding_2, found, averages)

    (_, expected), slopes = jax.jit(jax.value_and_grad(theirs, (0, 1), has_aux=True))(
        weights, params["classifier"]
    )
    logits, embedding_2, found, averages = expected
    compare_averages("stage2", twin, averages)
    np.testing.assert_allclose(outputs.embedding, embedding_2, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(outputs.logits, logits, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(outputs.landmarks, found, rtol=1e-4, atol=1e-3)
    for variable, slope in zip(twin.trainable_variables, slopes[0], strict=True):
        layer, part = _place(variable)
        np.testing.assert_allclose(
            gradient["stage2"][layer][part],
            slope,
            rtol=2e-3,
            atol=2e-4 * float(np.abs(slope).max()) + 1e-5,
            err_msg=variable.path,
        )
    for part, slope in slopes[1].items():
        found = gradient["classifier"][part]
        np.testing.assert_allclose(found, slope, rtol=1e-3, atol=1e-4)


def test_gradient_through_both_stages_equals_finite_differences():
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from fer_jax.models.dan import EmotionalDAN

    settings = config.EmotionalDAN(**SMALL)
    variables = _trained(_model(settings))
    graph = nnx.graphdef(
        nnx.eval_shape(lambda: EmotionalDAN(settings, _inputs(), CLASSES, nnx.Rngs(0)))
    )
    with jax.enable_x64(True):
        whole = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), tree)  # noqa: E731
        params, stats, batch = (
            whole(tree) for tree in (variables["params"], variables["stats"], _batch(batch=2))
        )
        weight = np.random.default_rng(2).standard_normal((2, 68, 2))

        @jax.jit
        def value(params):
            module = nnx.merge(graph, params, stats)
            outputs = module(batch, train=False, key=jax.random.key(0))
            return jnp.sum(weight * outputs.landmarks) + jnp.sum(outputs.logits**2)

        gradient = jax.jit(jax.grad(value))(params)
        for seed in range(3):
            rng = np.random.default_rng(seed)
            direction = jax.tree.map(lambda x: rng.standard_normal(x.shape), params)  # noqa: B023
            direction = {**direction, "stage2": jax.tree.map(jnp.zeros_like, params["stage2"])}
            ahead, behind = (
                value(jax.tree.map(lambda x, d: x + step * d, params, direction))  # noqa: B023
                for step in (1e-7, -1e-7)
            )
            dots = jax.tree.map(lambda g, d: float(jnp.sum(g * d)), gradient, direction)
            assert abs(dots["stage1"]["conv1a"]["kernel"]) > 1e-3
            slope = sum(jax.tree.leaves(dots))
            np.testing.assert_allclose(slope, (ahead - behind) / 2e-7, rtol=1e-4)


@pytest.mark.parametrize("order", ORDERS)
def test_one_stage_localises_and_says_nothing_of_emotions(order):
    import jax

    settings = config.EmotionalDAN(stages=1, order=order, **{**SMALL, "widths": (4, 6, 5)})
    model, batch = _model(settings), _batch()
    variables = _trained(model)
    outputs, stats = _apply(model)(variables, batch, train=False, key=jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, stats, variables["stats"])
    run, weights = _says(_twin(settings, variables, "stage1", 1), train=False)
    (offset, embedding), _ = run(weights, [batch["frames"]["crops"][:, 0]])
    expected = batch["mean_shape"] + np.asarray(offset)
    np.testing.assert_allclose(outputs.landmarks, expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(outputs.embedding, embedding, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(outputs.logits, np.zeros((4, CLASSES)))


def test_without_an_offset_the_second_stage_keeps_the_firsts_landmarks():
    import jax

    batch = _batch()
    first, both = (_model(config.EmotionalDAN(stages=n, **SMALL)) for n in (1, 2))
    variables = _trained(both, reach=2.0)
    params = dict(variables["params"])
    alone = {part: {"stage1": variables[part]["stage1"]} for part in ("params", "stats")}
    stage2 = {**params["stage2"], "fc2": jax.tree.map(np.zeros_like, params["stage2"]["fc2"])}
    variables = {**variables, "params": {**params, "stage2": stage2}}
    one, _ = _apply(first)(alone, batch, train=False, key=jax.random.key(0))
    two, _ = _apply(both)(variables, batch, train=False, key=jax.random.key(0))
    np.testing.assert_allclose(two.landmarks, one.landmarks, rtol=1e-5, atol=1e-4)
    assert np.abs(np.asarray(one.landmarks) - batch["mean_shape"]).mean() > 1


def test_dropout_follows_the_key_and_a_frozen_stage_1_has_none():
    import jax

    settings = config.EmotionalDAN(**{**SMALL, "dropout": 0.5})
    batch = _batch()
    without = _model(config.EmotionalDAN(**SMALL), freeze=("stage1/*",))
    variables = _trained(without)
    # stage 2 passes on what stage 1 says
    silent = jax.tree.map(np.zeros_like, variables["params"]["stage2"]["fc2"])
    stage2 = {**variables["params"]["stage2"], "fc2": silent}
    variables = {**variables, "params": {**variables["params"], "stage2": stage2}}

    def run(model, seed, train=True):
        key = jax.random.key(seed)
        outputs, new = _apply(model)(variables, batch, train=train, key=key)
        return np.asarray(outputs.landmarks), np.asarray(outputs.logits), new

    joint, frozen = _model(settings), _model(settings, freeze=("stage1/*",))
    np.testing.assert_array_equal(run(joint, 1)[0], run(joint, 1)[0])
    assert np.abs(run(joint, 1)[0] - run(joint, 2)[0]).max() > 0.1
    np.testing.assert_array_equal(run(joint, 1, False)[1], run(joint, 2, False)[1])
    landmarks, logits, new = run(frozen, 1)
    other = run(frozen, 2)
    np.testing.assert_array_equal(landmarks, other[0])
    assert np.abs(logits - other[1]).max() > 0.01
    np.testing.assert_allclose(landmarks, run(frozen, 1, False)[0], atol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, new["stage1"], variables["stats"]["stage1"])
    moved = np.asarray(new["stage2"]["conv1a_bn"]["mean"])
    assert not np.allclose(moved, variables["stats"]["stage2"]["conv1a_bn"]["mean"])


def test_examples_that_only_fill_the_batch_change_nothing():
    import jax

    model = _model(config.EmotionalDAN(**SMALL))
    variables, batch = _trained(model), _batch()
    filled = dict(batch, weight=np.array([1, 1, 1, 0], np.float32))
    real = dict(batch, frames={"crops": batch["frames"]["crops"][:3]})
    (one, stats), (two, expected) = (
        _apply(model)(variables, b, train=True, key=jax.random.key(0)) for b in (filled, real)
    )
    np.testing.assert_allclose(one.landmarks[:3], two.landmarks, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(one.logits[:3], two.logits, rtol=1e-3, atol=1e-4)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # noqa: E731
    jax.tree.map(close, stats, expected)


@pytest.mark.parametrize(("order", "stages"), [("bn-relu", 1), ("bn-relu", 2), ("relu-bn", 1)])
def test_every_form_convolves_in_bfloat16(order, stages):
    import jax

    settings = config.EmotionalDAN(stages=stages, order=order, **SMALL)
    model = _model(settings, precision="bfloat16")
    args = (_trained(model), _batch())
    text = _apply(model).lower(*args, train=True, key=jax.random.key(0)).as_text()
    assert _convolutions(text) == ["bf16"] * 2 * stages


def _convolutions(text):
    """What each convolution of a lowered program gives."""
    return re.findall(r"stablehlo\.convolution.*-> tensor<[^>]*x(\w+)>", text)


def test_bfloat16_convolves_in_it_and_keeps_landmarks_within_a_pixel():
    import jax
    import jax.numpy as jnp

    side = 32
    settings = config.EmotionalDAN(**{**SMALL, "patch": 16})
    model, batch = _model(settings, side), _batch(side)
    half = _model(settings, side, precision="bfloat16")
    variables = _trained(model, reach=3.0)

    @jax.jit
    def step(params):
        def loss(params):
            variables_ = {**variables, "params": params}
            outputs, _ = half.apply(variables_, batch, train=True, key=jax.random.key(0))
            return jnp.sum(outputs.landmarks**2) + jnp.sum(outputs.logits), outputs

        return jax.value_and_grad(loss, has_aux=True)(params)

    lowered = step.lower(variables["params"])
    # forward, by input and by kernel; all but the image's
    assert _convolutions(lowered.as_text()) == ["bf16"] * (3 * 4 - 1)
    (_, coarse), gradient = lowered.compile()(variables["params"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    fine, _ = _apply(model)(variables, batch, train=True, key=jax.random.key(0))
    assert coarse.landmarks.dtype == jnp.float32
    assert np.abs(fine.landmarks - batch["mean_shape"][None]).mean() > 2
    assert np.abs(coarse.landmarks - fine.landmarks).max() < 1
