"""Runs a paper's commands, one after another, each in a process of its own.

A command's last line of JSON is kept with the command; the same command is not run again, so what
was interrupted goes on where it stopped, and each of them goes on by itself too.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fer_jax.data import corpus
from fer_jax.errors import UserError
from fer_jax.evaluation.papers.plan import Need, Paper, Step
from fer_jax.training.interrupts import Interrupted, Interrupts
from fer_jax.training.run_directory import write_text

#: How soon a wish to stop is heard.
_POLL_S = 0.2


class Library:
    """The record directories that a user has.

    Raises:
      UserError: a directory that does not exist, or holds no records.
    """

    def __init__(self, places: Sequence[Path], swap: Mapping[str, str]) -> None:
        self.swap = swap
        self.held: dict[str, list[corpus.Corpus]] = {}
        for place in places:
            if not place.is_dir():
                raise UserError(f"--data {place} is no directory: give record directories, or one "
                                "that holds them")  # fmt: skip
            inside = [place] if (place / "dataset_info.json").is_file() else sorted(place.iterdir())
            for directory in inside:
                if (directory / "dataset_info.json").is_file():
                    found = corpus.load(directory, streams=())
                    self.held.setdefault(_name(found), []).append(found)
            if not any(found.dir in inside for some in self.held.values() for found in some):
                raise UserError(
                    f"--data {place} holds no records: make some with `fer-jax preprocess CORPUS "
                    f"RAW {place / 'CORPUS'}`"
                )

    def find(self, need: Need) -> Path | str:
        """The record directory that serves, the one with the largest pictures; else what is
        missing, in words."""
        name, streams, recipe = need
        wanted, own = tuple(filter(None, streams.split(","))), self.swap.get(name, name)
        candidates = self.held.get(_plain(own), [])
        if not candidates:
            return f"no records of {own}"
        settings = dict(one.split("=") for one in recipe.split(",") if one)
        fits = [
            one for one in candidates
            if set(wanted) <= set(one.stored_streams)
            and all(str(_recipe(one).get(key)) == value for key, value in settings.items())
        ]  # fmt: skip
        if not fits:
            place = ", ".join(str(one.dir) for one in candidates)
            lacks = ", ".join([*wanted, *(f"{k} {v}" for k, v in settings.items())])
            return f"the records of {own} ({place}) do not all hold {lacks}"
        return max(fits, key=lambda one: sum(shape[0] for shape in one.image_shapes.values())).dir


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def _name(records: corpus.Corpus) -> str:
    """The corpus, as `fer-jax preprocess` was told it."""
    made = records.metadata.get("build", {}).get("corpus")
    return _plain(made or records.metadata.get("generated", {}).get("kind", records.name))


def _recipe(records: corpus.Corpus) -> dict[str, Any]:
    build = records.metadata.get("build", {})
    return {key.removeprefix("recipe."): value for key, value in build.items()}


def result_of(out: Path, step: str) -> Path:
    return out / "results" / f"{step}.json"


def load_results(out: Path, paper: Paper) -> dict[str, dict[str, Any]]:
    """By step, {"command", and "report" (its JSON), "failed" or "missing" (in words)}."""
    found = {}
    for step in paper.steps:
        path = result_of(out, step.name)
        if path.is_file():
            found[step.name] = json.loads(path.read_text())
    return found


def run_steps(
    paper: Paper,
    library: Library,
    out: Path,
    *,
    extra: Sequence[str] = (),
    on_step: Callable[[int, int, str], None] | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Runs every step that has what it reads, and keeps its result in `<out>/results`.

    Args:
      extra: overrides of every training.
      on_step: told steps done, steps in all and the name of the next.
      say: told what is missing or failed.

    Raises:
      Interrupted: as the command that was interrupted, which saved first.
    """
    for name in ("results", "splits", "logs"):
        (out / name).mkdir(parents=True, exist_ok=True)
    states: dict[str, dict[str, Any]] = {}
    for index, step in enumerate(paper.steps):
        if on_step:
            on_step(index, len(paper.steps), step.name)
        places = {need: library.find(need) for need in step.needs}
        missing = [place for place in places.values() if isinstance(place, str)]
        missing += [
            f"{other} has no result" for other in step.after if "report" not in states[other]
        ]
        if missing:
            state: dict[str, Any] = {"missing": "; ".join(dict.fromkeys(missing))}
        else:
            records = {need: place for need, place in places.items() if isinstance(place, Path)}
            state = _run(step, step.command(out, records, extra), out)
        states[step.name] = state
        if "failed" in state:
            say(f"{step.name} failed: {state['failed']}")
        write_text(result_of(out, step.name), json.dumps(state, indent=1) + "\n")
    if on_step:
        on_step(len(paper.steps), len(paper.steps), "")
    reasons = {state["missing"] for state in states.values() if "missing" in state}
    for reason in sorted(reason for reason in reasons if "has no result" not in reason):
        count = sum(state.get("missing") == reason for state in states.values())
        say(f"{paper.name}: {reason}: {count} of {len(states)} commands were left out")


def _run(step: Step, words: list[str], out: Path) -> dict[str, Any]:
    command = shlex.join(["fer-jax", *words])
    path = result_of(out, step.name)
    if path.is_file():
        known = json.loads(path.read_text())
        if known.get("command") == command and "report" in known:
            return known
    log = out / "logs" / f"{step.name}.log"
    code, printed = _command(words, log)
    if code in (130, 143):
        raise Interrupted(f"interrupted: {command}; repeat the command to go on", code - 128)
    if code in (0, 3):
        return {"command": command, "report": json.loads(printed.splitlines()[-1])}
    lines = [line for line in log.read_text().splitlines() if line.strip()]
    said = lines[-1].removeprefix("fer-jax: ") if lines else f"exit {code}"
    return {"command": command, "failed": f"{said} ({log})", "code": code}


def _command(words: Sequence[str], log: Path) -> tuple[int, str]:
    """The exit code of `fer-jax` and what it printed; a wish to stop is handed on to it, so that it
    saves first."""
    with Interrupts() as interrupts, log.open("w") as said:
        child = subprocess.Popen(
            [sys.executable, "-m", "fer_jax.cli", *words, "--json"],
            stdout=subprocess.PIPE, stderr=said, text=True, start_new_session=True,
        )  # fmt: skip
        told = False
        try:
            while True:
                try:
                    printed, _ = child.communicate(timeout=_POLL_S)
                    return child.returncode, printed
                except subprocess.TimeoutExpired:
                    if interrupts.signum and not told:
                        child.send_signal(interrupts.signum)
                        told = True
        finally:
            child.kill()
