"""The whole experiment, and how files, overrides and JSON become one."""

from __future__ import annotations

import json
import runpy
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import Field, TypeAdapter, ValidationError

from fer_jax.config.base import STRICT, validated
from fer_jax.config.data import Data, Protocol
from fer_jax.config.model import LSTM, Model
from fer_jax.config.sweep import Sweep
from fer_jax.config.training import Checkpoint, Optim, Parallel, Track, Train
from fer_jax.errors import UserError

_T = TypeVar("_T")


@validated(frozen=True, kw_only=True, config=STRICT)
class Experiment:
    """Everything that decides a run's result."""

    name: str
    paper: Literal["", "ryumina2020", "abdullah2020", "zennou2023", "emotionaldan2018",
                   "attrah2024"] = ""  # fmt: skip
    reported: dict[str, float] = Field(default_factory=dict)
    """What the paper reports on its test set, by metric name; shown beside our own numbers."""
    data: Data = Field(default_factory=Data)
    protocol: Protocol = Field(default_factory=Protocol)
    model: Model = Field(default_factory=LSTM)
    optim: Optim = Field(default_factory=Optim)
    train: Train = Field(default_factory=Train)
    parallel: Parallel = Field(default_factory=Parallel)
    checkpoint: Checkpoint = Field(default_factory=Checkpoint)
    track: Track = Field(default_factory=Track)

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists and scalars: `from_json` gives an equal experiment."""
        return _ADAPTER.dump_python(self, mode="json")


_ADAPTER: TypeAdapter[Experiment] = TypeAdapter(Experiment)
#: The settings of every network.
MODELS: tuple[Any, ...] = get_args(get_args(Model)[0])


def from_json(value: Mapping[str, Any], where: str = "config") -> Experiment:
    """The experiment of a JSON document.

    Raises:
      UserError: one line with every key that is unknown or of a wrong type.
    """
    try:
        return _ADAPTER.validate_python(value)
    except ValidationError as error:
        raise UserError(f"{where}: {_explain(error)}") from None


def _explain(error: ValidationError) -> str:
    parts = []
    for item in error.errors():
        # A discriminated union adds the model's name to the path: model.lstm.units.
        models = {model().name for model in MODELS}
        path = [str(p) for p in item["loc"]]
        place = [p for p in path[:-1] if p not in models] + path[-1:]
        value = "" if isinstance(item["input"], dict) else f", got {item['input']!r}"
        if "unexpected" in item["type"] and (near := get_close_matches(place[-1], _names(), n=1)):
            value = f"; did you mean {near[0]}?"
        parts.append(f"{'.'.join(place)}: {item['msg'][0].lower()}{item['msg'][1:]}{value}")
    return "; ".join(parts)


def _names() -> set[str]:
    """The name of every key and group."""
    documents = [Experiment(name="", model=model()).to_json() for model in MODELS]
    return {part for doc in documents for key in _flat(doc) for part in key.split(".")}


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of a document by dotted key; an empty group is one."""
    found: dict[str, Any] = {}
    for key, value in document.items():
        nested = isinstance(value, dict) and value
        found |= _flat(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return found


def differences(experiments: Sequence[Experiment]) -> dict[str, list[Any]]:
    """The dotted keys in which experiments differ, and what each of them has there."""
    flat = [_flat(experiment.to_json()) for experiment in experiments]
    keys = sorted(set().union(*flat))
    values = {key: [one.get(key) for one in flat] for key in keys}
    return {key: some for key, some in values.items() if any(v != some[0] for v in some)}


#: Groups whose keys are the user's, with an example.
_FREE = {
    "data.caps": '{"happy": 4000}',
    "train.init.rename": '{"": "cnn"}',
    "reported": '{"accuracy": 0.61}',
}


def override(experiment: Experiment, changes: Sequence[tuple[str, str]]) -> Experiment:
    """`experiment` with dotted keys set from text, e.g. ("train.epochs", "5").

    A list is "128,256" or JSON. Setting `model.name` starts from that model's defaults.

    Raises:
      UserError: an unknown key (names the nearest) or a value of the wrong type.
    """
    for key, text in changes:
        document = experiment.to_json()
        *path, last = key.split(".")
        node: Any = document
        for part in path:
            node = node.get(part) if isinstance(node, dict) else None
        free = ".".join(path) in _FREE
        if not isinstance(node, dict) or (last not in node and not free):
            near = get_close_matches(key, _flat(document), n=1, cutoff=0.5)
            hint = f"; did you mean --{near[0]}?" if near else ""
            raise UserError(f"unknown config key --{key}{hint}")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        if isinstance(node.get(last), dict) and not isinstance(value, dict):
            if key in _FREE:
                raise UserError(f"--{key} {text}: give JSON, as in --{key} '{_FREE[key]}'")
            raise UserError(f"--{key} is a group; set one of its keys: {', '.join(node[last])}")
        if last == "name" and path and path[0] == "model":
            node.clear()
        first = None
        for guess in (value, text):  # A directory may be called 2013.
            node[last] = guess
            try:
                experiment = from_json(document, f"--{key} {text}")
                break
            except UserError as error:
                first = first or error
        else:
            raise first or AssertionError
    return experiment


def load_config(path: str | Path, changes: Sequence[tuple[str, str]] = ()) -> Experiment:
    """The experiment of a config file, or of a run's config.json, with overrides.

    Args:
      path: a Python file with `def experiment()`, or JSON.
      changes: dotted key and text, as they stand on a command line.

    Raises:
      UserError: no such file, no `experiment()` in it, a bad key or value.
    """
    path = _existing(path)
    if path.suffix == ".json":
        try:
            experiment = from_json(json.loads(path.read_text()), str(path))
        except json.JSONDecodeError as error:
            raise UserError(f"{path} is not JSON: {error}") from None
    else:
        experiment = _run_config(path, "experiment", Experiment)
        if experiment is None:
            raise UserError(f"{path} has no `def experiment() -> Experiment`")
    return override(experiment, changes)


def load_sweep(path: str | Path) -> Sweep | None:
    """What a config file's `def sweep()` gives; None without one.

    Raises:
      UserError: no such file, or what it gives is no `Sweep`.
    """
    path = _existing(path)
    return None if path.suffix == ".json" else _run_config(path, "sweep", Sweep)


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        known = [*path.parent.glob("*.py"), *Path("configs").glob("*.py")]
        by_name = {p.name: p for p in known if p.name != "__init__.py"}
        near = get_close_matches(path.name, by_name, n=1)
        hint = f"; did you mean {by_name[near[0]]}?" if near else ""
        raise UserError(f"no config file {path}{hint}")
    return path


def _run_config(path: Path, name: str, kind: type[_T]) -> _T | None:
    """What the file's function `name` gives; None if there is no such function."""
    try:
        make = runpy.run_path(str(path)).get(name)
        if not callable(make):
            return None
        made = make()
    except ValidationError as error:
        raise UserError(f"{path}: {_explain(error)}") from None
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # Whatever it is, it happened in the user's file.
        text = " ".join(str(error).split())
        raise UserError(f"{path}: {type(error).__name__}: {text}") from error
    if not isinstance(made, kind):
        raise UserError(f"{path}: {name}() gave {type(made).__name__}, not {kind.__name__}")
    return made
