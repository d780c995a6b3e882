"""An export on disk: the files of its format, and recogniser.json, which says what they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fer_jax.deploy import formats
from fer_jax.deploy.recogniser import Recogniser, check_version, make_recogniser, meaning_of
from fer_jax.errors import UserError

FACTS = "recogniser.json"


@dataclass(frozen=True)
class Export:
    """A recogniser that computes.

    Attributes:
      facts: recogniser.json.
      run: ("clip" or "stream", {input: [B, ...]}) -> {output: [B, ...]}.
    """

    facts: Mapping[str, Any]
    run: formats.Run

    def inputs(self, name: str) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape without the batch axis and dtype of each input of a signature."""
        said = self.facts["signatures"][name]["inputs"]
        return {k: (tuple(v["shape"]), np.dtype(v["dtype"])) for k, v in said.items()}

    def state(self, batch: int) -> dict[str, np.ndarray]:
        """The stream's state before its first frame."""
        shapes = self.inputs("stream")
        names = self.facts["signatures"]["stream"]["state"]
        return {name: np.zeros((batch, *shapes[name][0]), shapes[name][1]) for name in names}


def describe(recogniser: Recogniser, format: str) -> dict[str, Any]:
    """The content of recogniser.json: the facts, the format and the signatures."""
    signatures = {}
    for name, signature in recogniser.signatures.items():
        shapes = {
            k: {**_described(v), "meaning": meaning_of(k)} for k, v in signature.inputs.items()
        }
        batched = {
            k: jax.ShapeDtypeStruct((1, *v.shape), v.dtype) for k, v in signature.inputs.items()
        }
        outputs = jax.eval_shape(signature.function, recogniser.variables, batched)
        signatures[name] = {
            "inputs": shapes,
            "outputs": {k: _described(v, 1) for k, v in outputs.items()},
            "state": list(signature.state),
        }
    return {"format": format, **recogniser.facts, "signatures": signatures}


def _described(like: jax.ShapeDtypeStruct, skip: int = 0) -> dict[str, Any]:
    return {"shape": list(like.shape[skip:]), "dtype": str(like.dtype)}


def in_memory(recogniser: Recogniser) -> Export:
    """A recogniser that JAX compiles, on its default device."""
    variables = jax.device_put(recogniser.variables)
    functions = {name: jax.jit(one.function) for name, one in recogniser.signatures.items()}

    def run(name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = functions[name](variables, dict(inputs))
        return {key: np.asarray(value) for key, value in found.items()}

    return Export(describe(recogniser, "memory"), run)


def is_export(path: str | Path) -> bool:
    """Whether `fer-jax export` wrote this directory."""
    return (Path(path) / FACTS).is_file()


def write_facts(recogniser: Recogniser, format: str, directory: Path) -> None:
    text = json.dumps(describe(recogniser, format), indent=1) + "\n"
    (directory / FACTS).write_text(text, encoding="utf-8")


def read_facts(directory: Path) -> dict[str, Any]:
    """recogniser.json of an export.

    Raises:
      UserError: it is damaged, or of a version that this code does not read.
    """
    path = directory / FACTS
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if missing := {"format", "recogniser_version", "signatures"} - facts.keys():
            raise ValueError(missing)
    except (AttributeError, OSError, ValueError):
        raise UserError(f"{path} is damaged: export it again with `fer-jax export`") from None
    check_version(facts, directory)
    return facts


def open_export(directory: Path) -> Export:
    """An export, ready to compute.

    Raises:
      UserError: it is damaged, too old or too new, or needs a package that is not installed.
    """
    facts = read_facts(directory)
    _, load = formats.functions(facts["format"])
    return Export(facts, load(directory))


def open_arrays(directory: Path) -> Export:
    """The model.safetensors of any export that has one, with JAX.

    Raises:
      UserError: as `open_export`.
    """
    formats.functions("safetensors")
    from fer_jax.deploy.formats.safetensors import load_variables

    return in_memory(make_recogniser(*load_variables(directory)))
