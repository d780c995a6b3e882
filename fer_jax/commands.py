"""What each command does: from parsed arguments to exit code, JSON and text."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_jax.errors import UserError

if TYPE_CHECKING:
    from fer_jax.config import Experiment


def preprocess(args: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
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
            exclude=args.exclude,
            on_progress=lambda done, total, bad: progress(done, total, f"{bad} quarantined"),
        )
    return report.exit_code, report.to_json(), report.render()


def generate(args: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    from preprocessing.generate import best_of, generate

    out = generate(
        args.kind,
        args.out,
        outputs=args.outputs.split(","),
        subjects=args.subjects,
        scale=args.scale,
        frames=args.frames,
        seed=args.seed,
        crop_size=args.crop_size,
        crop_color=args.crop_color,
    )
    best, known = best_of(out), best_of(out, known_subject=True)
    report = {"out": str(out), "best_accuracy": best.accuracy, "known_subject": known.accuracy}
    text = (
        f"written: {out}\nbest possible accuracy on people that training did not see: "
        f"{best.accuracy:.3f}; on those that it saw: {known.accuracy:.3f}"
    )
    return 0, report, text


def inspect(args: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    from fer_jax.data.inspect import inspect, render

    report = inspect(args.dir, check=args.check)
    return 2 if report.get("problems") else 0, report, render(report)


def audit(args: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    from fer_jax.data import corpus
    from fer_jax.evaluation.leakage import audit_splits, render, write_audit

    experiment = _divided_by(args, args.config)
    clips = corpus.load(args.dir)
    reports = audit_splits(
        clips,
        experiment.protocol,
        experiment.data,
        fits=bool(args.config),
        all_folds=args.all_folds,
        clean=args.clean,
    )
    text = render(reports)
    if args.out is not None:
        text += f"\nwritten: {write_audit(args.out, clips, reports)}"
    leaky = args.strict and any(not one["verdict"].startswith("clean") for one in reports)
    return 4 if leaky else 0, reports[0] if len(reports) == 1 else {"folds": reports}, text


def split(args: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    from fer_jax.data import corpus, protocols
    from fer_jax.labels import make_label_space

    experiment = _divided_by(args)
    index = protocols.Index(corpus.load(args.dir, streams=()))
    divided = protocols.make_split(index, experiment.protocol)
    space = make_label_space(experiment.data.labels, {entry.word for entry in index.entries})
    report = protocols.describe(index, divided, space)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        protocols.save_split(args.out, divided, index)
        report["out"] = str(args.out)
    return 0, report, protocols.render(report)


def _divided_by(
    args: argparse.Namespace, config: str | None = None, more: Sequence[tuple[str, str]] = ()
) -> Experiment:
    """The protocol and label space that the words of `audit`, `split` and `importance` ask for."""
    from fer_jax.config import Experiment, load_config, override

    for key, _ in args.overrides:
        if not key.startswith("protocol.") and key != "data.labels":
            raise UserError(f"unknown argument --{key} (see `fer-jax {args.command} --help`)")
    given = {"name": args.protocol, "folds": args.folds, "fold": args.fold, "seed": args.seed}
    short = [(f"protocol.{key}", value) for key, value in given.items() if value is not None]
    experiment = load_config(config) if config else Experiment(name=args.command)
    return override(experiment, [*short, *args.overrides, *more])


def importance(args: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    from fer_jax.evaluation.selection import parse_thresholds, select
    from fer_jax.progress import Progress

    more = [
        ("data.importance.frames", args.frames),
        ("data.importance.trees", args.trees),
        ("data.importance.seed", args.seed or "0"),
        ("data.landmark_scale", args.landmark_scale),
    ]
    experiment = _divided_by(args, more=more)
    with Progress("importance", "trees") as progress:
        report, text = select(
            args.dir,
            args.out,
            None if args.everything else experiment.protocol,
            experiment.data.importance,
            thresholds=parse_thresholds(args.threshold),
            labels=experiment.data.labels,
            landmark_scale=experiment.data.landmark_scale,
            on_progress=progress,
        )
    return 0, report, text


def train(args: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    from fer_jax.config import load_config
    from fer_jax.evaluation.pipeline import run_directory, train_and_report
    from fer_jax.training import distributed

    if args.seeds or args.vary:
        return population(args)
    if args.lanes:
        raise UserError(
            f"--lanes {args.lanes} is for several runs: add --seeds 0,1 or --vary KEY VALUE VALUE"
        )
    experiment = load_config(args.config, args.overrides)
    run = args.out or run_directory(experiment)
    metrics, text = train_and_report(experiment, run, command=shlex.join(["fer-jax", *args.words]))
    if distributed.is_first():
        text += _add_result(run, args.results)
    return 0, {"run": str(run), **metrics}, text


def population(args: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    from fer_jax.config import load_config
    from fer_jax.evaluation.crossval import train_and_compare
    from fer_jax.evaluation.pipeline import run_directory
    from fer_jax.training import distributed

    distributed.refuse(f"`fer-jax {args.command}` of several runs")
    experiment = load_config(args.config, args.overrides)
    try:
        seeds = [int(seed) for seed in args.seeds.split(",") if seed]
    except ValueError:
        raise UserError(f"--seeds {args.seeds}: give whole numbers, as in --seeds 0,1,2") from None
    if args.lanes < 0:
        raise UserError(
            f"--lanes {args.lanes}: give how many runs train at once, or 0 for what fits"
        )
    for key, *values in args.vary:
        if not values:
            raise UserError(f"--vary {key} has no values, as in --vary optim.lr 1e-3 3e-4")
    folds = args.command == "crossval"
    what = json.dumps([folds, seeds, args.vary])
    report, text = train_and_compare(
        experiment,
        args.out or run_directory(experiment, what),
        folds=folds,
        seeds=seeds,
        vary=[(key.removeprefix("--"), values) for key, *values in args.vary],
        lanes=args.lanes,
        command=shlex.join(["fer-jax", *args.words]),
    )
    for one in report["members"] if args.results else ():
        if "failed" not in one:
            text += _add_result(Path(one["run"]), args.results)
    return 0, report, text


def _add_result(run: Path, table: Path | None) -> str:
    from fer_jax.evaluation.results import append_row

    return "" if table is None else f"\nresult added to {append_row(run, table)}"


def evaluate(args: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    from fer_jax.config import Parallel
    from fer_jax.evaluation.evaluate import evaluate, render
    from fer_jax.evaluation.report import write_report
    from fer_jax.training import distributed

    distributed.start(Parallel())
    metrics = evaluate(args.run_dir, args.data, split=args.split, labels=args.labels)
    text = render(metrics) + f"\nwritten: {metrics['written']}"
    if distributed.is_first() and metrics["split"] == "test" and not args.labels:
        text += f"\nreport: {write_report(args.run_dir)}" + _add_result(args.run_dir, args.results)
    return 0, metrics, text


def compare(args: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    from fer_jax.evaluation.compare import compare, load_systems, render, write

    systems = [system for run in args.runs for system in load_systems(run)]
    report = compare(systems, common=args.common)
    text = render(report)
    if args.out is not None:
        text += f"\nwritten: {write(report, args.out)}"
    return 0, report, text


def predict(args: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
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


def extract(args: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    from fer_jax.evaluation.embed import extract
    from fer_jax.progress import Progress

    with Progress("extract", "clips") as progress:
        report = extract(args.run_dir, args.dir, args.name, on_progress=progress)
    text = (
        f"{report['features']}: {report['clips']} clips in {report['dir']}; train on them with "
        f"--data.dir {args.dir} --data.features {report['features']}"
    )
    return 0, report, text


def models(args: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    from fer_jax.evaluation.systems import list_systems, render

    found = list_systems(args.configs)
    broken = any("error" in system for system in found)
    return 2 if broken else 0, {"models": found}, render(found)


def demo(args: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    from fer_jax.demo import demo

    report, text = demo(args.out, workers=args.workers, seed=args.seed)
    return 0, report, text


def reproduce(args: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    from fer_jax.evaluation.papers import PAPERS, reproduce

    swap = dict(one.split("=", 1) for one in args.swap if "=" in one)
    if len(swap) < len(args.swap):
        raise UserError(f"--swap {args.swap[-1]}: give two corpora, as in affectnet=fer2013")
    if args.generated == bool(args.data):
        raise UserError("give record directories with --data, or --generated")
    names = list(PAPERS) if args.paper == "all" else [args.paper]
    data = args.data
    if args.generated:
        from preprocessing.generate import generate_papers

        data = [generate_papers(args.out / "generated")]
    reports, texts = [], []
    for name in names:
        try:
            report, text = reproduce(
                name,
                data,
                args.out / name,
                generated=args.generated,
                swap=swap,
                tables=args.tables,
                seeds=args.seeds,
                extra=[word for key, value in args.overrides for word in (f"--{key}", value)],
                command=shlex.join(["fer-jax", *args.words]),
                dry=args.dry_run,
            )
        except UserError as error:
            if len(names) == 1:
                raise
            report, text = {"paper": name, "left_out": str(error)}, f"{name}: left out: {error}"
        reports.append(report)
        texts.append(text)
    codes = {code for report in reports for code in report.get("failed", {}).values()}
    whole = reports[0] if len(reports) == 1 else {"papers": reports}
    return 1 if 1 in codes else 3 if codes else 0, whole, "\n\n".join(texts)


def bench(args: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    from benchmarks.suite import run

    answers, table = run(args.questions, args.gpu, args.out)
    return 0, {"answers": answers}, table


def launch(args: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    from launch.command import launch

    return launch(args)


def doctor(args: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    from fer_jax.doctor import doctor, render

    report = doctor()
    return 0 if report["ok"] else 2, report, render(report)
