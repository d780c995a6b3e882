"""The main job on a corpus made on the spot: `fer-jax demo`."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path
from typing import Any

from fer_jax.config import LSTM, Data, Experiment, Optim, Protocol, Train
from fer_jax.errors import UserError

SUBJECTS = 16
EXPORTS = ("onnx", "hf")


def experiment(records: Path) -> Experiment:
    """configs/landmarks_lstm.py for clips of 24 frames, whole subjects kept for testing."""
    return Experiment(
        name="demo",
        data=Data(dir=str(records), labels="crema6", features="distances-259", frames=30),
        protocol=Protocol(name="subject", validation=0.13, test=0.25),
        model=LSTM(units=(64, 128), dropout=0.4, mask_padding=True),
        optim=Optim(lr=1e-3, weight_decay=5e-5),
        train=Train(epochs=60, batch=32),
    )


def _describe(raw: Path) -> Path:
    """The table of the videos, which bear names like CREMA-D's and are none of its clips."""
    from preprocessing.corpora import scan

    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("path", "emotion", "subject", "statement", "intensity"))
    for clip in scan("crema-d", raw):
        table.writerow((clip.source, clip.emotion, clip.subject, clip.statement, clip.intensity))
    path = raw / "clips.csv"
    path.write_text(text.getvalue())
    return path


def _export(run: Path) -> tuple[list[dict[str, Any]], str]:
    """The recogniser as files for other programs, and the line that says so."""
    from fer_jax.deploy import formats
    from fer_jax.deploy.export import export

    try:
        for name in EXPORTS:
            formats.functions(name)
    except UserError as error:  # An extra that nobody has to have.
        return [], f"not exported: {error}"
    made = export(run, EXPORTS)["exports"]
    return made, f"exported for other programs: {', '.join(one['path'] for one in made)}"


def demo(out: Path, *, workers: int | None = None, seed: int = 0) -> tuple[dict[str, Any], str]:
    """Generate videos, preprocess, audit, train, evaluate, report, predict an unseen video, export.

    Args:
      out: receives raw/ (mp4 files and clips.csv, which says who shows what), records/, run/ and
        predicted/.
      workers: processes for generation and preprocessing; None is one a core.
      seed: of the generated corpus.

    Returns:
      a JSON-ready summary, and the lines to show.
    """
    from fer_jax.data import corpus
    from fer_jax.data.protocols import make_split
    from fer_jax.deploy.predict import predict_files
    from fer_jax.evaluation.pipeline import train_and_report
    from fer_jax.machine import default_workers
    from fer_jax.progress import Progress
    from preprocessing.build import BYTES_PER_WORKER, make_recipe, preprocess
    from preprocessing.model_files import LANDMARKER, check_models
    from preprocessing.synthesize import synthesize

    start = time.monotonic()
    workers = workers or default_workers(BYTES_PER_WORKER)
    raw, records, run = out / "raw", out / "records", out / "run"
    with Progress("generate", "videos") as progress:
        synthesize(raw, subjects=SUBJECTS, seed=seed, workers=workers, on_progress=progress)
    # The demo downloads nothing: blendshapes come along where MediaPipe's model is found.
    _, _, usable, message = next(row for row in check_models() if row[0] == LANDMARKER)
    outputs = ["landmarks", "crops", *(["blendshapes"] if usable else [])]
    note = "" if usable else f"without blendshapes: {LANDMARKER} {message}"
    table = _describe(raw)
    with Progress("preprocess", "clips") as progress:
        report = preprocess(
            "csv",
            table,
            records,
            recipe=make_recipe("csv", outputs),
            workers=workers,
            on_progress=lambda done, total, bad: progress(done, total, f"{bad} quarantined"),
        )
    config = experiment(records)
    metrics, text = train_and_report(config, run, command=f"fer-jax demo {out}")
    clips = corpus.load(records)
    unseen = clips[int(make_split(clips, config.protocol).test[0])]
    with Progress("predict", "frames") as progress:
        predicted = predict_files(
            run, [raw / unseen.source], out / "predicted", on_progress=progress
        )
    exports, exported = _export(run)
    one = predicted["files"][0]
    seconds = time.monotonic() - start
    summary = {
        "run": str(run),
        "report": str(run / "report.html"),
        "annotated": one["annotated"],
        "exports": exports,
        "clips": report.to_json()["written"],
        "outputs": outputs,
        "seconds": round(seconds, 1),
        "chance": 1 / len(metrics["classes"]),
        **metrics,
    }
    lines = [
        *([note] if note else []),
        report.render(),
        text,
        f"{unseen.source} ({unseen.emotion}, subject unseen in training): {one['predicted']} "
        f"({one['probability']:.2f})",
        f"annotated video: {one['annotated']}",
        exported,
        f"test accuracy on unseen subjects {100 * metrics['accuracy']:.1f} %, chance "
        f"{100 * summary['chance']:.1f} %; {seconds:.0f} s in all",
    ]
    return summary, "\n".join(lines)
