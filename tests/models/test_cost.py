"""Costs against closed forms, and against the figures that are known of the large networks."""

import math
from itertools import pairwise

import numpy as np
import pytest

from fer_jax import config


@pytest.fixture(scope="module")
def models():
    from fer_jax import models

    return models


def _flops(function, *shapes):
    import jax
    import jax.numpy as jnp

    from fer_jax.models.cost import count_flops

    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return count_flops(jax.make_jaxpr(function)(*arrays).jaxpr)


def _cost(models, settings, inputs, classes, **options):
    from fer_jax.models.cost import cost

    return cost(models.build(settings, inputs, classes, **options), inputs)


def _images(models, side, channels=3, frames=1, images=("crops",)):
    return models.Inputs(frames=frames, images=images, image_shape=(side, side, channels))


def test_matrix_products_and_convolutions():
    import jax.numpy as jnp
    from jax import lax

    assert _flops(jnp.dot, (5, 7), (7, 3)) == 2 * 5 * 7 * 3
    assert _flops(lambda x, y: jnp.einsum("btf,bfh->bth", x, y), (4, 6, 5), (4, 5, 3)) == (
        2 * 4 * 6 * 5 * 3
    )

    def convolve(x, kernel, groups=1):
        return lax.conv_general_dilated(
            x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )  # fmt: skip

    assert _flops(convolve, (2, 9, 9, 6), (3, 5, 6, 8)) == 2 * (2 * 5 * 5 * 8) * 3 * 5 * 6
    grouped = lambda x, kernel: convolve(x, kernel, groups=6)  # noqa: E731
    assert _flops(grouped, (2, 9, 9, 6), (3, 3, 1, 6)) == 2 * (2 * 5 * 5 * 6) * 3 * 3


def test_functions_reductions_and_what_counts_nothing():
    import jax
    import jax.numpy as jnp
    from jax import lax

    assert _flops(lambda x: jnp.tanh(x) * 2 + x, (3, 4)) == 3 * 12
    assert _flops(jnp.sum, (3, 4)) == 12
    assert _flops(lambda x: x.T.reshape(-1)[::2], (3, 4)) == 0
    assert _flops(lambda x: jnp.where(x > 0, x, x.T), (4, 4)) == 0
    assert _flops(lambda x: x + jnp.arange(4 * 5).sum(), (3, 4)) == 12  # integers are not floats
    windows = lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2, 3), (1, 1), "valid")  # noqa: E731
    assert _flops(windows, (5, 5)) == 4 * 3 * 6
    assert _flops(lambda x, y: x.at[jnp.array([0, 2])].add(y), (5, 3), (2, 3)) == 6
    assert _flops(lambda x: jax.nn.relu(x), (3, 4)) == 12


def test_loops_branches_and_calls():
    import jax
    import jax.numpy as jnp
    from jax import lax

    def scan(x):
        return lax.scan(lambda c, _: (jnp.sin(c @ c), None), x, None, length=7)[0]

    assert _flops(scan, (4, 4)) == 7 * (2 * 64 + 16)
    loop = lambda x: lax.fori_loop(0, 5, lambda i, c: c * 2, x)  # noqa: E731
    assert _flops(loop, (4, 4)) == 5 * 16
    branch = lambda x: lax.cond(True, lambda x: x @ x, lambda x: x * 2, x)  # noqa: E731
    assert _flops(branch, (4, 4)) == 2 * 64
    platform = lambda x: lax.platform_dependent(x, cpu=lambda x: x @ x, default=jnp.sin)  # noqa: E731
    assert _flops(platform, (4, 4)) == 16
    assert _flops(jax.jit(jax.checkpoint(jnp.dot)), (4, 4), (4, 4)) == 2 * 64

    @jax.custom_vjp
    def own(x):
        return x * 3

    own.defvjp(lambda x: (x * 3, None), lambda kept, dy: (dy * 3,))
    assert _flops(own, (4, 4)) == 16

    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("data",))
    with_mesh = jax.shard_map(jnp.sin, mesh=mesh, in_specs=jax.P("data"), out_specs=jax.P("data"))
    assert _flops(with_mesh, (8, 4)) == 32


def test_shifted_depthwise_convolution_is_multiply_adds():
    """As layers/depthwise.py writes it: one multiply and one addition a tap and value."""
    import jax.numpy as jnp

    def shifted(x, kernel):
        y = x[:, :-1] * kernel[0][None, None, :]
        return y + x[:, 1:] * kernel[1][None, None, :]

    assert _flops(shifted, (2, 9, 6), (2, 6)) == 3 * 2 * 8 * 6
    assert _flops(lambda x: jnp.pad(x, 1), (3, 3)) == 0


