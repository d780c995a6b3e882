"""How a population stands, for whoever watches it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fer_jax.training.lanes import Runner
from fer_jax.training.members import Member
from fer_jax.training.monitor import direction

#: Members of which each is shown by a mark of its own.
_MARKED = 40


class Standing:
    """Counts members that run, wait, are finished or failed, and knows the best so far."""

    def __init__(self, members: Sequence[Member], over: Iterable[Mapping[str, Any]]):
        """Args:
        over: the members that are over already, as `population_directory.outcome` has them.
        """
        self._members, settings = members, members[0].experiment.train
        self._epochs, self._monitor = settings.epochs, settings.monitor
        self._over: dict[str, float | None] = {}
        self._failed: set[str] = set()
        for one in over:
            self.ended(one["name"], one.get("best"), failed="failed" in one)

    def ended(self, name: str, best: float | None, *, failed: bool) -> None:
        """A member left its lane."""
        self._over[name] = None if failed else best
        if failed:
            self._failed.add(name)

    def tell(self, runners: Sequence[Runner | None]) -> tuple[int, int, str]:
        """Epochs done and in all, and a line: a mark a member (where they are few), how many run,
        wait, are finished and failed, and the best figure with its member's name."""
        running = {runner.member.name: runner for runner in runners if runner is not None}
        names = [member.name for member in self._members]
        epochs = {name: runner.epoch for name, runner in running.items()}
        epochs |= dict.fromkeys(self._over, self._epochs)
        counts = {
            "running": len(running),
            "waiting": len(names) - len(running) - len(self._over),
            "finished": len(self._over) - len(self._failed),
            "failed": len(self._failed),
        }
        parts = [", ".join(f"{n} {what}" for what, n in counts.items() if n)]
        if len(names) <= _MARKED:
            marks = "".join(
                "x" if name in self._failed
                else "#" if name in self._over
                else ".123456789"[10 * epochs.get(name, 0) // self._epochs]
                for name in names
            )  # fmt: skip
            parts.insert(0, f"[{marks}]")
        best = self._over | {name: runner.monitor.best for name, runner in running.items()}
        known = [(value, name) for name, value in best.items() if value is not None]
        if known:
            value, name = max(known, key=lambda one: direction(self._monitor) * one[0])
            parts.append(f"best {self._monitor} {value:.3f} ({name})")
        return sum(epochs.values()), self._epochs * len(names), "; ".join(parts)
