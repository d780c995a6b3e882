"""How many members a device holds, and how much of a batch a CPU's cache does."""

import math
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from fer_jax import config, models
from fer_jax.training import metrics, optim, parallel
from fer_jax.training.capacity import (
    bytes_of,
    bytes_of_a_member,
    lanes_that_fit,
    parts_of,
    sample_bytes,
)
from fer_jax.training.population_steps import Own, make_population_steps
from fer_jax.training.resident import Rows
from fer_jax.training.state import make_state


def test_a_member_by_hand() -> None:
    inputs = models.Inputs(frames=1, features=52)
    settings = config.Dense(units=(20,), dropout=(0.0,), kernel_l2=0.0)
    model = models.build(settings, inputs, 3)
    state = jax.eval_shape(lambda: {"a": jnp.zeros((10, 4)), "b": jnp.zeros(3, jnp.int32)})
    few, many = (bytes_of_a_member(model, inputs, state, batch) for batch in (1, 9))
    # Three copies of 43 numbers; of each sample at least the 52 numbers that come in.
    assert few - (many - few) // 8 == 3 * 43 * 4
    assert (many - few) // 8 >= 2 * 52 * 4


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("steps", ["frames", "features"])
def test_the_estimate_is_what_the_compiler_takes(steps: str, lanes: int) -> None:
    """Papers 1 and 5 small: the estimate may be twice too large, never too small."""
    batch, samples, classes = 32, 40, 3
    frames, size = (24, 104) if steps == "frames" else (1, 52)
    experiment = config.Experiment(
        name="small",
        data=config.Data(features="distances-104" if steps == "frames" else "blendshapes-52"),
        model=config.LSTM(units=(32, 48), dropout=0.3, steps=steps),
        train=config.Train(batch=batch),
    )
    inputs = models.Inputs(frames=frames, features=size)
    model = models.build(experiment.model, inputs, classes)
    optimizer = optim.make_optimizer(experiment.optim, optim.Lengths(0, 1))
    state = jax.eval_shape(lambda key: make_state(model.init(key), optimizer), jax.random.key(0))
    mesh = parallel.make_mesh(config.Parallel(devices=1))

    def f32(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    def i32(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.int32)

    own = Own(
        key=jax.ShapeDtypeStruct((2,), jnp.uint32),
        statistics={"mean": f32(size), "std": f32(size)},
        class_weights=f32(classes),
        numbers={},
        lengths=optim.Lengths(i32(), i32()),
        steps=i32(),
        validation_steps=i32(),
        pool=None,
    )
    shape = (68, 2) if steps == "frames" else (52,)
    resident = {
        "streams": {"raw": Rows(f32(samples * frames, math.prod(shape)), shape)},
        "rows": i32(samples, frames),
        "frame_mask": jax.ShapeDtypeStruct((samples, frames), jnp.bool_),
        "label": i32(samples),
        "weight": f32(samples),
    }
    members = (state, jax.eval_shape(lambda: metrics.no_metrics(classes)), own)
    state_lanes, counted, owns = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((1, lanes, *x.shape), x.dtype), members
    )
    chosen = (1, lanes, 2, batch)
    train, _ = make_population_steps(experiment, inputs, classes, mesh)
    compiled = train.lower(  # type: ignore[attr-defined]
        state_lanes, counted, resident, owns, i32(*chosen), f32(*chosen), i32(), i32()
    ).compile()
    # Beside what the step takes: the states, their successors and the best so far.
    taken = compiled.memory_analysis().temp_size_in_bytes + 3 * lanes * bytes_of(state)
    estimate = lanes * bytes_of_a_member(model, inputs, state, batch)
    assert taken <= estimate <= 3 * taken


def test_lanes_fill_what_is_left_of_a_device() -> None:
    gpu = SimpleNamespace(platform="gpu", memory_stats=lambda: {"bytes_limit": 1000})
    assert lanes_that_fit(gpu, resident=200, member=100, wanted=32) == 6
    assert lanes_that_fit(gpu, resident=200, member=100, wanted=4) == 4
    assert lanes_that_fit(gpu, resident=900, member=100, wanted=4) == 1
    tpu = SimpleNamespace(platform="tpu", memory_stats=lambda: None)
    assert lanes_that_fit(tpu, resident=900, member=100, wanted=4) == 4
    assert lanes_that_fit(jax.devices("cpu")[0], resident=0, member=1, wanted=32) == 1


def test_a_cpu_computes_large_batches_of_small_networks_in_parts() -> None:
    mesh = parallel.make_mesh(config.Parallel(devices=1))
    experiment = config.Experiment(name="paper1", data=config.Data(), model=config.LSTM())
    inputs = models.Inputs(frames=76, features=259)

    def kept(*units: int, mesh: Any = mesh) -> int:
        model = models.build(config.LSTM(units=units, dropout=0.5), inputs, 6)
        return sample_bytes(model, inputs, experiment, mesh)

    small = kept(128, 256)
    # Gates, outputs and cells of both layers, at least.
    assert 76 * 4 * 6 * (128 + 256) <= small <= 2 * 76 * 4 * 6 * (128 + 256)
    assert [parts_of(n, 1, small) for n in (64, 63, 32, 128)] == [2, 1, 1, 4]
    assert parts_of(192, 3, small) == 6 and parts_of(64, 4, small) == 4
    assert kept(1024) == 0
    tpu = SimpleNamespace(devices=SimpleNamespace(flat=[SimpleNamespace(platform="tpu")]))
    assert kept(128, 256, mesh=tpu) == 0 and parts_of(64, 1, 0) == 1
