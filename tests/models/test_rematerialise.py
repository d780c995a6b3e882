"""Rematerialisation: the same step from less memory, in every family of networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax import config, models
from fer_jax.models.cost import batch_shapes
from fer_jax.training import parallel

IMAGES = {"images": ("crops",)}
XCEPTION = config.Xception(stem=(3, 4), stem_stride=1, entry=(6,), middle=2, exit=(), dense=5)
C3D = config.C3D(widths=(4, 6, 8, 8, 8), dense=(8,))
CASES = {
    "xception": (XCEPTION, models.Inputs(1, image_shape=(24, 24, 1), **IMAGES)),
    "c3d": (C3D, models.Inputs(16, image_shape=(32, 32, 3), **IMAGES)),
    "small-cnn": (
        config.SmallCNN(kernels=(3, 3), widths=(4, 4), dense=(8,)),
        models.Inputs(1, image_shape=(16, 16, 1), **IMAGES),
    ),
    "lstm": (config.LSTM(units=(4, 5), kernel_l2=0.0), models.Inputs(4, features=6)),
}


def _steps(name, rows):
    """The step of a network as it is and rematerialised, compiled as training does, and what they
    are given."""
    settings, inputs = CASES[name]
    rng = np.random.default_rng(0)

    def fill(shape):
        if shape.dtype == jnp.bool_:
            return np.ones(shape.shape, bool)
        return rng.standard_normal(shape.shape).astype(np.float32)

    batch = jax.tree.map(fill, batch_shapes(inputs, rows))
    batch["weight"] = np.ones(rows, np.float32)
    mesh = parallel.make_mesh(config.Parallel(devices=1))
    steps = []
    for remat in ("none", "blocks"):
        model = models.build(settings, inputs, 3, axis=parallel.AXIS, remat=remat)

        def loss(params, stats, batch, model=model):
            variables = {"params": params, "stats": stats}
            outputs, new = model.apply(variables, batch, train=True, key=jax.random.key(3))
            return jnp.sum(jax.nn.log_softmax(outputs.logits)[:, 0]), new

        def step(variables, batch, loss=loss):
            (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(
                variables["params"], variables["stats"], batch
            )
            return value, stats, gradient

        run = parallel.map_devices(step, mesh, "shard_map", (None, None), (None,) * 3)
        steps.append(run.lower(variables := model.init(jax.random.key(0)), batch).compile())
    return steps, (variables, batch)


@pytest.mark.parametrize("name", CASES)
def test_the_same_step_from_less_memory(name):
    """Loss, gradients and BatchNorm's averages, with the same dropout."""
    (plain, remat), given = _steps(name, 16)
    for one, other in zip(*map(jax.tree.leaves, (plain(*given), remat(*given))), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    if name in ("xception", "c3d"):
        before, after = (step.memory_analysis().temp_size_in_bytes for step in (plain, remat))
        assert after < 0.9 * before
