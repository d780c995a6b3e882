"""Where model files are found, and what is said when they are not there or not right."""

import hashlib
import io
import sys
import urllib.error

import pytest

from fer_jax.errors import UserError
from preprocessing import model_files


@pytest.fixture
def empty_home(tmp_path, monkeypatch):
    """No $FER_JAX_MODELS, an empty cache, no network."""

    def refuse(*_, **__):
        raise urllib.error.URLError("no network in tests")

    monkeypatch.delenv("FER_JAX_MODELS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    return tmp_path


@pytest.fixture
def fake_model(monkeypatch):
    """Content that passes for the model."""
    content = b"a model"
    monkeypatch.setattr(model_files, "LANDMARKER_SHA256", hashlib.sha256(content).hexdigest())
    return content


def serve(monkeypatch, content):
    calls = []

    def urlopen(url, timeout):
        calls.append((url, timeout))
        return io.BytesIO(content)

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    return calls


def one_line(caught):
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_offline_and_absent(empty_home):
    with pytest.raises(UserError) as caught:
        model_files.landmarker_path()
    message = one_line(caught)
    assert "no network in tests" in message and "FER_JAX_MODELS" in message
    assert model_files.LANDMARKER_URL in message


def test_found_through_the_environment(empty_home, monkeypatch, fake_model):
    folder = empty_home / "models"
    folder.mkdir()
    (folder / model_files.LANDMARKER).write_bytes(fake_model)
    monkeypatch.setenv("FER_JAX_MODELS", str(folder))
    assert model_files.landmarker_path() == folder / model_files.LANDMARKER


def test_the_real_file_has_the_pinned_checksum(empty_home, monkeypatch, landmarker_model):
    monkeypatch.setenv("FER_JAX_MODELS", str(landmarker_model.parent))
    assert model_files.landmarker_path() == landmarker_model


def test_wrong_checksum(empty_home, monkeypatch):
    (empty_home / model_files.LANDMARKER).write_bytes(b"something else")
    monkeypatch.setenv("FER_JAX_MODELS", str(empty_home))
    with pytest.raises(UserError) as caught:
        model_files.landmarker_path()
    message = one_line(caught)
    assert str(empty_home / model_files.LANDMARKER) in message and "delete it" in message


def test_a_file_that_changes_is_hashed_again(empty_home, monkeypatch, fake_model):
    path = empty_home / model_files.LANDMARKER
    monkeypatch.setenv("FER_JAX_MODELS", str(empty_home))
    path.write_bytes(fake_model)
    model_files.landmarker_path()
    path.write_bytes(fake_model + b"!")
    with pytest.raises(UserError):
        model_files.landmarker_path()


def test_downloaded_once(empty_home, monkeypatch, fake_model):
    calls = serve(monkeypatch, fake_model)
    path = model_files.landmarker_path()
    assert path.read_bytes() == fake_model
    assert list((empty_home / "cache" / "fer-jax").iterdir()) == [path]
    assert model_files.landmarker_path() == path
    assert calls == [(model_files.LANDMARKER_URL, model_files.DOWNLOAD_TIMEOUT_S)]


def test_a_wrong_download_leaves_nothing(empty_home, monkeypatch, fake_model):
    serve(monkeypatch, b"<html>blocked</html>")
    with pytest.raises(UserError, match="FER_JAX_MODELS") as caught:
        model_files.landmarker_path()
    one_line(caught)
    assert list((empty_home / "cache" / "fer-jax").iterdir()) == []


def test_dlib68_is_found_without_importing_its_package():
    path = model_files.dlib68_path()
    assert path.name == model_files.DLIB68 and path.stat().st_size == 99_693_937
    assert "face_recognition_models" not in sys.modules


def test_dlib68_absent_or_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(model_files, "_find_dlib68", lambda: None)
    with pytest.raises(UserError, match="pip install") as caught:
        model_files.dlib68_path()
    one_line(caught)
    (tmp_path / "x.dat").write_bytes(b"cut")
    monkeypatch.setattr(model_files, "_find_dlib68", lambda: tmp_path / "x.dat")
    with pytest.raises(UserError, match="--force-reinstall") as caught:
        model_files.dlib68_path()
    one_line(caught)


def test_check_models_says_what_is_there(empty_home, monkeypatch):
    calls = serve(monkeypatch, b"")
    landmarker, dlib68 = model_files.check_models()
    assert landmarker[:3] == (model_files.LANDMARKER, None, False)
    assert "FER_JAX_MODELS" in landmarker[3]
    assert dlib68[2] and dlib68[1].is_file()
    assert calls == []
    (empty_home / model_files.LANDMARKER).write_bytes(b"something else")
    monkeypatch.setenv("FER_JAX_MODELS", str(empty_home))
    name, path, usable, message = model_files.check_models()[0]
    assert path == empty_home / name and not usable and "sha256" in message
