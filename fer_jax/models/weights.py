"""Weight files: Keras's HDF5 in both of its layouts, and safetensors.

Nothing is unpickled, and nothing outside the file is followed.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from fer_jax import config
from fer_jax.errors import UserError
from fer_jax.models.paths import flatten

_PICKLED = (".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth")
_KERAS = "keras.saving.load_model(FILE).save_weights('NAME.weights.h5')"
_SAFETENSORS = (
    "safetensors.numpy.save_file(arrays, 'NAME.safetensors'), arrays named and laid out as ours"
)
#: What a layer calls its arrays, by how many axes each has; Keras 3 files only number them.
_NUMBERED: dict[tuple[int, ...], tuple[str, ...]] = {
    (1, 1, 1, 1): ("gamma", "beta", "moving_mean", "moving_variance"),
    (1, 1, 1): ("beta", "moving_mean", "moving_variance"),
    (2, 2, 1): ("kernel", "recurrent_kernel", "bias"),
    (2, 2, 2): ("kernel", "recurrent_kernel", "bias"),
    (2, 2): ("kernel", "recurrent_kernel"),
    (4, 4, 1): ("depthwise_kernel", "pointwise_kernel", "bias"),
    (4, 4): ("depthwise_kernel", "pointwise_kernel"),
    **{(axes, 1): ("kernel", "bias") for axes in (2, 3, 4, 5)},
    **{(axes,): ("kernel",) for axes in (2, 3, 4, 5)},
}
#: Keras 1 called them so, after the layer's name; its running_std is a variance.
_KERAS_1 = {
    "W": "kernel", "b": "bias", "running_mean": "moving_mean", "running_std": "moving_variance",
    **{name: name for name in ("gamma", "beta", "depthwise_kernel", "pointwise_kernel")},
}  # fmt: skip
#: Keras's names -> ours.
_LEAVES = {"gamma": "scale", "beta": "bias", "moving_mean": "mean", "moving_variance": "var"}


def read_weights(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a Keras .h5 or a .safetensors file, by their names there: `read_h5`,
    `read_safetensors`.

    Raises:
      UserError: no such file, another format, or a damaged file.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no weight file {path}")
    kind = path.suffix.lower()
    if kind in (".h5", ".hdf5"):
        return read_h5(path)
    if kind == ".safetensors":
        return read_safetensors(path)
    reason, remedy = "is neither .h5 nor .safetensors", _SAFETENSORS
    if kind == ".keras":
        reason, remedy = "is a Keras archive", _KERAS
    elif kind in _PICKLED:
        reason = "may run code when it is read"
    raise UserError(f"{path} {reason}: convert it where it was made, with {remedy}")


def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """The floating-point arrays of a safetensors file, names joined by "/".

    Raises:
      UserError: not a safetensors file, or a damaged one.
    """
    safetensors = _need("safetensors")
    arrays = {}
    try:
        with safetensors.safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                array = np.asarray(file.get_tensor(name))
                if _is_real(array.dtype):
                    arrays[name.replace(".", "/")] = array
    except (safetensors.SafetensorError, TypeError, KeyError) as error:
        raise UserError(f"{path} is not a safetensors file, or damaged: {error}") from None
    return arrays


def save_safetensors(path: str | Path, variables: Mapping[str, Any]) -> None:
    """Writes {"params", "stats"} as one array a path: "block1_conv1/kernel"."""
    _need("safetensors")
    numpy = importlib.import_module("safetensors.numpy")
    leaves = flatten(variables["params"]) | flatten(variables["stats"])
    arrays = {name: np.ascontiguousarray(leaf) for name, leaf in leaves.items()}
    numpy.save_file(arrays, path, metadata={"format": "fer-jax"})


def read_h5(path: str | Path) -> dict[str, np.ndarray]:
    """The floating-point arrays of a Keras file, as "layer/array": "block1_conv1/kernel".

    Reads weights and whole models in the layout of Keras 1 and 2 (.h5) and of Keras 3
    (.weights.h5). A layer inside another network has its name before it: "vgg16/fc1/kernel".

    Raises:
      UserError: no weights in it, links to other files, arrays of objects, or a damaged file.
    """
    h5py = _need("h5py")
    if not h5py.is_hdf5(path):
        raise UserError(f"{path} is not an HDF5 file, or damaged: get it again")
    try:
        with h5py.File(path, "r") as file:
            _check(h5py, file, str(path), set())
            group = file.get("model_weights", file)
            if _strings(group, "layer_names"):
                return dict(_by_layer(group))
            if "layers" in group:
                return dict(_by_number(group, str(path)))
    except UserError:
        raise
    except (OSError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: {' '.join(str(error).split())}") from None
    raise UserError(f"{path} holds no weights of Keras layers: save them with model.save_weights")


def _need(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError:
        raise UserError(
            f"weight files need the package {package}: pip install 'fer-jax[weights]'"
        ) from None


def _is_real(dtype: np.dtype) -> bool:
    return dtype.kind == "f" or dtype == ml_dtypes.bfloat16


def _check(h5py: Any, group: Any, path: str, seen: set[int]) -> None:
    """Raises:
    UserError: something below `group` lies elsewhere, or is not numbers.
    """
    address = h5py.h5o.get_info(group.id).addr
    if address in seen:
        raise UserError(f"{path}: {group.name} is there twice: save plain weights")
    seen.add(address)
    for name in group:
        link, place = group.get(name, getlink=True), f"{path}: {group.name.rstrip('/')}/{name}"
        if not isinstance(link, h5py.HardLink):
            raise UserError(f"{place} is a link to elsewhere: save the weights in one plain file")
        item = group[name]
        if isinstance(item, h5py.Group):
            _check(h5py, item, path, seen)
        elif not isinstance(item, h5py.Dataset) or item.dtype.hasobject:
            raise UserError(f"{place} is not an array of numbers: save plain weights")
        elif item.is_virtual or item.external:
            raise UserError(f"{place} lies in another file: save the weights in one plain file")


def _strings(group: Any, name: str) -> list[str]:
    """A list of an HDF5 attribute, which Keras cuts in numbered pieces where it is long."""
    pieces = takewhile(group.attrs.__contains__, (f"{name}{index}" for index in count()))
    found = [item for piece in (name, *pieces) for item in group.attrs.get(piece, ())]
    return [item.decode() if isinstance(item, bytes) else str(item) for item in found]


def _array(dataset: Any) -> np.ndarray:
    if dataset.attrs.get("dtype") == "bfloat16":
        return np.asarray(dataset[()]).view(ml_dtypes.bfloat16)
    return np.asarray(dataset[()])


def _by_layer(group: Any) -> Iterator[tuple[str, np.ndarray]]:
    """The layout of Keras 1 and 2: every layer lists its arrays' names."""
    for layer in _strings(group, "layer_names"):
        names = _strings(group[layer], "weight_names")
        arrays = [_array(group[layer][name]) for name in names]
        whole = [re.sub(r":\d+$", "", name) for name in names]
        leaves = [_leaf(layer, name) for name in whole]
        if len(set(leaves)) < len(leaves):  # a network in place of a layer
            leaves = [_below(layer, name) for name in whole]
        for leaf, array in zip(leaves, arrays, strict=True):
            if _is_real(array.dtype):
                yield f"{layer}/{leaf}", array


