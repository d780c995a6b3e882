"""ONNX, LiteRT and SavedModel: their numbers, their runtimes alone, and what cannot be lowered.

Every family of networks in every format is in tests/configs/test_exports.py.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fer_jax
from fer_jax.data import corpus
from fer_jax.deploy import artifact, formats, trained
from fer_jax.deploy.lowering import CannotLowerError, lower
from fer_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
OURS = ("onnx", "litert", "savedmodel")


@pytest.fixture(scope="module")
def exported(tiny_run, made, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A recurrent network on landmarks and a CNN on pictures, in each format."""
    root = tmp_path_factory.mktemp("formats")
    reports, names = {}, {"faces": tiny_run.dir, "pictures": made.cnn}
    for name, run in names.items():
        words = [run, "--to", ",".join(OURS), "--out", root / name]
        code, reports[name] = made.fer("export", *words)
        assert code == 0
    return SimpleNamespace(root=root, reports=reports, runs=names)


def random_inputs(signature: Any, batch: int, seed: int) -> dict[str, np.ndarray]:
    rng, found = np.random.default_rng(seed), {}
    for name, like in signature.inputs.items():
        shape = (batch, *like.shape)
        if like.dtype == bool:
            found[name] = np.arange(like.shape[0]) < rng.integers(1, like.shape[0] + 1, (batch, 1))
        elif like.dtype == np.uint8:
            found[name] = rng.integers(0, 256, shape, np.uint8)
        else:
            found[name] = rng.uniform(1, 90, shape).astype(like.dtype)
            if name == "box":
                found[name] = np.float32([5, 6, 95, 96]) + found[name] / 30
    return found


@pytest.mark.parametrize("format", OURS)
@pytest.mark.parametrize("name", ["faces", "pictures"])
def test_any_batch_of_both_functions(exported: SimpleNamespace, name: str, format: str) -> None:
    (said,) = [one for one in exported.reports[name]["exports"] if one["format"] == format]
    assert said["max_abs_difference"] <= 1e-5
    recogniser = trained.load_recogniser(exported.runs[name])
    expected = artifact.in_memory(recogniser).run
    run = formats.functions(format)[1](exported.root / name / format)
    for key, signature in recogniser.signatures.items():
        for batch in (1, 5, 2):
            inputs = random_inputs(signature, batch, batch)
            found, wanted = run(key, inputs), expected(key, inputs)
            assert set(found) == set(wanted)
            for output, value in wanted.items():
                assert found[output].dtype == value.dtype
                np.testing.assert_allclose(found[output], value, rtol=1e-5, atol=1e-5)
            # What the numbers are compared of is not all alike.
            if batch > 1:
                assert np.ptp(wanted["logits"], axis=0).max() > 1e-3


@pytest.mark.parametrize("format", OURS)
def test_evaluations_numbers(exported: SimpleNamespace, tiny_run, format: str) -> None:
    predictor = fer_jax.load(exported.root / "faces" / format)
    clips = {clip.clip_id: clip for clip in corpus.load(tiny_run.records)}
    with open(tiny_run.dir / "predictions.csv", newline="") as file:
        for row in csv.DictReader(file):
            listed = [float(row[f"p_{name}"]) for name in predictor.classes]
            found = predictor.clip(clips[row["clip_id"]])
            np.testing.assert_allclose(found, listed, atol=2e-6)


ALONE = """
import json, sys
blocked = ("jax", "jaxlib", "flax", "tensorflow")
sys.modules.update(dict.fromkeys(blocked))  # An import of them fails.
import numpy as np
from pathlib import Path
from fer_jax.deploy import formats
root, arrays = Path(sys.argv[1]), dict(np.load(sys.argv[2]))
found = {}
for format in ("onnx", "litert"):
    found[format] = formats.functions(format)[1](root / format)("clip", arrays)["logits"].tolist()
assert not any(sys.modules[name] for name in blocked)
print(json.dumps(found))
"""