@pytest.mark.parametrize(("frames", "features", "units"), [(76, 259, (128, 256)), (9, 5, (4,))])
def test_lstm(models, frames, features, units):
    inputs = models.Inputs(frames=frames, features=features)
    found = _cost(models, config.LSTM(units=units), inputs, 6)
    sizes = [features, *units]
    products = sum(2 * frames * (f + h) * 4 * h for f, h in pairwise(sizes)) + 2 * units[-1] * 6
    # A gate or state value takes a handful of operations, 4 gates a unit.
    elementwise = frames * sum(units)
    assert products + 15 * elementwise < found.flops_per_clip < products + 30 * elementwise
    # The forward pass keeps x, the gates, the cell before and h of every step (and the dropout).
    kept = 4 * frames * sum(f + 4 * h + 2 * h for f, h in pairwise(sizes))
    assert kept * 0.8 < found.activation_bytes_per_clip < kept * 1.2


def test_dense_network_by_hand(models):
    inputs = models.Inputs(frames=1, features=52)
    settings = config.Dense(units=(20, 10), dropout=(0.0, 0.0), kernel_l2=0.0)
    found = _cost(models, settings, inputs, 3)
    parameters = 53 * 20 + 21 * 10 + 11 * 3
    assert found.parameters == parameters
    assert found.parameter_bytes == 16 * parameters
    # Products, biases, ReLUs.
    assert found.flops_per_clip == 2 * (52 * 20 + 20 * 10 + 10 * 3) + (20 + 10 + 3) + (20 + 10)
    # What each layer reads, and which units of its ReLU are on.
    assert found.activation_bytes_per_clip == 4 * (52 + 20 + 10) + 20 + 10


def test_what_does_not_train_is_not_kept(models):
    from fer_jax.models.cost import cost

    inputs = models.Inputs(frames=1, features=52)
    settings = config.Dense(units=(20, 10), dropout=(0.0, 0.0), kernel_l2=0.0)
    model = models.build(settings, inputs, 3)
    whole, part = cost(model, inputs), cost(model, inputs, freeze=("dense_*",))
    # What the frozen layers read and write is more than the 10 numbers that are kept.
    assert part.activation_bytes_per_clip == 4 * (52 + 20)
    assert part.parameters == whole.parameters and part.flops_per_clip == whole.flops_per_clip
    trained = 11 * 3
    assert part.parameter_bytes == 16 * trained + 4 * (whole.parameters - trained)


def test_half_precision_keeps_half(models):
    inputs = models.Inputs(frames=1, features=52)
    settings = config.Dense(units=(20, 10), dropout=(0.0, 0.0), kernel_l2=0.0)
    whole = _cost(models, settings, inputs, 3)
    half = _cost(models, settings, inputs, 3, precision="bfloat16")
    assert half.activation_bytes_per_clip == 2 * (52 + 20 + 10) + 20 + 10
    assert half.parameter_bytes == whole.parameter_bytes


def test_averages_are_held_once(models):
    """BatchNorm's averages have neither gradient nor moments."""
    settings = config.ResNet(blocks=(1, 1, 1, 1), widths=(4, 4, 8, 8))
    inputs = _images(models, 32)
    found = _cost(models, settings, inputs, 3)
    import jax

    shapes = jax.eval_shape(models.build(settings, inputs, 3).init, jax.random.key(0))
    averages = sum(leaf.size for leaf in jax.tree.leaves(shapes["stats"]))
    assert averages
    assert found.parameter_bytes == 16 * found.parameters + 4 * averages


GIGA = 1e9


@pytest.mark.parametrize(
    ("settings", "side", "frames", "classes", "parameters", "flops"),
    [
        # keras.applications' table of parameters; multiply-adds of Chollet 2017 (8.4 G, at 299
        # pixels), of torchvision's table (VGG16 15.47 G, Inception-V3 5.71 G) and of C3D (38.5 G).
        (config.Xception(dense=0), 299, 1, 1000, 22_855_952, 16.8 * GIGA),
        (config.VGGFace(dense=(4096, 4096)), 224, 1, 1000, 138_357_544, 2 * 15.47 * GIGA),
        (config.InceptionV3(), 299, 1, 1000, 23_817_352, 2 * 5.71 * GIGA),
        (config.C3D(), 112, 16, 487, 79_991_015, 2 * 38.5 * GIGA),
    ],
)
def test_large_networks(models, settings, side, frames, classes, parameters, flops):
    found = _cost(models, settings, _images(models, side, frames=frames), classes)
    assert found.parameters == parameters
    assert math.isclose(found.flops_per_clip, flops, rel_tol=0.03)


@pytest.mark.parametrize("pools", ["original", "thesis"])
def test_cost_is_per_clip_whatever_the_batch(models, pools):
    """A part that every batch does once, and the number of clips looked at, leave no trace."""
    from fer_jax.models import cost as module

    settings = config.C3D(widths=(4, 4, 4, 4, 4), dense=(8,), pools=pools)
    inputs = _images(models, 20, frames=16)
    model = models.build(settings, inputs, 3)
    one = module.cost(model, inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CLIPS", 4001)
        other = module.cost(model, inputs)
    assert math.isclose(one.flops_per_clip, other.flops_per_clip, rel_tol=1e-4)
    assert one.activation_bytes_per_clip == other.activation_bytes_per_clip
