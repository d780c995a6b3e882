"""What is searched, and mistakes in it."""

from __future__ import annotations

import pytest

from fer_jax.config import Choice, Experiment, Integers, Sweep, Uniform, choice, integers, override
from fer_jax.errors import UserError
from fer_jax.sweep import space

BASE = override(Experiment(name="x"), [("model.units", "8,16")])


def test_words_become_a_space() -> None:
    words = [
        "optim.lr=log:1e-5:1e-2", "--model.dropout=uniform:0:0.5", "train.batch=int:32:128:32",
        "model.dense=logint:8:256", "model.activation=tanh,selu", "model.units=8,8|16,16",
    ]  # fmt: skip
    assert space.parse(words) == {
        "optim.lr": Uniform(low=1e-5, high=1e-2, log=True),
        "model.dropout": Uniform(low=0, high=0.5),
        "train.batch": Integers(low=32, high=128, step=32),
        "model.dense": Integers(low=8, high=256, log=True),
        "model.activation": Choice(values=("tanh", "selu")),
        "model.units": Choice(values=("8,8", "16,16")),
    }
    assert choice(0.5, (8, 8), "selu").values == ("0.5", "8,8", "selu")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("optim.lr", "give a key and values"),
        ("optim.lr=log:1e-2:1e-5", "0.01 is above 1e-05"),
        ("optim.lr=log:0:1", "a logarithm needs numbers above 0"),
        ("optim.lr=log:1", "give log:1e-5:1e-2, uniform"),
        ("optim.lr=int:1:x", "give log:1e-5:1e-2, uniform"),
        ("optim.lr=1,1", "give every value once"),
    ],
)
def test_words_that_are_no_space(word: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        space.parse([word])
    with pytest.raises(UserError, match="twice"):
        space.parse(["optim.lr=1,2", "optim.lr=3,4"])


@pytest.mark.parametrize(
    ("searched", "message"),
    [
        ({"optim.rl": choice(1.0)}, "unknown config key --optim.rl; did you mean --optim.lr"),
        ({"model.units.2": choice(8)}, "--model.units has 2 values, counted from 0"),
        ({"model.unit.1": choice(8)}, "did you mean --model.units"),
        ({"optim.lr.0": choice(8)}, "optim.lr"),
        ({"optim.lr": choice("fast")}, "optim.lr: input should be a valid number"),
        ({"model.dropout": Uniform(low=0.0, high=1.5)}, "model.dropout: input should be less"),
        ({"protocol.seed": integers(0, 9)}, "trials must share protocol.seed"),
        ({"train.monitor": choice("train/loss")}, "trials must share train.monitor"),
        ({}, "nothing to search"),
    ],
)
def test_mistakes_are_told_before_anything_starts(searched, message: str) -> None:
    with pytest.raises(UserError, match=message):
        space.resolve(BASE, Sweep(space=searched))


def test_the_objective_is_of_the_validation_part() -> None:
    rate = {"optim.lr": choice(0.1, 0.2)}
    for objective in ("test/accuracy", "train/loss", "accuracy"):
        with pytest.raises(UserError, match=r"choose validation/accuracy, .*validation/loss"):
            space.resolve(BASE, Sweep(space=rate, objective=objective))
    with pytest.raises(UserError, match="did you mean validation/macro_f1"):
        space.resolve(BASE, Sweep(space=rate, objective="validation/macrof1"))
    fixed = {"train.epochs": 3, "model.units": (4, 4, 4)}
    shared = space.resolve(BASE, Sweep(space=rate, objective="validation/loss", fixed=fixed))
    assert (shared.train.monitor, shared.train.epochs) == ("validation/loss", 3)
    assert shared.model.units == (4, 4, 4)


def test_a_place_in_a_list_is_set() -> None:
    changed = space.changed(BASE, {"model.units.1": 32, "optim.lr": 0.25})
    assert (changed.model.units, changed.optim.lr) == ((8, 32), 0.25)
    other = space.changed(BASE, {"model.units.0": 4, "model.name": "gru"})
    assert (other.model.name, other.model.units) == ("gru", (4, 256))


def test_combinations_of_a_grid() -> None:
    searched = {"a": choice("x", "y"), "b": integers(1, 6, step=2)}
    assert [(c["a"], c["b"]) for c in space.combinations(searched)] == [
        (a, b) for a in "xy" for b in (1, 3, 5)
    ]
    with pytest.raises(UserError, match="a is a range; give its values, as in --space a=0,1"):
        space.combinations({"a": Uniform(low=0, high=1)})


@pytest.mark.parametrize("sampler", ["random", "tpe", "grid"])
def test_a_trials_number_decides_its_parameters(sampler: str) -> None:
    """Whoever asks in whatever process: what is known of other trials alone moves TPE."""
    import optuna

    from fer_jax.sweep.samplers import make_sampler
    from fer_jax.sweep.study import suggest

    searched = {"a": choice("x", "y", "z"), "b": integers(1, 50)}
    if sampler != "grid":
        searched["c"] = Uniform(low=1e-4, high=1, log=True)

    def ask(numbers):
        study, asked = optuna.create_study(), []
        for number in numbers:
            study.sampler = make_sampler(sampler, searched, 3, number)
            trial = study.ask()
            suggest(trial, space.distributions(searched))
            asked.append(trial.params)
            study.tell(trial, number % 7)
        return asked

    first = ask(range(12))
    assert ask(range(12)) == first
    assert len({str(params) for params in first}) > 8
    if sampler == "random":
        assert all(1 <= p["b"] <= 50 and 1e-4 <= p["c"] <= 1 for p in first)
    if sampler == "grid":
        assert first == space.combinations(searched)[:12]
