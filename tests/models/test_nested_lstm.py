"""The nested LSTM against Keras with copied weights, and against counts in closed form."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax import config
from fer_jax.errors import UserError
from fer_jax.models.model import Inputs, model_of, parameter_count
from fer_jax.models.nested_lstm import NestedLSTM

LAYERS = ("conv1", "conv2", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b")
POOLED = ("conv1", "conv2", "conv3b", "conv4b")
BOTH = ("crops", "frontal")
B, T = 2, 3
SIDE = (16, 24)  # of the images: maps from 16x24 to 1x1, so that bins are equal, shared and single


def _settings(**changes):
    narrow = {"widths": (4, 5, 6, 7, 8), "projection": 5, "temporal_units": 4,
              "convolutional_units": 6}  # fmt: skip
    return config.NestedLSTM(**{**narrow, **changes})


def _model(settings, images=("crops",), features=0, frames=T, side=SIDE, classes=4, **more):
    inputs = Inputs(frames=frames, images=images, features=features, image_shape=(*side, 3))
    return model_of(lambda rngs: NestedLSTM(settings, inputs, classes, rngs), **more)


def _params(model, seed=0):
    """Random values, also for biases: zeros would hide how they are used."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0))["params"]

    def draw(leaf):
        deviation = 0.1 if leaf.ndim == 1 else (2 / np.prod(leaf.shape[:-1])) ** 0.5
        return (deviation * rng.standard_normal(leaf.shape)).astype(np.float32)

    return jax.tree.map(draw, shapes)


def _batch(images=("crops",), features=0):
    rng = np.random.default_rng(3)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    batch = {"frames": {stream: draw(B, T, *SIDE, 3) for stream in images}}
    if features:
        batch["features"] = draw(B, T, features)
    return batch | {"frame_mask": np.ones((B, T), bool)}


def _mspp(x, bins, channel_max):
    """[B, T, H, W, C] -> [B, T, D], bin by bin."""
    from keras import ops

    rows = []
    for i in range(bins):
        columns = []
        for j in range(bins):
            edges = []
            for place, size in ((i, x.shape[2]), (j, x.shape[3])):
                edges.append(
                    (math.floor(place * size / bins), math.ceil((place + 1) * size / bins))
                )
            (top, bottom), (left, right) = edges
            axes = (2, 3, 4) if channel_max else (2, 3)
            columns.append(ops.max(x[:, :, top:bottom, left:right], axis=axes))
        rows += columns
    return ops.stack(rows, 2) if channel_max else ops.concatenate(rows, -1)


class _Twin:
    """Keras layers by our paths, and what they compute together."""

    def __init__(self, settings, params):
        import keras

        self.settings, self.layers = settings, {}
        zeros = {"kernel_initializer": "zeros"}  # random ones take seconds to compile
        for name, parts in params.items():
            for path, leaf in [(f"{name}/{k}", v) for k, v in parts.items()] + [(name, parts)]:
                if not isinstance(leaf, dict) or "kernel" not in leaf:
                    continue
                if "recurrent_kernel" in leaf:
                    units = leaf["recurrent_kernel"].shape[0]
                    recurrent = {"recurrent_initializer": "zeros"}
                    layer = keras.layers.LSTM(units, **zeros, **recurrent)
                    layer.build((B, None, leaf["kernel"].shape[0]))
                elif leaf["kernel"].ndim == 5:
                    width = leaf["kernel"].shape[-1]
                    layer = keras.layers.Conv3D(
                        width, 3, padding="same", activation="relu", **zeros
                    )
                    layer.build((B, T, *SIDE, leaf["kernel"].shape[-2]))
                else:
                    layer = keras.layers.Dense(leaf["bias"].shape[0], **zeros)
                    layer.build((B, leaf["kernel"].shape[0]))
                self.layers[path] = layer

    def __call__(self, params, batch):
        from keras import layers, ops

        settings = self.settings

        def run(path, x):
            leaf = params
            for name in path.split("/"):
                leaf = leaf[name]
            parts = ("kernel", "recurrent_kernel", "bias")
            weights = [leaf[part] for part in parts if part in leaf]
            layer = self.layers[path]
            return layer.stateless_call(
                weights, [v.value for v in layer.non_trainable_variables], x
            )[0]

        def states(x, backbone, middle):
            vectors = {}
            for name in LAYERS:
                x = run(f"{backbone}/{name}", x)
                vector = _mspp(x, settings.bins, settings.channel_max)
                if not settings.channel_max:
                    vector = run(f"projection{middle}_{name}", vector)
                vectors[name] = run(f"temp_lstm{middle}_{name}", vector)
                if name in POOLED:
                    x = layers.MaxPooling3D((1, 2, 2))(x)
            return vectors

        if settings.fusion == "backbones":
            crops = states(batch["frames"]["crops"], "backbone_crops", "_crops")
            frontal = states(batch["frames"]["frontal"], "backbone_frontal", "_frontal")
            steps = [vectors[name] for name in LAYERS for vectors in (crops, frontal)]
        else:
            x = ops.concatenate(list(batch["frames"].values()), -1)
            steps = list(states(x, "backbone", "").values())
        o = run("conv_lstm", ops.stack(steps, 1))
        if "features" in batch:
            o = ops.concatenate([o, ops.mean(batch["features"], 1)], -1)
        return run("classifier", o)


