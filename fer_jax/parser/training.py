"""Commands that train, and that say what training will take."""

from __future__ import annotations

import argparse
from pathlib import Path

from fer_jax import commands
from fer_jax.parser.command import RESULTS, Add
from launch.arguments import add_arguments as add_launch_arguments


def add_commands(add: Add) -> None:
    p = add(
        "train",
        commands.train,
        "Train, evaluate and report one run; repeat the command to resume it.",
        "fer-jax train configs/attrah2024_lstm.py --data.dir records/ --train.epochs 50",
    )
    _add_training(p, "RUN")

    p = add(
        "crossval",
        commands.population,
        "Train every fold of a config, and its seeds, as one population; repeat it to resume.",
        "fer-jax crossval configs/ryumina2020_crema_d.py --data.dir records/ --seeds 0,1,2",
    )
    _add_training(p, "DIR")

    _add_sweep(
        add(
            "sweep",
            commands.sweep,
            "Search a config's hyper-parameters: many trials, pruned early; repeat it to go on.",
            "fer-jax sweep configs/attrah2024_dense.py --data.dir records/ --trials 64",
        )
    )

    p = add(
        "plan",
        commands.plan,
        "What training a config on TPUs or GPUs that are not here takes: memory, speed and cost.",
        "fer-jax plan configs/zennou2023_nested_lstm.py --topology v5e:16x16 --price 1.2",
    )
    p.usage = (
        f"{p.prog} CONFIG --topology NAME [--samples N] [--price USD] [--no-search] [--json] "
        "[--key value ...]"
    )
    p.add_argument("config", metavar="CONFIG", help="a config file, or a run's config.json")
    p.add_argument(
        "--topology", required=True, metavar="NAME", help="as in v5e:4x4, v5p:2x2x2 or h100x8"
    )
    p.add_argument(
        "--samples", type=int, default=0, metavar="N",
        help="of the training set (default: those of --data.dir, or 4096)",
    )  # fmt: skip
    p.add_argument("--price", type=float, metavar="USD", help="of a chip for an hour")
    p.add_argument(
        "--no-search", action="store_true", help="do not look for the largest batch that fits"
    )

    add_launch_arguments(
        add(
            "launch",
            commands.launch,
            "Train, sweep or preprocess on a cloud, a cluster or in a container.",
            "fer-jax launch skypilot configs/landmarks_lstm.py --topology v5e:4x4 --spot "
            "--data gs://bucket/records --run gs://bucket/runs/one",
        )
    )


def _add_training(p: argparse.ArgumentParser, out: str) -> None:
    """What `train` and `crossval` take beside a config's keys."""
    p.usage = (
        f"{p.prog} CONFIG [--out {out}] [--seeds N,N] [--vary KEY VALUE ...] [--lanes N] "
        "[--results CSV] [--strict] [--json] [--key value ...]"
    )
    p.add_argument("config", metavar="CONFIG", help="a config file, or a run's config.json")
    p.add_argument(
        "--out", type=Path, metavar=out, help="default: runs/<name>-<hash of the config>"
    )
    p.add_argument("--seeds", default="", metavar="N,N", help="a run each, of one program")
    p.add_argument(
        "--vary", nargs="+", action="append", default=[], metavar="KEY VALUE",
        help="a run for each value of a number: --vary optim.lr 1e-3 3e-4",
    )  # fmt: skip
    p.add_argument(
        "--lanes", type=int, default=0, metavar="N", help="runs at a time (default: what fits)"
    )
    p.add_argument("--results", **RESULTS)
    p.add_argument(
        "--strict", action="store_true",
        help="exit 4 and train nothing if the split leaks what --protocol.allow does not name",
    )  # fmt: skip


def _add_sweep(p: argparse.ArgumentParser) -> None:
    """What `sweep` takes beside a config's keys."""
    p.usage = (
        f"{p.prog} CONFIG [--space KEY=VALUES ...] [--trials N] [--objective FIGURE] "
        "[--sampler NAME] [--pruner NAME] [--seed N] [--engine NAME] [--workers N] [--lanes N] "
        "[--storage URL] [--study NAME] [--out DIR] [--json] [--key value ...]"
    )
    p.add_argument("config", metavar="CONFIG", help="its sweep() says what is searched, or --space")
    p.add_argument(
        "--space", action="append", default=[], metavar="KEY=VALUES",
        help="in place of the config's: optim.lr=log:1e-5:1e-2, model.dropout=uniform:0:0.5, "
        "train.batch=int:32:128:32, model.units=32,64,128 or (lists) model.units=32,32|64,64",
    )  # fmt: skip
    p.add_argument("--trials", type=int, metavar="N", help="in all, those of earlier commands too")
    p.add_argument("--objective", metavar="FIGURE", help="of the validation part, as in "
                   "validation/loss (default: the config's train.monitor)")  # fmt: skip
    p.add_argument("--sampler", choices=("tpe", "random", "grid"))
    p.add_argument("--pruner", choices=("median", "hyperband", "none"))
    p.add_argument("--seed", type=int, default=0, metavar="N", help="of the sampler")
    p.add_argument(
        "--engine", default="local", choices=("local", "population", "ray"),
        help="local: a process a GPU, or a core; population: many trials as one program; ray: a "
        "cluster (default: local)",
    )  # fmt: skip
    p.add_argument("--workers", type=int, default=0, metavar="N", help="trials at a time")
    p.add_argument("--lanes", type=int, default=0, metavar="N", help="of a population")
    p.add_argument(
        "--storage", default="", metavar="URL",
        help="a PostgreSQL database that several machines share (default: a file in DIR)",
    )  # fmt: skip
    p.add_argument("--study", default="", metavar="NAME", help="its name in the database")
    p.add_argument(
        "--out", type=Path, metavar="DIR", help="default: sweeps/<name>-<hash of the config>"
    )
