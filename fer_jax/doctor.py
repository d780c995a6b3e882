"""`fer-jax doctor`: what is installed, which devices and model files; and what to mend.

Nothing is downloaded or changed. The requirements are those of the installed distribution's own
metadata, so they are written down once, in pyproject.toml.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fer_jax import __version__

#: Distributions that all install the module cv2; two of them overwrite each other's files.
OPENCV = (
    "opencv-python", "opencv-contrib-python", "opencv-python-headless",
    "opencv-contrib-python-headless",
)  # fmt: skip
#: System libraries that wheels link but do not carry: (library, whose, Debian's package).
LIBRARIES = (
    ("libGL.so.1", "opencv-contrib-python", "libgl1"),
    ("libgthread-2.0.so.0", "opencv-contrib-python", "libglib2.0-0"),
    ("libEGL.so.1", "mediapipe", "libegl1"),
    ("libGLESv2.so.2", "mediapipe", "libgles2"),
)
VARIABLES = ("FER_JAX_MODELS", "JAX_PLATFORMS", "XLA_FLAGS", "CUDA_VISIBLE_DEVICES")
#: Extras that a user of the command line may want; the others are a developer's.
EXTRAS = (
    "preprocess", "track", "weights", "plan", "sweep", "ray", "cloud", "export", "export-tf",
)  # fmt: skip
#: Those that nearly everybody wants: a word is said where they lack.
_USUAL = EXTRAS[:2]

Findings = list[dict[str, str]]


def doctor() -> dict[str, Any]:
    """Examine this installation.

    Returns:
      A report that JSON can hold: `ok` (bool), `findings` (a list of {"level": "problem" | "note",
      "what", "fix"}; any problem makes `ok` False), and what was found: `fer_jax`, `python`,
      `machine`, `packages`, `extras`, `devices`, `models`, `opencv`, `libraries`, `environment`.
    """
    findings: Findings = []
    versions = _versions()
    packages, extras = _packages(versions, findings)
    report = {
        "fer_jax": __version__,
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "machine": _machine(),
        "packages": packages,
        "extras": extras,
        "devices": _devices(versions, findings),
        "models": _models(findings),
        "opencv": _opencv(versions, extras, findings),
        "libraries": _libraries(versions, findings),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }
    ok = not any(finding["level"] == "problem" for finding in findings)
    return {"ok": ok, "findings": findings, **report}


def _note(findings: Findings, level: str, what: str, fix: str) -> None:
    findings.append({"level": level, "what": what, "fix": fix})


def _versions() -> dict[str, str]:
    """Canonical name -> version of every installed distribution."""
    return {
        canonicalize_name(found.metadata["Name"]): found.version
        for found in metadata.distributions()
        if found.metadata["Name"]
    }


def _requirements() -> list[str]:
    try:
        return metadata.requires("fer-jax") or []
    except metadata.PackageNotFoundError:
        return []


def _packages(
    versions: dict[str, str], findings: Findings
) -> tuple[dict[str, str | None], dict[str, bool]]:
    """Versions of what fer-jax asks for, and which extras are complete."""
    texts = _requirements()
    if not texts:
        _note(
            findings, "problem", "fer-jax itself is not installed",
            "pip install -e . in the checkout (or: make venv)",
        )  # fmt: skip
    packages: dict[str, str | None] = {}
    extras: dict[str, bool] = dict.fromkeys(EXTRAS, bool(texts))
    for text in texts:
        need = Requirement(text)
        name = canonicalize_name(need.name)
        place = _place(need)
        if place is None or name == "fer-jax":
            continue
        packages[name] = versions.get(name)
        if name not in versions:
            if place:
                extras[place] = False
            else:
                _note(findings, "problem", f"{name} is not installed", _pip(need))
        elif not need.specifier.contains(versions[name], prereleases=True):
            what = f"{name} {versions[name]} is installed, fer-jax needs {need.specifier}"
            _note(findings, "problem", what, _pip(need))
    for extra, complete in extras.items():
        if texts and not complete and extra in _USUAL:
            what = f"the extra {extra} is not (wholly) installed"
            _note(findings, "note", what, f"pip install 'fer-jax[{extra}]'")
    return packages, extras


def _place(need: Requirement) -> str | None:
    """Where a requirement counts: "" always, one of EXTRAS, or None for nowhere here."""
    if need.marker is None or need.marker.evaluate({"extra": ""}):
        return ""
    return next((e for e in EXTRAS if need.marker.evaluate({"extra": e})), None)


def _pip(need: Requirement) -> str:
    return f"pip install '{need.name}{need.specifier}'"


def _machine() -> dict[str, Any]:
    can_pin = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if can_pin else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"system": platform.platform(), "cores": cores, "memory_gib": round(memory / 2**30, 1)}


def _accelerators() -> list[str]:
    """Accelerators that the machine has, whether or not JAX can use them."""
    found = []
    if Path("/dev/nvidia0").exists():
        found.append("gpu")
    if Path("/dev/accel0").exists():
        found.append("tpu")
    return found


def _devices(versions: dict[str, str], findings: Findings) -> list[dict[str, Any]]:
    if "jax" not in versions:
        return []
    try:
        import jax

        from fer_jax.training.parallel import pass_over_libtpu

        pass_over_libtpu()
        devices = jax.devices()
    except (ImportError, RuntimeError) as error:
        what = f"JAX does not start: {str(error).splitlines()[0]}"
        fix = "unset JAX_PLATFORMS and XLA_FLAGS, or reinstall: pip install --force-reinstall jax"
        _note(findings, "problem", what, fix)
        return []
    kinds = {device.platform for device in devices}
    for kind, extra in (("gpu", "cuda12"), ("tpu", "tpu")):
        if kind in _accelerators() and kind not in kinds:
            chosen = os.environ.get("JAX_PLATFORMS")
            fix = f"unset JAX_PLATFORMS (it is {chosen!r})" if chosen else (
                f"pip install 'jax[{extra}]=={versions['jax']}'"
            )  # fmt: skip
            _note(findings, "note", f"the machine has a {kind.upper()}, JAX does not use it", fix)
    return [{"platform": d.platform, "kind": d.device_kind, "id": d.id} for d in devices]


def _models(findings: Findings) -> list[dict[str, Any]]:
    from preprocessing.model_files import check_models

    models = []
    for name, path, usable, message in check_models():
        models.append({"name": name, "path": path and str(path), "ok": usable, "message": message})
        if not usable:
            # An absent file stops only what needs it; a wrong one is never what anybody wants.
            level, state = ("note", "absent") if path is None else ("problem", "wrong")
            _note(findings, level, f"model file {name} is {state}", message)
    return models


def _opencv(
    versions: dict[str, str], extras: dict[str, bool], findings: Findings
) -> dict[str, str]:
    found = {name: versions[name] for name in OPENCV if name in versions}
    if len(found) > 1:
        what = f"{len(found)} packages install cv2 over each other: {', '.join(found)}"
        fix = (
            f"pip uninstall -y {' '.join(found)} && pip install 'opencv-contrib-python"
            f"{_specifier('opencv-contrib-python')}'"
        )
        _note(findings, "problem", what, fix)
    elif found and "opencv-contrib-python" not in found and not extras["preprocess"]:
        only = next(iter(found))
        _note(
            findings, "note", f"cv2 comes from {only}; MediaPipe requires opencv-contrib-python",
            f"pip uninstall -y {only}, then pip install 'fer-jax[preprocess]'",
        )  # fmt: skip
    return found


def _specifier(name: str) -> str:
    needs = (Requirement(text) for text in _requirements())
    return next((str(n.specifier) for n in needs if canonicalize_name(n.name) == name), "")


def _libraries(versions: dict[str, str], findings: Findings) -> dict[str, bool]:
    """System libraries, looked for where a wheel's own link would find them (Linux only)."""
    if sys.platform != "linux":
        return {}
    found = {}
    missing: dict[str, str] = {}
    for library, owner, package in LIBRARIES:
        found[library] = _loads(library)
        if not found[library] and owner in versions:
            missing[package] = f"{library} ({owner})"
    if missing:
        what = f"missing system libraries: {', '.join(missing.values())}"
        _note(findings, "problem", what, f"apt-get install {' '.join(missing)}")
    return found


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def render(report: dict[str, Any]) -> str:
    """A report as plain text, its findings last."""
    machine = report["machine"]
    devices = [f"{d['platform']}:{d['id']} {d['kind']}" for d in report["devices"]]
    lines = [
        f"fer-jax {report['fer_jax']}, Python {report['python']['version']}"
        f" ({report['python']['executable']})",
        f"{machine['system']}, {machine['cores']} cores, {machine['memory_gib']} GiB",
        f"devices    {', '.join(devices) or 'none'}",
        *_block("extras", {e: "yes" if ok else "no" for e, ok in report["extras"].items()}),
        *_block("packages", {n: v or "-" for n, v in report["packages"].items()}),
        *_block("cv2 from", report["opencv"] or {"no package": ""}),
        *_block("libraries", {n: "yes" if ok else "no" for n, ok in report["libraries"].items()}),
        *_block("models", {m["name"]: m["path"] or "absent" for m in report["models"]}),
        *_block("set", report["environment"]),
        "",
    ]
    for finding in report["findings"]:
        lines += [f"{finding['level']}: {finding['what']}", f"   fix: {finding['fix']}"]
    lines.append("All is well." if report["ok"] else "Something is to be mended, see above.")
    return "\n".join(lines)


def _block(title: str, rows: dict[str, str]) -> list[str]:
    width = max(map(len, rows), default=0)
    return [
        f"{title if i == 0 else '':<11}{name:<{width}}  {value}".rstrip()
        for i, (name, value) in enumerate(rows.items())
    ]
