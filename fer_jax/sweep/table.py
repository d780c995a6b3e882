"""How a sweep stands: a live table on a terminal, a line a trial elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

#: Trials that the live table shows beside those that run.
_BEST = 5
_WORDS = {
    TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed",
    TrialState.RUNNING: "running", TrialState.WAITING: "waiting",
}  # fmt: skip


def word(state: TrialState) -> str:
    return _WORDS[state]


def shown(values: Mapping[str, Any]) -> str:
    """Parameters on a line."""
    return ", ".join(
        f"{key.partition('.')[2] or key} {f'{value:.4g}' if isinstance(value, float) else value}"
        for key, value in values.items()
    )


def best_first(trials: Sequence[FrozenTrial], sign: float) -> list[FrozenTrial]:
    """The complete ones, the best first; of equals the earlier."""
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return sorted(done, key=lambda trial: (-sign * trial.values[0], trial.number))


class Table:
    """`with Table(name, objective, sign, limit) as table: table(trials)`; writes to stderr."""

    def __init__(self, name: str, objective: str, sign: float, limit: int):
        self._name, self._objective, self._sign, self._limit = name, objective, sign, limit
        self._live: Any = None
        self._over: set[int] | None = None

    def __enter__(self) -> Table:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line of its own."""
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(f"sweep {self._name}: {text}", file=sys.stderr, flush=True)

    def __call__(self, trials: Sequence[FrozenTrial]) -> None:
        over = {trial.number for trial in trials if trial.state.is_finished()}
        best = best_first(trials, self._sign)
        if self._live is not None:
            self._live.update(self._render(trials, best, len(over)))
            return
        if self._over is None:  # What earlier commands did is no news.
            self._over = over
        for trial in trials:
            if trial.number in over - self._over:
                record = f"; best {best[0].values[0]:.4f} (trial {best[0].number})" if best else ""
                self.say(f"{_line(trial)}; {len(over)} of {self._limit}{record}")
        self._over = over

    def _render(self, trials: Sequence[FrozenTrial], best: Sequence[FrozenTrial], over: int) -> Any:
        from rich.table import Table as Grid

        counts = dict.fromkeys(_WORDS.values(), 0)
        for trial in trials:
            counts[word(trial.state)] += 1
        said = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        grid = Grid(title=f"{self._name}: {over} of {self._limit} trials over ({said})")
        for column in ("trial", "state", "epoch", self._objective, "parameters"):
            grid.add_column(column, overflow="fold")
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        for trial in [*running, *best[:_BEST]]:
            value = trial.values[0] if trial.values else _last(trial)
            grid.add_row(
                str(trial.number),
                word(trial.state),
                str(max(trial.intermediate_values, default=0)),
                "" if value is None else f"{value:.4f}",
                shown(trial.params),
            )
        return grid


def _last(trial: FrozenTrial) -> float | None:
    step = trial.last_step
    return None if step is None else trial.intermediate_values[step]


def _line(trial: FrozenTrial) -> str:
    """What became of a trial."""
    if trial.state == TrialState.FAIL:
        return f"trial {trial.number} failed: {trial.user_attrs.get('reason', 'unknown')}"
    value = _last(trial) if trial.values is None else trial.values[0]
    epochs = trial.user_attrs.get("epochs", 0)
    what = "" if value is None else f" {value:.4f}"
    return f"trial {trial.number} {word(trial.state)}{what} after {epochs} epochs"
