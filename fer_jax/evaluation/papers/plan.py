"""What a paper's tables are made of: commands, and where each of its numbers comes from."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fer_jax.evaluation.systems import CONFIGS

_NEED = re.compile(r"\{(?!run:|split:|name:)([a-z0-9+-]+):([\w,]*)(?::([\w=,.-]+))?\}")
#: `{run:NAME}` is the run directory of a step, `{split:NAME}` the split that it writes,
#: `{name:NAME}` just its name, for what it makes elsewhere.
_MADE = re.compile(r"\{(run|split|name):([\w.+-]+)\}")


class Need(NamedTuple):
    """Records that a command reads. In a command `{crema-d:landmarks68}` is a record directory of
    CREMA-D that holds landmarks, `{fer2013:crops:align=none}` one whose recipe says so."""

    corpus: str
    streams: str
    recipe: str

    @classmethod
    def of(cls, word: str) -> list[Need]:
        """Those that a word names."""
        return [cls(*match.groups("")) for match in _NEED.finditer(word)]


@dataclass(frozen=True)
class Step:
    """One `fer-jax` command, whose last line of JSON is its result.

    Attributes:
      name: of its result and its run directory.
      words: of the command, without --out; see `Need` and `_MADE` for what stands in braces.
    """

    name: str
    words: tuple[str, ...]

    @property
    def needs(self) -> tuple[Need, ...]:
        return tuple(dict.fromkeys(need for word in self.words for need in Need.of(word)))

    @property
    def after(self) -> tuple[str, ...]:
        """Steps whose results the command reads."""
        found = (name for word in self.words for _, name in _MADE.findall(word))
        return tuple(name for name in found if name != self.name)

    @property
    def trains(self) -> bool:
        return self.words[0] in ("train", "crossval")

    def command(self, out: Path, records: Mapping[Need, Path], extra: Sequence[str]) -> list[str]:
        """The words with every brace filled in.

        Args:
          extra: overrides of every training.
        """
        words = [
            _NEED.sub(lambda found: str(records[Need(*found.groups(""))]), word)
            for word in self.words
        ]
        words = [_MADE.sub(lambda found: str(_made(out, *found.groups())), word) for word in words]
        if self.trains:
            words += ["--out", str(run_of(out, self.name)), *extra]
        return words

    def repeated(self, seeds: str) -> Step:
        """This training, once a seed."""
        return Step(self.name, (*self.words, "--seeds", seeds)) if seeds and self.trains else self


def run_of(out: Path, step: str) -> Path:
    """Where a step trains."""
    return out / "runs" / step


def _made(out: Path, kind: str, step: str) -> Path | str:
    places = {"run": run_of(out, step), "split": out / "splits" / f"{step}.csv", "name": step}
    return places[kind]


@dataclass(frozen=True)
class Cell:
    """A number of a table.

    Attributes:
      row, column: where it stands.
      paper: what the paper reports; None where it reports nothing.
      step: whose result is compared with it, under the paper's protocol.
      leak_free: the step of the same system under a protocol that does not leak; "" where the
        paper's own does not.
      figure: of the result: "accuracy", ..., or "confusion/TRUTH/PREDICTED", the share of a row.
    """

    row: str
    column: str
    paper: float | None
    step: str = ""
    leak_free: str = ""
    figure: str = "accuracy"


@dataclass(frozen=True)
class Table:
    """A table of a paper.

    Attributes:
      name: the paper's, "Table 3".
      note: what a reader must know beside the numbers.
      count: for a table of counts, what finds them: (record directory of `reads`) ->
        {(row, column): number}; its cells have no step.
      reads: the corpus that is counted, as `Need` writes it.
      shares: whether the numbers are shares, shown in percent.
    """

    name: str
    title: str
    cells: tuple[Cell, ...]
    note: str = ""
    count: Callable[[Path], Mapping[tuple[str, str], float]] | None = None
    reads: str = ""
    shares: bool = True


@dataclass(frozen=True)
class Figure:
    """A picture of a paper, made again.

    Attributes:
      draw: (record directories of `reads`, results by step) -> SVG or HTML text, and a caption;
        None where there is nothing to draw yet.
      reads: corpora, as `Need` writes them.
    """

    title: str
    draw: Callable[[Sequence[Path], Mapping[str, Any]], tuple[str, str] | None]
    reads: tuple[str, ...] = ()


@dataclass(frozen=True)
class Paper:
    """Everything that is made again of a paper.

    Attributes:
      shown: steps whose confusion matrix, learning curves and mistakes the page shows.
      small: overrides of every training on generated corpora.
    """

    name: str
    title: str
    tables: tuple[Table, ...]
    steps: tuple[Step, ...]
    figures: tuple[Figure, ...] = ()
    shown: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [step.name for step in self.steps]
        wanted = {c.step for t in self.tables for c in t.cells} | {
            c.leak_free for t in self.tables for c in t.cells
        }
        assert len(set(names)) == len(names) and wanted - {""} <= set(names), self.name

    def step(self, name: str) -> Step:
        return next(step for step in self.steps if step.name == name)


def part_of(paper: Paper, names: Sequence[str]) -> Paper:
    """The plan of some tables, by name, with the steps that they stand on."""
    tables = tuple(table for table in paper.tables if table.name in names)
    wanted = {step for table in tables for cell in table.cells
              for step in (cell.step, cell.leak_free)}  # fmt: skip
    for step in reversed(paper.steps):
        if step.name in wanted:
            wanted.update(step.after)
    steps = tuple(step for step in paper.steps if step.name in wanted)
    return dataclasses.replace(paper, tables=tables, steps=steps)


def config(name: str) -> str:
    """The path of a shipped config."""
    return str(CONFIGS / f"{name}.py")


def flags(**changes: Any) -> tuple[str, ...]:
    """Overrides: data__features="none" is --data.features none."""
    pairs = ((f"--{key.replace('__', '.')}", str(value)) for key, value in changes.items())
    return tuple(word for pair in pairs for word in pair)
