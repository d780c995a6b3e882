"""The pictures of data that papers show, made again from records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fer_jax.data import corpus
from fer_jax.data.geometry import blendshape_names
from fer_jax.evaluation.report import plots

#: Paper 5's rule: a score is kept that is above 0.4 in more than 100 images.
THRESHOLD, IMAGES = 0.4, 100
_Counted = Mapping[tuple[str, str], float]


def face_of(step: str) -> Callable[..., tuple[str, str] | None]:
    """The picture that `fer-jax importance` drew in a step."""

    def draw(records: Sequence[Path], results: Mapping[str, Any]) -> tuple[str, str] | None:
        del records
        report = results.get(step, {}).get("report")
        path = Path(report["out"]) / "face.svg" if report else None
        if report is None or path is None or not path.is_file():
            return None
        kept = ", ".join(f"{one['pairs']} above {one['threshold']:g}"
                         for one in report["thresholds"])  # fmt: skip
        said = (
            f"{report['frames']:,} frames of {report['clips']:,} clips; {kept}. The paper has 368, "
            "259 and 104, and (9, 24) with 0.014 as the most important distance."
        )
        return path.read_text(), said

    return draw


def scores_of(records: Path) -> np.ndarray:
    """f32[N, 52], blendshapes of every training frame with a face; of all where no part is named
    so."""
    clips = list(corpus.load(records, streams=("blendshapes",)))
    own = [clip for clip in clips if clip.split == "train" and not clip.augmentation] or clips
    scores = [clip.blendshapes for clip in own if clip.blendshapes is not None]
    found = np.concatenate(scores) if scores else np.zeros((0, 52), np.float32)
    return found[~np.isnan(found).any(axis=1)]


def kept_by_rule(scores: np.ndarray) -> np.ndarray:
    """bool[52], which scores are above 0.4 in more than 100 images (paper 5, section 4.1)."""
    return (scores > THRESHOLD).sum(axis=0) > IMAGES


def blendshape_bars(records: Sequence[Path], results: Mapping[str, Any]) -> tuple[str, str] | None:
    """Paper 5, figure 2: the 52 scores of one image."""
    del results
    scores = scores_of(records[0])
    if not len(scores):
        return None
    # The image that shows most of what can be seen: the one with the largest sum of scores.
    which = int(scores.sum(axis=1).argmax())
    return (
        plots.bars(blendshape_names(), {"score": scores[which]}, "Blendshapes of one image"),
        f"The most expressive of {len(scores):,} training images.",
    )


def blendshape_scatter(
    records: Sequence[Path], results: Mapping[str, Any]
) -> tuple[str, str] | None:
    """Paper 5, figure 5, and its rule counted again."""
    del results
    scores = scores_of(records[0])
    if not len(scores):
        return None
    names = np.array(blendshape_names())
    kept, paper = kept_by_rule(scores), np.isin(names, blendshape_names("blendshapes-27"))
    svg = plots.scatter(blendshape_names(), scores, kept, THRESHOLD)

    def listed(chosen: np.ndarray) -> str:
        return ", ".join(names[chosen]) or "none"

    said = (
        f"Above {THRESHOLD} in more than {IMAGES} of {len(scores):,} training images: "
        f"{int(kept.sum())} of 52; the paper keeps {int(paper.sum())}. Kept here only: "
        f"{listed(kept & ~paper)}. In the paper only: {listed(paper & ~kept)}."
    )
    return svg, said


def class_counts(
    images: Callable[[Path], _Counted],
    capped: Callable[[Path], _Counted],
    undetected: Callable[[Path], _Counted],
) -> Callable[..., tuple[str, str] | None]:
    """Paper 5's tables 1 to 3 as bars: training images, those with a face, those that train."""

    def draw(records: Sequence[Path], results: Mapping[str, Any]) -> tuple[str, str] | None:
        del results
        whole = {row: n for (row, part), n in images(records[0]).items() if part == "Training"}
        if not sum(whole.values()):
            return None
        lost = {row: n for (row, _), n in undetected(records[0]).items()}
        left = {row: n for (row, _), n in capped(records[0]).items()}
        series = {
            "training images": [whole[row] for row in whole],
            "with a face": [whole[row] - lost[row] for row in whole],
            "that train": [left[row] for row in whole],
        }
        return plots.bars(tuple(whole), series, "Training images by class"), ""

    return draw
