"""What every command of `fer-jax` takes, and its help."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from fer_jax import __version__, commands
from fer_jax.errors import UserError

#: The keys of `preprocessing.corpora.CORPORA`, which --help does not import.
CORPORA = (
    "folder", "csv", "crema-d", "ravdess", "savee", "sase-fe", "oulu-casia", "ck+", "ck+-frames",
    "ised", "ised-frames", "fer2013", "affectnet", "jaffe",
)  # fmt: skip
EPILOG = (
    "Exit codes: 0 done, 2 a mistake you can fix, 1 a bug of ours, 3 done but some files could not "
    "be read, 4 a leak was found and --strict was asked for, 130 interrupted."
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see `{self.prog} --help`)")


def make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
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

    p = add(
        "generate",
        commands.generate,
        "Records of generated people, in a corpus's structure, whose best accuracy is known.",
        "fer-jax generate ravdess records/ --scale 0.1",
    )
    p.add_argument(
        "kind",
        metavar="CORPUS",
        help="one that a paper uses: crema-d, ravdess, sase-fe, oulu-casia, fer2013, affectnet, "
        "ck+-frames, jaffe, ised-frames",
    )
    p.add_argument("out", type=Path, metavar="OUT", help="the record directory to write")
    p.add_argument(
        "--outputs", default="landmarks", help="of landmarks, blendshapes, crops, frontal"
    )
    p.add_argument("--scale", type=float, default=1.0, help="share of the corpus (default: 1)")
    p.add_argument("--subjects", type=int, default=0, help="default: the corpus's own number")
    p.add_argument("--frames", type=int, default=0, help="of a video (default: the corpus's own)")
    p.add_argument("--crop-size", type=int, default=48, help="side of a picture, pixels")
    p.add_argument("--crop-color", default="gray", choices=("gray", "rgb"))
    p.add_argument("--seed", type=int, default=0)

    p = add(
        "preprocess",
        commands.preprocess,
        "Turn videos and images into a record directory.",
        "fer-jax preprocess fer2013 fer2013/ records/ --outputs blendshapes,crops",
    )
    p.add_argument("corpus", metavar="CORPUS", help=f"{', '.join(CORPORA[:-1])} or {CORPORA[-1]}")
    p.add_argument("raw", type=Path, metavar="RAW", help="the corpus as it was downloaded")
    p.add_argument("out", type=Path, metavar="OUT", help="the record directory to write")
    p.add_argument(
        "--outputs",
        default="landmarks",
        help="comma-separated: landmarks (dlib), blendshapes (MediaPipe), crops, frontal",
    )
    p.add_argument(
        "--workers",
        type=int,
        help="processes (default: one for each core and 600 MB of free memory, as far as a "
        "container's limits go)",
    )
    p.add_argument("--engine", default="local", help="local or ray")
    p.add_argument("--crop-size", type=int, help="side of a crop, pixels")
    p.add_argument("--crop-color", help="rgb or gray")
    p.add_argument("--crop-format", help="jpeg or png")
    p.add_argument("--align", help="face: turn and scale by the landmarks; none: the whole image")
    p.add_argument("--frontal-size", type=int, help="side of a frontal view (default: crop's)")
    p.add_argument("--frontal-symmetry", help="none, or soft: fill the hidden half from the other")
    p.add_argument(
        "--augment",
        type=int,
        default=0,
        metavar="N",
        help="add N flipped and turned copies of each training image (paper 5)",
    )
    p.add_argument("--limit", type=int, metavar="N", help="only the first N clips, for a trial")
    p.add_argument("--exclude", nargs="+", default=[], metavar="CLIP", help="leave out these clips")

    p = add(
        "inspect", commands.inspect, "What a record directory holds.", "fer-jax inspect records/"
    )
    p.add_argument("dir", type=Path, metavar="DIR")
    p.add_argument("--check", action="store_true", help="read everything, verify every checksum")

    p = add(
        "audit",
        commands.audit,
        "What leaks from the training part of a split into its test part.",
        "fer-jax audit records/ --protocol random-kfold",
    )
    _add_protocol(p)
    p.add_argument("--config", metavar="CONFIG", help="audit its protocol and what it fits, too")
    p.add_argument("--all-folds", action="store_true", help="every fold of a protocol with folds")
    p.add_argument(
        "--clean",
        type=Path,
        metavar="FILE",
        help="write a split whose training part lacks copies of what is judged",
    )
    p.add_argument("--out", type=Path, metavar="OUT", help="write audit.html and audit.json there")
    p.add_argument("--strict", action="store_true", help="exit 4 if anything leaks")

    p = add(
        "split",
        commands.split,
        "Divide records by a protocol: how many clips of each class, and the clips as a CSV.",
        "fer-jax split records/ --protocol subject-kfold --folds 5 --fold 2 --out fold2.csv",
    )
    _add_protocol(p)
    p.add_argument(
        "--out", type=Path, metavar="FILE", help="the CSV to write; --protocol file reads it"
    )

    p = add(
        "importance",
        commands.importance,
        "Which landmark distances tell emotions apart (paper 1): lists and a picture.",
        "fer-jax importance records/ --protocol subject-kfold --out importances/",
    )
    _add_protocol(p)
    p.add_argument("--out", type=Path, required=True, metavar="OUT")
    p.add_argument("--everything", action="store_true", help="look at every clip, as the paper did")
    p.add_argument(
        "--frames",
        default="4000",
        metavar="N",
        help="drawn at random (default: 4000; paper: 120000)",
    )
    p.add_argument("--trees", default="500", metavar="N", help="of each ensemble (default: 500)")
    p.add_argument(
        "--threshold", default="0.0009,0.001,0.002", metavar="X,X", help="of the mean importance"
    )
    p.add_argument("--landmark-scale", default="face-box", help="face-box or full-frame")

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
    p.add_argument("--results", **_RESULTS)

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


_RESULTS: dict[str, Any] = {
    "type": Path, "metavar": "CSV", "help": "add the result to a table of runs"
}  # fmt: skip


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
    p.add_argument("--results", **_RESULTS)
    p.add_argument(
        "--strict", action="store_true",
        help="exit 4 and train nothing if the split leaks what --protocol.allow does not name",
    )  # fmt: skip


def _add_protocol(p: argparse.ArgumentParser) -> None:
    """What `audit`, `split` and `importance` take beside the keys of a config's protocol."""
    p.epilog = (
        f"{p.epilog}\nMore settings as in a config: --protocol.KEY VALUE, --data.labels SPACE"
    )
    p.add_argument("dir", metavar="DIR", help="record directories, as in A or A,B")
    p.add_argument(
        "--protocol",
        metavar="NAME",
        help="official, random, random-kfold, subject (default), subject-kfold, loso, loco, "
        "cross-corpus, published, actors or file",
    )
    for name in ("--folds", "--fold", "--seed"):
        p.add_argument(name, metavar="N")
