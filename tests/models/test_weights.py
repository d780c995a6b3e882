"""Weight files as Keras and safetensors write them, and those that must not be read."""

import logging

import numpy as np
import pytest

from fer_jax import config
from fer_jax.errors import UserError
from fer_jax.models import weights
from fer_jax.models.paths import flatten

# Keras 3.15's variables do not know NumPy 2's copy argument.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't:DeprecationWarning"
)


def _keras_model():
    import keras

    layers = keras.layers
    zeros = {"kernel_initializer": "zeros", "recurrent_initializer": "zeros"}  # quick
    image = keras.Input((12, 12, 3))
    x = layers.Conv2D(4, 3, use_bias=False, name="block1_conv1")(image)
    x = layers.BatchNormalization(name="block1_conv1_bn")(x)
    x = layers.SeparableConv2D(5, 3, use_bias=False, name="block2_sepconv1")(x)
    x = layers.BatchNormalization(scale=False)(x)
    x = layers.Conv2D(6, 1)(x)
    rnn = [layers.LSTM(3, return_sequences=True, **zeros), layers.GRU(2, **zeros)]
    inner = keras.Sequential([keras.Input((None, 6)), *rnn], name="rnn")
    x = inner(layers.Reshape((-1, 6))(x))
    x = layers.Dropout(0.5)(x)
    return keras.Model(image, layers.Dense(7, name="predictions")(x))


def _by_name(model):
    """Every array as Keras itself names it: layer, array."""
    found = {}
    for layer in model.layers:
        parts = [(f"{layer.name}/", part) for part in getattr(layer, "layers", ())]
        for above, part in parts or [("", layer)]:
            for variable in part.weights:
                if "seed" not in variable.name:
                    found[f"{above}{part.name}/{variable.name}"] = np.asarray(variable)
    return found


@pytest.fixture(scope="module")
def keras_files(tmp_path_factory):
    import jax

    out = tmp_path_factory.mktemp("keras")
    with jax.numpy_rank_promotion("allow"):
        model = _keras_model()
        rng = np.random.default_rng(0)
        drawn = [rng.standard_normal(w.shape).astype(np.float32) for w in model.get_weights()]
        model.set_weights(drawn)
        model.save_weights(out / "model.weights.h5")
        logging.getLogger("absl").setLevel(logging.ERROR)  # the older layout is called legacy
        model.save(out / "model.h5")
        model.save(out / "model.keras")
    return out, _by_name(model)


@pytest.mark.parametrize("name", ["model.weights.h5", "model.h5"])
def test_both_layouts_of_keras(keras_files, name):
    out, expected = keras_files
    found = weights.read_weights(out / name)
    assert sorted(found) == sorted(expected)
    assert len(found) == 4 + 1 + 2 + 3 + 2 + 3 + 3 + 2
    for key, array in expected.items():
        np.testing.assert_array_equal(found[key], array, err_msg=key)


def test_half_precision_keras(tmp_path):
    import keras
    import ml_dtypes

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, dtype="bfloat16")])
    model.save_weights(tmp_path / "half.weights.h5")
    (kernel, bias) = weights.read_weights(tmp_path / "half.weights.h5").values()
    assert kernel.dtype == bias.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(kernel, np.asarray(model.weights[0]))


def _write_older(path, layers, pieces=0):
    """The layout of Keras 1 and 2, as their files have it: {layer: {weight name: array}}."""
    import h5py

    with h5py.File(path, "w") as file:
        names = [layer.encode() for layer in layers]
        if pieces:
            for index in range(0, len(names), pieces):
                file.attrs[f"layer_names{index // pieces}"] = names[index : index + pieces]
        else:
            file.attrs["layer_names"] = names
        for layer, arrays in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in arrays]
            for name, array in arrays.items():
                group.create_dataset(name, data=array)


