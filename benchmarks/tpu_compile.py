"""What will a TPU run of every config? Read off the program that libtpu compiles, without a TPU.

    python -m benchmarks.tpu_compile --json
    python -m benchmarks.tpu_compile --configs zennou2023_c3d --topologies v5e:4x4 --out table.md

Each config's train step, at its own size and batch, in each precision and for each topology, a
process each; rows that `--out` holds already are kept. `make plan` does so for a topology of each
generation. A row is what `fer-jax plan` says, and what the compiled program wastes. The data set is
4,096 samples: more of them take memory on every chip, and nothing else. Needs libtpu: pip install
'fer-jax[plan]'.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted(p.stem for p in (ROOT / "configs").glob("*.py") if p.stem != "__init__")
_ABOUT = """\
Of `python -m benchmarks.tpu_compile --out results/tpu_compile.md`, which goes on where it stopped.
Each config at its own size and batch, shared by the chips; 4,096 samples lie on each of them. Per
chip: the most memory at any time, and operations and bytes of a step, the bytes by the compiler's
own count (fast memory too, a loop inside the step as one turn); what a chip exchanges in a step;
and how many steps a second its operations and exchanges allow at most. Products that read float32:
a network in bfloat16 has none, `data.pca` is one of the input's. A copy changes an array's layout
between two operations; in main memory are those that a TPU does not keep in its fast one. Seconds
are of compiling, on 2 busy cores."""
_HEAD = (
    "config", "topology", "precision", "seconds", "peak MiB", "of it data and state", "GFLOP",
    "MiB moved", "MiB exchanged", "steps/s at most", "float32 products", "largest copy MiB",
    "in main memory", "copied, % of moved", "products a recurrent loop",
)  # fmt: skip


def look(config: str, topology: str, precision: str) -> dict[str, Any]:
    """One row."""
    from fer_jax.config import load_config, override
    from fer_jax.training.ahead import Compiled
    from fer_jax.training.compiled import read_step
    from fer_jax.training.plan import plan

    row: dict[str, Any] = {"config": config, "topology": topology, "precision": precision}
    experiment = load_config(ROOT / "configs" / f"{config}.py")
    experiment = override(experiment, [("train.precision", precision)])
    compiled: list[Compiled] = []
    report = plan(experiment, topology, search=False, on_compiled=compiled.append)
    if not compiled:
        return row | {"error": report["refused"]}
    made = compiled[0]
    step, memory = read_step(made.text), made.memory
    slow = [move.bytes for move in step.moves if not move.fast]
    in_loops = [len(loop.products) for loop in step.recurrences]
    return row | {
        "chips": made.chips,
        "chip": made.kind,
        "seconds": round(made.seconds, 1),
        "peak_mib": round(memory["peak"] / 2**20, 1),
        "arguments_mib": round(memory["arguments"] / 2**20, 1),
        "gflop": round(made.flops / 1e9, 2),
        "moved_mib": round(made.bytes_accessed / 2**20, 1),
        "exchanged_mib": round(report["collective_bytes"] / 2**20, 2),
        "steps_per_s_at_most": round(report["steps_per_s_at_most"], 1),
        "float32_products": len(step.products_of("f32")),
        "largest_copy_mib": round(max((m.bytes for m in step.moves), default=0) / 2**20, 2),
        "largest_copy_source": step.moves[0].source if step.moves else "",
        "largest_slow_copy_mib": round(max(slow, default=0) / 2**20, 2),
        "copied_percent": round(100 * 2 * step.moved / made.bytes_accessed, 2),
        "loop_products": max(in_loops) if in_loops else None,
    }


def _in_child(config: str, topology: str, precision: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.tpu_compile", "--row", config, topology, precision]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    said = [line for line in done.stderr.splitlines() if "Error" in line] or ["died"]
    return {"config": config, "topology": topology, "precision": precision, "error": said[-1][:300]}


def table(rows: list[dict[str, Any]], versions: str) -> str:
    """Markdown."""
    keys = ("config", "topology", "precision", "seconds", "peak_mib", "arguments_mib", "gflop",
            "moved_mib", "exchanged_mib", "steps_per_s_at_most", "float32_products",
            "largest_copy_mib", "largest_slow_copy_mib", "copied_percent",
            "loop_products")  # fmt: skip
    lines = [f"| {' | '.join(_HEAD)} |", "|---" * len(_HEAD) + "|"]
    for row in rows:
        if "error" in row:
            cells = [row[key] for key in keys[:3]] + [row["error"].replace("|", "/")]
            cells += [""] * (len(keys) - len(cells))
        else:
            cells = ["" if row.get(key) is None else f"{row[key]}" for key in keys]
        lines.append(f"| {' | '.join(cells)} |")
    missing = []
    for kind in sorted({(row["topology"], row["precision"]) for row in rows}):
        there = {row["config"] for row in rows if (row["topology"], row["precision"]) == kind}
        if left := [name for name in CONFIGS if name not in there]:
            missing.append(f"Not compiled for {' in '.join(kind)} yet: {', '.join(left)}.")
    parts = ["# Train steps compiled for TPUs", f"{_ABOUT} {versions}.", "\n".join(lines), *missing]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--topologies", default="v5e:2x2,v6e:2x2", help="%(default)s")
    parser.add_argument("--precisions", default="bfloat16,float32", help="%(default)s")
    parser.add_argument("--configs", default=",".join(CONFIGS), help="names; all of configs/")
    parser.add_argument("--out", type=Path, help="a Markdown file, and its rows in JSON beside it")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--row", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        print(json.dumps(look(*arguments.row)))
        return
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("jax", "libtpu"))
    kept = arguments.out.with_suffix(".json") if arguments.out else None
    rows = json.loads(kept.read_text()) if kept and kept.exists() else []
    for topology in arguments.topologies.split(","):
        for precision in arguments.precisions.split(","):
            for config in arguments.configs.split(","):
                wanted = (config, topology, precision)
                if any(wanted == (r["config"], r["topology"], r["precision"]) for r in rows):
                    continue
                rows.append(_in_child(*wanted))
                rows.sort(key=lambda row: (row["config"], row["topology"], row["precision"]))
                if kept:
                    kept.write_text(json.dumps(rows, indent=1) + "\n")
                    arguments.out.write_text(table(rows, versions))
    if arguments.json:
        print(json.dumps({"question": "tpu_compile", "versions": versions, "rows": rows}))
    else:
        print(table(rows, versions), end="")


if __name__ == "__main__":
    main()
