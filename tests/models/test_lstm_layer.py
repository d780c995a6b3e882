"""The recurrent layer against Keras, against plain autodiff, and under JAX's transformations."""

import re

import numpy as np
import pytest

B, T, F, H = 5, 7, 3, 6
ACTIVATIONS = ("tanh", "selu", "relu", "leaky_relu")


def _arrays(seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.standard_normal(shape).astype(dtype)  # noqa: E731
    mask = rng.random((B, T)) < 0.6
    mask[0], mask[1] = True, False  # a whole sample, and an empty one
    mask[2] = np.arange(T) < 3  # padded at the end, as clips are
    weights = (draw(F, 4 * H) * 0.7, draw(H, 4 * H) * 0.5, draw(4 * H) * 0.5)
    return draw(B, T, F), weights, (draw(B, H), draw(B, H)), mask


@pytest.fixture(scope="module")
def jax():
    return pytest.importorskip("jax")


def _ours(name, masked):
    from fer_jax.models.layers.lstm import State, lstm

    def run(x, weights, initial, mask):
        h, last = lstm(
            x, *weights, initial=State(*initial), mask=mask if masked else None, activation=name
        )
        return h, last.h, last.c

    return run


def _objective(run, with_sequence):
    """A scalar in which every output and each of its elements matters differently."""
    import jax.numpy as jnp

    def objective(x, weights, initial, mask):
        h, last, cell = run(x, weights, initial, mask)
        parts = [last, cell, *([h] if with_sequence else [])]
        return sum(jnp.sum(jnp.sin(p) * jnp.arange(p.size).reshape(p.shape) / 10) for p in parts)

    return objective


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_outputs_and_gradients_equal_keras(jax, name, masked):
    import keras

    x, weights, initial, mask = _arrays()
    layer = keras.layers.LSTM(H, activation=name, return_sequences=True, return_state=True)
    with jax.numpy_rank_promotion("allow"):  # here and below: Keras promotes ranks
        layer.build(x.shape)

    def theirs(x, weights, initial, mask):
        variables = list(zip(layer.trainable_variables, weights, strict=True))
        scope = keras.StatelessScope(state_mapping=variables)
        with scope, jax.numpy_rank_promotion("allow"):
            h, last, cell = layer(x, initial_state=list(initial), mask=mask if masked else None)
        return h, last, cell

    arguments = (x, weights, initial, mask)
    for one, other in zip(_ours(name, masked)(*arguments), theirs(*arguments), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6)
    for with_sequence in (True, False) if name == "tanh" else (True,):
        gradients = [
            jax.jit(jax.grad(_objective(run, with_sequence), argnums=(0, 1, 2)))(*arguments)
            for run in (_ours(name, masked), theirs)
        ]
        for one, other in zip(*map(jax.tree.leaves, gradients), strict=True):
            assert np.abs(other).max() > 1e-3
            np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5)


def _naive(name, masked):
    """The equations as a textbook writes them; JAX differentiates them."""
    import jax
    import jax.numpy as jnp

    activations = {
        "tanh": jnp.tanh,
        "selu": jax.nn.selu,
        "relu": jax.nn.relu,
        "leaky_relu": lambda x: jax.nn.leaky_relu(x, 0.2),
    }
    activate = activations[name]

    def run(x, weights, initial, mask):
        kernel, recurrent, bias = weights

        def step(state, inputs):
            h, c = state
            x, real = inputs
            i, f, g, o = jnp.split(x @ kernel + h @ recurrent + bias[None], 4, axis=-1)
            new_c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * activate(g)
            new_h = jax.nn.sigmoid(o) * activate(new_c)
            if masked:
                new_h = jnp.where(real[:, None], new_h, h)
                new_c = jnp.where(real[:, None], new_c, c)
            return (new_h, new_c), new_h

        inputs = (jnp.swapaxes(x, 0, 1), jnp.asarray(mask).T)
        (h, c), sequence = jax.lax.scan(step, tuple(initial), inputs)
        return jnp.swapaxes(sequence, 0, 1), h, c

    return run


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_custom_gradient_equals_autodiff_in_float64(jax, name, masked):
    with jax.enable_x64(True):
        arguments = _arrays(1, np.float64)
        results = [
            jax.jit(jax.value_and_grad(_objective(make(name, masked), True), argnums=(0, 1, 2)))(
                *arguments
            )
            for make in (_ours, _naive)
        ]
        for one, other in zip(*map(jax.tree.leaves, results), strict=True):
            assert one.dtype == np.float64
            np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_scans_work_in_place(jax, name):
    """XLA must not copy the buffer [T, B, 4H] that both scans write over: it would at every step,
    and a train step would take five times as long."""
    gradient = jax.grad(_objective(_ours(name, True), True), argnums=(0, 1, 2))
    program = jax.jit(gradient).lower(*_arrays()).compile().as_text()
    buffer = rf"f32\[{T},{B},{4 * H}\]"
    assert re.search(rf"{buffer}\S* fusion\(", program)
    assert not re.search(rf"{buffer}\S* copy\(", program)