@pytest.mark.parametrize("pieces", [0, 2])
def test_names_of_keras_1_and_2(tmp_path, pieces):
    kernel, bias = np.ones((3, 3, 2, 4), np.float32), np.arange(4, dtype=np.float32)
    layers = {
        "input_1": {},
        "block1_conv1": {"block1_conv1_W_1:0": kernel, "block1_conv1_b_1:0": bias},
        "bn_1": {f"bn_1_{n}:0": bias for n in ("gamma", "beta", "running_mean", "running_std")},
        "conv1_2": {"conv1_2/kernel:0": kernel, "conv1_2/bias:0": bias},
        "lstm_1": {"lstm_1/lstm_cell/kernel:0": kernel[0, 0], "lstm_1/counter:0": np.arange(3)},
        "twins": {"a/dense/bias:0": bias, "b/dense/bias:0": 2 * bias},
    }
    _write_older(tmp_path / "old.h5", layers, pieces)
    found = weights.read_weights(tmp_path / "old.h5")
    assert list(found) == [
        "block1_conv1/kernel", "block1_conv1/bias", "bn_1/gamma", "bn_1/beta", "bn_1/moving_mean",
        "bn_1/moving_variance", "conv1_2/kernel", "conv1_2/bias", "lstm_1/kernel",
        "twins/a/dense/bias", "twins/b/dense/bias",
    ]  # fmt: skip
    np.testing.assert_array_equal(found["twins/b/dense/bias"], 2 * bias)


def _external_link(file, h5py, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        other["secret"] = np.ones(3)
    file["layers/dense/vars/0"] = h5py.ExternalLink(str(folder / "other.h5"), "secret")


def _soft_link(file, h5py, folder):
    del folder
    file["layers/dense/vars/0"] = h5py.SoftLink("/layers")


def _own_ancestor(file, h5py, folder):
    del h5py, folder
    file["layers/dense"] = file.create_group("layers/conv")
    file["layers/dense/again"] = file["layers"]


def _objects(file, h5py, folder):
    del folder
    data = np.array(["import os"], dtype=object)
    file.create_dataset("layers/dense/vars/0", data=data, dtype=h5py.string_dtype())


def _external_data(file, h5py, folder):
    del h5py
    (folder / "raw.bin").write_bytes(bytes(24))
    stored = [(str(folder / "raw.bin"), 0, 24)]
    file.create_dataset("layers/dense/vars/0", (3,), np.float64, external=stored)


def _virtual_data(file, h5py, folder):
    layout = h5py.VirtualLayout((3,), np.float64)
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "secret", (3,))
    file.create_virtual_dataset("layers/dense/vars/0", layout)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (_external_link, "layers/dense/vars/0 is a link to elsewhere"),
        (_soft_link, "layers/dense/vars/0 is a link to elsewhere"),
        (_own_ancestor, "is there twice"),
        (_objects, "layers/dense/vars/0 is not an array of numbers"),
        (_external_data, "layers/dense/vars/0 lies in another file"),
        (_virtual_data, "layers/dense/vars/0 lies in another file"),
        (lambda file, h5py, folder: file.create_group("data"), "no weights of Keras layers"),
        (
            lambda file, h5py, folder: file.create_dataset("layers/dense/vars/0", data=np.ones(3)),
            "does not say what its layers are called",
        ),
        (
            lambda file, h5py, folder: file.attrs.create("layer_names", [b"absent"]),
            "is damaged",
        ),
    ],
)
def test_hdf5_that_is_refused(tmp_path, write, message):
    import h5py

    path = tmp_path / "file.h5"
    with h5py.File(path, "w") as file:
        write(file, h5py, tmp_path)
    with pytest.raises(UserError, match=message) as error:
        weights.read_weights(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vgg_face.pth", "may run code when it is read.*safetensors"),
        ("model.ckpt", "may run code when it is read.*safetensors"),
        ("model.PKL", "may run code when it is read.*safetensors"),
        ("model.keras", "is a Keras archive.*save_weights"),
        ("model.onnx", "is neither .h5 nor .safetensors"),
        ("text.h5", "is not an HDF5 file"),
        ("text.safetensors", "is not a safetensors file"),
    ],
)
def test_other_formats_are_named(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"something else entirely, long enough to be looked at")
    with pytest.raises(UserError, match=message) as error:
        weights.read_weights(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_cut_one(tmp_path, keras_files):
    with pytest.raises(UserError, match="no weight file"):
        weights.read_weights(tmp_path / "absent.h5")
    whole = (keras_files[0] / "model.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cut.h5 is damaged|cut.h5 is not an HDF5 file"):
        weights.read_weights(tmp_path / "cut.h5")


@pytest.mark.parametrize(("package", "name"), [("h5py", "a.h5"), ("safetensors", "a.safetensors")])
def test_a_missing_package_is_named(tmp_path, monkeypatch, package, name):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=rf"{package}: pip install 'fer-jax\[weights\]'"):
        weights.read_weights(tmp_path / name)


