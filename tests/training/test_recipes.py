"""What a recipe may ask of the step: frozen parts, parts of a batch, averages, random changes."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from fer_jax import config, models
from fer_jax.data import batches
from fer_jax.data.samples import Samples
from fer_jax.data.statistics import fit_statistics
from fer_jax.errors import UserError
from fer_jax.models.paths import flatten
from fer_jax.training import metrics, optim, parallel, state, steps
from fer_jax.training.inputs import inputs_of
from fer_jax.training.losses import make_loss
from fer_jax.training.resident import make_resident

CLASSES, COUNT = 3, 22
TOY: dict[str, Any] = {
    "name": "toy",
    "data": {
        "features": "none", "images": ["crops"], "image_size": 16, "image_color": "gray",
        "length": "frames",
    },
    "model": {
        "name": "xception", "stem": [4, 6], "stem_stride": 1, "entry": [8], "middle": 0,
        "exit": [], "dense": 5, "dropout": 0.3,
    },
    "optim": {"lr": 0.01},
    "train": {"batch": 8},
    "parallel": {"devices": 1},
}  # fmt: skip


def make_samples() -> Samples:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (COUNT, 16, 16, 1), np.uint8)
    label = rng.integers(0, CLASSES, COUNT).astype(np.int32)
    rows, ones = np.arange(COUNT, dtype=np.int32)[:, None], np.ones(COUNT, np.float32)
    return Samples({"crops": images}, rows, np.ones((COUNT, 1), bool), label, label, ones)


SAMPLES = make_samples()


class Trained:
    """Two steps (the second padded) of a recipe, on so many devices."""

    def __init__(self, changes: dict[str, Any], devices: int = 1, least: int | None = None):
        changes = {"parallel.devices": devices, **changes}
        settings = config.override(
            config.from_json(TOY), [(key, str(value)) for key, value in changes.items()]
        )
        train = settings.train
        self.mesh = parallel.make_mesh(settings.parallel)
        self.model = models.build(
            settings.model, inputs_of(settings.data), CLASSES, axis=parallel.AXIS,
            freeze=train.freeze, precision=train.precision,
        )  # fmt: skip
        optimizer = optim.make_optimizer(settings.optim, optim.Lengths(0, 2))
        loss = make_loss(train.loss, np.ones(CLASSES))
        self.first = self.model.init(jax.random.key(3))
        start = state.make_state(self.first, optimizer, train.freeze, train.ema)
        statistics = fit_statistics(SAMPLES, settings.data)
        resident = make_resident(SAMPLES, SAMPLES.streams, self.mesh, statistics)
        order = batches.epoch_order(1, 0, COUNT, train.batch)
        index, weight = parallel.deal(*order, self.mesh, train.accumulate)
        step = steps.make_train_step(self.model, settings, loss, optimizer, self.mesh, least=least)
        key = parallel.replicate(jax.random.key(7), self.mesh)
        zero = parallel.replicate(metrics.no_metrics(CLASSES), self.mesh)
        begin = state.snapshot(parallel.replicate(start, self.mesh))
        after, counted = step(begin, zero, resident, {}, key, index, weight, 0, len(order[0]))
        self.state, self.metrics = state.to_host((after, counted))

    @property
    def params(self) -> dict[str, np.ndarray]:
        return flatten(self.state.params)


def assert_close(a: Any, b: Any, atol: float = 3e-5) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=atol), a, b)


@pytest.fixture(scope="module")
def plain() -> Trained:
    return Trained({})


CHANGES = {
    "data.augment.flip": "true", "data.augment.rotation_degrees": 20, "data.augment.zoom": 0.2,
    "data.augment.brightness": 0.2, "data.augment.erase": 0.5, "data.augment.mixup": 0.4,
}  # fmt: skip


@pytest.mark.parametrize("changes", [{}, CHANGES], ids=["plain", "augmented"])
def test_devices_change_nothing(changes: dict) -> None:
    """Gradients, BatchNorm's statistics, dropout, augmentation and mixup over 8 devices and 1.

    Adam's first steps are the signs of the gradient: with SGD sums in another order stay close.
    """
    recipe = {**changes, "optim.name": "sgd", "optim.lr": 0.1}
    one, eight = Trained(recipe), Trained(recipe, devices=8)
    assert_close(one.state, eight.state)
    assert_close(one.metrics, eight.metrics)


def test_the_batch_in_parts_has_the_same_gradient() -> None:
    """Without BatchNorm's moments, which see a part at a time, nothing changes at all."""
    recipe = {"optim.name": "sgd", "optim.lr": 0.1, "train.freeze": "*_bn"}
    whole = Trained(recipe)
    for parts in (2, 4):
        cut = Trained({**recipe, "train.accumulate": parts})
        assert_close(whole.state, cut.state)
        assert_close(whole.metrics, cut.metrics)
    assert whole.metrics.count == COUNT


