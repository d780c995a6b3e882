"""StableHLO by jax.export: clip.stablehlo and stream.stablehlo, for any batch, on CPU, NVIDIA GPUs
and TPUs alike, and model.safetensors with the arrays that both read.

`jax.export.deserialize(...)` gives a function of (variables, inputs), without this package. JAX
promises to read such a file for six months; recogniser.json says which JAX wrote it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from fer_jax.deploy.formats import Run
from fer_jax.deploy.formats.safetensors import FILE, load_variables, save_variables, whole
from fer_jax.deploy.recogniser import Recogniser
from fer_jax.errors import UserError

PLATFORMS = ("cpu", "cuda", "tpu")


def save(recogniser: Recogniser, directory: Path) -> None:
    save_variables(recogniser, directory)
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), whole(recogniser.variables)
    )
    for name, signature in recogniser.signatures.items():
        (batch,) = export.symbolic_shape("batch")
        inputs = {
            key: jax.ShapeDtypeStruct((batch, *one.shape), one.dtype)
            for key, one in signature.inputs.items()
        }
        exported = export.export(jax.jit(signature.function), platforms=PLATFORMS)(like, inputs)
        (directory / f"{name}.stablehlo").write_bytes(exported.serialize())


def load(directory: Path) -> Run:
    facts, variables = load_variables(directory)
    variables = jax.device_put(variables)
    found = {path.stem: _read(path, facts) for path in directory.glob("*.stablehlo")}
    functions = {name: jax.jit(exported.call) for name, exported in found.items()}

    def run(name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = functions[name](variables, dict(inputs))
        return {key: np.asarray(value) for key, value in outputs.items()}

    return run


def _read(path: Path, facts: Mapping[str, Any]) -> export.Exported:
    """Raises:
    UserError: this JAX does not read it.
    """
    low = export.minimum_supported_calling_convention_version
    high = export.maximum_supported_calling_convention_version
    problem = ""
    try:
        exported = export.deserialize(bytearray(path.read_bytes()))
        found = exported.calling_convention_version
        if low <= found <= high:
            return exported
        problem = f"calling convention {found}, not {low} to {high}"
    except Exception as error:  # What a file of another time does to the reader is not documented.
        problem = f"{type(error).__name__}: {' '.join(str(error).split())}"
    raise UserError(
        f"{path} was written by JAX {facts['versions']['jax']} and JAX {jax.__version__} does not "
        f"read it ({problem}): write it again with `fer-jax export RUN --to stablehlo`, or use "
        f"{path.with_name(FILE)} in its place, which does not expire"
    )