def test_safetensors_give_back_what_was_saved(tmp_path):
    import jax.numpy as jnp

    variables = {
        "params": {"conv": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": np.ones(3)},
                   "half": {"kernel": jnp.ones((2, 2), jnp.bfloat16)}},
        "stats": {"conv_bn": {"mean": np.arange(8, dtype=np.float32)[::2]}},
    }  # fmt: skip
    weights.save_safetensors(tmp_path / "a.safetensors", variables)
    found = weights.read_weights(tmp_path / "a.safetensors")
    expected = flatten(variables["params"]) | flatten(variables["stats"])
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_safetensors_of_others(tmp_path):
    """Dots between names are paths too; integers are no weights; a cut file is an error."""
    from safetensors.numpy import save_file

    path = tmp_path / "a.safetensors"
    save_file({"cnn.conv.kernel": np.ones((2, 3), np.float32), "steps": np.arange(3)}, path)
    assert list(weights.read_weights(path)) == ["cnn/conv/kernel"]
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match="not a safetensors file, or damaged") as error:
        weights.read_weights(path)
    assert "\n" not in str(error.value)


def _ours(settings, images=("crops",), side=75, features=0, frames=1, classes=1000):
    import jax

    from fer_jax import models

    shape = (side, side, 3) if images else (0, 0, 0)
    inputs = models.Inputs(frames, features, images, shape)
    shapes = jax.eval_shape(models.build(settings, inputs, classes).init, jax.random.key(0))
    return {**flatten(shapes["params"]), **flatten(shapes["stats"])}


def _names(model):
    """As `read_h5` gives them."""
    layers = [layer for layer in model.layers if layer.weights]
    return {f"{layer.name}/{w.name}": tuple(w.shape) for layer in layers for w in layer.weights}


def test_keras_xception_fills_ours():
    """Every array of Keras's has one place here, of its shape, and every place is filled."""
    import jax
    import keras

    # Layers made before shift the numbers of those that Keras names.
    keras.layers.Conv2D(1, 1), keras.layers.BatchNormalization()
    with jax.numpy_rank_promotion("allow"), keras.StatelessScope():
        twin = keras.applications.Xception(weights=None, input_shape=(71, 71, 3))
    theirs = _names(twin)
    assert "conv2d_4/kernel" in theirs and "conv2d/kernel" not in theirs
    settings = config.Xception(dense=0)
    places, ours = weights.name_map(settings, theirs), _ours(settings)
    assert sorted(places.values()) == sorted(ours)
    assert {places[name]: shape for name, shape in theirs.items()} == {
        path: leaf.shape for path, leaf in ours.items()
    }


def test_a_convolution_and_its_normalisation_stay_together():
    """keras.applications makes Inception's layers in pairs; a file lists them by depth."""
    numbers = np.random.default_rng(0).permutation(94) + 94
    names = [f"{kind}_{number}/{leaf}" for number in numbers
             for kind, leaf in (("conv2d", "kernel"), ("batch_normalization", "beta"))]  # fmt: skip
    places = weights.name_map(config.InceptionV3(), names)
    for number in range(94):
        assert places[f"conv2d_{94 + number}/kernel"] == f"conv2d_{number}/kernel"
        norm = places[f"batch_normalization_{94 + number}/beta"]
        assert norm == f"batch_normalization_{number}/bias"


VGG16 = {
    "block1_conv1/kernel": "stack_*/conv1_1/kernel",
    "vgg16/block5_conv3/bias": "stack_*/conv5_3/bias",
    "fc1/kernel": "fc6/kernel",
    "fc2/bias": "fc7/bias",
    "predictions/kernel": "classifier/kernel",
}
VGG_FACE = {
    "conv1_2/kernel": "stack_*/conv1_2/kernel",
    "fc6/kernel": "fc6/kernel",
    "fc8/bias": "fc8/bias",
}
XCEPTION = {
    "xception/conv2d/kernel": "block2_residual/kernel",
    "xception/conv2d_1/kernel": "block3_residual/kernel",
    "xception/batch_normalization_2/moving_variance": "block4_residual_bn/var",
    "xception/block5_sepconv1/depthwise_kernel": "block5_sepconv1/depthwise_kernel",
    "dense_7/kernel": "feature/kernel",
    "dense_8/kernel": "classifier/kernel",
}


