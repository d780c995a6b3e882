"""The model card of a recogniser: what it is, how it was judged, what it must not be used for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fer_jax.data.samples import streams_of
from fer_jax.deploy.recogniser import reads

#: What a stream of features brings along.
_FOUND_BY = {
    "landmarks68": "The 68 landmarks are those of dlib's shape predictor, which was trained on "
    "iBUG 300-W: its terms exclude commercial use, so that finding faces for this model with it "
    "does, too.",
    "blendshapes": "The blendshapes are those of MediaPipe's face landmarker "
    "(`face_landmarker.task`, Apache-2.0).",
    "crops": "Crops are aligned by landmarks (dlib's, whose terms exclude commercial use, or "
    "MediaPipe's, as the records were made).",
    "frontal": "Frontal views are made by landmarks (dlib's, whose terms exclude commercial use, "
    "or MediaPipe's, as the records were made).",
}
#: The figures that are quoted, and what they are called.
NAMES = {"accuracy": "accuracy", "uar": "unweighted average recall", "macro_f1": "macro F1"}
_OVERLAPS = {
    "subject_overlap": "test clips of people who also train",
    "twin_overlap": "test clips whose take also trains",
    "near_duplicates": "test clips that look like one that trains",
    "statement_overlap": "test clips with a sentence that also trains",
}


def card_text(facts: Mapping[str, Any]) -> str:
    """Markdown, without metadata."""
    return "\n\n".join(
        part
        for part in (
            f"# {facts['name']}",
            _what(facts),
            _use(facts),
            _judged(facts),
            _audit(facts),
            _data(facts),
            _made(facts),
        )
        if part
    ) + "\n"  # fmt: skip


def _what(facts: Mapping[str, Any]) -> str:
    model = facts["network"]["experiment"]["model"]["name"]
    frames = facts["frames"]
    seen = f"{frames} frames" if frames > 1 else "one frame"
    paper = f" after {facts['paper']}" if facts["paper"] else ""
    note = ""
    if facts["trained_in"] != "float32":
        note = f" It was trained in {facts['trained_in']}; exports compute in float32."
    return (
        f"A facial-expression recogniser{paper}: {model}, {facts['parameters']:,} parameters, "
        f"reads {seen} of a face and says one of {len(facts['classes'])} classes: "
        f"{', '.join(facts['classes'])}.{note}\n\n"
        '```python\nimport fer_jax\n\nrecogniser = fer_jax.load("path/to/this/folder")\n'
        "```\n\n"
        "or `fer-jax predict path/to/this/folder video.mp4`. `config.json` holds the labels and "
        "all settings, `model.safetensors` every array, those of the normalisation too."
    )


def _use(facts: Mapping[str, Any]) -> str:
    streams = [name for name in streams_of(reads(facts)) if name in _FOUND_BY]
    lines = [
        "## Intended use and limits",
        "Research on facial expressions, and programs that react to what a face shows. It names "
        "the expression that people were asked to make, or that others saw in a picture; it does "
        "not know what anybody feels. Do not decide about people with it: hiring, policing, "
        "schooling, insurance, health or credit. Some jurisdictions forbid emotion recognition at "
        "work and in education (EU AI Act, article 5).",
        "It is only as good as its training data: other ages, skins, cameras, lights and "
        "spontaneous expressions than those were not judged. A clip should show one face; frames "
        "without one are left out.",
        *(_FOUND_BY[name] for name in streams),
    ]
    return "\n\n".join(lines)


def _judged(facts: Mapping[str, Any]) -> str:
    found = facts["metrics"]
    if found is None:
        return "## Evaluation\n\nThis checkpoint has not been evaluated on a test part."
    rows = [
        f"| {name} | {found[key]:.4f} | {low:.4f} to {high:.4f} |"
        for key, name in NAMES.items()
        for low, high in [found["ci95"][key]]
    ]
    per_class = [
        f"| {name} | {one['precision']:.3f} | {one['recall']:.3f} | {one['f1']:.3f} | "
        f"{one['support']} |"
        for name, one in found["per_class"].items()
    ]
    lines = [
        "## Evaluation",
        f"Protocol {found['protocol']}, {found['split']} part, {found['n']} samples; chance is "
        f"{1 / len(found['classes']):.4f}. Intervals: 95 %, bootstrap over {found['ci95_drawn']} "
        f"{found['ci95_clusters']}s.",
        "\n".join(["| | | 95 % interval |", "|---|---|---|", *rows]),
        "\n".join(["| class | precision | recall | F1 | of |", "|" + 5 * "---|", *per_class]),
        f"Split {found['split_sha256']}; data {found['data_sha256']}.",
    ]
    return "\n\n".join(lines)


def _audit(facts: Mapping[str, Any]) -> str:
    audit = facts["audit"]
    lines = [
        f"- {words}: {audit[name]:.1%}" if audit.get(name) is not None else f"- {words}: not known"
        for name, words in _OVERLAPS.items()
        if name in audit
    ]
    notes = [f"- {note}" for note in facts["notes"]]
    return "\n\n".join(
        ["## Audit of the split", f"Verdict: {audit['verdict']}.", "\n".join([*lines, *notes])]
    )


def _data(facts: Mapping[str, Any]) -> str:
    lines = [f"- {name}: {_terms(name)}" for name in facts["corpora"]]
    return "\n\n".join(
        [
            "## Training data and their terms",
            "\n".join(lines),
            "What the data's terms forbid may hold for a model trained on them, too; "
            "they are the publishers', who may have changed them.",
        ]
    )


def _terms(corpus: str) -> str:
    """What the corpus's adapter says of its terms."""
    from preprocessing.corpora import CORPORA

    adapter = CORPORA.get(corpus.removesuffix("-frames"))
    said = "".join(((adapter and adapter.__doc__) or "").split("\n\n")[1:2])
    found = re.search(r"Terms: (.+?)\.( FER\+|$)", " ".join(said.split()))
    return f"{found[1]}." if found else "a collection of the user's own, or unknown terms."


def _made(facts: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    state = "" if facts["finished"] else " Training had not finished."
    return f"## Made by\n\n{versions}; parameters of epoch {facts['epoch']}.{state}"
