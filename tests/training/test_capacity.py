"""How many members a device holds."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp

from fer_jax import config, models
from fer_jax.training.capacity import bytes_of_a_member, lanes_that_fit


def test_a_member_by_hand() -> None:
    inputs = models.Inputs(frames=1, features=52)
    settings = config.Dense(units=(20,), dropout=(0.0,), kernel_l2=0.0)
    model = models.build(settings, inputs, 3)
    state = jax.eval_shape(lambda: {"a": jnp.zeros((10, 4)), "b": jnp.zeros(3, jnp.int32)})
    few, many = (bytes_of_a_member(model, inputs, state, batch) for batch in (1, 9))
    # Three copies of 43 numbers; of each sample at least the 52 numbers that come in.
    assert few - (many - few) // 8 == 3 * 43 * 4
    assert (many - few) // 8 >= 2 * 52 * 4


def test_lanes_fill_what_is_left_of_a_device() -> None:
    gpu = SimpleNamespace(platform="gpu", memory_stats=lambda: {"bytes_limit": 1000})
    assert lanes_that_fit(gpu, resident=200, member=100, wanted=32) == 6
    assert lanes_that_fit(gpu, resident=200, member=100, wanted=4) == 4
    assert lanes_that_fit(gpu, resident=900, member=100, wanted=4) == 1
    tpu = SimpleNamespace(platform="tpu", memory_stats=lambda: None)
    assert lanes_that_fit(tpu, resident=900, member=100, wanted=4) == 4
    assert lanes_that_fit(jax.devices("cpu")[0], resident=0, member=1, wanted=32) == 1
