"""An experiment as frozen dataclasses, and how files, overrides and JSON become one.

A config file is Python with `def experiment() -> Experiment`; its docstring records what to
expect. `load_config` runs it, applies `--train.epochs 5` style overrides and validates. This file
imports no JAX: looking at a config is cheap.
"""

from __future__ import annotations

import json
import runpy
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as validated

from fer_jax.errors import UserError

_STRICT = ConfigDict(extra="forbid")
Features = Literal[
    "coords-136", "emotii-272", "distances-104", "distances-259", "distances-368",
    "distances-2278", "blendshapes-52", "blendshapes-27",
]  # fmt: skip


def _sequence(value: Any) -> Any:
    """A lone value or "128,256" where a tuple is wanted, as a command line gives them."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value] if isinstance(value, (int, float)) else value


Ints = Annotated[tuple[int, ...], BeforeValidator(_sequence)]
Floats = Annotated[tuple[float, ...], BeforeValidator(_sequence)]


@validated(frozen=True, kw_only=True, config=_STRICT)
class Data:
    """Which clips, as what sequences, as which features."""

    dir: str = ""
    """The record directory."""
    labels: str = "auto"
    """A label space of fer_jax.labels, or "auto": the emotions found in the data."""
    features: Features = "coords-136"
    """What the model sees of each frame."""
    landmark_scale: Literal["face-box", "full-frame"] = "face-box"
    """What is scaled to 224x224: the face box, or the whole frame (docs/reproduction.md 1.3)."""
    length: Literal["thin", "sections", "frames"] = "thin"
    """thin: stride-thin or zero-pad a clip to `frames`; sections: windows of `frames` that use
    every frame; frames: each frame is a sample of its own (paper 5)."""
    frames: int = Field(default=76, ge=1)
    """T of a sample ("thin" and "sections")."""
    zscore: bool = True
    """Normalise features by the training set's mean and standard deviation."""
    caps: dict[str, int] = Field(default_factory=dict)
    """At most so many training clips of a canonical emotion (paper 5, table 2)."""
    augmented: bool = True
    """Train on the augmented copies that preprocessing made, if it made any."""


@validated(frozen=True, kw_only=True, config=_STRICT)
class Protocol:
    """Which clips train, validate and test."""

    name: Literal["official", "random", "subject", "random-kfold", "subject-kfold"] = "subject"
    """official: the corpus's own; random: files at random; subject: whole subjects;
    *-kfold: fold `fold` of `folds` is the test set."""
    folds: int = Field(default=10, ge=2)
    fold: int = Field(default=0, ge=0)
    validation: float = Field(default=0.1, ge=0, lt=1)
    """Share of all clips (or subjects) that validates; 0 validates on nothing."""
    test: float = Field(default=0.1, gt=0, lt=1)
    """Share that tests ("random" and "subject")."""
    seed: int = 0


@validated(frozen=True, kw_only=True, config=_STRICT)
class LSTM:
    """Stacked LSTM and a softmax layer: papers 1 and 5."""

    name: Literal["lstm"] = "lstm"
    units: Ints = (128, 256)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """After each LSTM layer."""
    activation: Literal["tanh", "selu", "relu", "leaky_relu"] = "tanh"
    """Of the candidate and of the cell output."""
    steps: Literal["frames", "features"] = "frames"
    """What the recurrence runs over: the clip's frames, or one frame's features (paper 5)."""
    kernel_l2: float = Field(default=0.0, ge=0)
    """L2 penalty on the input weights."""
    mask_padding: bool = False
    """Skip padded steps instead of reading zeros (paper 1 reads zeros)."""


@validated(frozen=True, kw_only=True, config=_STRICT)
class Dense:
    """Fully connected network on the features of one frame: paper 5's ablation."""

    name: Literal["dense"] = "dense"
    units: Ints = (330, 300, 250, 220, 200, 150, 10)
    dropout: Floats = (0.0, 0.2, 0.2, 0.2, 0.2, 0.2, 0.0)
    """After each hidden layer."""
    kernel_l2: float = Field(default=0.01, ge=0)
    """L2 penalty on the hidden layers but the first and last."""


Model = Annotated[LSTM | Dense, Field(discriminator="name")]


@validated(frozen=True, kw_only=True, config=_STRICT)
class Loss:
    name: Literal["cross-entropy", "mse", "focal"] = "cross-entropy"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    focal_gamma: float = Field(default=2.0, ge=0)
    focal_alpha: float = Field(default=0.25, gt=0)
    class_weights: Literal["none", "balanced"] | Floats = "none"
    """balanced: n / (K n_k) of the training set; or one weight a class."""


@validated(frozen=True, kw_only=True, config=_STRICT)
class Optim:
    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = Field(default=1e-3, gt=0)
    schedule: Literal["constant", "inverse-time", "cosine"] = "constant"
    decay: float = Field(default=0.0, ge=0)
    """inverse-time: lr / (1 + decay * step), as Keras 2's `decay`."""
    warmup_epochs: float = Field(default=0.0, ge=0)
    """Linear from 0, before any schedule."""
    weight_decay: float = Field(default=0.0, ge=0)
    """adam, sgd: L2 added to the gradient; adamw: decoupled."""
    amsgrad: bool = False
    momentum: float = Field(default=0.0, ge=0, lt=1)
    clip_norm: float = Field(default=0.0, ge=0)
    """Clip the global gradient norm; 0 does not."""


