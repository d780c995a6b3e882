"""The steps that run on every device: train, evaluate, predict.

The training set lies on the devices (see `fer_jax.training.source`); a call runs any stretch of an
epoch's steps, gathering each batch by index. The stretch is data, not shape: one compiled program
serves every stretch, so results do not depend on how an epoch is cut into calls. What the devices
cannot hold comes with the call of its step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh

from fer_jax.config import Experiment, off
from fer_jax.data import augment, batches
from fer_jax.data.statistics import Statistics
from fer_jax.models import Model, Outputs
from fer_jax.training import metrics, parallel
from fer_jax.training.capacity import parts_of
from fer_jax.training.landmark_loss import landmark_error
from fer_jax.training.losses import Loss
from fer_jax.training.metrics import Metrics
from fer_jax.training.parallel import ALONE, Devices
from fer_jax.training.state import TrainState, average, divide, merge

#: (state, metrics so far, resident, dealt, key, index, weight, start, stop) -> (state, metrics)
TrainStep = Callable[..., tuple[TrainState, Metrics]]
#: (variables, metrics so far, resident, dealt, index, weight, start, stop) -> metrics
EvaluateStep = Callable[..., Metrics]
#: What an example's key is folded with for what is not dropout.
_AUGMENT, _PARTNER, _SHARE = 1_000_001, 1_000_002, 1_000_003
#: Below the rows of a TPU's register XLA cuts clips into strips that stand in for more of them, in
#: networks of 3-D convolutions.
_TPU_ROWS = 8
_FILLED = ("c3d", "nested-lstm")


def _fold(keys: jax.Array, what: int) -> jax.Array:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, what)


class _Examples(NamedTuple):
    """A part of a batch: which samples [b], their weight f32[b] (0 fills), keys [b], and what they
    show of each stream, [b, T, ...], where that came with the call."""

    index: jax.Array
    weight: jax.Array
    keys: jax.Array
    fed: Mapping[str, jax.Array] | None


def _gather(
    resident: Mapping[str, Any],
    index: jax.Array,
    settings: Experiment,
    devices: Devices,
    fed: Mapping[str, jax.Array] | None = None,
    draw: Any = None,
) -> dict[str, Any]:
    """The network's batch of the samples at `index`, i32[B], but for its weight."""
    streams = fed
    if streams is None:
        rows = resident["rows"][index]
        streams = {name: frames.take(rows) for name, frames in resident["streams"].items()}
        for name, frames in resident.get("shares", {}).items():
            found = devices.collect(frames.values, rows)
            streams[name] = found.reshape(*rows.shape, *frames.shape)
    return batches.make_batch(
        streams, resident["frame_mask"][index], resident["statistics"], settings.data, draw
    )


def _training_batch(
    resident: Mapping[str, Any],
    examples: _Examples,
    step_key: jax.Array,
    settings: Experiment,
    devices: Devices,
) -> tuple[dict[str, Any], Callable[[Callable[[jax.Array], jax.Array]], jax.Array]]:
    """A batch with its random changes, and what makes its loss of a loss by label.

    Mixup's partner is any sample of the training set, not of the batch: an example then depends on
    its own key alone, wherever it lies.
    """
    change, frames = settings.data.augment, resident["rows"].shape[1]

    def changed(index: jax.Array, keys: jax.Array, fed: Any = None) -> dict[str, Any]:
        draw = None
        if change.active:
            draw = augment.draw(_fold(keys, _AUGMENT), change, frames, step_key)
        return _gather(resident, index, settings, devices, fed, draw)

    index, weight, keys, fed = examples
    label = resident["label"][index]
    batch = {**changed(index, keys, fed), "weight": weight}
    if not change.mixup:
        return batch, lambda loss: loss(label)
    others = _fold(keys, _PARTNER)
    # A population's corpus is more than a member's training set.
    pool, size = resident.get("pool", (None, len(resident["label"])))
    partner = jax.vmap(lambda key: jax.random.randint(key, (), 0, size))(others)
    partner = partner if pool is None else pool[partner]
    share = augment.mixup_share(_fold(keys, _SHARE), change.mixup)
    second = changed(partner, others)
    for name in ("features", "frames"):
        if name in batch:
            mixed = lambda a, b: augment.mix(a, b, share)  # noqa: E731
            batch[name] = jax.tree.map(mixed, batch[name], second[name])
    other = resident["label"][partner]
    return batch, lambda loss: share * loss(label) + (1 - share) * loss(other)


