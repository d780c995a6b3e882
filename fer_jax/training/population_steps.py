"""Training and evaluation of many runs at once: one program, one corpus on the devices.

Members lie in lanes, some on each device: arrays of members are [D, p, ...] of p lanes on each of D
devices. A member trains on whole batches on its own device, so that devices exchange nothing. On
one lane a device a member runs the step of a run alone, up to what the compiler rounds otherwise
(nothing in networks of features); more lanes are one step under vmap, whose products add up in
another order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from fer_jax import models
from fer_jax.config import Experiment
from fer_jax.training import optim, parallel, steps
from fer_jax.training.capacity import sample_bytes
from fer_jax.training.losses import loss_of
from fer_jax.training.members import with_numbers
from fer_jax.training.metrics import Metrics
from fer_jax.training.state import TrainState

#: (states, metrics so far, resident, own, index i32[D, p, S, B], weight, start, stop) ->
#: (states, metrics)
PopulationTrainStep = Callable[..., tuple[TrainState, Metrics]]
#: (variables, metrics so far, resident, own, index i32[D, p, S, B], weight, start, stop) -> metrics
PopulationEvaluateStep = Callable[..., Metrics]


class Own(NamedTuple):
    """What a lane's member has of its own beside its state; every array may begin with [D, p]."""

    key: Any
    """u32[2], the key data of its steps."""
    statistics: Any
    """Of its training set."""
    class_weights: Any
    """f32[K]."""
    numbers: Any
    """By dotted key, what it has in place of the config's numbers (`members.numbers_of`)."""
    lengths: optim.Lengths
    """i32[] each, of its schedule."""
    steps: Any
    """i32[], of an epoch; 0 of an empty lane."""
    validation_steps: Any
    """i32[]."""
    pool: Any
    """i32[N] and i32[], its training samples, padded, and how many; None where nobody draws."""

    def resident(self, shared: Mapping[str, Any]) -> dict[str, Any]:
        """What the member sees of the data on the devices."""
        drawn = {} if self.pool is None else {"pool": self.pool}
        return {**shared, "statistics": self.statistics, **drawn}


def make_population_steps(
    experiment: Experiment, inputs: models.Inputs, classes: int, mesh: Mesh
) -> tuple[PopulationTrainStep, PopulationEvaluateStep]:
    """The train and evaluate steps of all lanes; the first takes the states' memory.

    Args:
      experiment: any member's; the others differ in what `Own` holds.
    """
    single = steps.one_by_one(experiment, mesh)
    settings = experiment.train
    plain = models.build(experiment.model, inputs, classes, freeze=settings.freeze)
    each = sample_bytes(plain, inputs, experiment, mesh)

    def parts(own: Own, weighted: bool) -> tuple[models.Model, Experiment, Any]:
        """A member's network, config and loss, some of whose numbers are traced."""
        changed = with_numbers(experiment, own.numbers)
        settings = changed.train
        model = models.build(
            changed.model,
            inputs,
            classes,
            freeze=settings.freeze,
            precision=settings.precision,
            remat=settings.remat,
        )
        weights = own.class_weights if weighted else jax.numpy.ones_like(own.class_weights)
        return model, changed, loss_of(settings.loss, weights)

    def train(state, counted, resident, own, index, weight, start, stop):  # type: ignore[no-untyped-def]
        def member(state, counted, own, index, weight):  # type: ignore[no-untyped-def]
            model, changed, loss = parts(own, weighted=True)
            optimizer = optim.make_optimizer(changed.optim, own.lengths)
            update = steps.make_update(model, changed, loss, optimizer, sample_bytes=each)
            seen = own.resident(resident)
            key = jax.random.wrap_key_data(own.key)

            def step(i: jax.Array, carry: tuple[TrainState, Metrics]) -> Any:
                return update(*carry, seen, key, index[i], weight[i])

            return steps.stretch(single, start, stop, step, (state, counted), own.steps)

        return _over_lanes(member, state, counted, own, index, weight)

    def evaluate(variables, counted, resident, own, index, weight, start, stop):  # type: ignore[no-untyped-def]
        def member(variables, counted, own, index, weight):  # type: ignore[no-untyped-def]
            model, changed, loss = parts(own, weighted=False)
            measure = steps.make_measure(model, changed, loss)
            seen = own.resident(resident)

            def step(i: jax.Array, counted: Metrics) -> Metrics:
                return measure(variables, counted, seen, index[i], weight[i])

            return (steps.stretch(single, start, stop, step, counted, own.validation_steps),)

        return _over_lanes(member, variables, counted, own, index, weight)

    lanes = (0, 0, None, 0, 0, 0, None, None)

    def mapped(function: Callable[..., Any], results: int, donate: tuple[int, ...]) -> Any:
        return parallel.map_devices(
            function, mesh, experiment.parallel.mapper, lanes, (0,) * results, donate
        )

    train_lanes, evaluate_lanes = mapped(train, 2, (0,)), mapped(evaluate, 1, ())
    if not single:
        return train_lanes, lambda *arguments: evaluate_lanes(*arguments)[0]

    def train_step(state, counted, *fixed):  # type: ignore[no-untyped-def]
        for i in steps.single_steps(fixed, mesh):
            state, counted = train_lanes(state, counted, *fixed[:-2], *i)
        return state, counted

    def evaluate_step(variables, counted, *fixed):  # type: ignore[no-untyped-def]
        for i in steps.single_steps(fixed, mesh):
            (counted,) = evaluate_lanes(variables, counted, *fixed[:-2], *i)
        return counted

    return train_step, evaluate_step


def _over_lanes(member: Callable[..., Any], *lanes: Any) -> Any:
    """`member` of each of a device's lanes, the first axis of every array."""
    if len(jax.tree.leaves(lanes)[0]) > 1:
        return jax.vmap(member)(*lanes)
    results = member(*jax.tree.map(lambda array: array[0], lanes))
    return jax.tree.map(lambda array: array[None], results)
