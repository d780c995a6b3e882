"""Every question of a set, one after another: a JSON file and a Markdown table.

`fer-jax bench` asks them (`python -m benchmarks` is the same). Each is a module of this folder that
also runs alone, `python -m benchmarks.<question>`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.race import hardware
from fer_jax.errors import UserError

#: The questions, "module" or "module:variant", and what each is told on a CPU and on a GPU; None
#: where it does not run.
QUESTIONS: dict[str, tuple[tuple[str, ...] | None, tuple[str, ...] | None]] = {
    "lstm_step": ((), ("--gpu",)),
    "lstm_step:paper5": (("--shape", "paper5"), ("--shape", "paper5", "--gpu")),
    "lstm_step:bfloat16": (None, ("--precision", "bfloat16", "--gpu")),
    "population:paper1": (("--shape", "paper1"), ("--shape", "paper1", "--gpu")),
    "population:paper5": (("--shape", "paper5"), ("--shape", "paper5", "--gpu")),
    "paper1_grid": (None, ()),
    "record_reading": ((), None),
    "preprocess_faces": ((), None),
    "depthwise": ((), ()),
    "image_step:xception": (("--network", "xception"), ("--network", "xception", "--gpu")),
    "image_step:mini": (("--network", "mini"), ("--network", "mini", "--gpu")),
    "image_step:c3d": (
        ("--network", "c3d", "--turns", "3", "--peers", "pytorch,channels_last"),
        ("--network", "c3d", "--gpu"),
    ),
    "image_step:c3d_layers": (None, ("--network", "c3d", "--layers")),
    "preprocess_video": ((), None),
}


def ask(question: str, gpu: bool) -> dict[str, Any]:
    """A question's answer, from a process of its own.

    Raises:
      UserError: it failed; what it said went to the terminal.
    """
    told = QUESTIONS[question][gpu] or ()
    environment = os.environ if gpu else {**os.environ, "JAX_PLATFORMS": "cpu"}
    module = question.partition(":")[0]
    command = [sys.executable, "-m", f"benchmarks.{module}", "--json", *told]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(f"{question} failed (exit code {done.returncode})")
    return json.loads(done.stdout.splitlines()[-1]) | {"question": question}


def table(answers: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row a ratio, with the roofline of what was measured beside it."""
    lines = [
        "| question | beside | ratio | ours, ms | GFLOP | MiB | of the roof |",
        "|---" * 7 + "|",
    ]
    for answer in answers:
        known = [answer.get(name) for name in ("ours_ms", "gflop", "mib", "share_of_roof")]
        for name, value in answer.items():
            if not name.startswith("ratio_") or value is None:
                continue
            beside = name.removeprefix("ratio_").replace("_", " ")
            cells = [answer["question"], beside, f"{value:.2f}"]
            cells += ["" if figure is None else f"{figure:g}" for figure in known]
            lines.append(f"| {' | '.join(cells)} |")
    device = next((one["device"] for one in answers if one.get("device", "cpu") != "cpu"), "")
    machine = ", on ".join(filter(None, (device, answers[0]["hardware"])))
    said = "Ratios of times, side by side in one run; above 1, this project is faster."
    return f"# {machine}\n\n{said}\n\n" + "\n".join(lines) + "\n"


def run(questions: Sequence[str], gpu: bool, out: Path) -> tuple[list[dict[str, Any]], str]:
    """Asks questions, all that there are by default.

    Writes `cpu.json` and `cpu.md`, or `gpu.*`, into `out` after each, so that what was measured
    stays if a later one fails; answers of this machine that are there already stay too.

    Returns:
      The answers, and the table.

    Raises:
      UserError: no such question, or none for such a machine.
    """
    fitting = [name for name, told in QUESTIONS.items() if told[gpu] is not None]
    for name in questions:
        if name not in fitting:
            raise UserError(f"no question {name!r} here: choose from {', '.join(fitting)}")
    out.mkdir(parents=True, exist_ok=True)
    file = out / ("gpu.json" if gpu else "cpu.json")
    before = json.loads(file.read_text()) if file.is_file() else []
    answers = {one["question"]: one for one in before if one["hardware"] == hardware()}
    for name in questions or fitting:
        answers[name] = ask(name, gpu)
        print(json.dumps(answers[name]), flush=True)
        ordered = [answers[name] for name in QUESTIONS if name in answers]
        file.write_text(json.dumps(ordered, indent=1) + "\n")
        file.with_suffix(".md").write_text(table(ordered))
    return list(answers.values()), file.with_suffix(".md").read_text()
