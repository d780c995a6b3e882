"""Evaluate a run: metrics.json and predictions.csv, with what makes the numbers believable."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import fer_jax
from fer_jax.data import batches, corpus, protocols
from fer_jax.data.geometry import stream_of
from fer_jax.errors import UserError
from fer_jax.evaluation.confidence import clustered_intervals
from fer_jax.evaluation.inference import make_inference
from fer_jax.records import Clip
from fer_jax.training import loop, metrics
from fer_jax.training.run_directory import write_text

BATCH = 256


def evaluate(
    run: str | Path, data: str | Path | None = None, *, split: str = "test"
) -> dict[str, Any]:
    """Evaluate the best checkpoint of a run and write what it found into the run directory.

    On the run's own records the clips of `split` are evaluated, and metrics.json and
    predictions.csv are written. On other records all clips that carry a label of the run's
    label space are, and the files lie in `<run>/evaluations/<name of the records>/`.

    Args:
      run: a run directory.
      data: a record directory; None is the one that the run was trained on.
      split: "train", "validation" or "test" of the run's own protocol.

    Returns:
      the content of metrics.json (design, section 6).

    Raises:
      UserError: no such run or records, or nothing in them to evaluate.
    """
    run = Path(run)
    loaded = loop.load_run(run)
    experiment = loaded.experiment
    where = Path(experiment.data.dir if data is None else data)
    records = corpus.load(where, streams=(stream_of(experiment.data.features),))
    clips, facts = list(records), loaded.facts
    own = records.data_sha256 == facts["data_sha256"]
    if own:
        parts = protocols.make_split(clips, experiment.protocol)
        indices, audited = getattr(parts, split), facts["audit"]
        out = run if split == "test" else run / "evaluations" / split
    elif data is None:
        raise UserError(
            f"{where} does not hold the records that {run} was trained on any more: preprocess "
            f"them again as they were, or name other records: `fer-jax evaluate {run} DATA`"
        )
    else:
        parts = protocols.everything(clips, f"all of {records.name}")
        indices, audited = parts.test, {}
        out = run / "evaluations" / where.resolve().name
    samples = batches.make_samples(clips, indices, loaded.label_space, experiment.data)
    if not len(samples):
        raise UserError(f"{where}: there is no {split} part to evaluate")

    infer = make_inference(loaded, BATCH)
    probabilities = infer(zip(samples.raw, samples.frame_mask, strict=True))
    found = _metrics(loaded.classes, probabilities, samples, clips)
    found |= {
        "protocol": parts.name,
        "split": split if own else "all",
        "split_sha256": parts.sha256,
        "subject_overlap": audited.get("subject_overlap"),
        "twin_overlap": audited.get("twin_overlap"),
        "audit": audited.get("verdict"),
        "data_sha256": records.data_sha256,
        "code_version": code_version(),
        "hardware": hardware(),
        "experiment": experiment.name,
        "epoch": loaded.epoch,
    }
    if experiment.reported and own and split == "test":
        found["reported"] = dict(experiment.reported)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "predictions.csv", _predictions(loaded.classes, probabilities, samples, clips))
    write_text(out / "metrics.json", json.dumps(found, indent=1) + "\n")
    return found


def _metrics(
    classes: Sequence[str],
    probabilities: np.ndarray,
    samples: batches.Samples,
    clips: Sequence[Clip],
) -> dict[str, Any]:
    predicted = probabilities.argmax(-1)
    confusion = metrics.confusion_matrix(samples.label, predicted, len(classes))
    found = metrics.compute(confusion, classes)
    cluster = _clusters(samples.clip, clips)
    found["ci95"] = clustered_intervals(samples.label, predicted, cluster, len(classes))
    found["ci95_clusters"] = (
        "subject" if all(clips[i].subject for i in set(samples.clip)) else "clip"
    )
    eps = np.finfo(np.float32).tiny
    picked = probabilities[np.arange(len(predicted)), samples.label]
    found["cross_entropy"] = float(-np.log(np.maximum(picked, eps)).mean())
    found["classes"] = list(classes)
    if len(np.unique(samples.clip)) < len(samples.clip):
        # Several samples a clip (sections, frames): the clip's verdict is their mean (paper 1).
        clip, averaged, label = metrics.by_clip(probabilities, samples.clip, samples.label)
        verdict = averaged.argmax(-1)
        matrix = metrics.confusion_matrix(label, verdict, len(classes))
        found["by_clip"] = metrics.compute(matrix, classes)
        found["by_clip"]["ci95"] = clustered_intervals(
            label, verdict, _clusters(clip, clips), len(classes)
        )
    return found


def _clusters(indices: np.ndarray, clips: Sequence[Clip]) -> list[str]:
    return [clips[i].subject or clips[i].recording or clips[i].clip_id for i in indices]


def _predictions(
    classes: Sequence[str],
    probabilities: np.ndarray,
    samples: batches.Samples,
    clips: Sequence[Clip],
) -> str:
    clip, averaged, label = metrics.by_clip(probabilities, samples.clip, samples.label)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["clip_id", "subject", "emotion", "truth", "predicted", "correct",
                    *(f"p_{name}" for name in classes)])  # fmt: skip
    for index, row, truth in zip(clip, averaged, label, strict=True):
        one, verdict = clips[index], int(row.argmax())
        table.writerow(
            [one.clip_id, one.subject, one.emotion, classes[truth], classes[verdict],
             int(verdict == truth), *(f"{p:.6f}" for p in row)]
        )  # fmt: skip
    return text.getvalue()


def code_version() -> str:
    """The version of this code, with the commit where it runs from a checkout."""
    root = Path(__file__).resolve().parents[2]
    if (root / ".git").exists():
        try:
            commit = subprocess.run(
                ["git", "describe", "--always", "--dirty", "--abbrev=12"],
                cwd=root, capture_output=True, text=True, timeout=10, check=True,
            ).stdout.strip()  # fmt: skip
            return f"{fer_jax.__version__}+{commit}"
        except (OSError, subprocess.SubprocessError):
            return fer_jax.__version__
    return fer_jax.__version__


def hardware() -> str:
    """The devices that JAX computes on, and the processor where that is the CPU."""
    import jax

    devices = jax.local_devices()
    kind = devices[0].device_kind
    if devices[0].platform == "cpu":
        kind = f"{_processor()}, {len(os.sched_getaffinity(0))} cores"
        return f"CPU: {kind}"
    return f"{len(devices)} x {kind}"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def render(found: dict[str, Any]) -> str:
    """Metrics as a small table, beside the paper's where the config names them."""
    reported = found.get("reported", {})
    lines = [f"{found['experiment']}: {found['n']} {found['split']} samples, {found['protocol']}"]
    lines.append(f"{'':10}{'here':>8}  {'95 % interval':>16}" + ("   paper" if reported else ""))
    for name in ("accuracy", "uar", "macro_f1"):
        low, high = found["ci95"][name]
        row = f"{name:10}{found[name]:8.4f}  {f'{low:.4f} - {high:.4f}':>16}"
        lines.append(row + (f"  {reported[name]:.4f}" if name in reported else ""))
    lines.append(f"chance    {1 / len(found['classes']):8.4f}")
    if found["audit"]:
        lines.append(f"audit: {found['audit']}")
    return "\n".join(lines)
