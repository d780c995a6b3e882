"""A Hugging Face layout: model.safetensors, config.json and README.md, the model card.

Nothing is uploaded. The card's metadata follow the hub's schema (hub-docs, modelcard.md); the hub
itself judges them only when somebody uploads the folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from fer_jax.deploy.artifact import in_memory
from fer_jax.deploy.card import NAMES, card_text
from fer_jax.deploy.formats import Run
from fer_jax.deploy.formats.safetensors import load_variables, save_variables
from fer_jax.deploy.recogniser import Recogniser, make_recogniser

_TASKS = {True: "video-classification", False: "image-classification"}
#: Our figure -> the hub's name of it.
_METRICS = {"accuracy": "accuracy", "uar": "recall", "macro_f1": "f1"}


def save(recogniser: Recogniser, directory: Path) -> None:
    save_variables(recogniser, directory)
    facts = recogniser.facts
    model = facts["network"]["experiment"]["model"]
    settings = {
        "library_name": "fer-jax",
        "model_type": f"fer-jax-{model['name']}",
        "id2label": {str(i): name for i, name in enumerate(facts["classes"])},
        "label2id": {name: i for i, name in enumerate(facts["classes"])},
        "fer_jax": facts,
    }
    text = json.dumps(settings, indent=2) + "\n"
    (directory / "config.json").write_text(text, encoding="utf-8")
    card = f"---\n{_metadata(facts).to_yaml()}\n---\n\n{card_text(facts)}"
    # Reads its own metadata back: what the library refuses must not be written.
    ModelCard(card).save(directory / "README.md")


def load(directory: Path) -> Run:
    return in_memory(make_recogniser(*load_variables(directory))).run


def _metadata(facts: Mapping[str, Any]) -> ModelCardData:
    task = _TASKS[facts["frames"] > 1]
    return ModelCardData(
        # The weights' licence is for who trained them to choose; the data's terms bind them.
        license="other",
        license_name="see-terms-of-the-training-data",
        library_name="fer-jax",
        pipeline_tag=task,
        tags=["facial-expression-recognition", "emotion-recognition", "jax", "safetensors"],
        metrics=list(_METRICS.values()),
        model_name=facts["name"],
        eval_results=_results(facts, task),
    )


def _results(facts: Mapping[str, Any], task: str) -> list[EvalResult] | None:
    judged = facts["metrics"]
    if judged is None:
        return None
    corpora = ", ".join(facts["corpora"])
    return [
        EvalResult(
            task_type=task,
            task_name="Facial expression recognition",
            dataset_type="-".join(facts["corpora"]),
            dataset_name=f"{corpora} ({judged['protocol']})",
            dataset_split=judged["split"],
            dataset_args={"split_sha256": judged["split_sha256"]},
            metric_type=_METRICS[name],
            metric_name=NAMES[name],
            metric_value=round(judged[name], 6),
            metric_config=None if name == "accuracy" else "macro",
        )
        for name in _METRICS
    ]
