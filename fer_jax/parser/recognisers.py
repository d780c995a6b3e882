"""Commands that use, judge and carry out what was trained."""

from __future__ import annotations

from pathlib import Path

from fer_jax import commands
from fer_jax.parser.command import RESULTS, Add


def add_commands(add: Add) -> None:
    p = add(
        "evaluate",
        commands.evaluate,
        "Evaluate a run on its own test part, or on other records.",
        "fer-jax evaluate runs/attrah2024_lstm-1a2b3c4d other-records/",
    )
    p.add_argument("run_dir", type=Path, metavar="RUN")
    p.add_argument("data", type=Path, nargs="?", metavar="DATA")
    p.add_argument("--split", default="test", choices=("train", "validation", "test"))
    p.add_argument(
        "--labels", default="", metavar="SPACE", help="sum classes to those of another label space"
    )
    p.add_argument("--results", **RESULTS)

    p = add(
        "compare",
        commands.compare,
        "Paired tests between evaluated runs or populations on the same test clips.",
        "fer-jax compare runs/distances-259/ runs/coords-136/",
    )
    p.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="a population's folds are pooled"
    )
    p.add_argument("--common", action="store_true", help="on the clips that all of them tested")
    p.add_argument("--out", type=Path, metavar="DIR", help="write comparison.csv and .html there")

    p = add(
        "predict",
        commands.predict,
        "Predict videos and images: CSVs and an annotated copy.",
        "fer-jax predict runs/attrah2024_lstm-1a2b3c4d video.mp4",
    )
    p.add_argument("run_dir", type=Path, metavar="RUN", help="a run directory or an export")
    p.add_argument("files", type=Path, nargs="+", metavar="FILE")
    p.add_argument("--out", type=Path, help="where to write (default: RUN/predictions)")
    p.add_argument("--no-video", action="store_true", help="no annotated copy")

    p = add(
        "export",
        commands.export,
        "A run's recogniser in formats that run elsewhere, each checked on real clips.",
        "fer-jax export runs/attrah2024_lstm-1a2b3c4d --to onnx,hf",
    )
    p.add_argument("run_dir", type=Path, metavar="RUN")
    p.add_argument(
        "--to", required=True, metavar="FORMAT,...",
        help="safetensors, stablehlo, onnx, litert, savedmodel, hf",
    )  # fmt: skip
    p.add_argument(
        "--out", type=Path, metavar="DIR",
        help="a folder a format is written there (default: RUN/export)",
    )  # fmt: skip
    p.add_argument(
        "--clips", type=Path, nargs="+", default=[], metavar="FILE",
        help="videos or images to check with (default: the test part of the run's records)",
    )  # fmt: skip
    p.add_argument("--data", type=Path, metavar="DIR", help="records to check with")

    p = add(
        "extract",
        commands.extract,
        "Write a network's features of every frame beside the records, to train on.",
        "fer-jax extract runs/abdullah2020_xception-1a2b3c4d records/ --name xception",
    )
    p.add_argument("run_dir", type=Path, metavar="RUN")
    p.add_argument("dir", type=Path, metavar="DIR")
    p.add_argument("--name", required=True, help="what a config calls them: extracted/NAME-SIZE")

    p = add(
        "models",
        commands.models,
        "The systems that configs describe: parameters, FLOPs, memory, paper.",
        "fer-jax models",
    )
    p.add_argument("configs", type=Path, nargs="?", metavar="DIR", help="another folder of configs")

    p = add(
        "reproduce",
        commands.reproduce,
        "Make a paper's tables again, beside the paper's numbers and without its leaks.",
        "fer-jax reproduce attrah2024 --data records/",
    )
    p.usage = (
        f"{p.prog} PAPER|all [--data DIR ...] [--out OUT] [--generated] [--tables NAME ...] "
        "[--swap CORPUS=OTHER] [--dry-run] [--json] [--key value ...]"
    )
    p.add_argument("paper", metavar="PAPER", help="ryumina2020, abdullah2020, zennou2023, "
                   "emotionaldan2018, attrah2024 or all")  # fmt: skip
    p.add_argument(
        "--data", type=Path, nargs="+", default=[], metavar="DIR",
        help="record directories, or directories that hold some; corpora that are not there are "
        "said and left out",
    )  # fmt: skip
    p.add_argument(
        "--out", type=Path, default=Path("reproduction"), metavar="OUT",
        help="a folder a paper is written there (default: reproduction); repeat to go on",
    )  # fmt: skip
    p.add_argument(
        "--generated", action="store_true",
        help="on small generated corpora: shows that everything runs, in minutes",
    )  # fmt: skip
    p.add_argument("--tables", nargs="+", default=[], metavar="NAME", help="only these: 'Table 4'")
    p.add_argument(
        "--swap", action="append", default=[], metavar="CORPUS=OTHER",
        help="read another corpus in one's place: --swap affectnet=fer2013",
    )  # fmt: skip
    p.add_argument("--seeds", default="", metavar="N,N", help="every training once a seed")
    p.add_argument("--dry-run", action="store_true", help="say the commands, run none")
