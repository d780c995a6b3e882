"""The GRU layer against Keras, against plain autodiff, and under JAX's transformations."""

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
    weights = (draw(F, 3 * H) * 0.7, draw(H, 3 * H) * 0.5, draw(2, 3 * H) * 0.5)
    return draw(B, T, F), weights, draw(B, H), mask


@pytest.fixture(scope="module")
def jax():
    return pytest.importorskip("jax")


def _ours(name, masked):
    from fer_jax.models.layers.gru import gru

    def run(x, weights, initial, mask):
        return gru(x, *weights, initial=initial, mask=mask if masked else None, activation=name)

    return run


def _objective(run, with_sequence=True):
    """A scalar in which every output and each of its elements matters differently."""
    import jax.numpy as jnp

    def objective(x, weights, initial, mask):
        h, last = run(x, weights, initial, mask)
        parts = [last, h] if with_sequence else [last]
        return sum(jnp.sum(jnp.sin(p) * jnp.arange(p.size).reshape(p.shape) / 10) for p in parts)

    return objective


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ["tanh", "relu"])
def test_outputs_and_gradients_equal_keras(jax, name, masked):
    import keras

    x, weights, initial, mask = _arrays()
    layer = keras.layers.GRU(H, activation=name, return_sequences=True, return_state=True)
    with jax.numpy_rank_promotion("allow"):  # here and below: Keras promotes ranks
        layer.build(x.shape)

    def theirs(x, weights, initial, mask):
        variables = list(zip(layer.trainable_variables, weights, strict=True))
        scope = keras.StatelessScope(state_mapping=variables)
        with scope, jax.numpy_rank_promotion("allow"):
            return layer(x, initial_state=initial, mask=mask if masked else None)

    arguments = (x, weights, initial, mask)
    for one, other in zip(_ours(name, masked)(*arguments), theirs(*arguments), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6)
    gradients = [
        jax.jit(jax.grad(_objective(run), argnums=(0, 1, 2)))(*arguments)
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

        def step(h, inputs):
            x, real = inputs
            from_x = jnp.split(x @ kernel + bias[:1], 3, axis=-1)
            from_h = jnp.split(h @ recurrent + bias[1:], 3, axis=-1)
            update, reset = (jax.nn.sigmoid(from_x[i] + from_h[i]) for i in (0, 1))
            new = update * h + (1 - update) * activate(from_x[2] + reset * from_h[2])
            if masked:
                new = jnp.where(real[:, None], new, h)
            return new, new

        last, sequence = jax.lax.scan(step, initial, (jnp.swapaxes(x, 0, 1), jnp.asarray(mask).T))
        return jnp.swapaxes(sequence, 0, 1), last

    return run


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_custom_gradient_equals_autodiff_in_float64(jax, name, masked):
    with jax.enable_x64(True):
        arguments = _arrays(1, np.float64)
        results = [
            jax.jit(jax.value_and_grad(_objective(make(name, masked)), argnums=(0, 1, 2)))(
                *arguments
            )
            for make in (_ours, _naive)
        ]
        for one, other in zip(*map(jax.tree.leaves, results), strict=True):
            assert one.dtype == np.float64
            np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-12)


def test_gradient_of_the_last_state_alone(jax):
    arguments = _arrays(2)
    one, other = (
        jax.grad(_objective(make("tanh", True), with_sequence=False), argnums=(0, 1, 2))(*arguments)
        for make in (_ours, _naive)
    )
    for mine, theirs in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-4, atol=2e-5)


def test_scans_work_in_place(jax):
    """XLA must not copy the buffer [T, B, 3H] that both scans write over."""
    gradient = jax.grad(_objective(_ours("tanh", True)), argnums=(0, 1, 2))
    program = jax.jit(gradient).lower(*_arrays()).compile().as_text()
    buffer = rf"f32\[{T},{B},{3 * H}\]"
    assert re.search(rf"{buffer}\S* fusion\(", program)
    assert not re.search(rf"{buffer}\S* copy\(", program)