#: (state, metrics so far, resident, key, index i32[b], weight f32[b], fed) -> (state, metrics)
Update = Callable[..., tuple[TrainState, Metrics]]
#: (variables, metrics so far, resident, index i32[b], weight f32[b], fed) -> metrics
Measure = Callable[..., Metrics]


def make_update(
    model: Model,
    settings: Experiment,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    devices: Devices = ALONE,
    sample_bytes: int = 0,
    least: int = 1,
) -> Update:
    """One step of training on one batch, for jit.

    The loss of a batch is sum(weight * loss) / examples + penalty; examples are those of order
    weight 1, over all devices, so padding counts nothing and devices do not change the sum. An
    example draws its dropout and its augmentation from fold_in(fold_in(key, step), its place in
    the batch), wherever it lies. A batch may be computed in `train.accumulate` parts, or more (see
    `capacity.sample_bytes`): the gradient is the same, BatchNorm sees one part at a time. A
    batch in one part is filled up to `least` examples, which count nothing.
    """
    train = settings.train
    terms, freeze = train.loss, train.freeze

    def update(state, counted, resident, key, chosen, real, fed=None):  # type: ignore[no-untyped-def]
        parts = parts_of(len(chosen), train.accumulate, sample_bytes)
        count = devices.total(jnp.sum(real))
        step_key = jax.random.fold_in(key, state.step)
        place = devices.place * len(chosen) + jnp.arange(len(chosen))
        keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, place)
        trained, frozen = divide(state.params, freeze)

        def part(stats: Any, examples: _Examples) -> tuple[Any, Any, Metrics]:
            """New stats, this part's share of the gradient, and its metrics."""
            batch, by_label = _training_batch(resident, examples, step_key, settings, devices)
            label = resident["label"][examples.index]
            share = examples.weight * resident["weight"][examples.index] / count

            def objective(trained: Any) -> tuple[jax.Array, Any]:
                variables = {"params": merge(trained, frozen), "stats": stats}
                filled, keys = batches.fill(batch, examples.keys, least if parts == 1 else 1)
                outputs, new = model.apply(variables, filled, train=True, key=keys)
                outputs = jax.tree.map(lambda x: x[: len(label)], outputs)
                value = terms.emotion * by_label(lambda truth: loss(outputs.logits, truth))
                error = _landmark_error(outputs, batch)
                if not off(terms.landmarks):
                    value = value + terms.landmarks * error
                penalty = model.penalty(variables["params"]) / (devices.count * parts)
                return jnp.sum(share * value) + penalty, (outputs.logits, error, new)

            gradient = jax.value_and_grad(objective, has_aux=True)
            (value, (logits, error, new)), grads = gradient(trained)
            matrix = metrics.confusion(logits, label, examples.weight)
            errors = jnp.sum(examples.weight * error)
            return new, grads, Metrics(matrix, value * count, jnp.zeros(()), errors)

        examples = _Examples(chosen, real, keys, fed)
        if parts == 1:
            stats, grads, found = part(state.stats, examples)
        else:
            cut = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), examples)

            def add(carry: Any, one: _Examples) -> tuple[Any, None]:
                stats, grads, found = part(carry[0], one)
                return (stats, *jax.tree.map(jnp.add, carry[1:], (grads, found))), None

            nothing = (jax.tree.map(jnp.zeros_like, trained), _no_metrics(counted))
            (stats, grads, found), _ = lax.scan(add, (state.stats, *nothing), cut)
        grads, found = devices.total((grads, found))
        updates, opt_state = optimizer.update(grads, state.opt_state, trained)
        params: Any = merge(optax.apply_updates(trained, updates), frozen)  # type: ignore[arg-type]
        done = state.step + 1
        ema = state.ema
        if ema is not None:
            ema = average(ema, params, train.ema, done)
        state = TrainState(done, params, stats, opt_state, ema)
        return state, jax.tree.map(jnp.add, counted, found._replace(count=count))

    return update


