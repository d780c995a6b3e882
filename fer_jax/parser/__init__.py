"""What every command of `fer-jax` takes, and its help."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fer_jax import __version__, commands
from fer_jax.parser import recognisers, records, training
from fer_jax.parser.command import Parser

EPILOG = (
    "Exit codes: 0 done, 2 a mistake you can fix, 1 a bug of ours, 3 done but some files could not "
    "be read, 4 a leak was found and --strict was asked for, 5 another process of the job is lost, "
    "130 interrupted."
)


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="fer-jax",
        description="Train and run facial-expression recognisers from face videos, in JAX.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"fer-jax {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, run: Callable[..., Any], text: str, example: str) -> argparse.ArgumentParser:
        command = subparsers.add_parser(
            name,
            help=text,
            description=text,
            epilog=f"Example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.set_defaults(run=run)
        command.add_argument("--json", action="store_true", help="print one JSON object last")
        return command

    p = add(
        "demo",
        commands.demo,
        "Generate a small corpus of real videos and do the main job on it.",
        "fer-jax demo demo/",
    )
    p.add_argument("out", nargs="?", type=Path, default=Path("demo"), metavar="OUT")
    p.add_argument("--workers", type=int, help="processes (default: one a core)")
    p.add_argument("--seed", type=int, default=0)

    records.add_commands(add)
    training.add_commands(add)
    recognisers.add_commands(add)

    p = add(
        "bench",
        commands.bench,
        "How fast this is beside PyTorch, Keras, Flax, TensorFlow and others, on this machine.",
        "fer-jax bench lstm_step record_reading",
    )
    p.add_argument("questions", nargs="*", metavar="QUESTION", help="default: all that fit")
    p.add_argument("--gpu", action="store_true", help="the questions for a GPU")
    p.add_argument(
        "--out", type=Path, default=Path("bench-results"), metavar="DIR",
        help="for the JSON and the table (default: bench-results)",
    )  # fmt: skip

    add(
        "doctor",
        commands.doctor,
        "What is installed, which devices and model files; and what to mend.",
        "fer-jax doctor",
    )
    return parser
