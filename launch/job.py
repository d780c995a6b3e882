"""What is to be launched: checked before anything runs or is written."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fer_jax import __version__
from fer_jax.config import Experiment, load_config
from fer_jax.errors import UserError
from launch.machines import Machines, parse_machines

_BUCKET = re.compile(r"(gs|s3)://[a-z0-9][\w.-]+(/.*)?")


@dataclass(frozen=True)
class Job:
    """A job, as the files of this room are filled in with it.

    Attributes:
      launcher: skypilot, gcloud, slurm or container.
      kind: train, sweep or preprocess.
      name: of the cluster, TPU or job; letters, digits and hyphens.
      command: the words of `fer-jax`, with DATA, RUN and so on where a file has its own.
      machines: what it runs on; None for preprocessing.
      config: the config's path below `workdir`; "" for preprocessing.
      data, run, raw: record directory, run directory and raw corpus.
      storage: the database of a sweep that several machines share.
      spot: on machines that may be taken away.
      workdir: the directory that is copied, or gone to.
      checkout: `workdir` is the project itself; else the package is installed.
      array, array_of: the tasks of a Slurm array, and what each of them is: "seed", "fold".
      commands, log: what is run, and the directory of the files, filled in by `launch`.
    """

    launcher: str
    kind: str
    name: str
    command: tuple[str, ...]
    machines: Machines | None
    config: str
    data: str
    run: str
    raw: str = ""
    storage: str = ""
    spot: bool = False
    workdir: str = ""
    checkout: bool = True
    infra: str = ""
    zone: str = ""
    project: str = ""
    nodes: int = 1
    cpus: int = 8
    memory: str = ""
    time: str = "24:00:00"
    partition: str = ""
    account: str = ""
    array: str = ""
    array_of: str = ""
    prefix: str = sys.prefix
    version: str = __version__
    commands: tuple[str, ...] = ()
    log: str = ""

    def words(self, **values: str) -> str:
        """The words of `fer-jax` for a shell; `values` are put, as they are, where DATA, RUN, RAW
        and STORAGE stand."""
        own = {key.upper(): value for key, value in values.items()}
        found = [own.get(word) or shlex.quote(word) for word in self.command]
        return " ".join('"$SLURM_ARRAY_TASK_ID"' if word == "TASK" else word for word in found)


def make_job(args: argparse.Namespace) -> Job:
    """The job of a command line.

    Raises:
      UserError: a mistake in the config, its overrides or the options.
    """
    if bool(args.config) == bool(args.preprocess):
        raise UserError("give a config, or --preprocess CORPUS with --raw and --data")
    workdir = Path.cwd()
    checkout = (workdir / "requirements" / "gpu.txt").is_file()
    job = _preprocess(args) if args.preprocess else _learn(args, workdir)
    common = {
        "launcher": args.launcher, "spot": args.spot, "workdir": str(workdir),
        "checkout": checkout, "infra": args.infra, "zone": args.zone, "project": args.project,
        "nodes": args.nodes, "cpus": args.cpus, "memory": args.memory, "time": args.time,
        "partition": args.partition, "account": args.account,
    }  # fmt: skip
    job = Job(**common, **job)  # type: ignore[arg-type]
    _check(job)
    return job


def _preprocess(args: argparse.Namespace) -> dict[str, object]:
    if args.launcher != "skypilot":
        raise UserError(
            "--preprocess is for skypilot, which starts a Ray cluster; elsewhere run `fer-jax "
            "preprocess ... --engine ray` on a cluster that there is, or without --engine"
        )
    if args.overrides:
        raise UserError(f"unknown argument --{args.overrides[0][0]} (see `fer-jax launch --help`)")
    if not args.raw or not args.data:
        raise UserError("--preprocess needs --raw gs://... (the corpus) and --data gs://...")
    words = ["preprocess", args.preprocess, "RAW", "DATA", "--engine", "ray"]
    return {
        "kind": "preprocess", "name": _name(args.name or f"preprocess-{args.preprocess}"),
        "command": (*words, "--outputs", args.outputs), "machines": None, "config": "",
        "data": args.data, "run": "", "raw": args.raw,
    }  # fmt: skip


def _learn(args: argparse.Namespace, workdir: Path) -> dict[str, object]:
    config = Path(args.config)
    data = [("data.dir", args.data)] if args.data else []
    experiment = load_config(config, [*args.overrides, *data])
    if args.launcher != "slurm" and not config.resolve().is_relative_to(workdir):
        raise UserError(
            f"{config} is not below {workdir}, which is what is copied: launch from a directory "
            "that holds it"
        )
    if not experiment.data.dir:
        raise UserError("no data: give a record directory with --data gs://BUCKET/DIR")
    machines = None
    if args.topology:
        machines = parse_machines(args.topology)
    elif args.launcher != "container":
        raise UserError("what does it run on? Give --topology, as in v5e:4x4 or h100x8")
    relative = os.path.relpath(config.resolve(), workdir)
    overrides = [
        word for key, text in args.overrides if key != "data.dir" for word in (f"--{key}", text)
    ]
    words, array, array_of = _command(args, experiment, relative, machines)
    identity = json.dumps([experiment.to_json(), [w for w in words if w not in ("DATA", "RUN")]])
    short = hashlib.sha256(identity.encode()).hexdigest()[:8]
    name = _name(args.name or f"{experiment.name}-{short}")
    run = args.run_dir or f"{'sweeps' if args.trials else 'runs'}/{name}"
    return {
        "kind": "sweep" if args.trials else "train", "name": name,
        "command": (*(name if word == "STUDY" else word for word in words), *overrides),
        "machines": machines, "config": relative,
        "data": experiment.data.dir, "run": run, "storage": args.storage,
        "array": array, "array_of": array_of,
    }  # fmt: skip


def _command(
    args: argparse.Namespace, experiment: Experiment, config: str, machines: Machines | None
) -> tuple[list[str], str, str]:
    """The words of `fer-jax` before the overrides, and the array of a Slurm job."""
    places = ["--data.dir", "DATA", "--out", "RUN"]
    hosts = machines.hosts if machines else 1
    if args.trials:
        if args.seeds or args.folds:
            raise UserError("--trials is a sweep: leave out --seeds and --folds")
        words = ["sweep", config, *places, "--trials", str(args.trials), "--engine", args.engine]
        if args.storage:
            words += ["--storage", "STORAGE", "--study", "STUDY"]
        elif hosts > 1:
            raise UserError(
                f"{hosts} machines share a study in a database: give --storage postgresql://..., "
                "or a topology of one machine"
            )
        return words, f"0-{hosts - 1}" if args.launcher == "slurm" and hosts > 1 else "", ""
    if args.storage:
        raise UserError("--storage is for a sweep: add --trials N")
    seeds = [seed for seed in args.seeds.split(",") if seed]
    if any(not seed.isdecimal() for seed in seeds):
        raise UserError(f"--seeds {args.seeds}: give whole numbers, as in --seeds 0,1,2")
    if args.launcher == "slurm" and (seeds or args.folds):
        if seeds and args.folds:
            raise UserError("an array is over --seeds or --folds: launch one job a seed")
        if hosts > 1:
            raise UserError("a task of an array is a run on one node: give at most 8 GPUs")
        key, array = ("train.seed", ",".join(seeds)) if seeds else (
            "protocol.fold", f"0-{experiment.protocol.folds - 1}",
        )  # fmt: skip
        return ["train", config, *places, f"--{key}", "TASK"], array, key.rpartition(".")[2]
    if (seeds or args.folds) and hosts > 1:
        raise UserError("--seeds and --folds train as one program on one machine: give a smaller "
                        "--topology")  # fmt: skip
    words = ["crossval" if args.folds else "train", config, *places]
    return [*words, *(["--seeds", args.seeds] if seeds else [])], "", ""


def _name(text: str) -> str:
    """Raises:
    UserError: no cloud takes it.
    """
    name = re.sub(r"[^a-z0-9-]+", "-", text.lower()).strip("-")
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,48}[a-z0-9])?", name):
        raise UserError(f"--name {text}: at most 50 letters, digits and hyphens, a letter first")
    return name


def _check(job: Job) -> None:
    """Raises:
    UserError: options that do not go together.
    """
    machines, away = job.machines, job.launcher in ("skypilot", "gcloud")
    if job.launcher == "gcloud":
        if machines is None or machines.kind != "tpu" or job.kind == "sweep":
            raise UserError("gcloud trains on TPUs: give --topology v5e:4x4, or use skypilot")
        if not job.zone:
            raise UserError("in which zone? Give --zone, as in --zone us-west4-a")
    if job.launcher == "slurm" and machines is not None and machines.kind != "gpu":
        raise UserError("Slurm has GPUs: give --topology h100x8, or use gcloud or skypilot")
    if job.kind == "sweep" and machines is not None and machines.kind != "gpu":
        raise UserError("a sweep runs on GPUs: give --topology h100x8")
    places = (("--data", job.data), ("--raw", job.raw), ("--run", job.run))
    for option, place in places if away else ():
        if not place:
            continue
        if not _BUCKET.fullmatch(place):
            raise UserError(
                f"{option} {place}: the machines are given back afterwards: give a directory in a "
                f"bucket, as in {option} gs://BUCKET/{Path(place).name or 'DIR'}"
            )
    if "://" in job.storage and re.search(r"//[^/@]*:[^/@]*@", job.storage):
        raise UserError(
            "--storage holds a password, which would be written into files: leave it out, and "
            "`export PGPASSWORD=...` before launching"
        )
    if job.storage and not job.storage.startswith("postgresql://"):
        raise UserError(f"--storage {job.storage}: give postgresql://USER@HOST/DATABASE")
    if job.launcher == "container":
        if not job.checkout:
            raise UserError(
                "an image is built from a checkout of the project: launch in its root directory"
            )
        if "://" not in job.run and not Path(job.run).resolve().is_relative_to(job.workdir):
            raise UserError(f"--run {job.run}: give one below {job.workdir}, or in a bucket")


def quoted(words: Sequence[str]) -> str:
    """Words as a person types them."""
    return shlex.join(words)
