"""Which landmark distances matter in a corpus: paper 1's selection, as lists and as a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fer_jax.config import Data, Importance, Protocol
from fer_jax.data import corpus, importance, protocols
from fer_jax.data.geometry import landmark_pairs
from fer_jax.data.samples import make_samples
from fer_jax.errors import UserError
from fer_jax.evaluation.report import plots
from fer_jax.labels import make_label_space
from fer_jax.training.run_directory import write_text

#: Paper 1's, which gave it 368, 259 and 104 distances.
THRESHOLDS = (0.0009, 0.001, 0.002)
TOP = 10


def select(
    where: str | Path,
    out: Path,
    protocol: Protocol | None,
    settings: Importance,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    labels: str = "auto",
    landmark_scale: str = "face-box",
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Any], str]:
    """Scores all 2,278 distances and writes what is more important than each threshold.

    Writes importances.csv (i, j, rf, et, ada, mean, rank), pairs-<K>.csv for each threshold that K
    pairs are above, which `data.features=pairs/OUT/pairs-<K>` trains on; clips.csv, whose frames
    were drawn from, so that the audit of such a run can tell; and face.svg, the mean face with the
    ten most important distances and with all that are above the lowest threshold.

    Args:
      where: records with landmarks; paper 1 drew from two corpora at once ("A,B").
      protocol: whose training part is looked at; None looks at every clip, as the paper did.

    Returns:
      JSON-ready: out, protocol, clips, frames, classes, thresholds (threshold, pairs, file), top;
      and the lines to show.

    Raises:
      UserError: no such records, or nothing in them to choose by.
    """
    clips = list(corpus.load(where, streams=("landmarks68",)))
    if protocol is None:
        split = protocols.everything(clips, "every clip")
        indices = split.test
    else:
        split = protocols.make_split(clips, protocol)
        indices = split.train
    space = make_label_space(labels, {clip.emotion for clip in clips})
    data = Data(features="distances-2278", length="frames", landmark_scale=landmark_scale)  # type: ignore[arg-type]
    samples = make_samples(clips, indices, space, data)
    scores = importance.distance_importances(samples, settings, on_progress)
    frames, _ = importance.draw_frames(samples, settings)
    face = samples.streams["raw"][frames].mean(axis=0, dtype=np.float64)
    order, means = importance.ranking(scores), scores.mean(axis=1)
    pairs = landmark_pairs("distances-2278")[order]
    scores, means = scores[order], means[order]

    out.mkdir(parents=True, exist_ok=True)
    numbers = [[f"{x:.9g}" for x in (*row, mean)] for row, mean in zip(scores, means, strict=True)]
    _write(
        out / "importances.csv",
        ("i", "j", *importance.ENSEMBLES, "mean", "rank"),
        [
            (*pair, *row, rank)
            for rank, (pair, row) in enumerate(zip(pairs, numbers, strict=True), 1)
        ],
    )
    kept = []
    for threshold in thresholds:
        count = int((means > threshold).sum())
        path = out / f"pairs-{count}.csv"
        if count:
            listed = [(*pair, row[-1]) for pair, row in zip(pairs[:count], numbers, strict=False)]
            _write(path, ("i", "j", "mean"), listed)
        kept.append({"threshold": threshold, "pairs": count, "file": str(path) if count else None})
    used = sorted({clips[index].clip_id for index in samples.clip})
    _write(out / importance.CLIPS, ("clip_id",), [(clip_id,) for clip_id in used])
    most = max(one["pairs"] for one in kept)
    write_text(out / "face.svg", plots.distances(face, pairs[:most], means[:most], TOP))

    report = {
        "out": str(out),
        "protocol": split.name,
        "clips": len(used),
        "frames": len(frames),
        "classes": list(space.classes),
        "thresholds": kept,
        "top": [
            {"i": int(i), "j": int(j), "mean": float(mean)}
            for (i, j), mean in zip(pairs[:TOP], means[:TOP], strict=True)
        ],
    }
    lines = [
        f"{len(frames)} frames of {len(used)} clips ({split.name}), "
        f"{len(space.classes)} emotions, 3 x {settings.trees} trees",
        *(_kept(one) for one in kept),
        "most important: "
        + ", ".join(f"({p['i']}, {p['j']}) {p['mean']:.4f}" for p in report["top"]),
        f"written: {out}",
    ]
    if protocol is None:
        lines.append("chosen by every clip: a run on these records that uses it leaks")
    return report, "\n".join(lines)


def _kept(one: dict[str, Any]) -> str:
    line = f"mean importance above {one['threshold']:g}: {one['pairs']} distances"
    if not one["pairs"]:
        return line
    return f"{line} (--data.features pairs/{one['file'].removesuffix('.csv')})"


def _write(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def parse_thresholds(text: str) -> tuple[float, ...]:
    """Raises:
    UserError: not numbers between 0 and 1.
    """
    try:
        found = tuple(float(part) for part in text.split(",") if part)
    except ValueError:
        found = ()
    if not found or not all(0 < one < 1 for one in found):
        raise UserError(f"--threshold {text}: give numbers between 0 and 1, as in 0.0009,0.001")
    return found