@pytest.mark.parametrize(
    ("settings", "images", "features", "differentiate"),
    [
        (_settings(bins=2), ("crops",), 6, True),
        (_settings(), BOTH, 0, False),
        (_settings(channel_max=True, fusion="backbones"), BOTH, 0, False),
    ],
    ids=["geometry", "channels", "backbones"],
)
def test_logits_and_gradients_equal_keras_with_the_same_weights(
    settings, images, features, differentiate
):
    model, batch = _model(settings, images, features), _batch(images, features)
    params = _params(model)
    with jax.numpy_rank_promotion("allow"):  # here and below: Keras promotes ranks
        twin = _Twin(settings, params)

    def objective(logits):
        return jnp.sum(jnp.sin(logits) * jnp.arange(logits.size).reshape(logits.shape)), logits

    def ours(params):
        variables = {"params": params, "stats": {}}
        outputs, _ = model.apply(variables, batch, train=False, key=jax.random.key(0))
        return objective(outputs.logits)

    def theirs(params):
        with jax.numpy_rank_promotion("allow"):
            return objective(twin(params, batch))

    if not differentiate:  # takes most of the time, and the layers are those of the other case
        logits, expected = jax.jit(ours)(params)[1], jax.jit(theirs)(params)[1]
    else:
        gradient, logits = jax.jit(jax.grad(ours, has_aux=True))(params)
        expected_gradient, expected = jax.jit(jax.grad(theirs, has_aux=True))(params)
        paths = jax.tree_util.tree_leaves_with_path(expected_gradient)
        for (path, other), one in zip(paths, jax.tree.leaves(gradient), strict=True):
            scale = float(np.abs(other).max())
            assert scale > 0, path
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * scale, err_msg=str(path))
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def _lstm_count(features, units):
    return 4 * units * (features + units + 1)


@pytest.mark.parametrize("fusion", ["channels", "backbones"])
@pytest.mark.parametrize("channel_max", [False, True])
@pytest.mark.parametrize("bins", [2, 4, 8])
def test_parameters_at_full_size(fusion, channel_max, bins):
    settings = config.NestedLSTM(fusion=fusion, channel_max=channel_max, bins=bins)
    model = _model(settings, BOTH, features=136, frames=5, side=(112, 112), classes=6)
    params = jax.eval_shape(model.init, jax.random.key(0))["params"]
    streams = 2 if fusion == "backbones" else 1
    # C3D's convolutions (docs/reproduction.md 3.3); the first may read six channels
    convs = 27_655_936 + (0 if streams == 2 else 27 * 3 * 64)
    if channel_max:
        levels = 8 * _lstm_count(bins**2, 256)
    else:
        pooled = bins**2 * (64 + 128 + 2 * 256 + 4 * 512)
        levels = pooled * 256 + 8 * 256 + 8 * _lstm_count(256, 256)
    head = _lstm_count(256, 256) + (256 + 136 + 1) * 6
    assert parameter_count(params) == streams * (convs + levels) + head


