"""One run from config to report: train, evaluate the best checkpoint, write the page."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from fer_jax import storage
from fer_jax.config import Experiment
from fer_jax.evaluation.evaluate import evaluate, render
from fer_jax.evaluation.report import write_report
from fer_jax.progress import Progress
from fer_jax.training import distributed, loop
from fer_jax.training.parallel import keep_memory, use_every_core
from fer_jax.training.run_directory import write_text


def run_directory(experiment: Experiment, what: str = "") -> Path:
    """`runs/<name>-<hash>`: the same config lands in the same place, so repeating is resuming.

    Args:
      what: else decides what is trained there.
    """
    text = json.dumps(experiment.to_json(), sort_keys=True) + what
    return Path("runs") / f"{experiment.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def train_and_report(
    experiment: Experiment, run: Path, *, command: str = ""
) -> tuple[dict[str, Any], str]:
    """Train (or resume, or find finished) a run, then evaluate it and write report.html.

    Args:
      experiment: what to train.
      run: the run directory.
      command: what the user typed, kept in command.txt for the report.

    Returns:
      metrics.json's content, and the lines to show. Of several processes the first one writes.
    """
    distributed.start(experiment.parallel)
    first = distributed.is_first()
    if experiment.data.images:  # Convolutions use every core from one device.
        keep_memory()
    else:
        use_every_core(experiment.train.batch // distributed.processes())
    with Progress(f"train {experiment.name}", "epochs") as progress:
        said = progress if first else None
        note = progress.say if first else None
        summary = loop.train(experiment, run, on_progress=said, on_note=note, on_step=said)
    if distributed.processes() > 1:
        storage.share(run, first, distributed.meet)
    if command and first and not (run / "command.txt").is_file():
        write_text(run / "command.txt", command + "\n")
    metrics = evaluate(run)
    if not first:
        return metrics, f"run: {run}"
    page = write_report(run)
    lines = [*summary.get("notes", ()), render(metrics), f"run: {run}", f"report: {page}"]
    return metrics, "\n".join(lines)