@validated(frozen=True, kw_only=True, config=_STRICT)
class EarlyStop:
    patience: int = Field(default=0, ge=0)
    """Epochs without improvement of `train.monitor` before training stops; 0 never stops."""
    min_delta: float = Field(default=0.0, ge=0)


@validated(frozen=True, kw_only=True, config=_STRICT)
class Train:
    epochs: int = Field(default=30, ge=1)
    batch: int = Field(default=64, ge=1)
    """Of all devices together."""
    seed: int = 0
    steps_per_call: int = Field(default=0, ge=0)
    """Steps in one device call; 0 chooses."""
    loss: Loss = Field(default_factory=Loss)
    monitor: Literal[
        "validation/accuracy", "validation/uar", "validation/macro_f1", "validation/loss",
        "train/loss", "train/accuracy",
    ] = "validation/accuracy"  # fmt: skip
    """What chooses the best checkpoint and stops early; train/* where nothing validates."""
    early_stop: EarlyStop = Field(default_factory=EarlyStop)
    evaluate_every: int = Field(default=1, ge=1)
    """Epochs between validations."""


@validated(frozen=True, kw_only=True, config=_STRICT)
class Parallel:
    mapper: Literal["shard_map", "pmap"] = "shard_map"
    devices: int = Field(default=0, ge=0)
    """Local devices to use; 0 is all of them."""


@validated(frozen=True, kw_only=True, config=_STRICT)
class Checkpoint:
    every_epochs: int = Field(default=1, ge=1)
    every_seconds: float = Field(default=30.0, ge=0)
    """Save the last state no more often than this (the best is always saved)."""
    keep: int = Field(default=1, ge=1)
    """How many of the last to keep."""


@validated(frozen=True, kw_only=True, config=_STRICT)
class Track:
    tensorboard: bool = True
    """Write TensorBoard events beside history.jsonl (needs the extra `track`)."""


@validated(frozen=True, kw_only=True, config=_STRICT)
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
        # The discriminated union adds the model's name to the path: model.lstm.units.
        place = [str(p) for p in item["loc"]]
        if place[:1] == ["model"] and len(place) > 2:
            del place[1]
        value = "" if isinstance(item["input"], dict) else f", got {item['input']!r}"
        if "unexpected" in item["type"] and (near := get_close_matches(place[-1], _names(), n=1)):
            value = f"; did you mean {near[0]}?"
        parts.append(f"{'.'.join(place)}: {item['msg'][0].lower()}{item['msg'][1:]}{value}")
    return "; ".join(parts)


def _names() -> set[str]:
    """The name of every key and group."""
    documents = (Experiment(name="").to_json(), Experiment(name="", model=Dense()).to_json())
    return {part for doc in documents for key in _leaves(doc) for part in key.split(".")}


def _leaves(document: Mapping[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for key, value in document.items():
        nested = isinstance(value, dict) and value
        keys += _leaves(value, f"{prefix}{key}.") if nested else [prefix + key]
    return keys


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
        free = path in (["data", "caps"], ["reported"])
        if not isinstance(node, dict) or (last not in node and not free):
            near = get_close_matches(key, _leaves(document), n=1, cutoff=0.5)
            hint = f"; did you mean --{near[0]}?" if near else ""
            raise UserError(f"unknown config key --{key}{hint}")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        if isinstance(node.get(last), dict) and not isinstance(value, dict):
            raise UserError(f"--{key} is a group; set one of its keys: {', '.join(node[last])}")
        if key == "model.name":
            document["model"] = node = {}
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
    path = Path(path)
    if not path.is_file():
        known = [*path.parent.glob("*.py"), *Path("configs").glob("*.py")]
        by_name = {p.name: p for p in known if p.name != "__init__.py"}
        near = get_close_matches(path.name, by_name, n=1)
        hint = f"; did you mean {by_name[near[0]]}?" if near else ""
        raise UserError(f"no config file {path}{hint}")
    if path.suffix == ".json":
        try:
            experiment = from_json(json.loads(path.read_text()), str(path))
        except json.JSONDecodeError as error:
            raise UserError(f"{path} is not JSON: {error}") from None
    else:
        experiment = _run_config(path)
    return override(experiment, changes)


def _run_config(path: Path) -> Experiment:
    try:
        make = runpy.run_path(str(path)).get("experiment")
        if not callable(make):
            raise UserError(f"{path} has no `def experiment() -> Experiment`")
        experiment = make()
    except ValidationError as error:
        raise UserError(f"{path}: {_explain(error)}") from None
    except UserError:
        raise
    except Exception as error:  # Whatever it is, it happened in the user's file.
        text = " ".join(str(error).split())
        raise UserError(f"{path}: {type(error).__name__}: {text}") from error
    if not isinstance(experiment, Experiment):
        raise UserError(f"{path}: experiment() gave {type(experiment).__name__}, not Experiment")
    return experiment
