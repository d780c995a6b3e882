"""The steps that run on every device: train, evaluate, predict.

The training set lies on the devices once ("resident"); a call runs any stretch of an epoch's
steps, gathering each batch by index. The stretch is data, not shape: one compiled program serves
every stretch, so results do not depend on how an epoch is cut into calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh

from fer_jax import config
from fer_jax.data import batches
from fer_jax.models import Model
from fer_jax.training import metrics, parallel
from fer_jax.training.losses import Loss
from fer_jax.training.metrics import Metrics
from fer_jax.training.state import TrainState

#: (state, metrics so far, resident, key, index, weight, start, stop) -> (state, metrics)
TrainStep = Callable[..., tuple[TrainState, Metrics]]
#: (variables, metrics so far, resident, index, weight, start, stop) -> metrics
EvaluateStep = Callable[..., Metrics]


def make_resident(
    samples: batches.Samples, statistics: batches.Statistics, mesh: Mesh
) -> dict[str, Any]:
    """A data set on the devices: the samples' arrays and the statistics, whole on each."""
    arrays = samples.arrays()
    kept = {name: arrays[name] for name in ("raw", "frame_mask", "label", "weight")}
    return parallel.replicate({**kept, "statistics": statistics}, mesh)


def _batch(resident: Mapping[str, Any], index: jax.Array, name: config.Features) -> dict[str, Any]:
    """The model's batch of the samples at `index`, i32[B]."""
    raw, frame_mask = resident["raw"][index], resident["frame_mask"][index]
    values = batches.features(raw, frame_mask, resident["statistics"], name)
    return {"features": values, "frame_mask": frame_mask}


def make_train_step(
    model: Model,
    data: config.Data,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    mapper: str = "shard_map",
) -> TrainStep:
    """Steps `start` to `stop` of an epoch, as one call that takes the state's memory.

    The loss of a batch is sum(weight * loss) / examples + penalty; examples are those of order
    weight 1, over all devices, so padding counts nothing and devices do not change the sum. An
    example draws its dropout from fold_in(fold_in(key, step), its place in the batch), wherever it
    lies.

    Returns:
      A function of (state, metrics so far, resident, key, index i32[D, S, b], weight f32[D, S, b],
      start i32[], stop i32[]) to (state, metrics).
    """

    def run(state, counted, resident, key, index, weight, start, stop):  # type: ignore[no-untyped-def]
        def step(i: jax.Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            state, counted = carry
            chosen, real = index[i], weight[i]
            examples = lax.psum(jnp.sum(real), parallel.AXIS)
            batch = _batch(resident, chosen, data.features)
            label, share = resident["label"][chosen], real * resident["weight"][chosen] / examples
            step_key = jax.random.fold_in(key, state.step)
            place = lax.axis_index(parallel.AXIS) * len(chosen) + jnp.arange(len(chosen))
            keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, place)

            def objective(params: Any) -> tuple[jax.Array, Any]:
                variables = {"params": params, "stats": state.stats}
                outputs, stats = model.apply(variables, batch, train=True, key=keys)
                value = jnp.sum(share * loss(outputs.logits, label))
                return value + model.penalty(params) / mesh.size, (outputs.logits, stats)

            gradient = jax.value_and_grad(objective, has_aux=True)
            (value, (logits, stats)), grads = gradient(state.params)
            value, grads = lax.psum((value, grads), parallel.AXIS)
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            params: Any = optax.apply_updates(state.params, updates)
            stats = lax.pmean(stats, parallel.AXIS)
            matrix = lax.psum(metrics.confusion(logits, label, real), parallel.AXIS)
            batch_metrics = Metrics(matrix, value * examples, examples)
            state = TrainState(state.step + 1, params, stats, opt_state, state.ema)
            return state, jax.tree.map(jnp.add, counted, batch_metrics)

        return lax.fori_loop(start, stop, step, (state, counted))

    whole_then_dealt = (None, None, None, None, 0, 0, None, None)
    return parallel.map_devices(
        run, mesh, mapper, whole_then_dealt, out_axes=(None, None), donate=(0,)
    )


def make_evaluate_step(
    model: Model, data: config.Data, loss: Loss, mesh: Mesh, mapper: str = "shard_map"
) -> EvaluateStep:
    """Metrics of batches `start` to `stop`, without dropout; the loss includes the penalty.

    Returns:
      A function of (variables, metrics so far, resident, index i32[D, S, b], weight f32[D, S, b],
      start i32[], stop i32[]) to metrics.
    """

    def run(variables, counted, resident, index, weight, start, stop):  # type: ignore[no-untyped-def]
        def step(i: jax.Array, counted: Metrics) -> Metrics:
            chosen, real = index[i], weight[i]
            batch = _batch(resident, chosen, data.features)
            label = resident["label"][chosen]
            # Without dropout the key is not read.
            key = jax.random.key(0)
            outputs, _ = model.apply(variables, batch, train=False, key=key)
            losses = loss(outputs.logits, label) + model.penalty(variables["params"])
            found = Metrics(
                metrics.confusion(outputs.logits, label, real),
                jnp.sum(real * losses),
                jnp.sum(real),
            )
            return jax.tree.map(jnp.add, counted, lax.psum(found, parallel.AXIS))

        return (lax.fori_loop(start, stop, step, counted),)

    whole_then_dealt = (None, None, None, 0, 0, None, None)
    mapped = parallel.map_devices(run, mesh, mapper, whole_then_dealt, out_axes=(None,))
    return lambda *arguments: mapped(*arguments)[0]


def make_predictor(
    model: Model, data: config.Data, statistics: batches.Statistics
) -> Callable[[Mapping[str, Any], np.ndarray, np.ndarray], jax.Array]:
    """Class probabilities of raw streams, for evaluation and prediction.

    Returns:
      A jitted function of (variables, raw f32[B, T, ...], frame_mask bool[B, T]) to f32[B, K].
    """

    @jax.jit
    def predict(variables: Mapping[str, Any], raw: jax.Array, frame_mask: jax.Array) -> jax.Array:
        values = batches.features(raw, frame_mask, statistics, data.features)
        batch = {"features": values, "frame_mask": frame_mask}
        outputs, _ = model.apply(variables, batch, train=False, key=jax.random.key(0))
        return jax.nn.softmax(outputs.logits)

    return predict
