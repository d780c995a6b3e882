"""The import rule: who may import whom, and what stays unloaded."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("fer_jax", "preprocessing", "configs", "launch")

CORE = (
    "fer_jax", "fer_jax.labels", "fer_jax.records", "fer_jax.example", "fer_jax.config",
    "fer_jax.errors", "fer_jax.executors", "fer_jax.machine", "fer_jax.storage",
)  # fmt: skip
LEARNING = (*CORE, "fer_jax.data", "fer_jax.models", "fer_jax.training", "fer_jax.progress")
EVERYTHING = (
    *LEARNING, "fer_jax.evaluation", "fer_jax.deploy", "fer_jax.sweep", "fer_jax.demo",
    "fer_jax.doctor", "preprocessing",
)  # fmt: skip

#: Room -> the rooms of ours that it may import. The longest name that fits a module is its room.
RULES: dict[str, tuple[str, ...]] = {
    "fer_jax": ("fer_jax.errors", "fer_jax.deploy"),
    "fer_jax.labels": CORE,
    "fer_jax.records": CORE,
    "fer_jax.example": CORE,
    "fer_jax.config": CORE,
    "fer_jax.errors": CORE,
    "fer_jax.executors": ("fer_jax.errors", "fer_jax.machine"),
    "fer_jax.machine": (),
    "fer_jax.progress": CORE,
    "fer_jax.storage": ("fer_jax.errors", "fer_jax.progress", "fer_jax.storage"),
    "fer_jax.data": (*CORE, "fer_jax.data"),
    "fer_jax.models": (*CORE, "fer_jax.models"),
    "fer_jax.training": LEARNING,
    "fer_jax.evaluation": (*LEARNING, "fer_jax.evaluation"),
    "fer_jax.deploy": (*LEARNING, "fer_jax.evaluation", "fer_jax.deploy", "preprocessing"),
    "fer_jax.sweep": (*LEARNING, "fer_jax.evaluation", "fer_jax.sweep"),
    "fer_jax.cli": (*EVERYTHING, "fer_jax.parser"),
    "fer_jax.parser": (
        "fer_jax", "fer_jax.errors", "fer_jax.commands", "fer_jax.parser", "launch",
    ),
    "fer_jax.commands": (*EVERYTHING, "launch"),
    "fer_jax.demo": EVERYTHING,
    "fer_jax.doctor": EVERYTHING,
    "preprocessing": (
        "fer_jax", "fer_jax.labels", "fer_jax.records", "fer_jax.example", "fer_jax.errors",
        "fer_jax.executors", "fer_jax.machine",
        "preprocessing",
    ),
    "configs": ("fer_jax", "fer_jax.config", "configs"),
    "launch": ("fer_jax", "fer_jax.config", "fer_jax.errors", "launch"),
}  # fmt: skip

JAX = {"jax", "jaxlib", "flax", "optax", "orbax", "chex"}
VISION = {"cv2", "dlib", "mediapipe", "skimage", "face_recognition_models", "ray"}
FRAMEWORKS = {"tensorflow", "tensorflow_datasets", "keras", "torch", "sklearn"}
OURS_ELSEWHERE = {"tests", "benchmarks"}
#: The one place that may name the benchmarks, the one that may name scikit-learn, and those that
#: make TensorFlow's formats.
EXCEPTIONS = {
    ("fer_jax.commands", "benchmarks"),
    ("fer_jax.data.importance", "sklearn"),
    ("fer_jax.deploy.formats.litert", "tensorflow"),
    ("fer_jax.deploy.formats.savedmodel", "tensorflow"),
    ("fer_jax.deploy.lowering.tensorflow_graph", "tensorflow"),
}

#: Room -> packages of others that it may not import, at the top of a file or inside a function.
BANNED: dict[str, set[str]] = {
    "preprocessing": JAX,
    "configs": JAX | VISION,
    "launch": JAX | VISION,
    "fer_jax": JAX | VISION,
    "fer_jax.labels": JAX | VISION,
    "fer_jax.records": JAX | VISION,
    "fer_jax.example": JAX | VISION,
    "fer_jax.config": JAX | VISION,
    "fer_jax.errors": JAX | VISION,
    "fer_jax.machine": JAX | VISION,
    "fer_jax.progress": JAX | VISION,
    "fer_jax.storage": JAX | VISION,
    "fer_jax.data": VISION,
    "fer_jax.models": VISION,
    "fer_jax.training": VISION,
    "fer_jax.evaluation": VISION,
    "fer_jax.sweep": VISION,
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str, rooms: tuple[str, ...] = tuple(RULES)) -> str:
    """The longest room that holds `module`; the root package holds only itself."""
    fits = [
        room
        for room in rooms
        if module == room or (room != "fer_jax" and module.startswith(room + "."))
    ]
    return max(fits, key=len, default="")


def imported(tree: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    """Every module that a file names in an import, wherever the import stands."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:
                below = f"{base}.{alias.name}"
                yield below if is_module(below) else base


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file() or name in RULES


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """What `source`, as the text of `module`, imports against the rule."""
    room = room_of(module)
    if not room:
        return [f"{module} is in no room of the house: give it one in RULES"]
    wrong = []
    for name in imported(ast.parse(source), module, is_package):
        top = name.partition(".")[0]
        if top in PACKAGES:
            target = room_of(name)
            allowed = any(target == other for other in RULES[room])
        else:
            banned = BANNED.get(room, set()) | FRAMEWORKS | OURS_ELSEWHERE
            allowed = top not in banned or (module, top) in EXCEPTIONS
        if not allowed:
            wrong.append(f"{module} imports {name}")
    return wrong


