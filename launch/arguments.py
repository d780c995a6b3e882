"""What `fer-jax launch` is told on the command line."""

from __future__ import annotations

import argparse

LAUNCHERS = ("skypilot", "gcloud", "slurm", "container")


def add_arguments(p: argparse.ArgumentParser) -> None:
    """What `launch` takes beside a config's keys."""
    p.usage = (
        f"{p.prog} skypilot|gcloud|slurm|container [CONFIG] [--topology NAME] [--name NAME] "
        "[--data DIR] [--run DIR] [--spot] [--dry-run | --out DIR] [options] [--key value ...]"
    )
    p.add_argument("launcher", choices=LAUNCHERS, metavar="LAUNCHER", help=", ".join(LAUNCHERS))
    p.add_argument("config", nargs="?", default="", metavar="CONFIG", help="a config file")
    p.add_argument("--topology", default="", metavar="NAME", help="v5e:4x4, v5p:2x2x2, h100x8")
    p.add_argument("--name", default="", help="of the job (default: the config's, and a hash)")
    p.add_argument("--data", default="", metavar="DIR", help="records: gs://..., s3://...")
    p.add_argument("--run", dest="run_dir", default="", metavar="DIR", help="of the run: gs://...")
    p.add_argument("--spot", action="store_true", help="cheap machines that may be taken away")
    p.add_argument("--dry-run", action="store_true", help="show the files and commands, run none")
    p.add_argument("--out", default="", metavar="DIR", help="write the files there to edit")
    p.add_argument("--yes", action="store_true", help="do not ask (skypilot shows the price first)")
    p.add_argument("--seeds", default="", metavar="N,N", help="a run each; with slurm an array")
    p.add_argument("--folds", action="store_true", help="every fold; with slurm an array")
    p.add_argument("--trials", type=int, default=0, metavar="N", help="a sweep of so many")
    p.add_argument("--engine", default="local", choices=("local", "population"), help="of a sweep")
    p.add_argument("--storage", default="", metavar="URL", help="postgresql://... of a sweep")
    p.add_argument("--preprocess", default="", metavar="CORPUS", help="with --raw and --data")
    p.add_argument("--raw", default="", metavar="DIR", help="the corpus as it was downloaded")
    p.add_argument("--outputs", default="landmarks", help="of preprocessing")
    p.add_argument("--nodes", type=int, default=4, metavar="N", help="machines that preprocess")
    p.add_argument("--cpus", type=int, default=16, metavar="N", help="of a machine or task")
    p.add_argument("--infra", default="", help="skypilot: aws, gcp/us-central1, kubernetes")
    p.add_argument("--zone", default="", help="gcloud: us-west4-a")
    p.add_argument("--project", default="", help="gcloud (default: the one that is set)")
    p.add_argument("--partition", default="", help="slurm")
    p.add_argument("--account", default="", help="slurm")
    p.add_argument("--time", default="24:00:00", help="slurm: of a job (default: 24:00:00)")
    p.add_argument("--memory", default="", help="slurm: of a node, as in 64G")
