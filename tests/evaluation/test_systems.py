"""The table of systems, of small configs and of the project's own."""

import json

import pytest

from fer_jax.errors import UserError
from fer_jax.evaluation.systems import CONFIGS, list_systems, render

NETWORK = '''"""{title}

More of it.
"""

from fer_jax.config import LSTM, Data, Experiment, SmallCNN, Train


def experiment():
    return Experiment(name="{name}", paper="{paper}", data=Data({data}), model={model})
'''


def _write(folder, name, data, model, paper="", title="A network."):
    text = NETWORK.format(name=name, data=data, model=model, paper=paper, title=title)
    (folder / f"{name}.py").write_text(text)


@pytest.fixture
def configs(tmp_path):
    _write(tmp_path, "later", 'features="blendshapes-52", length="frames", labels="attrah3"',
           'LSTM(units=(5,), steps="features")', paper="attrah2024")  # fmt: skip
    _write(tmp_path, "images", 'features="none", images="crops", image_size=32, length="frames"',
           "SmallCNN()", title="Convolutions on crops.")  # fmt: skip
    _write(tmp_path, "reduced", 'features="geometry-136", pca=10, frames=7', "LSTM(units=(4,))")
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "notes.txt").write_text("not a config")
    return tmp_path


def test_a_directory_of_configs(configs):
    found = {system["name"]: system for system in list_systems(configs)}
    assert list(found) == ["images", "reduced", "later"]  # by paper, then by name
    assert found["later"]["parameters"] == 4 * 5 * (1 + 5 + 1) + 6 * 3
    assert found["later"]["input"] == "52 blendshapes-52"
    assert found["images"]["input"] == "32x32x3 crops"
    assert found["reduced"]["input"] == "7x10 geometry-136 (PCA)"
    # Emotions left to the data count as 7.
    assert found["reduced"]["parameters"] == 4 * 4 * (10 + 4 + 1) + 5 * 7
    for name, system in found.items():
        assert system["config"] == str(configs / f"{name}.py")
        assert system["memory_bytes"] == 16 * system["parameters"]
        assert 0 < system["memory_per_clip_bytes"] < system["flops_per_clip"]
    assert found["images"]["summary"] == "Convolutions on crops."
    assert found["images"]["model"] == "small-cnn" and found["later"]["paper"] == "attrah2024"
    assert json.loads(json.dumps(list(found.values()))) == list(found.values())


def test_frozen_networks_and_half_precision_count_as_they_train(tmp_path):
    data, model = 'features="coords-136", frames=9', "LSTM(units=(40, 6))"
    _write(tmp_path, "whole", data, model)
    text = (tmp_path / "whole.py").read_text()
    for name, train in (("frozen", 'freeze=("lstm_0",)'), ("half", 'precision="bfloat16"')):
        changed = text.replace("model=", f"train=Train({train}), model=").replace("whole", name)
        (tmp_path / f"{name}.py").write_text(changed)
    found = {system["name"]: system for system in list_systems(tmp_path)}
    whole, frozen, half = found["whole"], found["frozen"], found["half"]
    assert frozen["parameters"] == half["parameters"] == whole["parameters"]
    assert frozen["flops_per_clip"] == whole["flops_per_clip"]
    assert frozen["memory_bytes"] < whole["memory_bytes"] / 2
    assert frozen["memory_per_clip_bytes"] < whole["memory_per_clip_bytes"]
    assert half["memory_per_clip_bytes"] < whole["memory_per_clip_bytes"]


def test_equal_networks_are_counted_once(configs, monkeypatch):
    from fer_jax.evaluation import systems

    first = list_systems(configs)
    for name in ("again", "oncemore"):
        text = (configs / "reduced.py").read_text().replace('"reduced"', f'"{name}"')
        (configs / f"{name}.py").write_text(text)
    counted = []
    count = systems.cost
    monkeypatch.setattr(systems, "cost", lambda *a, **k: counted.append(1) or count(*a, **k))
    found = list_systems(configs)
    assert len(found) == 5 and len(counted) == 3
    assert [system for system in found if system["name"] not in ("again", "oncemore")] == first


@pytest.mark.parametrize(
    ("data", "model", "message"),
    [
        ('labels="fer8"', "LSTM()", "unknown label space 'fer8'"),
        ('features="none", images="crops", length="frames"', "SmallCNN()", "image_size is 0"),
        ('features="none", images="crops", image_size=32', "SmallCNN()", "reads one frame"),
        ("", "LSTM(unit=3)", "unit"),
        ("", "undefined", "NameError"),
    ],
)
def test_a_broken_config_is_one_line_beside_the_others(configs, data, model, message):
    _write(configs, "broken", data, model)
    systems = list_systems(configs)
    assert len(systems) == 4
    (broken,) = [system for system in systems if "error" in system]
    assert set(broken) == {"name", "config", "error"} and broken["name"] == "broken"
    assert message in broken["error"] and "\n" not in broken["error"]
    last = render(systems).splitlines()[-1]
    assert message in last and "broken.py" in last


def test_the_table(configs):
    header, *rows = render(list_systems(configs)).splitlines()
    assert header.split() == [
        "system", "paper", "network", "input", "parameters", "FLOPs/clip", "memory", "memory/clip",
    ]  # fmt: skip
    assert len(rows) == 3 and all(row.endswith("B") for row in rows)
    images = next(row for row in rows if row.startswith("images"))
    assert "32x32x3 crops" in images and " - " in images
    assert all(len(row) <= len(header) + 2 for row in rows)


def test_no_configs_is_a_users_mistake(tmp_path):
    with pytest.raises(UserError, match="no config files"):
        list_systems(tmp_path)
    with pytest.raises(UserError, match="no config files"):
        list_systems(tmp_path / "absent")


def test_the_projects_own_systems():
    found = {system["name"]: system for system in list_systems()}
    broken = [system for system in found.values() if "error" in system]
    assert not broken, broken
    assert len(found) == len([path for path in CONFIGS.glob("*.py") if path.stem != "__init__"])
    # docs/reproduction.md 1.5 and 5.1
    assert found["ryumina2020_crema_d"]["parameters"] == 594_438
    assert found["ryumina2020_ravdess"]["parameters"] == 594_438 + 514
    assert found["attrah2024_lstm"]["parameters"] == 44_631
    for name in ("name", "paper", "model", "input", "summary", "config"):
        assert all(isinstance(system[name], str) for system in found.values())
    papers = {system["paper"] for system in found.values()}
    assert papers - {""} == {
        "ryumina2020", "abdullah2020", "zennou2023", "emotionaldan2018", "attrah2024",
    }  # fmt: skip
