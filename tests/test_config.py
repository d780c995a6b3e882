"""Configs: files, overrides and JSON become one validated experiment, or one clear line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fer_jax import config
from fer_jax.config import Dense, Experiment, from_json, load_config, override
from fer_jax.errors import UserError

BASE = Experiment(name="x")
SHIPPED = sorted(
    p for p in (Path(__file__).parents[1] / "configs").glob("*.py") if p.stem[0] != "_"
)


def leaves(value: object, prefix: str = "") -> dict[str, object]:
    if not isinstance(value, dict) or not value:
        return {prefix[:-1]: value}
    parts = (leaves(item, f"{prefix}{key}.") for key, item in value.items())
    return {key: leaf for part in parts for key, leaf in part.items()}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configs_are_sound(path: Path) -> None:
    experiment = load_config(path)
    assert experiment.name == path.stem
    assert path.stem.startswith(experiment.paper)
    assert from_json(json.loads(json.dumps(experiment.to_json()))) == experiment
    # The docstring is the record of what to expect.
    assert "fer-jax train" in path.read_text().split('"""')[1]


def test_every_key_can_be_given_on_the_command_line() -> None:
    for experiment in (BASE, override(BASE, [("model.name", "dense")])):
        found = leaves(experiment.to_json())
        for key, value in found.items():
            text = value if isinstance(value, str) else json.dumps(value)
            assert override(experiment, [(key, text)]) == experiment, key
        assert len(found) >= 45


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("train.epochs", "7", 7),
        ("optim.lr", "1e-6", 1e-6),
        ("data.zscore", "false", False),
        ("model.units", "64,32", (64, 32)),
        ("model.units", "[64, 32]", (64, 32)),
        ("model.units", "64", (64,)),
        ("data.dir", "some dir/records", "some dir/records"),
        ("data.features", "distances-259", "distances-259"),
        ("data.caps", '{"happy": 5}', {"happy": 5}),
        ("data.caps.happy", "5", {"happy": 5}),
        ("reported.uar", "0.5", {"uar": 0.5}),
        ("train.loss.class_weights", "balanced", "balanced"),
        ("train.loss.class_weights", "1,2.5", (1.0, 2.5)),
        ("train.early_stop.patience", "3", 3),
    ],
)
def test_overrides(key: str, text: str, value: object) -> None:
    found: object = override(BASE, [(key, text)])
    for part in key.split("."):
        if isinstance(found, dict):
            break
        found = getattr(found, part)
    assert found == value


def test_a_numeric_looking_text_stays_text() -> None:
    assert override(BASE, [("data.dir", "2013")]).data.dir == "2013"
    assert override(BASE, [("name", "1e5")]).name == "1e5"


def test_another_model_starts_from_its_own_defaults() -> None:
    found = override(BASE, [("model.name", "dense"), ("model.kernel_l2", "0.5")])
    assert found.model == Dense(kernel_l2=0.5)


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("train.epoch", "5", r"unknown config key --train\.epoch; did you mean --train\.epochs\?"),
        ("epochs", "5", r"did you mean --train\.epochs\?"),
        ("model.unitz", "5", r"did you mean --model\.units\?"),
        ("zzzzzz", "5", r"unknown config key --zzzzzz$"),
        ("train.epochs.x", "5", r"unknown config key --train\.epochs\.x"),
        ("train.epochs", "many", r"train\.epochs: .*integer.*'many'"),
        ("train.epochs", "0", r"train\.epochs: .*greater than or equal to 1.*0"),
        ("train.epochs", "1.5", r"train\.epochs: .*integer"),
        ("optim.lr", "fast", r"optim\.lr: .*number.*'fast'"),
        ("model.units", "a,b", r"model\.units"),
        ("model.name", "lstn", r"model: .*lstn"),
        ("data.features", "coords", r"data\.features: .*'coords-136'.*'coords'"),
        ("model.dropout", "1", r"model\.dropout: .*less than 1"),
        ("train", "5", r"--train is a group; set one of its keys: epochs, "),
    ],
)
def test_mistakes_are_one_line(key: str, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        override(BASE, [(key, text)])
    assert "\n" not in str(caught.value)


FILES = {
    "syntax.py": ("def experiment(:\n", "SyntaxError"),
    "unknown.py": (
        "from fer_jax.config import Experiment, Train\n"
        "def experiment(): return Experiment(name='x', train=Train(epoch=5))\n",
        r"epoch: unexpected .*did you mean epochs\?",
    ),
    "type.py": (
        "from fer_jax.config import Experiment, Train\n"
        "def experiment(): return Experiment(name='x', train=Train(epochs='many'))\n",
        r"epochs: .*integer.*'many'",
    ),
    "absent.py": ("x = 1\n", "has no `def experiment"),
    "value.py": ("def experiment(): return 5\n", r"experiment\(\) gave int, not Experiment"),
    "name.py": ("def experiment(): return Experiment(name='x')\n", "NameError"),
    "module.py": ("import no_such_module\n", "no_such_module"),
    "key.py": ("def experiment(): return {}['a']\n", "KeyError"),
    "zero.py": ("def experiment(): return 1 / 0\n", "ZeroDivisionError"),
    "broken.json": ('{"name": ', "is not JSON"),
    "list.json": ("[1]", "dictionary|object|mapping"),
    "typo.json": ('{"name": "x", "trian": {}}', r"trian: .*did you mean train\?"),
    "latin.py": ("# caf\xe9", "latin.py"),
}


@pytest.mark.parametrize("name", FILES)
def test_broken_files_are_one_line(name: str, tmp_path: Path) -> None:
    text, message = FILES[name]
    path = tmp_path / name
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=message) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_an_absent_file_names_the_nearest(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "paper_lstm.py").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"no config file paper_lstn\.py; did you mean .*paper_lstm"
    ):
        load_config("paper_lstn.py")
    with pytest.raises(UserError, match=r"no config file"):
        load_config(tmp_path)


def test_a_runs_config_is_a_config(tmp_path: Path) -> None:
    experiment = override(BASE, [("train.loss.class_weights", "1,2"), ("data.caps.sad", "9")])
    path = tmp_path / "config.json"
    path.write_text(json.dumps(experiment.to_json()))
    assert load_config(path) == experiment
    assert load_config(path, [("train.seed", "4")]).train.seed == 4


def test_experiments_cannot_be_changed_in_place() -> None:
    with pytest.raises(AttributeError):
        BASE.train.epochs = 5
    assert config.Experiment(name="x") == BASE