@pytest.mark.parametrize(
    ("settings", "expected", "others"),
    [
        (config.VGGFace(), VGG16, ()),
        (config.VGGFace(), VGG_FACE, ()),
        (config.Xception(), XCEPTION, ("conv2d_2", "conv2d_3", "batch_normalization",
                                       "batch_normalization_1", "batch_normalization_3")),
        (config.C3D(), {"conv3a/kernel": "conv3a/kernel", "fc8/bias": "classifier/bias"}, ()),
        (config.LSTM(units=(4, 3)), {"lstm_10/kernel": "lstm_1/kernel", "lstm_9/bias":
                                     "lstm_0/bias", "dense/bias": "classifier/bias"}, ()),
        (config.GRU(units=(4,), dense=5), {"gru/recurrent_kernel": "gru_0/recurrent_kernel",
                                           "dense_2/bias": "dense/bias",
                                           "dense_3/bias": "classifier/bias"}, ()),
        (config.Dense(units=(4, 3), dropout=(0, 0)), {"dense_1/bias": "dense_1/bias",
                                                      "dense/bias": "dense_0/bias",
                                                      "dense_2/kernel": "classifier/kernel"}, ()),
        (config.SmallCNN(), {"conv_1/kernel": "conv_1/kernel", "bn/gamma": "bn/scale"}, ()),
    ],
)  # fmt: skip
def test_names_of_keras_here(settings, expected, others):
    found = weights.name_map(settings, [*expected, *(f"{layer}/other" for layer in others)])
    assert {name: found[name] for name in expected} == expected


def test_vgg_face_fills_every_place():
    shapes = {f"conv{block}_{i}": 4 for block, n in enumerate((2, 2, 3, 3, 3), 1)
              for i in range(1, n + 1)} | {"fc6": 2, "fc7": 2, "fc8": 2}  # fmt: skip
    names = [f"{layer}/{leaf}" for layer in shapes for leaf in ("kernel", "bias")]
    places = weights.name_map(config.VGGFace(), names)
    ours = _ours(config.VGGFace(), side=224, classes=6)
    filled = {path.replace("*", "crops") for path in places.values()}
    assert set(ours) - filled == {"classifier/kernel", "classifier/bias"}
    assert filled <= set(ours)


def test_another_networks_file_is_named():
    names = [f"conv2d_{i}/kernel" for i in range(1, 91)]
    with pytest.raises(UserError, match=r"90 layers conv2d_1 ... conv2d_90 where.*xception has 4"):
        weights.name_map(config.Xception(), names)
    with pytest.raises(UserError, match="inception-v3 has 94"):
        weights.name_map(config.InceptionV3(), names)


def test_a_keras_network_says_the_same_here(tmp_path):
    """Paper 5's kind of network, trained in Keras, read from its file."""
    import jax
    import keras

    from fer_jax import models
    from fer_jax.training.initial import initial_variables

    settings = config.LSTM(units=(5, 4), activation="selu", dropout=0.0)
    layers = [
        keras.layers.LSTM(5, activation="selu", return_sequences=True),
        keras.layers.LSTM(4, activation="selu"),
    ]
    with jax.numpy_rank_promotion("allow"):
        twin = keras.Sequential([keras.Input((6, 3)), *layers, keras.layers.Dense(7)])
    twin.save_weights(tmp_path / "twin.weights.h5")
    model = models.build(settings, models.Inputs(frames=6, features=3), 7)
    variables = model.init(jax.random.key(0))
    init = config.Init(weights=str(tmp_path / "twin.weights.h5"))
    started, report = initial_variables(init, variables, settings)
    assert report["loaded"] == 8 and not report["random"] and not report["unused"]
    x = np.random.default_rng(0).standard_normal((2, 6, 3)).astype(np.float32)
    batch = {"features": x, "frame_mask": np.ones((2, 6), bool)}
    ours = model.apply(started, batch, train=False, key=jax.random.key(0))[0].logits
    with jax.numpy_rank_promotion("allow"):
        theirs = twin(x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