def test_vmap_over_weights_equals_a_loop(jax):
    members = [_arrays(seed) for seed in range(3)]
    gradient = jax.jit(jax.grad(_objective(_ours("tanh", True)), argnums=(0, 1, 2)))
    x, _, initial, mask = members[0]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *[m[1] for m in members])
    population = jax.vmap(gradient, in_axes=(None, 0, None, None))(x, stacked, initial, mask)
    for index, (_, weights, _, _) in enumerate(members):
        alone = gradient(x, weights, initial, mask)
        for one, other in zip(*map(jax.tree.leaves, (population, alone)), strict=True):
            np.testing.assert_allclose(one[index], other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mapper", ["shard_map", "pmap"])
def test_gradients_sum_over_a_data_axis(jax, mapper):
    from jax.sharding import PartitionSpec

    from fer_jax.models.layers.gru import gru

    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, T, F)).astype(np.float32)
    weights = _arrays()[1]

    def gradient(weights, x):
        return jax.grad(lambda w: jax.numpy.sum(gru(x, *w)[1] ** 2))(weights)

    def total(weights, x):
        return jax.lax.psum(gradient(weights, x), "data")

    whole = gradient(weights, x)
    if mapper == "pmap":
        parts = jax.pmap(total, axis_name="data", in_axes=(None, 0), out_axes=None)(
            weights, x.reshape(4, 2, T, F)
        )
    else:  # here JAX itself sums the gradients of replicated weights
        mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        mapped = jax.shard_map(
            gradient,
            mesh=mesh,
            in_specs=(PartitionSpec(), PartitionSpec("data")),
            out_specs=PartitionSpec(),
        )
        parts = jax.jit(mapped)(weights, x)
    for one, other in zip(parts, whole, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_masked_tail_is_as_good_as_a_shorter_clip(jax):
    from fer_jax.models.layers.gru import gru

    x, weights, _, _ = _arrays()
    mask = np.broadcast_to(np.arange(T) < 4, (B, T))
    h, last = gru(x, *weights, mask=mask)
    short, short_last = gru(x[:, :4], *weights)
    np.testing.assert_array_equal(last, short_last)
    np.testing.assert_array_equal(h[:, :4], short)
    np.testing.assert_array_equal(h[:, 4:], np.repeat(short[:, -1:], T - 4, axis=1))


def test_time_major_is_the_same_layer(jax):
    from fer_jax.models.layers.gru import gru

    x, weights, _, mask = _arrays()
    h, _ = gru(x, *weights, mask=mask)
    turned, _ = gru(x.swapaxes(0, 1), *weights, mask=mask, time_major=True)
    np.testing.assert_array_equal(h, turned.swapaxes(0, 1))


def test_bfloat16_parameters_keep_a_float32_state(jax):
    """Over 60 steps, so that a state in bfloat16 would have lost small updates."""
    import jax.numpy as jnp

    from fer_jax.models.layers.gru import gru

    rng = np.random.default_rng(0)
    x, target = rng.standard_normal((B, 60, F)), rng.standard_normal((B, H))
    arrays = jax.tree.map(lambda a: jnp.asarray(a, jnp.bfloat16), (x, _arrays()[1]))
    rounded = jax.tree.map(lambda a: a.astype(jnp.float32), arrays)

    def loss(x, weights):
        h, last = gru(x, *weights)
        assert h.dtype == x.dtype and last.dtype == jnp.float32
        return jnp.sum(last * target)

    results = [jax.jit(jax.value_and_grad(loss, (0, 1)))(*args) for args in (arrays, rounded)]
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=0.02)
    for one, other in zip(*map(jax.tree.leaves, (results[0][1], results[1][1])), strict=True):
        assert one.dtype == jnp.bfloat16
        one, other = np.float64(one).ravel(), np.float64(other).ravel()
        assert one @ other / np.linalg.norm(one) / np.linalg.norm(other) > 0.999


def test_initial_weights_are_distributed_as_keras_draws_them(jax):
    import keras
    from flax import nnx

    from fer_jax.models.layers.gru import GRU

    features, units = 40, 32
    layer = GRU(features, units, rngs=nnx.Rngs(0))
    twin = keras.layers.GRU(units)
    with jax.numpy_rank_promotion("allow"):
        twin.build((1, 2, features))
    kernel, recurrent, bias = (np.asarray(v.value) for v in twin.weights)
    np.testing.assert_array_equal(layer.bias[...], bias)
    limit = np.sqrt(6 / (features + 3 * units))  # Glorot and Bengio 2010, eq. 16
    for drawn in (kernel, np.asarray(layer.kernel[...])):
        assert np.abs(drawn).max() <= limit
        np.testing.assert_allclose(np.quantile(drawn, [0.25, 0.5, 0.75]) / limit,
                                   [-0.5, 0, 0.5], atol=0.05)  # fmt: skip
    for drawn in (recurrent, np.asarray(layer.recurrent_kernel[...])):
        np.testing.assert_allclose(drawn @ drawn.T, np.eye(units), atol=1e-5)
