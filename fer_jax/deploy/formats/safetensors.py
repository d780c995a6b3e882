"""The arrays of a recogniser by path, with all that describes them in the file's metadata.

Any safetensors library reads model.safetensors: "params/lstm_0/kernel", "statistics/mean" and so
on, where "embedder/..." are those of the network whose features the other one reads. Its metadata
holds the recogniser's facts as JSON under "recogniser": with this package they make the network
again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fer_jax.deploy.artifact import in_memory
from fer_jax.deploy.formats import Run
from fer_jax.deploy.recogniser import Recogniser, check_version, make_recogniser
from fer_jax.errors import UserError
from fer_jax.models.paths import flatten, unflatten

FILE = "model.safetensors"
#: What a network has even where it is empty.
_PARTS = ("params", "stats", "statistics")


def save(recogniser: Recogniser, directory: Path) -> None:
    save_variables(recogniser, directory)


def load(directory: Path) -> Run:
    return in_memory(make_recogniser(*load_variables(directory))).run


def save_variables(recogniser: Recogniser, directory: Path) -> None:
    """Writes model.safetensors."""
    leaves = {k: np.ascontiguousarray(v) for k, v in flatten(recogniser.variables).items()}
    facts = json.dumps(recogniser.facts)
    # "format" is what the Hugging Face libraries look for.
    save_file(leaves, directory / FILE, {"format": "np", "recogniser": facts})
    (directory / FILE).chmod(0o644)


def load_variables(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The facts and the variables of model.safetensors.

    Raises:
      UserError: it is absent or damaged.
    """
    try:
        with safe_open(directory / FILE, framework="np") as file:
            facts = json.loads(file.metadata()["recogniser"])
            leaves = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{directory / FILE} is absent or damaged ({error}): export it again"
        ) from error
    check_version(facts, directory / FILE)
    return facts, whole(unflatten(leaves))


def whole(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Variables with the parts that a file leaves out because they hold nothing."""
    found = {**{name: {} for name in _PARTS}, **variables}
    if "embedder" in found:
        found["embedder"] = whole(found["embedder"])
    return found
