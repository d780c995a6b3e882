"""The pictures of a sweep's page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fer_jax.evaluation.report.plots import INK, VALIDATION, _figure, _style, _svg

_MAP = "viridis"
_Row = Mapping[str, Any]


def parallel_coordinates(
    rows: Sequence[_Row], axes: Mapping[str, Mapping[str, Any]], objective: str, sign: float
) -> str:
    """A line a trial through its parameters to its value: coloured by value, pruned ones grey.

    Args:
      rows: with parameters, value and state.
      axes: by key, {"log": bool, "choices": list of text or None}.
      sign: 1 where more is better.
    """
    from matplotlib import colormaps

    rows = [row for row in rows if set(axes) <= set(row["parameters"])]
    scales = {
        key: _scale(axis, [row["parameters"][key] for row in rows]) for key, axis in axes.items()
    }
    done = [row["value"] for row in rows if row["state"] == "complete"]
    low, high = min(done), max(done)
    span = (high - low) or 1.0
    figure = _figure(max(7.0, 1.5 * (len(axes) + 1)), 4.2)
    panel = figure.subplots()
    places = range(len(axes) + 1)
    # The better ones are drawn last, on top; of equal ones the first trial is the best.
    order = sorted(
        rows,
        key=lambda row: (row["state"] == "complete", sign * (row["value"] or 0.0), -row["trial"]),
    )
    for row in order:
        heights = [scales[key][0](row["parameters"][key]) for key in axes]
        if row["state"] == "complete":
            share = (row["value"] - low) / span
            colour = colormaps[_MAP](share if sign > 0 else 1 - share)
            best = row is order[-1]
            panel.plot(places, [*heights, share], color=colour, alpha=1.0 if best else 0.75,
                       linewidth=3.0 if best else 1.2)  # fmt: skip
        else:
            panel.plot(places[:-1], heights, color="#b4bfcd", linewidth=0.9, zorder=1)
    for place, (_, ticks) in enumerate(scales.values()):
        _axis(panel, place, ticks)
    value_ticks = [(i / 4, f"{low + i / 4 * span:.4g}") for i in range(5)]
    _axis(panel, len(axes), value_ticks if high > low else [(0.0, f"{low:.4g}")])
    panel.set_xticks(list(places), [*axes, objective], fontsize=9)
    panel.set_yticks([])
    panel.set_ylim(-0.05, 1.05)
    panel.spines[:].set_visible(False)
    panel.tick_params(length=0)
    panel.set_facecolor("none")
    return _svg(figure, "parallel", f"Parallel coordinates of {len(rows)} trials")


def _axis(panel: Any, place: int, ticks: Sequence[tuple[float, str]]) -> None:
    panel.axvline(place, color=INK, linewidth=0.8, zorder=2)
    for height, text in ticks:
        short = text if len(text) <= 16 else f"{text[:15]}…"
        panel.annotate(short, (place, height), (4, 0), textcoords="offset points", fontsize=8,
                       color=INK, va="center", zorder=5,
                       bbox={"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none",
                             "alpha": 0.75})  # fmt: skip


def _scale(axis: Mapping[str, Any], values: Sequence[Any]) -> tuple[Any, list[tuple[float, str]]]:
    """A value's height from 0 to 1, and the axis's ticks."""
    choices = axis["choices"]
    if choices is not None:
        count = max(1, len(choices) - 1)
        heights = {text: index / count for index, text in enumerate(choices)}
        return heights.__getitem__, [(height, text) for text, height in heights.items()]
    bend = math.log if axis["log"] else float
    back = math.exp if axis["log"] else float
    low, high = bend(min(values)), bend(max(values))
    span = (high - low) or 1.0
    ticks = [(i / 4, f"{back(low + i / 4 * span):.3g}") for i in range(5)]
    return lambda value: (bend(value) - low) / span, ticks if high > low else ticks[:1]


def history(rows: Sequence[_Row], objective: str, sign: float) -> str:
    """Each trial's value in the order of their numbers, and the best so far."""
    from matplotlib.ticker import MaxNLocator

    figure = _figure(9.0, 3.4)
    panel = figure.subplots()
    for state, marker, colour in (("complete", "o", INK), ("pruned", "v", "#94a3b8")):
        points = [(r["trial"], r["value"]) for r in rows if r["state"] == state and r["value"]]
        if points:
            panel.scatter(
                *zip(*points, strict=True), marker=marker, color=colour, s=22, label=state
            )
    failed = [row["trial"] for row in rows if row["state"] == "failed"]
    if failed:
        panel.scatter(
            failed,
            np.zeros(len(failed)),
            marker="x",
            color="#b91c1c",
            s=28,
            label="failed",
            transform=panel.get_xaxis_transform(),
            clip_on=False,
        )
    done = [row for row in rows if row["state"] == "complete"]
    best = sign * np.maximum.accumulate([sign * row["value"] for row in done])
    panel.step([row["trial"] for row in done], best, where="post", color=VALIDATION,
               label="best so far")  # fmt: skip
    panel.set_xlabel("trial")
    panel.set_title(objective)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.legend(fontsize=9, framealpha=0.9, edgecolor="none")
    _style(panel)
    return _svg(figure, "history", f"{objective} of {len(rows)} trials, and the best so far")


def importance(shares: Mapping[str, float]) -> str:
    """Horizontal bars, the longest first."""
    figure = _figure(7.0, 0.9 + 0.34 * len(shares))
    panel = figure.subplots()
    panel.barh(list(shares), list(shares.values()), color=VALIDATION)
    panel.invert_yaxis()
    panel.set_xlabel("share of the variance explained")
    _style(panel)
    return _svg(figure, "importance", f"Importance of {', '.join(shares)}")