def test_vmap_over_weights_equals_a_loop(jax):
    members = [_arrays(seed) for seed in range(3)]
    gradient = jax.jit(jax.grad(_objective(_ours("tanh", True), True), argnums=(0, 1, 2)))
    x, _, initial, mask = members[0]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *[m[1] for m in members])
    population = jax.vmap(gradient, in_axes=(None, 0, None, None))(x, stacked, initial, mask)
    for index, (_, weights, _, _) in enumerate(members):
        alone = gradient(x, weights, initial, mask)
        for one, other in zip(*map(jax.tree.leaves, (population, alone)), strict=True):
            np.testing.assert_allclose(one[index], other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mapper", ["shard_map", "unchecked shard_map", "pmap"])
def test_gradients_sum_over_a_data_axis(jax, mapper):
    from jax.sharding import PartitionSpec

    from fer_jax.models.layers.lstm import lstm

    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, T, F)).astype(np.float32)
    weights = _arrays()[1]

    def gradient(weights, x):
        return jax.grad(lambda w: jax.numpy.sum(lstm(x, *w)[1].h ** 2))(weights)

    def total(weights, x):
        return jax.lax.psum(gradient(weights, x), "data")

    whole = gradient(weights, x)
    if mapper == "pmap":
        parts = jax.pmap(total, axis_name="data", in_axes=(None, 0), out_axes=None)(
            weights, x.reshape(4, 2, T, F)
        )
    else:
        mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        checked = mapper == "shard_map"  # then JAX itself sums gradients of replicated weights
        replicated = PartitionSpec()
        mapped = jax.shard_map(
            gradient if checked else total,
            mesh=mesh,
            in_specs=(replicated, PartitionSpec("data")),
            out_specs=replicated,
            check_vma=checked,
        )
        parts = jax.jit(mapped)(weights, x)
    for one, other in zip(parts, whole, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_masked_tail_is_as_good_as_a_shorter_clip(jax):
    from fer_jax.models.layers.lstm import lstm

    x, weights, _, _ = _arrays()
    mask = np.broadcast_to(np.arange(T) < 4, (B, T))
    h, last = lstm(x, *weights, mask=mask)
    short, short_last = lstm(x[:, :4], *weights)
    np.testing.assert_array_equal(last.h, short_last.h)
    np.testing.assert_array_equal(h[:, :4], short)
    np.testing.assert_array_equal(h[:, 4:], np.repeat(short[:, -1:], T - 4, axis=1))


def test_time_major_is_the_same_layer(jax):
    from fer_jax.models.layers.lstm import lstm

    x, weights, _, mask = _arrays()
    h, _ = lstm(x, *weights, mask=mask)
    turned, _ = lstm(x.swapaxes(0, 1), *weights, mask=mask, time_major=True)
    np.testing.assert_array_equal(h, turned.swapaxes(0, 1))


def test_bfloat16_matmuls_keep_a_float32_state(jax):
    from fer_jax.models.layers.lstm import lstm

    x, weights, _, _ = _arrays()
    exact, exact_last = lstm(x, *weights)
    h, last = lstm(x, *weights, dtype="bfloat16")
    assert h.dtype == "bfloat16" and last.c.dtype == np.float32
    np.testing.assert_allclose(h.astype(np.float32), exact, atol=0.03)
    np.testing.assert_allclose(last.c, exact_last.c, atol=0.05)

    def gradients(dtype):
        return jax.grad(lambda w: lstm(x, *w, dtype=dtype)[1].h.sum())(weights)

    for one, other in zip(gradients("bfloat16"), gradients(None), strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, atol=0.03 * np.abs(other).max())


def test_initial_weights_are_distributed_as_keras_draws_them(jax):
    import keras
    from flax import nnx

    from fer_jax.models.layers.lstm import LSTM

    features, units = 40, 32
    layer = LSTM(features, units, rngs=nnx.Rngs(0))
    twin = keras.layers.LSTM(units)
    with jax.numpy_rank_promotion("allow"):
        twin.build((1, 2, features))
    kernel, recurrent, bias = (np.asarray(v.value) for v in twin.weights)
    np.testing.assert_array_equal(layer.bias[...], bias)
    limit = np.sqrt(6 / (features + 4 * units))  # Glorot and Bengio 2010, eq. 16
    for drawn in (kernel, np.asarray(layer.kernel[...])):
        assert np.abs(drawn).max() <= limit
        np.testing.assert_allclose(np.quantile(drawn, [0.25, 0.5, 0.75]) / limit,
                                   [-0.5, 0, 0.5], atol=0.05)  # fmt: skip
    for drawn in (recurrent, np.asarray(layer.recurrent_kernel[...])):
        np.testing.assert_allclose(drawn @ drawn.T, np.eye(units), atol=1e-5)
