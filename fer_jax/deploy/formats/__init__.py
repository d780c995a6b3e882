"""The formats of exports, one module each: `save(recogniser, directory)` writes the files of one,
`load(directory)` gives back what computes: (signature name, inputs) -> outputs, of NumPy arrays.

`fer_jax.deploy.export` writes recogniser.json, the recogniser's facts and signatures, beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fer_jax.errors import UserError

if TYPE_CHECKING:
    from fer_jax.deploy.recogniser import Recogniser

#: ("clip" or "stream", {input: [B, ...]}) -> {output: [B, ...]}
Run = Callable[[str, Mapping[str, np.ndarray]], dict[str, np.ndarray]]
Save = Callable[["Recogniser", Path], None]
Load = Callable[[Path], Run]

#: Name -> the module of this package that has `save` and `load`.
FORMATS = ("safetensors", "stablehlo", "onnx", "litert", "savedmodel", "hf")


def functions(name: str) -> tuple[Save, Load]:
    """How a format is written and read.

    Raises:
      UserError: no such format, or it needs a package that is not installed.
    """
    if name not in FORMATS:
        raise UserError(f"unknown format {name!r}: choose from {', '.join(FORMATS)}")
    with _needs(name):
        module = import_module(f"fer_jax.deploy.formats.{name}")

    def save(recogniser: Recogniser, directory: Path) -> None:
        # What makes a file may be more than what runs it.
        with _needs(name):
            module.save(recogniser, directory)

    return save, module.load


@contextmanager
def _needs(name: str) -> Iterator[None]:
    """Says of a package that a format lacks how it is installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = error.name or ""
        if package.startswith("fer_jax"):
            raise
        extra = "export-tf" if package in ("tensorflow", "ai_edge_litert") else "export"
        raise UserError(
            f"{name} needs {package}, which is not installed: pip install 'fer-jax[{extra}]'"
        ) from error
