"""The mapped step: mappers agree to the bit, devices and padding change nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from typing import Any

import jax
import numpy as np
import pytest

from fer_jax import config, models
from fer_jax.data import batches
from fer_jax.data.samples import Samples
from fer_jax.data.statistics import Statistics, fit_statistics
from fer_jax.errors import UserError
from fer_jax.training import metrics, optim, parallel, state, steps
from fer_jax.training.inputs import inputs_of
from fer_jax.training.losses import make_loss
from fer_jax.training.resident import make_resident

CLASSES = 3


def make_samples(count: int) -> Samples:
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 5, count)
    mask = np.arange(4) < lengths[:, None]
    raw = rng.normal(size=(count, 4, 52)).astype(np.float32)
    label = rng.integers(0, CLASSES, count).astype(np.int32)
    rows = np.where(mask, np.arange(count * 4).reshape(count, 4), 0).astype(np.int32)
    return Samples(
        {"raw": raw.reshape(-1, 52)}, rows, mask, label, np.arange(count),
        np.ones(count, np.float32),
    )  # fmt: skip


def resident_of(samples: Samples, mesh: Any, statistics: Statistics) -> dict[str, Any]:
    return make_resident(samples, samples.streams, mesh, statistics)


def shown(samples: Samples) -> dict[str, np.ndarray]:
    return {"raw": samples.streams["raw"][samples.rows]}


DENSE = {"name": "dense", "units": [8, 6, 5], "dropout": [0.0, 0.0, 0.0], "kernel_l2": 1e-2}
DROPOUT = {**DENSE, "dropout": [0.4, 0.0, 0.0]}
LSTM = {"name": "lstm", "units": [6], "dropout": 0.4, "kernel_l2": 1e-2}


class Setup:
    """A toy model on so many devices, mapped so."""

    def __init__(self, devices: int, mapper: str = "shard_map", model: dict = DENSE):
        one_frame = model["name"] == "dense"
        self.experiment = config.from_json(
            {
                "name": "toy",
                "data": {
                    "features": "blendshapes-27",
                    "frames": 4,
                    "length": "frames" if one_frame else "thin",
                },
                "model": model,
                "optim": {"lr": 0.01, "clip_norm": 1.0},
                "train": {"loss": {"class_weights": [1.0, 2.0, 0.5]}},
                "parallel": {"devices": devices, "mapper": mapper},
            }
        )
        e = self.experiment
        self.mesh = parallel.make_mesh(e.parallel)
        self.model = models.build(e.model, inputs_of(e.data), CLASSES, axis=parallel.AXIS)
        self.optimizer = optim.make_optimizer(e.optim, optim.Lengths(0, 1))
        loss = make_loss(e.train.loss, np.ones(CLASSES))
        self.train_step = steps.make_train_step(self.model, e, loss, self.optimizer, self.mesh)
        self.evaluate_step = steps.make_evaluate_step(self.model, e, loss, self.mesh)
        self.key = parallel.replicate(jax.random.key(7), self.mesh)
        self.zero = parallel.replicate(metrics.no_metrics(CLASSES), self.mesh)

    def first(self) -> state.TrainState:
        made = state.make_state(self.model.init(jax.random.key(3)), self.optimizer)
        return state.snapshot(parallel.replicate(made, self.mesh))

    def train(self, samples, order, cuts: list[int] | None = None) -> tuple[Any, Any]:
        resident = resident_of(samples, self.mesh, self.statistics(samples))
        index, weight = parallel.deal(*order, self.mesh)
        current, counted = self.first(), self.zero
        bounds = [0, *(cuts or []), len(order[0])]
        for start, stop in pairwise(bounds):
            current, counted = self.train_step(
                current, counted, resident, {}, self.key, index, weight, start, stop
            )
        return state.to_host((current, counted))

    def evaluate(self, samples, order) -> Any:
        resident = resident_of(samples, self.mesh, self.statistics(samples))
        index, weight = parallel.deal(*order, self.mesh)
        found = self.evaluate_step(
            self.first().variables, self.zero, resident, {}, index, weight, 0, len(order[0])
        )
        return state.to_host(found)

    def statistics(self, samples) -> Statistics:
        return fit_statistics(samples, self.experiment.data)


def assert_equal(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_close(a: Any, b: Any) -> None:
    """Sums in another order: a few units in float32's last place, over the steps."""
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-6), a, b)


