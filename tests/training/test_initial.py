"""Where a network starts: what is loaded, what stays random, and what cannot be."""

import json
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest

from fer_jax import config
from fer_jax.config import Init
from fer_jax.errors import UserError
from fer_jax.models.paths import flatten, unflatten
from fer_jax.models.weights import save_safetensors
from fer_jax.training.initial import initial_variables, render

SHAPES = {
    "block1_conv1/kernel": (3, 3, 1, 4),
    "block1_conv1_bn/scale": (4,),
    "block1_conv1_bn/bias": (4,),
    "feature/kernel": (4, 6),
    "classifier/kernel": (6, 7),
    "classifier/bias": (7,),
}
STATS = {"block1_conv1_bn/mean": (4,), "block1_conv1_bn/var": (4,)}


def _variables(shapes, stats=None, seed=0):
    """Variables of these shapes, random, every leaf another."""
    rng = np.random.default_rng(seed)
    draw = lambda leaves: unflatten(  # noqa: E731
        {path: rng.standard_normal(shape).astype(np.float32) for path, shape in leaves.items()}
    )
    return {"params": draw(shapes), "stats": draw(STATS if stats is None else stats)}


def _leaves(variables):
    return flatten(variables["params"]) | flatten(variables["stats"])


@pytest.fixture
def saved(tmp_path):
    """A weight file of the small network, and its arrays by path."""
    variables = _variables(SHAPES, seed=1)
    save_safetensors(tmp_path / "cnn.safetensors", variables)
    return str(tmp_path / "cnn.safetensors"), _leaves(variables)


def _start(init, variables, settings=None):
    return initial_variables(init, variables, settings or config.Xception())


def test_everything_is_loaded(saved):
    file, theirs = saved
    variables = _variables(SHAPES)
    started, report = _start(Init(weights=file), variables)
    assert list(started) == ["params", "stats"]
    assert list(flatten(started["params"])) == list(flatten(variables["params"]))
    assert list(flatten(started["stats"])) == list(STATS)
    for path, leaf in _leaves(started).items():
        assert leaf.dtype == np.float32
        np.testing.assert_array_equal(leaf, theirs[path])
    count = 36 + 8 + 24 + 42 + 7 + 8
    assert report == {
        "from": file, "loaded": 8, "loaded_parameters": count, "random": [], "unused": [],
    }  # fmt: skip
    assert render(report) == f"weights: 8 of 8 tensors ({count} numbers) from {file}"


def test_nothing_is_named_nothing_changes():
    variables = _variables(SHAPES)
    started, report = _start(Init(), variables)
    assert started == variables and report == {}


def test_what_is_skipped_absent_or_unused_is_reported(saved):
    file, theirs = saved
    shapes = {**SHAPES, "classifier/kernel": (6, 3), "classifier/bias": (3,), "extra/bias": (5,)}
    del shapes["feature/kernel"]
    variables = _variables(shapes)
    started, report = _start(Init(weights=file, skip=("classifier/*",)), variables)
    ours, before = _leaves(started), _leaves(variables)
    assert report["random"] == ["classifier/kernel", "classifier/bias", "extra/bias"]
    assert sorted(report["unused"]) == ["classifier/bias", "classifier/kernel", "feature/kernel"]
    assert report["loaded"] == 5 and report["loaded"] + len(report["random"]) == len(ours)
    for path, leaf in ours.items():
        expected = before if path in report["random"] else theirs
        np.testing.assert_array_equal(leaf, expected[path])
    assert json.loads(json.dumps(report)) == report
    text = render(report)
    assert text.startswith("weights: 5 of 8 tensors (52 numbers) from ")
    assert "; random: classifier (2), extra (1); not used there: " in text
    assert "classifier (2)" in text and "feature (1)" in text and "\n" not in text


def test_a_network_becomes_a_part(saved):
    file, theirs = saved
    parts = {f"cnn/{path}": shape for path, shape in SHAPES.items() if "classifier" not in path}
    stats = {f"cnn/{path}": shape for path, shape in STATS.items()}
    variables = _variables({**parts, "rnn/classifier/kernel": (9, 7)}, stats)
    started, report = _start(Init(weights=file, rename={"": "cnn"}), variables, config.CNNRNN())
    for path in (*parts, *stats):
        np.testing.assert_array_equal(_leaves(started)[path], theirs[path.removeprefix("cnn/")])
    assert report["random"] == ["rnn/classifier/kernel"]
    assert sorted(report["unused"]) == ["classifier/bias", "classifier/kernel"]


