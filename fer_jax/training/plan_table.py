"""A plan as a person reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fer_jax.training.largest import MOST

_GIB = 2**30


def render(report: Mapping[str, Any]) -> str:
    """A line a fact of `plan.plan`, and below them what to change."""
    rows = [
        ("topology", _topology(report)),
        ("batch", _batch(report)),
        ("training set", f"{report['samples']:,} samples, {report['data']} on the chips"),
        ("fits", _fits(report)),
        *_memory(report),
        ("largest batch", _largest(report)),
        ("FLOPs a step", _flops(report)),
        *_traffic(report),
        ("steps a second", _range(report, "steps_per_s")),
        ("samples a second", _range(report, "samples_per_s")),
        ("training", _training(report)),
    ]
    if "price" in report:
        rows.append(("cost", _cost(report)))
    width = max(len(name) for name, _ in rows)
    lines = [f"{report['config']} on {report['topology']}, {report['precision']}", ""]
    lines += [f"{name.ljust(width)}  {text}" for name, text in rows if text]
    return "\n".join([*lines, "", *_notes(report)]).rstrip()


def _topology(report: Mapping[str, Any]) -> str:
    hosts = report["hosts"]
    on = f" on {hosts} host{'s' if hosts > 1 else ''}" if not report["estimated"] else ""
    return f"{report['chips']} x {report['chip']}{on}"


def _batch(report: Mapping[str, Any]) -> str:
    each = report["batch_per_chip"]
    return f"{report['batch']:,}: {each:,} a chip"


def _fits(report: Mapping[str, Any]) -> str:
    limit, taken = report["memory"]["chip"], report["bytes_per_chip"]
    if taken is None:
        return "no"
    share = f"{_gib(taken)} of {_gib(limit)} GiB a chip, {100 * taken / limit:.0f} %"
    how = " (estimated)" if report["estimated"] else ""
    return f"{'yes' if report['fits'] else 'no'}: {share}{how}"


def _memory(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    memory = report["memory"]
    parts = [
        ("  parameters, optimizer", memory["state"]),
        ("  training data", memory["data"]),
        ("  temporary", memory["temporary"]),
        ("  best so far, validation", memory["beside"]),
    ]
    if report["refused"]:
        parts = [part for part in parts if part[0] != "  temporary"]
    return [(name, f"{_gib(size)} GiB") for name, size in parts]


def _largest(report: Mapping[str, Any]) -> str:
    largest = report["largest_batch"]
    if largest is None:
        return ""
    if not largest:
        return "none: not even one sample a chip fits"
    how = "estimated" if report["estimated"] else "compiled"
    each = largest // report["chips"]
    more = "; no more was looked for" if each >= MOST else ""
    return f"{largest:,}: {each:,} a chip ({how}{more})"


def _flops(report: Mapping[str, Any]) -> str:
    whole, each = report["flops_per_step"], report["flops_per_chip"]
    return f"{_scaled(whole)}FLOP, {_scaled(each)}FLOP a chip"


def _traffic(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    if report["refused"]:
        return []
    how = "estimated" if report["estimated"] else "by the compiler's count"
    return [
        ("bytes moved a step", f"{_scaled(report['bytes_moved_per_chip'])}B a chip, {how}"),
        ("exchanged a step", f"{_scaled(report['collective_bytes'])}B a chip"),
    ]


def _range(report: Mapping[str, Any], name: str) -> str:
    if not report["fits"]:
        return ""
    most, about = (_short(report[f"{name}_{end}"]) for end in ("at_most", "about"))
    return f"at most {most} by operations and exchanges, about {about} with bytes moved"


def _training(report: Mapping[str, Any]) -> str:
    amount = f"{report['epochs']} epochs of {report['steps_per_epoch']:,} steps"
    if not report["fits"]:
        return amount
    least, about = (_duration(report[f"hours_{end}"]) for end in ("at_least", "about"))
    return f"{amount}: at least {least}; about {about}"


def _cost(report: Mapping[str, Any]) -> str:
    if not report["fits"]:
        return ""
    least, about = (f"${report[f'cost_{end}']:,.2f}" for end in ("at_least", "about"))
    return f"at least {least}; about {about}, at ${report['price']:g} a chip-hour"


def _notes(report: Mapping[str, Any]) -> list[str]:
    notes = []
    chips, batch = report["chips"], report["batch"]
    padded = report["batch_per_chip"] * chips
    if padded > batch:
        # A share is whole, so a batch is filled up with samples of weight 0.
        notes.append(
            f"A batch of {batch} on {chips} chips is computed as {padded}: "
            f"{100 - 100 * batch / padded:.0f} % of the work is padding. Set --train.batch "
            f"{padded} (and --optim.lr for it), or take fewer chips."
        )
    if report["fits"] and 1 / report["steps_per_s_about"] < 1e-3:
        notes.append(
            "Such small steps wait longer for launches, loops and the exchanges' latency than they "
            "compute, which is not counted here: time them."
        )
    return notes


def refusal(report: Mapping[str, Any]) -> str:
    """One line, of a plan that does not fit."""
    largest, remedy = report["largest_batch"], "leave out --no-search to see the largest that does"
    if largest:
        remedy = f"the largest that fits is {largest}: set --train.batch {largest}"
    elif largest is not None:
        remedy = "and no smaller one does: give fewer samples, a smaller network or larger chips"
    reason = f" ({report['refused'].rstrip('.')})" if report["refused"] else ""
    what = f"a batch of {report['batch']} does not fit on {report['topology']}"
    return f"{what}{reason}; {remedy}"


def _gib(size: float) -> str:
    return f"{size / _GIB:.2f}"


def _scaled(number: float) -> str:
    """12_300_000 -> "12.3 M"."""
    for unit in ("", "k", "M", "G", "T"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.4g} P"


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _duration(hours: float) -> str:
    if hours * 3600 < 100:
        return f"{hours * 3600:.2g} s"
    return f"{hours * 60:.3g} min" if hours < 2 else f"{_short(hours)} h"