def test_examples_that_only_fill_change_nothing() -> None:
    """A TPU computes 8 pictures at once; here 19 of 8, once more than they can be repeated."""
    recipe = {"optim.name": "sgd", "optim.lr": 0.1, "train.ema": 0.9}
    few, filled = Trained(recipe), Trained(recipe, least=19)
    assert_close(few.state, filled.state)
    assert_close(few.metrics, filled.metrics)


def test_frozen_parameters_and_their_averages_stay(plain: Trained) -> None:
    frozen = Trained({"train.freeze": "block1_*,*/bias"})
    before, stats = flatten(frozen.first["params"]), flatten(frozen.first["stats"])
    for path, value in frozen.params.items():
        still = path.startswith("block1_") or path.endswith("/bias")
        assert np.array_equal(value, before[path]) == still, path
    for path, value in flatten(frozen.state.stats).items():
        # A BatchNorm whose scale or bias is frozen runs on its averages.
        assert np.array_equal(value, stats[path]), path
    moved = flatten(plain.state.stats)
    assert all(not np.array_equal(moved[path], stats[path]) for path in stats)
    # The optimizer keeps nothing for what it does not train.
    sizes = [leaf.shape for leaf in jax.tree.leaves(frozen.state.opt_state)]
    assert before["block1_conv1/kernel"].shape not in sizes
    assert plain.params["block1_conv1/kernel"].shape in [
        leaf.shape for leaf in jax.tree.leaves(plain.state.opt_state)
    ]


def test_average_of_the_parameters() -> None:
    """By hand over the two steps: keep = min(0.9, (1 + t) / (10 + t))."""
    kept = Trained({"train.ema": 0.9})
    first = flatten(kept.first["params"])
    batch = {"train.ema": 0.9, "train.batch": COUNT}
    once = Trained(batch)  # One step only.
    ema = flatten(once.state.ema)
    for path, value in once.params.items():
        wanted = 2 / 11 * first[path] + 9 / 11 * value
        np.testing.assert_allclose(ema[path], wanted, rtol=1e-5, atol=1e-6)
    assert once.state.variables["params"] is once.state.ema
    assert Trained({}).state.ema is None


def test_bfloat16_keeps_float32_parameters_and_follows() -> None:
    half = Trained({"train.precision": "bfloat16", "optim.name": "sgd"})
    whole = Trained({"optim.name": "sgd"})
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(half.state.params))
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(half.state.stats))
    first = flatten(whole.first["params"])
    a, b = (
        np.concatenate([(one.params[path] - first[path]).ravel() for path in first])
        for one in (half, whole)
    )
    assert 0.99 < np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b) < 1 - 1e-7
    assert half.metrics.loss == pytest.approx(float(whole.metrics.loss), rel=2e-2)


def test_bfloat16_multiplies_in_bfloat16() -> None:
    """No convolution or matrix product of the step is left in float32."""
    settings = config.from_json({**TOY, "train": {"precision": "bfloat16"}})
    model = models.build(settings.model, inputs_of(settings.data), CLASSES, precision="bfloat16")
    variables = model.init(jax.random.key(0))
    batch = {"frames": {"crops": np.ones((2, 1, 16, 16, 1), np.float32)}}

    def loss(params):
        outputs, _ = model.apply(
            {**variables, "params": params}, batch, train=True, key=jax.random.key(0)
        )
        return outputs.logits.sum()

    text = str(jax.make_jaxpr(jax.grad(loss))(variables["params"]))
    lines = [x for x in text.splitlines() if "dot_general" in x or "conv_general_dilated" in x]
    assert len(lines) > 6
    assert all(":bf16[" in line for line in lines), [x for x in lines if ":bf16[" not in x]


def test_random_changes_are_the_seeds(plain: Trained) -> None:
    one, again = Trained(CHANGES), Trained(CHANGES)
    jax.tree.map(np.testing.assert_array_equal, one.state, again.state)
    assert not np.array_equal(one.params["feature/kernel"], plain.params["feature/kernel"])


def job_of(records, experiment, *changes: tuple[str, str]):
    from fer_jax.training.job import load_dataset, make_job

    changed = config.override(experiment, changes)
    dataset = load_dataset(changed)
    return make_job(changed, dataset, fit_statistics(dataset.train, changed.data))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([("train.freeze", "cnn/*")], r"--train.freeze cnn/\* fits no parameter; .* dense_0"),
        ([("train.freeze", "*")], r"leaves no parameter to train"),
        ([("train.loss.landmarks", "0.4")], r"set --data.landmarks true"),
        ([("train.monitor", "validation/landmark_error")], r"set --data.landmarks true"),
        ([("data.features", "none")], r"would see nothing"),
        ([("data.images", "crops")], r"no crops \(it holds blendshapes\).*--outputs .*crops"),
        ([("data.landmarks", "true"), ("data.images", "frontal")], r"no frontal"),
        (
            [("data.features", "extracted/x-8")],
            r"no extracted/x-8: .*fer-jax extract RUN .*--name x",
        ),
    ],
)
def test_what_cannot_be_is_one_line(records, experiment, changes, message) -> None:
    with pytest.raises(UserError, match=message) as caught:
        job_of(records, experiment, *changes)
    assert "\n" not in str(caught.value)