def test_a_part_becomes_a_network(tmp_path):
    variables = _variables({f"cnn/{path}": shape for path, shape in SHAPES.items()}, {})
    save_safetensors(tmp_path / "a.safetensors", variables)
    init = Init(weights=str(tmp_path / "a.safetensors"), rename={"cnn": ""})
    started, report = _start(init, _variables(SHAPES, {}, seed=2))
    assert report["loaded"] == len(SHAPES) and report["random"] == []
    np.testing.assert_array_equal(
        started["params"]["feature"]["kernel"], variables["params"]["cnn"]["feature"]["kernel"]
    )


def test_the_longest_prefix_counts(saved):
    file, theirs = saved
    variables = _variables({"a/feature/kernel": (4, 6), "head/kernel": (6, 7), "head/bias": (7,)})
    rename = {"": "a", "classifier": "head"}
    started, report = _start(Init(weights=file, rename=rename), variables)
    assert report["random"] == list(STATS) and report["loaded"] == 3
    np.testing.assert_array_equal(started["params"]["head"]["bias"], theirs["classifier/bias"])


def test_one_stack_starts_two(tmp_path):
    one = {"stack_crops/conv1_1/kernel": (3, 3, 3, 4), "fc6/kernel": (4, 2)}
    two = {f"stack_{name}/conv1_1/kernel": (3, 3, 3, 4) for name in ("crops", "frontal")}
    save_safetensors(tmp_path / "a.safetensors", _variables(one, {}, seed=1))
    init = Init(weights=str(tmp_path / "a.safetensors"), rename={"stack_crops": "stack_*"})
    started, report = _start(init, _variables(two, {}), config.VGGFace())
    assert report["loaded"] == 2 and report["unused"] == ["fc6/kernel"]
    stacks = started["params"]
    np.testing.assert_array_equal(
        stacks["stack_crops"]["conv1_1"]["kernel"], stacks["stack_frontal"]["conv1_1"]["kernel"]
    )


def test_arrays_of_other_kinds_become_ours(tmp_path):
    import jax.numpy as jnp
    from safetensors.numpy import save_file

    half = np.asarray(jnp.arange(6, dtype=jnp.bfloat16))
    save_file({"a.bias": half, "b.bias": np.arange(6) / 3}, tmp_path / "a.safetensors")
    variables = _variables({"a/bias": (6,), "b/bias": (6,)}, {})
    started, _ = _start(Init(weights=str(tmp_path / "a.safetensors")), variables)
    assert started["params"]["a"]["bias"].dtype == jnp.float32
    np.testing.assert_array_equal(started["params"]["a"]["bias"], np.arange(6, dtype=np.float32))
    np.testing.assert_array_equal(
        started["params"]["b"]["bias"], (np.arange(6) / 3).astype(np.float32)
    )


@pytest.mark.parametrize(
    ("init", "shapes", "words"),
    [
        (
            {},
            {**SHAPES, "classifier/kernel": (6, 3), "classifier/bias": (3,)},
            ["classifier/kernel is [6, 3] here and [6, 7] in", "(and 1 more differ)",
             "--train.init.skip 'classifier/*'"],
        ),
        (
            {},
            {path: tuple(side + 1 for side in shape) for path, shape in SHAPES.items()},
            ["block1_conv1/kernel is [4, 4, 2, 5] here", "--train.init.skip "
             "'block1_conv1/*,block1_conv1_bn/*,feature/*,classifier/*'"],
        ),
        (
            {},
            {"conv1_1/kernel": (3, 3, 1, 4), "fc6/bias": (3,)},
            ["nothing in", "block1_conv1/kernel, block1_conv1_bn/bias, block1_conv1_bn/mean ...",
             "here are conv1_1/kernel, fc6/bias", "train.init.rename"],
        ),
        (
            {},
            {f"cnn/{path}": shape for path, shape in SHAPES.items()},
            ["nothing in", """; try --train.init.rename '{"": "cnn"}'"""],
        ),
        ({"skip": ("clasifier/*",)}, SHAPES, ["skip clasifier/* names no parameter: there are"]),
        ({"rename": {"cnn": ""}}, SHAPES, ["rename 'cnn' begins no name in", "there are block1"]),
        (
            {"rename": {"feature": "classifier"}},
            SHAPES,
            ["feature/kernel", "both belong in classifier/kernel: choose with train.init.rename"],
        ),
        ({"run": "runs/a"}, SHAPES, ["a run and weights: give one"]),
    ],
)  # fmt: skip
def test_mistakes_are_one_clear_line(saved, init, shapes, words):
    file, _ = saved
    stats = STATS if "cnn/feature/kernel" not in shapes and "fc6/bias" not in shapes else {}
    with pytest.raises(UserError) as error:
        _start(Init(weights=file, **init), _variables(shapes, stats))
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text


