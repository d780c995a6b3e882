"""`fer-jax launch`: fills the files in, shows or writes them, and runs them."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
import subprocess
from argparse import Namespace
from pathlib import Path
from typing import Any

from fer_jax.errors import UserError
from launch.job import Job, make_job, quoted

HERE = Path(__file__).resolve().parent
#: What each launcher runs, and what to do where it is not there.
_TOOLS = {
    "skypilot": ("sky", "pip install 'fer-jax[sky]', in an environment of its own if need be, and "
                 "`sky check`"),
    "gcloud": ("gcloud", "install the Google Cloud CLI (https://cloud.google.com/sdk/docs/install) "
               "and `gcloud auth login`"),
    "slurm": ("sbatch", "launch on a login node of a Slurm cluster"),
    "container": ("docker", "install Docker (https://docs.docker.com/engine/install) or Podman as "
                  "docker"),
}  # fmt: skip
_GCLOUD = ("settings.sh", "create.sh", "install.sh", "worker_install.sh", "worker_train.sh",
           "train.sh", "delete.sh", "run.sh")  # fmt: skip


def launch(args: Namespace) -> tuple[int, dict[str, Any], str]:
    """Fills in and runs; with --dry-run says what would run, with --out writes it only.

    Raises:
      UserError: a mistake in the options, or a tool that is not installed.
    """
    job = make_job(args)
    out = Path(args.out or Path("launched") / job.name)
    commands = _commands(job, out, ask=not args.yes)
    typed = tuple(quoted(words) for words in commands)
    job = dataclasses.replace(job, commands=typed, log=str(out.resolve()))
    files = render(job)
    report: dict[str, Any] = {
        "name": job.name,
        "files": {str(out / name): text for name, text in files.items()},
        "commands": commands,
    }
    if args.dry_run:
        shown = [f"# {path}\n{text}" for path, text in report["files"].items()]
        return 0, report, "\n".join([*shown, "# what would run:", *job.commands])
    if not args.out:
        _find(job)
    for name, text in files.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if args.out:
        lines = [*(f"written: {path}" for path in report["files"]), "run:", *job.commands]
        return 0, report, "\n".join(lines)
    for words in commands:
        code = subprocess.run(words, check=False).returncode
        if code:
            # 128 and more, or below 0: the person interrupted it.
            raise UserError(
                f"`{quoted(words)}` ended with {code}: what it says above is the reason; the files "
                f"are in {out}"
            )
    return 0, report, f"launched: {job.name}; its files are in {out}"


def render(job: Job) -> dict[str, str]:
    """The files of a job, filled in, by name."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters |= {"sh": shlex.quote, "yaml": json.dumps}
    found = {}
    for name in _templates(job):
        text = environment.get_template(f"{job.launcher}/{name}").render(job=job)
        found[name] = "\n".join(line.rstrip() for line in text.split("\n"))
    return found


def _templates(job: Job) -> tuple[str, ...]:
    if job.launcher == "skypilot":
        kind = job.machines.kind if job.machines and job.kind == "train" else job.kind
        return (f"{kind}.yaml",)
    if job.launcher == "slurm":
        return (f"{'array' if job.array_of else job.kind}.sbatch",)
    return _GCLOUD if job.launcher == "gcloud" else ()


def _commands(job: Job, out: Path, ask: bool) -> list[list[str]]:
    """What is run, in order."""
    if job.launcher == "gcloud":
        return [["bash", str(out / "run.sh")]]
    if job.launcher == "container":
        return _container(job)
    file = str(out / _templates(job)[0])
    if job.launcher == "slurm":
        return [["sbatch", file]]
    sure = [] if ask else ["--yes"]
    secret = ["--secret", "PGPASSWORD"] if job.storage else []
    if job.spot:
        return [["sky", "jobs", "launch", *sure, *secret, "--name", job.name, file]]
    return [["sky", "launch", *sure, *secret, "--cluster", job.name, "--down", file]]


def _container(job: Job) -> list[list[str]]:
    """Building the image, and running it as the one who launches, with the directories in it."""
    kind = job.machines.kind if job.machines else "gpu"
    tag = f"fer-jax:{job.version}-{kind}"
    build = ["docker", "build", "--file", str(HERE / "container" / "Dockerfile"),
             "--build-arg", f"ACCELERATOR={kind}", "--tag", tag, job.workdir]  # fmt: skip
    devices = ["--gpus", "all"] if kind == "gpu" else ["--privileged", "--network", "host"]
    # Compiled programs and model files stay in a volume of their own.
    volumes = [f"{job.workdir}:/work", "fer-jax-cache:/cache"]
    data = job.data
    if "://" not in data and not Path(data).resolve().is_relative_to(job.workdir):
        volumes, data = [*volumes, f"{Path(data).resolve()}:/data:ro"], "/data"
    elif "://" not in data:
        data = os.path.relpath(data, job.workdir)
    run = job.run if "://" in job.run else os.path.relpath(job.run, job.workdir)
    words = [{"DATA": data, "RUN": run}.get(word, word) for word in job.command]
    shared = [word for volume in volumes for word in ("--volume", volume)]
    user = ["--user", f"{os.getuid()}:{os.getgid()}"]
    return [build, ["docker", "run", "--rm", "--init", *devices, *user, *shared, tag, *words]]


def _find(job: Job) -> None:
    """Raises:
    UserError: the launcher's tool, or a password that it needs, is not there.
    """
    tool, remedy = _TOOLS[job.launcher]
    if shutil.which(tool) is None:
        raise UserError(f"{tool} is not installed: {remedy}; --dry-run and --out do without it")
    if job.launcher == "skypilot" and job.storage and "PGPASSWORD" not in os.environ:
        raise UserError("the database's password is not set: `export PGPASSWORD=...`")