def test_runtimes_alone(exported: SimpleNamespace, tmp_path: Path) -> None:
    """onnxruntime and LiteRT compute without JAX and TensorFlow, which cannot be imported here."""
    recogniser = trained.load_recogniser(exported.runs["faces"])
    inputs = random_inputs(recogniser.clip, 3, 0)
    np.savez(tmp_path / "inputs.npz", **inputs)
    words = [sys.executable, "-c", ALONE, exported.root / "faces", tmp_path / "inputs.npz"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = artifact.in_memory(recogniser).run("clip", inputs)["logits"]
    for found in json.loads(done.stdout.splitlines()[-1]).values():
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_onnx_file_says_what_it_is(exported: SimpleNamespace) -> None:
    import onnx

    folder = exported.root / "faces" / "onnx"
    for name in ("clip", "stream"):
        model = onnx.load(folder / f"{name}.onnx")
        assert (model.producer_name, model.producer_version) == ("fer-jax", fer_jax.__version__)
        said = {entry.key: entry.value for entry in model.metadata_props}
        assert said["signature"] == name
        assert json.loads(said["recogniser"]) == json.loads(
            (folder / "recogniser.json").read_text()
        )
        for tensor in (*model.graph.input, *model.graph.output):
            assert tensor.type.tensor_type.shape.dim[0].dim_param == "batch"


class Arrays:
    """A target whose tensors are JAX's: the walk without a library."""

    def constant(self, value: Any) -> jax.Array:
        return jnp.asarray(value)

    def take(self, x: jax.Array, index: jax.Array, axis: int) -> jax.Array:
        return jnp.take(x, index, axis)

    def binary(self, name: str, x: jax.Array, y: jax.Array) -> jax.Array:
        return {"add": jnp.add, "mul": jnp.multiply, "max": jnp.maximum, "min": jnp.minimum}[name](
            x, y
        )

    def slice(self, x: jax.Array, parts: Any) -> jax.Array:
        return x[tuple(slice(*parts[a]) if a in parts else slice(None) for a in range(x.ndim))]

    def reshape(self, x: jax.Array, shape: Any) -> jax.Array:
        return x.reshape(shape)

    def transpose(self, x: jax.Array, axes: Any) -> jax.Array:
        return x.transpose(axes)

    def broadcast(self, x: jax.Array, shape: Any) -> jax.Array:
        return jnp.broadcast_to(x, [7 * number if free else number for number, free in shape])

    def matmul(self, x: jax.Array, y: jax.Array) -> jax.Array:
        return x @ y

    def reduce(self, kind: str, x: jax.Array, axes: Any) -> jax.Array:
        return {"sum": jnp.sum, "max": jnp.max}[kind](x, axis=tuple(axes))

    def pad(self, x: jax.Array, pads: Any, value: jax.Array) -> jax.Array:
        return jnp.pad(x, pads, constant_values=value)


@pytest.mark.parametrize(
    "function",
    [
        lambda v, x: x[:, np.array([2, 0])][:, 1:, 1:4],
        lambda v, x: x[:, jnp.array([[1, 0], [2, 2]]), jnp.array([[4, 0], [1, 3]])],
        lambda v, x: x[:, ::-1, ::2],
        lambda v, x: jnp.take(x, v["order"], axis=1, mode="clip"),
        lambda v, x: jnp.einsum("btf,fk->tbk", x, v["w"]),
        lambda v, x: jnp.einsum("btf,bsf->bts", x, x),
        lambda v, x: jnp.einsum("kf,btf->kbt", v["w"].T, x),
        lambda v, x: jnp.pad(x, ((0, 0), (1, 2), (0, 0)), constant_values=3.0),
        lambda v, x: (x + v["w"][:, 0]).reshape(-1, 15).sum(axis=1) * v["w"][0, 1],
        lambda v, x: jnp.max(x.reshape(-1, 3, 1, 5, 1, 1, 1, 1), axis=(1, 3, 4)),
        lambda v, x: jnp.broadcast_to(v["w"][:, 1], x.shape),
    ],
)
def test_the_walk_computes_what_jax_does(function: Any) -> None:
    rng = np.random.default_rng(0)
    w = rng.normal(size=(5, 2)).astype(np.float32)
    variables = {"w": w, "order": np.int32([2, 0, 7])}
    inputs = {"x": jax.ShapeDtypeStruct((3, 5), np.float32)}
    x = rng.normal(size=(7, 3, 5)).astype(np.float32)

    def traced(variables: Any, inputs: Any) -> dict[str, jax.Array]:
        return {"y": function(variables, inputs["x"])}

    target: Any = Arrays()
    with jax.numpy_rank_promotion("allow"):
        found, like = lower(traced, variables, inputs, {"x": jnp.asarray(x)}, target)["y"]
        expected = function(variables, jnp.asarray(x))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert found.dtype == like.dtype


def test_what_cannot_be_lowered_is_named() -> None:
    inputs, target = {"x": jax.ShapeDtypeStruct((3,), np.float32)}, Arrays()
    x: Any = {"x": jnp.ones((7, 3))}
    for function, said in ((jnp.sort, "sort"), (jnp.cumsum, "cumsum")):
        with pytest.raises(CannotLowerError, match=said):
            lower(lambda v, i: {"y": function(i["x"], axis=1)}, {}, inputs, x, target)  # noqa: B023


@pytest.mark.parametrize(
    ("format", "package", "extra"),
    [("onnx", "onnxruntime", "export"), ("savedmodel", "tensorflow", "export-tf")],
)
def test_a_package_that_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, format: str, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"fer_jax.deploy.formats.{format}", raising=False)
    wanted = rf"^{format} needs {package}, which is not installed: pip install 'fer-jax\[{extra}\]'"
    with pytest.raises(UserError, match=wanted):
        formats.functions(format)