#: PyTorch's arrays: our path, the shape there, and where each axis of ours lies there.
PYTORCH = {
    "conv1.weight": ("conv1/kernel", (4, 3, 5, 2), (2, 3, 1, 0)),
    "conv1.bias": ("conv1/bias", (4,), (0,)),
    "bn1.weight": ("bn1/scale", (4,), (0,)),
    "bn1.bias": ("bn1/bias", (4,), (0,)),
    "bn1.running_mean": ("bn1/mean", (4,), (0,)),
    "bn1.running_var": ("bn1/var", (4,), (0,)),
    "conv3a.weight": ("conv3a/kernel", (6, 4, 7, 3, 2), (2, 3, 4, 1, 0)),
    "fc6.weight": ("fc6/kernel", (12, 6), (1, 0)),
    "fc6.bias": ("fc6/bias", (12,), (0,)),
}
THEIRS = {name: shape for name, (_, shape, _) in PYTORCH.items()}
OURS = {path: tuple(shape[axis] for axis in axes) for path, shape, axes in PYTORCH.values()}
TRANSPOSE = (
    "transpose its kernels from [out, in], OIHW, OIDHW to [in, out], HWIO, DHWIO, as "
    "docs/models.md says under 'Starting from weights'"
)
RENAME = f"rename PyTorch's weight to kernel (scale in batch normalisation) and {TRANSPOSE}"
FACE = {
    "stack_crops/conv1_1/kernel": (3, 3, 3, 4), "stack_crops/conv1_1/bias": (4,),
    "stack_crops/conv1_2/kernel": (3, 3, 4, 4), "stack_crops/conv1_2/bias": (4,),
    "fc6/kernel": (4, 8), "fc6/bias": (8,), "classifier/kernel": (8, 6), "classifier/bias": (6,),
}  # fmt: skip
FRONTAL = {path.replace("crops", "frontal"): shape for path, shape in FACE.items()}
HEAD = {"skip": ("fc*", "classifier")}
WHICH = "; say which is which with train.init.rename"


