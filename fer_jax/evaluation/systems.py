"""The systems that configs describe: what each reads, its size and what it costs."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import fer_jax
from fer_jax import labels, models
from fer_jax.config import Experiment, load_config
from fer_jax.errors import UserError
from fer_jax.models.cost import Cost, cost
from fer_jax.training.inputs import inputs_of

#: The configs that come with the project.
CONFIGS = Path(fer_jax.__file__).resolve().parent.parent / "configs"
_BYTES = (" B", " KiB", " MiB", " GiB", " TiB")
#: Classes of a config that leaves them to its data.
_CLASSES = 7


def list_systems(directory: str | Path | None = None) -> list[dict[str, Any]]:
    """What is known of every config in a directory without its data, in order of paper and name.

    A config that leaves its classes to the data counts as one of 7.

    Args:
      directory: of config files (*.py); the project's own by default.

    Returns:
      one dict a config, in JSON: name, paper, model (the network's name), input (text), summary
      (the first line of its docstring), config (path), parameters, flops_per_clip (forward, a
      multiply-add is 2), memory_bytes (parameters, gradients and Adam's moments) and
      memory_per_clip_bytes (what a training step holds of each clip beside). Of a config that
      cannot be: name, config, error.

    Raises:
      UserError: no such directory, or no config in it.
    """
    directory = CONFIGS if directory is None else Path(directory)
    paths = sorted(path for path in directory.glob("*.py") if path.name != "__init__.py")
    if not paths:
        raise UserError(f"no config files (*.py) in {directory}")
    known: dict[Any, Cost] = {}
    systems = []
    for path in paths:
        try:
            systems.append(_describe(path, known))
        except UserError as error:
            systems.append({"name": path.stem, "config": str(path), "error": str(error)})
    return sorted(systems, key=lambda system: (system.get("paper", "~"), system["name"]))


def _describe(path: Path, known: dict[Any, Cost]) -> dict[str, Any]:
    """Args:
    known: costs so far; configs often share a network.
    """
    experiment = load_config(path)
    spent = _cost(experiment, known)
    document = ast.get_docstring(ast.parse(path.read_text())) or ""
    return {
        "name": experiment.name,
        "paper": experiment.paper,
        "model": experiment.model.name,
        "input": _input(experiment),
        "summary": document.partition("\n")[0],
        "config": str(path),
        "parameters": spent.parameters,
        "flops_per_clip": spent.flops_per_clip,
        "memory_per_clip_bytes": spent.activation_bytes_per_clip,
        "memory_bytes": spent.parameter_bytes,
    }


def _cost(experiment: Experiment, known: dict[Any, Cost]) -> Cost:
    train, inputs = experiment.train, inputs_of(experiment.data)
    classes = _CLASSES
    if experiment.data.labels != "auto":
        classes = len(labels.make_label_space(experiment.data.labels, ()).classes)
    key = (repr(experiment.model), inputs, classes, train.precision, train.freeze)
    if key not in known:
        model = models.build(
            experiment.model, inputs, classes, freeze=train.freeze, precision=train.precision
        )
        known[key] = cost(model, inputs, freeze=train.freeze)
    return known[key]


def _input(experiment: Experiment) -> str:
    """ "5x112x112x3 crops", "76x259 distances-259"."""
    data, inputs = experiment.data, inputs_of(experiment.data)
    parts = []
    if inputs.images:
        parts.append((inputs.image_shape, "+".join(inputs.images)))
    if inputs.features:
        name = data.features + (" (PCA)" if data.pca else "")
        parts.append(((inputs.features,), name))
    frames = (inputs.frames,) if inputs.frames > 1 else ()
    return " and ".join(f"{'x'.join(map(str, (*frames, *shape)))} {name}" for shape, name in parts)


def render(systems: list[dict[str, Any]]) -> str:
    """A table; a config that cannot be is one line below it."""
    header = (
        "system",
        "paper",
        "network",
        "input",
        "parameters",
        "FLOPs/clip",
        "memory",
        "memory/clip",
    )
    rows = [header] + [
        (
            system["name"],
            system["paper"] or "-",
            system["model"],
            system["input"],
            f"{system['parameters']:,}",
            _scaled(system["flops_per_clip"], 1000, ("", " k", " M", " G", " T")),
            _scaled(system["memory_bytes"], 1024, _BYTES),
            _scaled(system["memory_per_clip_bytes"], 1024, _BYTES),
        )
        for system in systems
        if "error" not in system
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if index > 3 else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    if len(rows) == 1:
        lines = []
    for system in systems:
        if "error" in system:
            path, error = system["config"], system["error"]
            lines.append(error if error.startswith(path) else f"{path}: {error}")
    return "\n".join(lines)


def _scaled(number: float, step: int, units: tuple[str, ...]) -> str:
    """12_300_000 -> "12.3 M"."""
    power = 0
    while number >= step and power + 1 < len(units):
        number, power = number / step, power + 1
    return f"{number:.3g}{units[power]}" if number < 1000 else f"{number:.0f}{units[power]}"
