"""The report's pictures, as SVG text that stands in the page itself."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

INK, GRID = "#334155", "#cbd5e1"
TRAIN, VALIDATION = "#2563eb", "#ea580c"


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0.0)
    return figure


def _svg(figure: Any, label: str) -> str:
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "fer-jax"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    # The page sizes the picture; a name lets screen readers say what it is.
    svg = re.sub(r'^<svg ([^>]*?)width="[^"]*"', r"<svg \1", svg, count=1, flags=re.S)
    svg = re.sub(r'^<svg ([^>]*?)height="[^"]*"', r"<svg \1", svg, count=1, flags=re.S)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def _style(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_facecolor("none")


def learning_curves(history: Sequence[Mapping[str, Any]], best_epoch: int | None) -> str:
    """Loss and accuracy by epoch, training and validation, with the best epoch marked."""
    figure = _figure(9.0, 3.2)
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for part, colour in (("train", TRAIN), ("validation", VALIDATION)):
            points = [
                (line["epoch"], line[f"{part}/{name}"])
                for line in history
                if line.get(f"{part}/{name}") is not None
            ]
            if points:
                marker = "o" if len(points) < 3 else None
                axes.plot(*zip(*points, strict=True), color=colour, label=part, marker=marker)
        if best_epoch is not None:
            axes.axvline(best_epoch, color=INK, linewidth=0.8, linestyle=":", label="best epoch")
        axes.set_xlabel("epoch")
        axes.set_title(name)
        axes.legend(frameon=False)
        _style(axes)
    return _svg(figure, "Learning curves: loss and accuracy by epoch")


def confusion(matrix: Sequence[Sequence[float]], classes: Sequence[str]) -> str:
    """Rows are the truth; colour is the share of the row, text the count."""
    counts = np.asarray(matrix, float)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = 1.6 + 0.62 * len(classes)
    figure = _figure(size + 0.6, size)
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), value in np.ndenumerate(counts):
        colour = "white" if share[row, column] > 0.55 else INK
        axes.text(column, row, f"{value:g}\n{share[row, column]:.0%}", ha="center", va="center",
                  color=colour, fontsize=8)  # fmt: skip
    axes.set_xticks(range(len(classes)), classes, rotation=40, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("truth")
    axes.spines[:].set_visible(False)
    return _svg(figure, "Confusion matrix: truth by prediction")
