"""The pictures of a sweep's page."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fer_jax.evaluation.report.sweep_plots import parallel_coordinates


def thick(rows: list[dict[str, Any]], sign: float) -> str:
    """The path of the line that stands for the best trial."""
    axes = {"optim.lr": {"log": True, "choices": None}}
    svg = parallel_coordinates(rows, axes, "validation/uar", sign)
    (path,) = re.findall(r'<path d="([^"]+)"[^>]*stroke-width: 3[;"]', svg)
    return path


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_of_equal_trials_the_first_is_the_thick_line(sign: float) -> None:
    def rows(values: list[float]) -> list[dict[str, Any]]:
        return [
            {"trial": n, "state": "complete", "value": sign * value, "parameters": {"optim.lr": lr}}
            for n, (value, lr) in enumerate(zip(values, (1e-3, 1e-2, 1e-4), strict=True))
        ]

    clear = thick(rows([0.75, 0.7, 0.5]), sign)
    assert thick(rows([0.75, 0.75, 0.5]), sign) == clear
    assert thick(rows([0.75, 0.75, 0.5])[::-1], sign) == clear
    assert thick(rows([0.7, 0.75, 0.5]), sign) != clear
