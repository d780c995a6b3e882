"""The report's pictures, as SVG text that stands in the page itself."""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

INK, GRID = "#334155", "#cbd5e1"
TRAIN, VALIDATION = "#2563eb", "#ea580c"
#: Of several curves, told apart by people with colour-blindness too (Okabe and Ito).
COLOURS = (TRAIN, VALIDATION, "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0.0)
    return figure


def _svg(figure: Any, name: str, label: str) -> str:
    """The figure as an element for a page; `name` keeps its ids apart from other figures'."""
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "fer-jax"}), warnings.catch_warnings():
        # The reader's browser has the glyphs that Matplotlib's own font lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\1{name}-", svg)
    head, rest = svg.split(">", 1)
    # The page sizes the picture; a name lets screen readers say what it is.
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{html.escape(label)}">{rest}'


def _style(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_facecolor("none")


def bands(curves: Mapping[str, Sequence[Mapping[str, Any]]], chance: float) -> str:
    """Loss and accuracy by epoch: of each group the mean over its runs, and their range.

    Args:
      curves: by the group's name, points {epoch, loss, accuracy} of all its runs.
    """
    from matplotlib.ticker import MaxNLocator

    figure = _figure(9.0, 3.4)
    panels = figure.subplots(1, 2)
    for axes, name in zip(panels, ("loss", "accuracy"), strict=True):
        for colour, (group, points) in zip(COLOURS, curves.items(), strict=False):
            by_epoch: dict[int, list[float]] = {}
            for point in points:
                by_epoch.setdefault(point["epoch"], []).append(point[name])
            epochs = sorted(by_epoch)
            values = [by_epoch[epoch] for epoch in epochs]
            low, high = [min(some) for some in values], [max(some) for some in values]
            axes.fill_between(epochs, low, high, color=colour, alpha=0.18, linewidth=0)
            marker = "o" if len(epochs) < 3 else None
            axes.plot(epochs, [np.mean(some) for some in values], color=colour, marker=marker,
                      label=group)  # fmt: skip
        if name == "accuracy":
            axes.axhline(chance, color=INK, linewidth=0.9, linestyle="--", label="chance")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(name)
        _style(axes)
    panels[1].legend(fontsize=9, framealpha=0.9, edgecolor="none")
    return _svg(figure, "bands", f"Learning curves of {', '.join(curves)}: mean and range of runs")


def learning_curves(
    history: Sequence[Mapping[str, Any]], best_epoch: int | None, chance: float
) -> str:
    """Loss and accuracy by epoch, training and validation, with best epoch and chance marked."""
    from matplotlib.ticker import MaxNLocator

    figure = _figure(9.0, 3.2)
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for part, colour in (("train", TRAIN), ("validation", VALIDATION)):
            points = [
                (line["epoch"], line[f"{part}/{name}"])
                for line in history
                if f"{part}/{name}" in line
            ]
            if points:
                marker = "o" if len(points) < 3 else None
                axes.plot(*zip(*points, strict=True), color=colour, label=part, marker=marker)
        if best_epoch:
            axes.axvline(best_epoch, color=INK, linewidth=0.9, linestyle=":", label="best epoch")
        if name == "accuracy":
            axes.axhline(chance, color=INK, linewidth=0.9, linestyle="--", label="chance")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(name)
        axes.legend(fontsize=9, framealpha=0.9, edgecolor="none")
        _style(axes)
    label = f"Learning curves: loss and accuracy over {len(history)} epochs"
    return _svg(figure, "curves", label)


def distances(face: np.ndarray, pairs: np.ndarray, importances: np.ndarray, top: int) -> str:
    """A face with its most important distances, and with all that were chosen.

    Args:
      face: f[68, 2], landmarks, y down.
      pairs: i[K, 2], from the most important one.
      importances: f[K], of each.
      top: how many of them stand out, with their numbers.
    """
    figure = _figure(9.0, 4.6)
    left, right = figure.subplots(1, 2)
    for axes, count in ((left, top), (right, len(pairs))):
        for line in _OUTLINES:
            axes.plot(*face[list(line)].T, color=GRID, linewidth=1.2, zorder=1)
        axes.scatter(*face.T, s=7, color=INK, zorder=3)
        strongest = float(importances[0]) if len(importances) else 1.0
        shown = zip(pairs[:count], importances, strict=False)
        for rank, (pair, value) in reversed(list(enumerate(shown))):
            share = float(value) / strongest
            axes.plot(*face[pair].T, color=TRAIN if rank >= top else VALIDATION, zorder=2,
                      linewidth=0.5 + 2 * share, alpha=0.9 if rank < top else 0.25)  # fmt: skip
        axes.set_aspect("equal")
        axes.invert_yaxis()
        axes.axis("off")
    for point in np.unique(pairs[:top]):
        left.annotate(str(point), face[point], fontsize=8, color=INK, zorder=4,
                      xytext=(3, 3), textcoords="offset points")  # fmt: skip
    left.set_title(f"the {min(top, len(pairs))} most important distances")
    right.set_title(f"{len(pairs)} distances")
    listed = "\n".join(
        f"({i}, {j})  {value:.4f}" for (i, j), value in zip(pairs[:top], importances, strict=False)
    )
    left.text(-0.02, 0.98, listed, transform=left.transAxes, fontsize=8, va="top", ha="right",
              color=INK, linespacing=1.5)  # fmt: skip
    return _svg(figure, "distances", "Important landmark distances on the mean face")


#: dlib's landmarks as lines: jaw, brows, nose, eyes, mouth.
_OUTLINES = (
    range(17), range(17, 22), range(22, 27), range(27, 31), range(31, 36), (*range(36, 42), 36),
    (*range(42, 48), 42), (*range(48, 60), 48), (*range(60, 68), 60),
)  # fmt: skip


def confusion(matrix: Sequence[Sequence[float]], classes: Sequence[str]) -> str:
    """Rows are the truth; colour is the share of the row, text the count."""
    counts = np.asarray(matrix, float)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = 1.6 + 0.62 * len(classes)
    figure = _figure(size + 0.6, size)
    axes = figure.subplots()
    axes.pcolormesh(share, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=1)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    for (row, column), value in np.ndenumerate(counts):
        colour = "white" if share[row, column] > 0.55 else INK
        axes.text(column + 0.5, row + 0.5, f"{value:.0f}\n{share[row, column]:.0%}", ha="center",
                  va="center", color=colour, fontsize=8)  # fmt: skip
    # A dollar sign in a name is no formula.
    middles, plain = np.arange(len(classes)) + 0.5, {"parse_math": False}
    axes.set_xticks(middles, classes, rotation=40, ha="right", rotation_mode="anchor", **plain)
    axes.set_yticks(middles, classes, **plain)
    axes.set_xlabel("predicted")
    axes.set_ylabel("truth")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return _svg(figure, "confusion", "Confusion matrix, truth by prediction; the table repeats it")


def bars(names: Sequence[str], series: Mapping[str, Sequence[float]], label: str) -> str:
    """Bars of each name, a colour a series."""
    figure = _figure(9.0, 3.6)
    axes = figure.subplots()
    width = 0.8 / len(series)
    places = np.arange(len(names))
    for i, (colour, (one, values)) in enumerate(zip(COLOURS, series.items(), strict=False)):
        axes.bar(places + (i - (len(series) - 1) / 2) * width, values, width, color=colour,
                 label=one)  # fmt: skip
    small = 7 if len(names) > 20 else 9
    axes.set_xticks(places, names, rotation=90 if len(names) > 20 else 0, fontsize=small)
    axes.set_xlim(-0.6, len(names) - 0.4)
    _style(axes)
    axes.grid(False, axis="x")
    if len(series) > 1:
        axes.legend(fontsize=9, framealpha=0.9, edgecolor="none")
    return _svg(figure, "bars", label)


def scatter(
    names: Sequence[str], scores: np.ndarray, kept: np.ndarray, threshold: float, shown: int = 150
) -> str:
    """Scores of images, a column a name; those kept in colour.

    Args:
      scores: f[N, F], of which `shown` rows at even distances are drawn.
      kept: bool[F].
      threshold: drawn as a line.
    """
    figure = _figure(9.0, 4.0)
    axes = figure.subplots()
    rows = scores[np.linspace(0, len(scores) - 1, min(shown, len(scores))).astype(int)]
    for chosen, colour, word in ((kept, TRAIN, "kept"), (~kept, INK, "left out")):
        places = np.flatnonzero(chosen)
        x = np.tile(places, len(rows))
        axes.scatter(x, rows[:, places].ravel(), s=5, color=colour, alpha=0.35, linewidths=0,
                     label=word)  # fmt: skip
    axes.axhline(threshold, color=VALIDATION, linewidth=1, label=f"{threshold:g}")
    axes.set_xticks(np.arange(len(names)), names, rotation=90, fontsize=7)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylim(0, 1)
    _style(axes)
    axes.legend(fontsize=9, framealpha=0.9, edgecolor="none", loc="upper right")
    return _svg(figure, "scatter", "Blendshape scores of images")


def face(points: np.ndarray, label: str) -> str:
    """68 landmarks as a small drawing, y down.

    Args:
      points: f[68, 2], pixels.
    """
    low, high = np.nanmin(points, axis=0), np.nanmax(points, axis=0)
    place = 4 + 92 * (points - low) / max(float((high - low).max()), 1e-6)
    lines = "".join(
        f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in place[list(line)])}"/>'
        for line in _OUTLINES
    )
    return (
        f'<svg viewBox="0 0 100 100" role="img" aria-label="{html.escape(label)}" fill="none" '
        f'stroke="{INK}" stroke-width="1.2">{lines}</svg>'
    )