@pytest.fixture(scope="module")
def one() -> Setup:
    return Setup(1)


@pytest.fixture(scope="module")
def eight() -> Setup:
    return Setup(8)


SAMPLES = make_samples(37)


@pytest.fixture(scope="module")
def order() -> tuple[np.ndarray, np.ndarray]:
    """3 batches of 16, the last of them with 11 padded examples."""
    return batches.epoch_order(seed=1, epoch=0, n=37, batch=16)


@pytest.mark.parametrize(("devices", "model"), [(1, DROPOUT), (8, LSTM)])
def test_pmap_and_shard_map_agree_to_the_bit(order, devices: int, model: dict) -> None:
    mapped = [Setup(devices, mapper, model) for mapper in ("shard_map", "pmap")]
    trained = [setup.train(SAMPLES, order) for setup in mapped]
    assert_equal(*trained)
    assert_equal(*(setup.evaluate(SAMPLES, order) for setup in mapped))
    # And pmap left no device axis behind.
    first = mapped[1].first().params
    assert jax.tree.map(np.shape, trained[1][0].params) == jax.tree.map(np.shape, first)


def test_eight_devices_are_one_device(one, eight, order) -> None:
    assert_close(one.train(SAMPLES, order), eight.train(SAMPLES, order))
    assert_close(one.evaluate(SAMPLES, order), eight.evaluate(SAMPLES, order))


@pytest.mark.parametrize("model", [DROPOUT, LSTM])
def test_an_example_draws_the_same_dropout_on_any_device(order, model: dict) -> None:
    assert_close(*(Setup(devices, model=model).train(SAMPLES, order) for devices in (1, 8)))


def test_a_batch_that_devices_do_not_divide(one, eight) -> None:
    order = batches.epoch_order(seed=1, epoch=0, n=37, batch=13)
    assert_close(one.train(SAMPLES, order), eight.train(SAMPLES, order))


def test_calls_may_cut_an_epoch_anywhere() -> None:
    order = batches.epoch_order(seed=1, epoch=0, n=37, batch=5)
    setup = Setup(1, model=DROPOUT)
    whole = setup.train(SAMPLES, order)
    assert whole[0].step == 8
    for cuts in ([1, 2, 3, 4, 5, 6, 7], [3], [6, 7]):
        assert_equal(whole, setup.train(SAMPLES, order, cuts))


def test_padding_counts_nothing(one) -> None:
    """One batch of 12 real examples and 4 padded: the padded ones' data must not matter."""
    index = np.arange(16, dtype=np.int32)[None]
    weight = (index < 12).astype(np.float32)
    other = make_samples(37)
    other.streams["raw"][4 * 12 : 4 * 16] = 1e3
    other.label[12:16] = 2
    plain = {"mean": np.zeros(27), "std": np.ones(27)}
    found = [steps_of(one, samples, (index, weight), plain) for samples in (SAMPLES, other)]
    assert_equal(*found)
    short = steps_of(one, SAMPLES, (index[:, :12], weight[:, :12]), plain)
    assert_close(found[0], short)
    assert found[0][1].count == 12
    assert found[0][1].confusion.sum() == 12


def steps_of(setup, samples, order, statistics) -> tuple[Any, Any]:
    statistics = jax.tree.map(np.float32, statistics)
    resident = resident_of(samples, setup.mesh, statistics)
    dealt = parallel.deal(*order, setup.mesh)
    trained = setup.train_step(setup.first(), setup.zero, resident, {}, setup.key, *dealt, 0, 1)
    return state.to_host(trained)