def sources(*tops: str) -> list[Path]:
    return sorted(path for top in tops for path in (ROOT / top).rglob("*.py"))


def test_no_file_breaks_the_rule() -> None:
    files = sources(*PACKAGES)
    assert len(files) > 5
    wrong = [
        line
        for path in files
        for line in violations(path.read_text(), module_name(path), path.name == "__init__.py")
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("fer_jax.data.corpus", "from fer_jax.models import build"),
        ("fer_jax.data.corpus", "from fer_jax import models"),
        ("fer_jax.data.corpus", "from ..models import layers"),
        ("fer_jax.models.sequence", "import fer_jax.data.batches"),
        ("fer_jax.models.sequence", "def f():\n    from fer_jax.training import loop"),
        ("fer_jax.training.loop", "from fer_jax.evaluation import evaluate"),
        ("fer_jax.training.loop", "import cv2"),
        ("fer_jax.records", "import jax.numpy as jnp"),
        ("fer_jax.records", "from fer_jax.data import corpus"),
        ("fer_jax.data.inspect", "from preprocessing.video import probe"),
        ("preprocessing.crops", "def f():\n    import jax"),
        ("preprocessing.crops", "from fer_jax.config import Experiment"),
        ("preprocessing.crops", "from fer_jax.data import corpus"),
        ("fer_jax.deploy.predict", "import tensorflow as tf"),
        ("fer_jax.deploy.predict", "from tests.conftest import ROOT"),
        ("configs.attrah2024_lstm", "from fer_jax.training import loop"),
        ("fer_jax.helpers", "import os"),
    ],
)
def test_the_rule_is_enforced(module: str, source: str) -> None:
    assert violations(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("fer_jax.training.loop", "import jax\nfrom fer_jax.data import batches"),
        ("fer_jax.deploy.predict", "from preprocessing.extract import Extractor"),
        ("preprocessing.worker", "from fer_jax import records\nfrom . import video\nimport cv2"),
        ("fer_jax.records", "from google.protobuf.message import DecodeError"),
        ("fer_jax.training.loop", "from fer_jax import __version__"),
    ],
)
def test_the_rule_allows_what_it_should(module: str, source: str) -> None:
    assert violations(source, module) == []


def loaded_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after running `code`."""
    report = "\nimport json, sys; print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    result = subprocess.run(
        [sys.executable, "-c", code + report], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


def import_all(*tops: str) -> str:
    names = [module_name(path) for path in sources(*tops) if path.name != "__main__.py"]
    return "import importlib\n" + "\n".join(f"importlib.import_module({n!r})" for n in names)


def test_import_fer_jax_is_light() -> None:
    heavy = JAX | VISION | FRAMEWORKS | {"numpy", "matplotlib", "pydantic"}
    assert sorted(loaded_after("import fer_jax") & heavy) == []


def test_records_encode_and_decode_without_jax_or_tensorflow() -> None:
    loaded = loaded_after(
        "from fer_jax import records\n"
        "clip = records.Clip(clip_id='c/1', corpus='c')\n"
        "assert records.decode(records.encode(clip)).clip_id == 'c/1'"
    )
    assert "google" in loaded
    assert sorted(loaded & (JAX | VISION | FRAMEWORKS)) == []


def test_preprocessing_never_loads_jax() -> None:
    loaded = loaded_after(import_all("preprocessing"))
    assert "preprocessing" in loaded
    assert sorted(loaded & (JAX | FRAMEWORKS)) == []


def test_configs_load_without_jax() -> None:
    configs = [str(path) for path in sources("configs") if path.name != "__init__.py"]
    assert configs
    loaded = loaded_after(
        f"from fer_jax.config import load_config\nfor path in {configs!r}: load_config(path)"
    )
    assert sorted(loaded & (JAX | VISION | FRAMEWORKS)) == []


def test_learning_needs_no_vision_packages() -> None:
    packages = [f"fer_jax/{room}" for room in ("data", "models", "training", "evaluation")]
    loaded = loaded_after(import_all(*packages))
    assert "jax" in loaded
    assert sorted(loaded & (VISION | FRAMEWORKS)) == []


def test_help_needs_neither_jax_nor_vision() -> None:
    loaded = loaded_after(
        "import sys\nfrom fer_jax import cli\nsys.argv = ['fer-jax', '--help']\n"
        "try: cli.main()\nexcept SystemExit as stop: assert not stop.code\n"
    )
    assert "fer_jax" in loaded
    assert sorted(loaded & (JAX | VISION | FRAMEWORKS)) == []


def test_no_module_is_called_utils() -> None:
    names = {path.stem for path in sources(*PACKAGES, "benchmarks", "tests")}
    assert not names & {"utils", "util", "helpers", "misc", "common"}


def test_no_file_is_past_400_lines() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in sources(*PACKAGES, "benchmarks", "tests")
        if (lines := len(path.read_text().splitlines())) > 400
    }
    assert not long