def _leaf(layer: str, name: str) -> str:
    leaf = name.rpartition("/")[2]
    old = re.fullmatch(rf"{re.escape(layer)}_(\w+?)(_\d+)?", leaf)
    return _KERAS_1.get(old[1], leaf) if old else leaf


def _below(layer: str, name: str) -> str:
    """ "rnn/gru/gru_cell/bias", an array of the network "rnn" -> "gru/bias"."""
    parts = name.split("/")
    parts = parts[parts.index(layer) + 1 :] if layer in parts[:-1] else parts
    return "/".join(part for part in parts if not re.fullmatch(r"(lstm|gru)_cell(_\d+)?", part))


def _by_number(group: Any, path: str, above: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """The layout of Keras 3: groups by class, arrays by number; attributes hold layers' names."""
    inside = group.get("vars", {})
    arrays = [_array(inside[key]) for key in sorted(inside, key=int)]
    arrays = [array for array in arrays if _is_real(array.dtype)]
    numbers = tuple(str(index) for index in range(len(arrays)))
    leaves = _NUMBERED.get(tuple(array.ndim for array in arrays), numbers)
    for leaf, array in zip(leaves, arrays, strict=True):
        yield above + leaf, array
    for key in group:
        if key == "layers":
            for kind, layer in group[key].items():
                name = layer["vars"].attrs.get("name") if "vars" in layer else None
                if not isinstance(name, str) and list(_by_number(layer, path)):
                    raise UserError(
                        f"{path} does not say what its layers are called ({kind}): load it in the "
                        "newest Keras and save_weights again"
                    )
                yield from _by_number(layer, path, f"{above}{name}/")
        elif key != "vars" and hasattr(group[key], "keys"):
            # A recurrent layer keeps its arrays in a cell.
            part = "" if key == "cell" else f"{key}/"
            yield from _by_number(group[key], path, above + part)


def name_map(settings: Any, names: Iterable[str]) -> dict[str, str]:
    """Where the arrays of a Keras network belong in ours.

    Knows keras.applications' Xception, InceptionV3 and VGG16, rcmalli's VGG-Face, C3D, and stacks
    of LSTM, GRU and Dense layers; layers of any other name keep it.

    Args:
      settings: the network's group in a config, e.g. `config.Xception()`.
      names: as `read_h5` gives them, all of them: layers that Keras numbered are told apart by
        their order, whatever number they start at.

    Returns:
      name -> path in that network, with a * in the place of every image stream.

    Raises:
      UserError: another number of numbered layers than the network has.
    """
    names = list(names)
    layers = _layer_map(settings, list(dict.fromkeys(map(_layer_of, names))))
    mapped = {}
    for name in names:
        layer, leaf = _layer_of(name), name.rpartition("/")[2]
        layer = layers.get(layer, layer)
        mapped[name] = f"{layer}/{_LEAVES.get(leaf, leaf)}" if layer else _LEAVES.get(leaf, leaf)
    return mapped


def _layer_of(name: str) -> str:
    """ "vgg16/fc1/kernel" -> "fc1"."""
    return name.rpartition("/")[0].rpartition("/")[2]


def _layer_map(settings: Any, layers: Sequence[str]) -> dict[str, str]:
    """Layers' names there -> ours."""
    convolutions = _numbered(layers, "conv2d|convolution2d")
    norms = _numbered(layers, "batch_normalization|batchnormalization")
    dense = _numbered(layers, "dense")
    mapped = {"predictions": "classifier"}
    match settings:
        case config.Xception():
            blocks = [*range(2, len(settings.entry) + 2)]
            if settings.exit:
                blocks.append(len(settings.entry) + settings.middle + 2)
            places = [f"block{block}_residual" for block in blocks]
            mapped |= _in_order(settings, convolutions, places)
            mapped |= _in_order(settings, norms, [f"{place}_bn" for place in places])
            mapped |= _head(dense, ["feature"] if settings.dense else [])
        case config.InceptionV3():
            units = range(94)
            mapped |= _in_order(settings, convolutions, [f"conv2d_{i}" for i in units])
            mapped |= _in_order(settings, norms, [f"batch_normalization_{i}" for i in units])
        case config.VGGFace():
            for layer in layers:
                if found := re.fullmatch(r"block(\d)_conv(\d)|conv(\d)_(\d)", layer):
                    block, index = filter(None, found.groups())
                    mapped[layer] = f"stack_*/conv{block}_{index}"
            mapped |= {"fc1": "fc6", "fc2": "fc7"}
        case config.C3D():
            mapped |= {"fc8": "classifier"}
        case config.LSTM():  # and GRU
            places = [f"{settings.name}_{i}" for i in range(len(settings.units))]
            mapped |= _in_order(settings, _numbered(layers, settings.name), places)
            mapped |= _head(dense, ["dense"] if settings.dense else [])
        case config.Dense():
            places = [f"dense_{i}" for i in range(len(settings.units))]
            mapped |= _in_order(settings, dense, [*places, "classifier"])
    return mapped


def _numbered(layers: Sequence[str], kinds: str) -> list[str]:
    """The layers that Keras named itself, in the order in which they were made."""
    found = [(layer, re.fullmatch(rf"(?:{kinds})(?:_(\d+))?", layer)) for layer in layers]
    return [layer for _, layer in sorted((int(m[1] or 0), name) for name, m in found if m)]


def _head(layers: Sequence[str], hidden: Sequence[str]) -> dict[str, str]:
    """Dense layers, if they are as many as ours; another head is not the network."""
    places = [*hidden, "classifier"]
    return dict(zip(layers, places, strict=True)) if len(layers) == len(places) else {}


def _in_order(settings: Any, layers: Sequence[str], places: Sequence[str]) -> dict[str, str]:
    if layers and len(layers) != len(places):
        raise UserError(
            f"the weight file has {len(layers)} layers {layers[0]} ... {layers[-1]} where model "
            f"{settings.name} has {len(places)}: they are of another network"
        )
    return dict(zip(layers, places, strict=False))