@pytest.mark.parametrize("bins", [4, 8])
def test_bins_need_not_divide_the_maps_of_112_pixels(bins):
    model = _model(config.NestedLSTM(bins=bins), frames=5, side=(112, 112))  # the last are 7x7
    variables = jax.eval_shape(model.init, jax.random.key(0))
    frames = jax.ShapeDtypeStruct((2, 5, 112, 112, 3), jnp.float32)
    batch = {"frames": {"crops": frames}, "frame_mask": jax.ShapeDtypeStruct((2, 5), bool)}
    outputs = jax.eval_shape(
        lambda v, b: model.apply(v, b, train=True, key=jax.random.key(0))[0], variables, batch
    )
    assert outputs.logits.shape == (2, 4) and outputs.embedding.shape == (2, 256)


def test_layers_are_named_by_their_convolution():
    names = set(jax.eval_shape(_model(_settings()).init, jax.random.key(0))["params"])
    each = {f"{kind}_{name}" for kind in ("projection", "temp_lstm") for name in LAYERS}
    assert names == {"backbone", "conv_lstm", "classifier"} | each


def test_a_padded_clip_is_read_as_the_clip_alone():
    model = _model(_settings(), features=6)
    variables, batch = {"params": _params(model), "stats": {}}, _batch(features=6)
    apply = jax.jit(lambda batch: model.apply(variables, batch, train=False, key=key)[0])
    key = jax.random.key(0)
    # Two real frames, and whatever stands after them.
    padded = apply({**batch, "frame_mask": np.array([[True, True, False]] * B)})
    alone = apply(jax.tree.map(lambda x: x[:, :2], batch))
    np.testing.assert_allclose(padded.embedding, alone.embedding, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(padded.logits, alone.logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(padded.embedding[:, 6:], batch["features"][:, :2].mean(1), rtol=1e-5)
    assert not np.allclose(padded.logits, apply(batch).logits, atol=1e-3)
    nothing = apply({**batch, "frame_mask": np.zeros((B, T), bool)})
    assert np.isfinite(nothing.logits).all()


def test_dropout_follows_the_key_and_only_in_training():
    model, batch = _model(_settings()), _batch()
    variables = {"params": _params(model), "stats": {}}
    apply = jax.jit(model.apply, static_argnames="train")

    def logits(seed, train):
        outputs, stats = apply(variables, batch, train=train, key=jax.random.key(seed))
        assert stats == {} and outputs.landmarks is None and outputs.embedding.shape == (B, 6)
        return np.asarray(outputs.logits)

    assert not np.allclose(logits(1, True), logits(2, True))
    assert not np.allclose(logits(1, True), logits(1, False))
    np.testing.assert_array_equal(logits(1, False), logits(2, False))


def test_bfloat16_computes_in_bfloat16():
    model = _model(_settings(), features=6, precision="bfloat16")
    variables = jax.eval_shape(model.init, jax.random.key(0))
    run = jax.jit(lambda v, b: model.apply(v, b, train=True, key=jax.random.key(0))[0])
    traced = run.trace(variables, _batch(features=6))
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    products = [line for line in text.splitlines() if "convolution(" in line or "dot_" in line]
    # The recurrent products read bfloat16 and add up in float32.
    assert len(products) > 8 + 8 and not any("xf32>, tensor<" in line for line in products)
    assert traced.out_info.logits.dtype == jnp.float32


@pytest.mark.parametrize(
    ("settings", "inputs", "message"),
    [
        (_settings(), {"images": ()}, "model nested-lstm reads images"),
        (_settings(), {"image_shape": (32, 12, 3)}, "at least 16 pixels, not 12"),
        (_settings(widths=(4, 4)), {}, "model.widths has 2 widths: give 5"),
        (_settings(fusion="backbones"), {}, "two image streams: set data.images=crops,frontal"),
    ],
)
def test_settings_that_cannot_be_are_one_clear_line(settings, inputs, message):
    usual = {"frames": 5, "images": ("crops",), "image_shape": (32, 32, 3)}
    with pytest.raises(UserError, match=message) as error:
        model_of(lambda rngs: NestedLSTM(settings, Inputs(**{**usual, **inputs}), 4, rngs))
    assert "\n" not in str(error.value)
