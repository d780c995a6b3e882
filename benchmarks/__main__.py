"""Every question of a set, one after another: a JSON file and a Markdown table.

    python -m benchmarks                  the questions for a CPU
    python -m benchmarks --gpu            those for a GPU
    python -m benchmarks lstm_step ...    these questions

Each question is a module of this folder that also runs alone, `python -m benchmarks.<question>`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: The questions, "module" or "module:variant", and what each is told on a CPU and on a GPU; None
#: where it does not run.
QUESTIONS: dict[str, tuple[tuple[str, ...] | None, tuple[str, ...] | None]] = {
    "lstm_step": ((), ("--gpu", "1")),
    "lstm_step:paper5": (("--shape", "paper5"), ("--shape", "paper5", "--gpu", "1")),
    "lstm_step:bfloat16": (None, ("--precision", "bfloat16", "--gpu", "1")),
    "population:paper1": (("--shape", "paper1"), ("--shape", "paper1", "--gpu", "1")),
    "population:paper5": (("--shape", "paper5"), ("--shape", "paper5", "--gpu", "1")),
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
      SystemExit: it failed; what it said went to the terminal.
    """
    told = QUESTIONS[question][gpu] or ()
    environment = os.environ if gpu else {**os.environ, "JAX_PLATFORMS": "cpu"}
    module = question.partition(":")[0]
    command = [sys.executable, "-m", f"benchmarks.{module}", "--json", *told]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{question} failed (exit code {done.returncode})")
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
    machine = answers[0].get("device") or answers[0]["hardware"]
    said = "Ratios of times, side by side in one run; above 1, this project is faster."
    return f"# {machine}\n\n{said}\n\n" + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help=", ".join(QUESTIONS))
    parser.add_argument("--gpu", action="store_true", help="the questions for a GPU")
    parser.add_argument("--out", type=Path, default=Path("bench-results"), help="bench-results/")
    arguments = parser.parse_args()
    fitting = [name for name, told in QUESTIONS.items() if told[arguments.gpu] is not None]
    for name in arguments.questions:
        if name not in fitting:
            sys.exit(f"no question {name!r} here: choose from {', '.join(fitting)}")
    answers = []
    arguments.out.mkdir(parents=True, exist_ok=True)
    stem = arguments.out / ("gpu" if arguments.gpu else "cpu")
    for name in arguments.questions or fitting:
        answers.append(ask(name, arguments.gpu))
        print(json.dumps(answers[-1]), flush=True)
        # After each, so that what was measured stays if a later one fails.
        stem.with_suffix(".json").write_text(json.dumps(answers, indent=1) + "\n")
        stem.with_suffix(".md").write_text(table(answers))
    print(stem.with_suffix(".md").read_text(), end="")


if __name__ == "__main__":
    main()
