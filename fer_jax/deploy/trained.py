"""The recogniser of a run: its best checkpoint, and what is known of it."""

from __future__ import annotations

import dataclasses
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fer_jax import models
from fer_jax.config import Data, Experiment, with_values
from fer_jax.data import protocols
from fer_jax.deploy.recogniser import VERSION, Recogniser, make_recogniser
from fer_jax.errors import UserError
from fer_jax.evaluation.embed import weights_sha256
from fer_jax.evaluation.inference import data_of
from fer_jax.evaluation.provenance import code_version
from fer_jax.training import checkpoint
from fer_jax.training.run_directory import LoadedRun, checkpoints_of, load_run

#: What the versions of an export are told of.
_LIBRARIES = ("jax", "jaxlib", "flax", "numpy")

#: Of metrics.json, what an export does not say again.
_LONG = ("audit_parts", "notes")


def load_recogniser(run: str | Path) -> Recogniser:
    """The recogniser of a run's best checkpoint.

    Raises:
      UserError: not a run directory, no intact checkpoint, no epoch that was judged yet, or the
        network whose features it reads is not where it was.
    """
    return recogniser_of(Path(run), load_run(run))


def recogniser_of(run: Path, loaded: LoadedRun) -> Recogniser:
    """`load_recogniser` of a run that is loaded already."""
    if not loaded.epoch:
        raise UserError(
            f"{run} has no best epoch yet: let it finish one that is judged, "
            "`fer-jax train` with the same words goes on"
        )
    inner = extractor_of(loaded)
    return make_recogniser(_facts(run, loaded, inner), _variables(loaded, inner))


def extractor_of(loaded: LoadedRun) -> LoadedRun | None:
    """The run whose network made the features that this one reads, if one did.

    Raises:
      UserError: it is not where it was, or is another by now.
    """
    made, features = loaded.facts["extracted"], loaded.experiment.data.features
    if not made:
        return None
    if not (Path(made["run"]) / "config.json").is_file():
        raise UserError(
            f"the model reads {features}, made by the network of {made['run']}, which is not "
            "there any more: put it back"
        )
    source = load_run(made["run"])
    if weights_sha256(source) != made["weights_sha256"]:
        raise UserError(
            f"the model reads {features}, and {made['run']} holds another network than the one "
            "that made them: put that back, or extract and train again"
        )
    return source


def in_float32(loaded: LoadedRun) -> LoadedRun:
    """The run as if it had trained in float32, which its parameters are in anyway."""
    experiment = with_values(loaded.experiment, {"train.precision": "float32"})
    model = models.build(experiment.model, loaded.inputs, len(loaded.classes))
    return dataclasses.replace(loaded, experiment=experiment, model=model)


def _variables(loaded: LoadedRun, inner: LoadedRun | None) -> dict[str, Any]:
    found = {**loaded.variables, "statistics": dict(loaded.statistics)}
    if inner is not None:
        found["embedder"] = _variables(inner, None)
    return jax.tree.map(np.asarray, found)


def _network(loaded: LoadedRun) -> dict[str, Any]:
    """What builds the network again; not where its records lie on this machine."""
    experiment = with_values(loaded.experiment, {"data": data_of(loaded)})
    experiment = with_values(experiment, {"data.dir": ""})
    return {
        "experiment": experiment.to_json(),
        "inputs": dataclasses.asdict(loaded.inputs),
        "classes": len(loaded.classes),
    }


def _reads(loaded: LoadedRun, inner: LoadedRun | None) -> Data:
    """How a clip is read: with the network that extracts features, what that one reads."""
    # What a network is to find (landmarks) is not there to be read.
    data = dataclasses.replace(data_of(loaded), landmarks=False, dir="")
    if inner is None:
        return data
    seen = inner.experiment.data
    return dataclasses.replace(
        data,
        features=seen.features,
        landmark_scale=seen.landmark_scale,
        images=tuple(dict.fromkeys([*data.images, *seen.images])),
    )


def _corpora(run: Path) -> list[str]:
    """The corpora of the clips that the run was given, as their ids name them."""
    ids = (clip_id for _, clip_id in protocols.read_split(run / "split.csv"))
    return sorted({clip_id.partition("/")[0] for clip_id in ids})


def _facts(run: Path, loaded: LoadedRun, inner: LoadedRun | None) -> dict[str, Any]:
    """See `make_recogniser`."""
    known, experiment = loaded.facts, loaded.experiment
    step, _ = checkpoint.find_intact(checkpoints_of(run))
    progress = checkpoint.read(checkpoints_of(run), step, {"meta": None})["meta"]["progress"]
    data = _reads(loaded, inner)
    reads = Experiment(name=experiment.name, data=data).to_json()["data"]
    metrics = run / "metrics.json"
    judged = json.loads(metrics.read_text()) if metrics.is_file() else None
    if judged is not None and judged["epoch"] != loaded.epoch:
        judged = None  # Of an earlier best epoch.
    if judged is not None:
        judged = {name: value for name, value in judged.items() if name not in _LONG}
    return {
        "recogniser_version": VERSION,
        "name": experiment.name,
        "paper": experiment.paper,
        "classes": list(loaded.classes),
        "label_space": known["label_space"],
        "frames": loaded.inputs.frames,
        "reads": reads,
        "image_shapes": {k: list(v) for k, v in known["image_shapes"].items()},
        "recipe": known["recipe"],
        "corpora": _corpora(run),
        "network": _network(loaded),
        "embedder": inner and _network(inner),
        "computes_in": "float32",
        "trained_in": experiment.train.precision,
        "finished": progress["finished"],
        "epoch": loaded.epoch,
        "parameters": models.parameter_count(loaded.variables["params"]),
        "metrics": judged,
        **{name: known[name] for name in ("protocol", "split_sha256", "data_sha256")},
        "audit": {k: v for k, v in known["audit"].items() if not isinstance(v, (dict, list))},
        "notes": known.get("notes", []),
        "versions": {
            "fer-jax": code_version(),
            **{name: version(name) for name in _LIBRARIES},
        },
    }