def make_measure(
    model: Model,
    settings: Experiment,
    loss: Loss,
    devices: Devices = ALONE,
) -> Measure:
    """The metrics of one batch without dropout, for jit; the loss includes the penalty."""
    terms = settings.train.loss

    def measure(variables, counted, resident, chosen, real, fed=None):  # type: ignore[no-untyped-def]
        batch = {**_gather(resident, chosen, settings, devices, fed), "weight": real}
        label = resident["label"][chosen]
        # Without dropout the key is not read.
        outputs, _ = model.apply(variables, batch, train=False, key=jax.random.key(0))
        error = _landmark_error(outputs, batch)
        values = terms.emotion * loss(outputs.logits, label) + terms.landmarks * error
        values = values + model.penalty(variables["params"])
        found = Metrics(
            metrics.confusion(outputs.logits, label, real),
            jnp.sum(real * values),
            jnp.sum(real),
            jnp.sum(real * error),
        )
        return jax.tree.map(jnp.add, counted, devices.total(found))

    return measure


def make_train_step(
    model: Model,
    settings: Experiment,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    sample_bytes: int = 0,
    least: int | None = None,
) -> TrainStep:
    """Steps `start` to `stop` of an epoch, as one call that takes the state's memory.

    Args:
      sample_bytes: see `capacity.sample_bytes`.
      least: see `make_update`; by default what suits the devices.

    Returns:
      A function of (state, metrics so far, resident, dealt, key, index i32[D, S, b], weight
      f32[D, S, b], start i32[], stop i32[]) to (state, metrics); `train.accumulate` divides b. For
      resident and dealt see `source.Source`.
    """
    devices = Devices(parallel.AXIS, mesh.size)
    if least is None:
        share = batches.share_of(settings.train.batch, mesh.size, settings.train.accumulate)
        fills = parallel.platform_of(mesh) == "tpu" and settings.model.name in _FILLED
        # No more than twice the work.
        least = _TPU_ROWS if fills and 2 * share >= _TPU_ROWS else 1
    update = make_update(model, settings, loss, optimizer, devices, sample_bytes, least)
    single = one_by_one(settings, mesh)

    def run(state, counted, resident, dealt, key, index, weight, start, stop):  # type: ignore[no-untyped-def]
        seen, fed = {**resident, **dealt}, dealt.get("fed")

        def step(i: jax.Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            return update(*carry, seen, key, index[i], weight[i], fed)

        return stretch(single, start, stop, step, (state, counted))

    whole_then_dealt = (None, None, None, 0, None, 0, 0, None, None)
    mapped = parallel.map_devices(
        run, mesh, settings.parallel.mapper, whole_then_dealt, out_axes=(None, None), donate=(0,)
    )
    if not single:
        return mapped

    def steps(state, counted, *fixed):  # type: ignore[no-untyped-def]
        for i in single_steps(fixed, mesh):
            state, counted = mapped(state, counted, *fixed[:-2], *i)
        return state, counted

    return steps


def one_by_one(settings: Experiment, mesh: Mesh) -> bool:
    """Whether a call of the compiled program is a single step.

    XLA's CPU convolutions take more than twice as long inside a loop, and their steps are long
    enough for a call each.
    """
    # The mesh's platform, not JAX's default: a host compiles for TPUs that it does not have.
    return bool(settings.data.images) and parallel.platform_of(mesh) == "cpu"


def stretch(
    single: bool,
    start: Any,
    stop: Any,
    step: Callable[[Any, Any], Any],
    carry: Any,
    limit: Any = None,
) -> Any:
    """Steps `start` to `stop`, none from `limit` on; only the first where they go `one_by_one`."""
    if not single:
        stop = stop if limit is None else jnp.minimum(stop, limit)
        return lax.fori_loop(start, stop, step, carry)
    new = step(start, carry)
    if limit is None:
        return new
    return jax.tree.map(lambda done, before: jnp.where(start < limit, done, before), new, carry)


def single_steps(arguments: tuple[Any, ...], mesh: Mesh) -> Iterator[tuple[Any, Any]]:
    """Each step of a stretch, whose bounds are the last two arguments, as bounds of its own."""
    start, stop = jax.device_get(arguments[-2:])
    for i in range(int(start), int(stop)):
        yield parallel.replicate((np.int32(i), np.int32(i + 1)), mesh)


def _no_metrics(like: Metrics) -> Metrics:
    return jax.tree.map(jnp.zeros_like, like)


def _landmark_error(outputs: Outputs, batch: Mapping[str, Any]) -> jax.Array:
    """f32[B], inter-pupil distances; 0 where the network or the batch has no landmarks."""
    if outputs.landmarks is None or "landmarks" not in batch:
        return jnp.zeros(len(outputs.logits))
    return landmark_error(outputs.landmarks, batch["landmarks"])


def make_evaluate_step(model: Model, settings: Experiment, loss: Loss, mesh: Mesh) -> EvaluateStep:
    """Metrics of batches `start` to `stop`.

    Returns:
      A function of (variables, metrics so far, resident, dealt, index i32[D, S, b], weight
      f32[D, S, b], start i32[], stop i32[]) to metrics.
    """
    measure = make_measure(model, settings, loss, Devices(parallel.AXIS, mesh.size))
    single = one_by_one(settings, mesh)

    def run(variables, counted, resident, dealt, index, weight, start, stop):  # type: ignore[no-untyped-def]
        seen, fed = {**resident, **dealt}, dealt.get("fed")

        def step(i: jax.Array, counted: Metrics) -> Metrics:
            return measure(variables, counted, seen, index[i], weight[i], fed)

        return (stretch(single, start, stop, step, counted),)

    whole_then_dealt = (None, None, None, 0, 0, 0, None, None)
    mapped = parallel.map_devices(
        run, mesh, settings.parallel.mapper, whole_then_dealt, out_axes=(None,)
    )

    def evaluate(variables, counted, *fixed):  # type: ignore[no-untyped-def]
        if not single:
            return mapped(variables, counted, *fixed)[0]
        for i in single_steps(fixed, mesh):
            (counted,) = mapped(variables, counted, *fixed[:-2], *i)
        return counted

    return evaluate


class Prediction(NamedTuple):
    """What a trained network says of B samples."""

    probabilities: jax.Array
    """f32[B, K]."""
    embedding: jax.Array
    """f32[B, D]."""
    landmark_error: jax.Array
    """f32[B], inter-pupil distances; 0 where network or samples have no landmarks."""


def make_predictor(model: Model, settings: Experiment) -> Callable[..., Prediction]:
    """For evaluation and prediction, outside any mesh.

    Returns:
      A jitted function of (variables, statistics, streams {name: [B, T, ...]}, frame_mask
      bool[B, T]).
    """

    @jax.jit
    def predict(
        variables: Mapping[str, Any],
        statistics: Statistics,
        streams: Mapping[str, jax.Array],
        frame_mask: jax.Array,
    ) -> Prediction:
        batch = batches.make_batch(streams, frame_mask, statistics, settings.data)
        outputs, _ = model.apply(variables, batch, train=False, key=jax.random.key(0))
        error = _landmark_error(outputs, batch)
        return Prediction(jax.nn.softmax(outputs.logits), outputs.embedding, error)

    return predict