def _save(path, shapes):
    from safetensors.numpy import save_file

    draw = np.random.default_rng(3).standard_normal
    arrays = {name: draw(shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(arrays, path)
    return arrays


def _conv(*shape):
    return {"classifier/bias": shape[-1:], "conv1/kernel": shape}


@pytest.mark.parametrize(
    ("here", "there", "init", "start", "end"),
    [
        # Our names and PyTorch's layout; a classifier of other classes cannot tell.
        ({"out/kernel": (12, 3), "out/bias": (3,), "conv/kernel": (5, 2, 3, 4)},
         {"out/kernel": (7, 12), "out/bias": (7,), "conv/kernel": (4, 3, 5, 2)}, {},
         "conv/kernel is [5, 2, 3, 4] here and [4, 3, 5, 2] in FILE (and 2 more differ): ",
         f"that is PyTorch's layout, so {TRANSPOSE}"),
        ({"classifier/kernel": (12, 3)}, {"classifier/kernel": (3, 12)}, {},
         "classifier/kernel is", TRANSPOSE),
        ({"a/depthwise_kernel": (3, 3, 4, 1)}, {"a/depthwise_kernel": (4, 1, 3, 3)}, {},
         "a/depthwise_kernel is", TRANSPOSE),
        # Another size the other way round is no layout.
        ({"a/kernel": (8, 16), "a/bias": (16,), "b/kernel": (3, 3, 16, 8), "c/bias": (2,)},
         {"a/kernel": (16, 8), "a/bias": (8,), "b/kernel": (3, 3, 8, 16)}, {"skip": ("c",)},
         "a/kernel is", "start it from random numbers with --train.init.skip 'c,a/*,b/*'"),
        ({f"conv{i}/kernel": (3, 3, 4, 4) for i in range(9)},
         {f"conv{i}/kernel": (3, 3, 2, 2) for i in range(9)}, {}, "conv0/kernel is",
         " (and 8 more differ): give the network the settings of the one there"),
        # PyTorch's names: of nine arrays four weights and two averages are called otherwise.
        (OURS, THEIRS, {}, "FILE has conv1/weight where conv1/kernel belongs (and 5 more like it)",
         RENAME),
        ({f"stack_{i}/{path}": shape for path, shape in OURS.items() for i in "ab"}, THEIRS,
         {"rename": {"": "stack_*"}}, "FILE has conv1/weight where stack_", RENAME),
        ({f"a/{path}": shape for path, shape in OURS.items()}, THEIRS, {},
         "nothing in FILE belongs here: it has ", f"; {RENAME}{WHICH}"),
        # Keras's names in the format that wants ours.
        ({"a/bias": (4,), "bn/scale": (4,)}, {"a/bias": (4,), "bn/gamma": (4,)}, {},
         "FILE has bn/gamma where bn/scale belongs: call its arrays as ours, or ",
         "start the layer from random numbers with --train.init.skip 'bn/*'"),
        # Images of another colour.
        (_conv(3, 3, 1, 4), _conv(3, 3, 3, 4), {}, "conv1/kernel is [3, 3, 1, 4] here and",
         ": give it colours too, with --data.image_color rgb"),
        ({"a/bias": (3,), **_conv(3, 3, 3, 3, 4)}, {"a/bias": (2,), **_conv(3, 3, 3, 1, 4)}, {},
         "conv1/kernel is", ": give it gray images too, with --data.image_color gray"),
        (_conv(3, 3, 2, 4), _conv(3, 3, 6, 4), {}, "conv1/kernel is", "--data.image_color rgb"),
        (_conv(3, 3, 3, 4), _conv(3, 3, 6, 4), {}, "conv1/kernel is", "skip 'conv1/*'"),
        # No guess that would be refused: another width, another depth.
        ({path: (*shape[:-1], 9) for path, shape in FRONTAL.items()}, FACE, HEAD, "nothing", WHICH),
        ({**FRONTAL, "stack_frontal/conv1_3/bias": (4,)}, FACE, HEAD, "nothing", WHICH),
    ],
)  # fmt: skip
def test_files_of_others_are_one_clear_line(tmp_path, here, there, init, start, end):
    _save(tmp_path / "FILE.safetensors", there)
    with pytest.raises(UserError) as error:
        _start(Init(weights=f"{tmp_path}/FILE.safetensors", **init), _variables(here, {}))
    text = str(error.value).replace(f"{tmp_path}/FILE.safetensors", "FILE")
    assert text.startswith(start) and text.endswith(end) and "\n" not in text, text


def test_layers_that_are_left_out_may_have_other_names(tmp_path):
    _save(tmp_path / "a.safetensors", THEIRS)
    init = Init(weights=str(tmp_path / "a.safetensors"), skip=("conv*/*", "bn1", "fc6/kernel"))
    assert _start(init, _variables({**OURS, "fc9/kernel": (2,)}, {}))[1]["loaded"] == 1


def test_pytorchs_arrays_are_converted_as_the_documents_say(tmp_path, monkeypatch):
    from safetensors.numpy import load_file, save_file

    monkeypatch.chdir(tmp_path)
    theirs = _save("pytorch.safetensors", THEIRS)
    text = (Path(__file__).parents[2] / "docs/models.md").read_text()
    code = re.search(r"^    arrays = \{\}\n(    .*\n)+", text, re.MULTILINE)[0]
    exec(textwrap.dedent(code), {"np": np, "load_file": load_file, "save_file": save_file})
    started, report = _start(Init(weights="ours.safetensors"), _variables(OURS, {}))
    assert report["loaded"] == len(PYTORCH) and not report["random"] and not report["unused"]
    for name, (path, _, axes) in PYTORCH.items():
        np.testing.assert_array_equal(_leaves(started)[path], theirs[name].transpose(axes))


@pytest.mark.parametrize(
    ("here", "there", "init", "rename", "loaded"),
    [
        # As configs/zennou2023_geometry.py has it, and zennou2023_lstm_image.py.
        (FRONTAL, FACE, HEAD, {"stack_crops": "stack_frontal"}, 4),
        ({f"cnn/{path}": shape for path, shape in FRONTAL.items() if "stack" in path}, FACE,
         {"rename": {"": "cnn"}}, {"": "cnn", "stack_crops": "cnn/stack_frontal"}, 4),
        # A CNN-RNN's config puts a CNN into the part cnn, where another CNN-RNN has it already.
        ({"cnn/conv/bias": (4,)}, {"cnn/conv/bias": (4,)}, {"rename": {"": "cnn"}}, {}, 1),
    ],
)  # fmt: skip
def test_a_guess_is_right(tmp_path, here, there, init, rename, loaded):
    _save(tmp_path / "a.safetensors", there)
    init = {"weights": str(tmp_path / "a.safetensors"), **init}
    with pytest.raises(UserError, match=r"^nothing in .*; try --train.init.rename '") as error:
        _start(Init(**init), _variables(here, {}))
    assert json.loads(str(error.value).split("'")[1]) == rename
    init["rename"] = rename
    assert _start(Init(**init), _variables(here, {}))[1]["loaded"] == loaded


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    broken = _variables({"a/bias": (6,)}, {})
    broken["params"]["a"]["bias"][3] = np.nan
    save_safetensors(tmp_path / "a.safetensors", broken)
    with pytest.raises(UserError, match="a/bias that are not finite"):
        _start(Init(weights=str(tmp_path / "a.safetensors")), _variables({"a/bias": (6,)}, {}))


def test_long_reports_are_short():
    report = {
        "from": "f.h5", "loaded": 236, "loaded_parameters": 22_840_000,
        "random": [f"layer{i}/{leaf}" for i in range(9) for leaf in ("kernel", "bias")],
        "unused": ["predictions/kernel", "predictions/bias"],
    }  # fmt: skip
    assert render(report) == (
        "weights: 236 of 254 tensors (22.8 M numbers) from f.h5; random: layer0 (2), layer1 (2), "
        "layer2 (2) and 6 more layers; not used there: predictions (2)"
    )


def test_vgg16_of_keras_starts_both_stacks_of_a_part(tmp_path):
    """Keras's names, one file for every image stream, inside another network."""
    import h5py

    kernel, bias = np.ones((3, 3, 3, 4), np.float32), np.arange(4, dtype=np.float32)
    with h5py.File(tmp_path / "vgg16.h5", "w") as file:
        file.attrs["layer_names"] = [b"block1_conv1", b"predictions"]
        for layer in ("block1_conv1", "predictions"):
            group = file.create_group(layer)
            group.attrs["weight_names"] = [f"{layer}/{leaf}:0" for leaf in ("kernel", "bias")]
            group[f"{layer}/kernel:0"], group[f"{layer}/bias:0"] = kernel, bias
    shapes = {
        f"cnn/stack_{stream}/conv1_1/{leaf}": array.shape
        for stream in ("crops", "frontal")
        for leaf, array in (("kernel", kernel), ("bias", bias))
    }
    init = Init(weights=str(tmp_path / "vgg16.h5"), rename={"": "cnn"})
    settings = config.CNNRNN(cnn=config.VGGFace())
    started, report = initial_variables(init, _variables(shapes, {}), settings)
    assert report["loaded"] == 4 and not report["random"]
    assert report["unused"] == ["predictions/kernel", "predictions/bias"]
    for stream in ("crops", "frontal"):
        np.testing.assert_array_equal(
            started["params"]["cnn"][f"stack_{stream}"]["conv1_1"]["bias"], bias
        )


def test_another_run(tiny_run):
    import jax

    from fer_jax.training.run_directory import load_run

    loaded = load_run(tiny_run.dir)
    variables = loaded.model.init(jax.random.key(9))
    init = Init(run=str(tiny_run.dir), skip=("classifier/bias",))
    started, report = initial_variables(init, variables, loaded.experiment.model)
    assert report["from"] == str(tiny_run.dir)
    assert report["random"] == report["unused"] == ["classifier/bias"]
    expected = _leaves(loaded.variables) | {
        "classifier/bias": variables["params"]["classifier"]["bias"]
    }
    for path, leaf in _leaves(started).items():
        np.testing.assert_array_equal(leaf, expected[path])