def test_a_step_is_the_textbook_step(one) -> None:
    """Gradient of mean(class weight * cross-entropy) + L2 by hand, then the optimizer."""
    import jax.numpy as jnp
    import optax

    index = np.arange(9, dtype=np.int32)[None]
    samples, start = SAMPLES, one.first()
    statistics = one.statistics(samples)
    streams, mask = {"raw": shown(samples)["raw"][:9]}, jnp.asarray(samples.frame_mask[:9])
    batch = batches.make_batch(streams, mask, statistics, one.experiment.data)
    labels = samples.label[:9]

    def objective(params):
        outputs, _ = one.model.apply(
            {"params": params, "stats": {}}, batch, train=False, key=jax.random.key(0)
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs.logits, labels)
        l2 = 1e-2 * jnp.sum(jnp.square(params["dense_1"]["kernel"]))
        return jnp.mean(losses * jnp.asarray([1.0, 2.0, 0.5])[labels]) + l2

    value, grads = jax.jit(jax.value_and_grad(objective))(start.params)
    updates, _ = one.optimizer.update(grads, start.opt_state, start.params)
    wanted = optax.apply_updates(start.params, updates)
    found, counted = steps_of(one, samples, (index, np.ones((1, 9), np.float32)), statistics)
    assert_close(found.params, state.to_host(wanted))
    assert counted.loss / counted.count == pytest.approx(float(value), rel=1e-5)


def test_predictions_do_not_depend_on_the_batch() -> None:
    setup = Setup(1, model=LSTM)
    predict = steps.make_predictor(setup.model, setup.experiment)
    variables, raw = setup.first().variables, shown(SAMPLES)["raw"]
    statistics = setup.statistics(SAMPLES)
    whole = predict(variables, statistics, {"raw": raw}, SAMPLES.frame_mask).probabilities
    np.testing.assert_allclose(np.sum(whole, axis=-1), 1, rtol=1e-6)
    padded = np.concatenate([raw[:5], np.full_like(raw[:3], 9)])
    mask = np.concatenate([SAMPLES.frame_mask[:5], np.ones_like(SAMPLES.frame_mask[:3])])
    part = predict(variables, statistics, {"raw": padded}, mask).probabilities[:5]
    np.testing.assert_allclose(part, whole[:5], rtol=1e-5, atol=1e-6)


def test_too_many_devices() -> None:
    with pytest.raises(UserError, match=r"--parallel\.devices 9: this machine has 8 cpu"):
        parallel.make_mesh(config.Parallel(devices=9))


def test_a_cpu_has_one_device_a_core_unless_the_user_said_otherwise() -> None:
    code = (
        "import os; os.environ.pop('XLA_FLAGS', None); os.sched_getaffinity = lambda _: range(6);"
        "from fer_jax.training.parallel import use_every_core; import jax; use_every_core({batch});"
        "print(jax.local_device_count()); use_every_core(512); print(jax.local_device_count())"
    )

    def devices(batch: int, **variables: str) -> list[str]:
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", **variables}
        words = [sys.executable, "-c", code.format(batch=batch)]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert devices(512) == ["6", "6"]
    assert devices(48) == ["3", "3"]
    assert devices(8) == ["1", "1"]
    assert devices(512, JAX_NUM_CPU_DEVICES="2") == ["2", "2"]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_memory_is_kept_unless_the_user_said_otherwise() -> None:
    """What is freed is had again without asking the kernel for its 16384 pages."""
    code = (
        "import ctypes, resource; from fer_jax.training import parallel; parallel.keep_memory()\n"
        "libc = ctypes.CDLL(None); libc.malloc.restype = ctypes.c_void_p\n"
        "for _ in range(2):\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    piece = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(1 << 26)))\n"
        "    ctypes.memset(piece, 1, 1 << 26); libc.free(piece)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )

    def faults(**variables: str) -> int:
        words = [sys.executable, "-c", code]
        unset = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
        environment = {**unset, **variables}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults(GLIBC_TUNABLES="") < 100
    assert faults(GLIBC_TUNABLES="glibc.malloc.mmap_threshold=1048576") > 1000
