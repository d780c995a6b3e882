"""Networks of pictures as members of a population."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from fer_jax.training import checkpoint, loop
from fer_jax.training.members import make_members
from fer_jax.training.population import train_population

CNN = {
    "name": "xception", "stem": [4, 8], "stem_stride": 1, "entry": [8], "middle": 0, "exit": [],
    "dense": 8, "dropout": 0.5,
}  # fmt: skip


def newest(run: Path) -> dict:
    directory = run / "checkpoints"
    step, _ = checkpoint.find_intact(directory)
    return checkpoint.read(directory, step, dict.fromkeys(("state", "best")))


# Convolutions round otherwise in another program, and members side by side more so.
@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("lanes", "dropouts", "tolerance"), [(1, ["0.5", "0.1"], 1e-5), (2, [], 1e-3)]
)
def test_pictures_normalisation_augmentation_and_averages(
    small, tmp_path: Path, lanes: int, dropouts: list[str], tolerance: float
):
    recipe = {"data__augment": {"flip": True, "rotation_degrees": 10.0, "mixup": 0.2}}
    experiment = small(
        "abdullah2020_mini_xception", model=CNN, train__epochs=2, train__ema=0.9,
        data__pixels="standard", **recipe,
    )  # fmt: skip
    vary = [("model.dropout", dropouts)] if dropouts else []
    members = make_members(experiment, seeds=[0, 1], vary=vary)
    train_population(members, tmp_path / "all", lanes=lanes)
    member = members[-1]
    loop.train(member.experiment, tmp_path / "alone")
    one, alone = newest(tmp_path / "all" / member.name), newest(tmp_path / "alone")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), one, alone
    )


def test_two_stages_and_landmark_weights(small, tmp_path: Path):
    stage = {"name": "emotional-dan", "stages": 2, "widths": [4, 4, 4, 4], "dense": 8, "patch": 4}
    experiment = small(
        "emotionaldan2018", model=stage, train__epochs=2, train__freeze=["stage1"],
        train__loss__emotion=0.6, train__loss__landmarks=0.4,
    )  # fmt: skip
    members = make_members(experiment, vary=[("train.loss.landmarks", ["0.4", "0"])])
    notes: list[str] = []
    train_population(members, tmp_path / "all", on_note=notes.append)
    assert notes[0].startswith("landmarks-0.4: frozen, and random: stage1/")
    for member in members:
        loop.train(member.experiment, tmp_path / member.name)
        one, alone = newest(tmp_path / "all" / member.name), newest(tmp_path / member.name)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, alone
        )
