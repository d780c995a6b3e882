"""The LSTM that cuDNN runs, without an NVIDIA GPU: JAX's reference of the call, which PyTorch's
layer confirms, takes its place on the CPU."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

B, T, F, H = 6, 7, 3, 5
#: What cuDNN would say that it needs, numbers to work in and numbers to keep.
SPACES = (11, 4)
BOTH_CALLS = ("cudnn_rnn_ffi", "cudnn_rnn_bwd_ffi")


def _arrays(seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    weights = (draw(F, 4 * H) * 0.7, draw(H, 4 * H) * 0.5, draw(4 * H) * 0.5)
    return draw(B, T, F), weights, (draw(B, H), draw(B, H))


def _mask(kind):
    mask = np.ones((B, T), bool)
    if kind == "prefix":
        mask = np.arange(T) < np.array([7, 3, 1, 7, 5, 6])[:, None]
    if kind == "gaps":
        mask = np.random.default_rng(7).random((B, T)) < 0.6
        mask[0], mask[1] = True, False
        mask[2, :3], mask[2, 3:] = False, True  # padded at the beginning
    return {"none": None, "empty": np.zeros((B, T), bool)}.get(kind, mask)


@pytest.fixture(scope="module")
def jax():
    return pytest.importorskip("jax")


def _forward(x, h, c, weights, lengths, *, cudnn_allow_tf32, **static):
    """What cuDNN computes, and a trace of it for the backward call."""
    import jax.numpy as jnp
    from jax.experimental import rnn

    del cudnn_allow_tf32
    sizes = {name: static[name] for name in static if name != "dropout"}
    parts = rnn.unpack_lstm_weights(weights, **sizes)
    results = rnn.lstm_ref(x, h, c, *parts, lengths, *static.values())
    return *results, jnp.full(SPACES[1], jnp.sum(x) + jnp.sum(weights))


def _backward(dy, dh, dc, x, h, c, weights, y, reserve, lengths, **static):
    import jax
    import jax.numpy as jnp

    results, pull = jax.vjp(lambda *a: _forward(*a, lengths, **static)[:3], x, h, c, weights)
    traced = _forward(x, h, c, weights, lengths, **static)[3]
    same = jnp.all(y == results[0]) & jnp.all(reserve == traced)
    return [jnp.where(same, found, jnp.nan) for found in pull((dy, dh, dc))]


@pytest.fixture
def gpu(jax, monkeypatch):
    """As if JAX had an NVIDIA GPU, for tracing and for lowering."""
    from jax._src.interpreters import mlir
    from jax.experimental import rnn

    from fer_jax.models.layers import cudnn_lstm

    plugin = rnn.gpu_rnn
    name = "compute_rnn_workspace_reserve_space_sizes"
    monkeypatch.setattr(plugin, name, lambda *_: SPACES, raising=False)
    monkeypatch.setattr(cudnn_lstm, "available", lambda: True)
    built = SimpleNamespace(build_rnn_descriptor=lambda *_: b"")
    for primitive, lowering in ((rnn.rnn_fwd_p, plugin._rnn_fwd_lowering),
                                (rnn.rnn_bwd_p, plugin._rnn_bwd_lowering)):  # fmt: skip
        rules = mlir._platform_specific_lowerings["cuda"]
        rule = mlir.LoweringRuleEntry(partial(lowering, built, "cu"), False)
        monkeypatch.setitem(rules, primitive, rule)
    return monkeypatch


@pytest.fixture
def cudnn(jax, gpu):
    """As if this CPU were an NVIDIA GPU, whose cuDNN is the reference."""
    from jax._src.interpreters import mlir
    from jax.experimental import rnn

    for primitive, function in ((rnn.rnn_fwd_p, _forward), (rnn.rnn_bwd_p, _backward)):
        rule = mlir.LoweringRuleEntry(mlir.lower_fun(function), False)
        gpu.setitem(mlir._platform_specific_lowerings["cpu"], primitive, rule)
    gpu.setattr(
        jax.lax, "platform_dependent", lambda *a, default, **by: by.get("cuda", default)(*a)
    )


def _run(implementation, **more):
    """(x, weights, initial) -> h of every step, the last h and c."""
    from fer_jax.models.layers.lstm import State, lstm

    def run(x, weights, initial):
        state = State(*initial)
        h, last = lstm(x, *weights, initial=state, implementation=implementation, **more)
        return h, *last

    return run


def _gradient(jax, run):
    """All gradients of a scalar in which every output matters differently."""
    import jax.numpy as jnp

    def objective(*arguments):
        results = [part.astype(jnp.float32) for part in run(*arguments)]
        return sum(jnp.sum(jnp.sin(p) * jnp.arange(p.size).reshape(p.shape) / 10) for p in results)

    return jax.grad(objective, argnums=(0, 1, 2))


def _equal(jax, results, expected, **tolerance):
    for one, other in zip(*map(jax.tree.leaves, (results, expected)), strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        one, other = (np.asarray(value, np.float32) for value in (one, other))
        np.testing.assert_allclose(one, other, **tolerance)


def test_the_reference_is_pytorchs_layer_with_our_packed_weights(jax):
    """The gates, their order, both biases and the weights' order are PyTorch's, who hands its own
    to cuDNN as they are."""
    torch = pytest.importorskip("torch")
    from jax.experimental import rnn

    from fer_jax.models.layers.cudnn_lstm import _prepare

    x, weights, (h, c) = _arrays()
    first, h_first, c_first, packed = _prepare(x.swapaxes(0, 1), *weights, h, c, None)
    parts = rnn.unpack_lstm_weights(packed, F, H, 1, False)
    lengths = np.full(B, T, np.int32)
    ours = rnn.lstm_ref(first, h_first, c_first, *parts, lengths, F, H, 1, 0.0, False)
    layer = torch.nn.LSTM(F, H, batch_first=True)
    # The order in which PyTorch packs them for cuDNN too.
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    assert tuple(layer._flat_weights_names) == names
    sizes = [getattr(layer, name).numel() for name in names]
    with torch.no_grad():
        parts = torch.from_numpy(np.array(packed)).split(sizes)
        for name, part in zip(names, parts, strict=True):
            parameter = getattr(layer, name)
            parameter.copy_(part.reshape(parameter.shape))
        state = tuple(torch.from_numpy(part[None]) for part in (h, c))
        y, last = layer(torch.from_numpy(x), state)
    _equal(jax, ours, [part.numpy() for part in (y, *last)], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mask", ["none", "prefix", "gaps", "empty"])
def test_outputs_and_gradients_equal_the_scans(jax, cudnn, mask):
    arguments = _arrays()
    runs = [_run(how, mask=_mask(mask)) for how in ("cudnn", "scan")]
    ours, scans = (jax.jit(run)(*arguments) for run in runs)
    _equal(jax, ours, scans, rtol=1e-5, atol=1e-6)
    ours, scans = (jax.jit(_gradient(jax, run))(*arguments) for run in runs)
    _equal(jax, ours, scans, rtol=1e-4, atol=1e-5)
    if mask != "empty":
        assert all(np.abs(part).max() > 1e-2 for part in jax.tree.leaves(ours))


@pytest.mark.parametrize("change", [{"time_major": True}, {"dtype": "bfloat16"}])
def test_arguments_mean_the_same(jax, cudnn, change):
    x, *rest = _arrays()
    if "time_major" in change:
        x = x.swapaxes(0, 1)
    runs = [_run(how, mask=_mask("gaps"), **change) for how in ("auto", "scan")]
    # bfloat16 has 8 bits; cuDNN then keeps more of them than the scan.
    close = {"rtol": 0.03, "atol": 0.03} if "dtype" in change else {"rtol": 1e-5, "atol": 1e-6}
    ours, scans = (run(x, *rest) for run in runs)
    _equal(jax, ours, scans, **close)
    ours, scans = (_gradient(jax, run)(x, *rest) for run in runs)
    for one, other in zip(*map(jax.tree.leaves, (ours, scans)), strict=True):
        _equal(jax, one, other, rtol=1e-4, atol=close["atol"] * np.abs(other).max())


def test_bfloat16_parameters_have_bfloat16_gradients(jax, cudnn):
    arguments = jax.tree.map(lambda a: jax.numpy.asarray(a, "bfloat16"), _arrays())
    ours, scans = (
        _gradient(jax, _run(how, mask=_mask("prefix")))(*arguments) for how in ("auto", "scan")
    )
    for one, other in zip(*map(jax.tree.leaves, (ours, scans)), strict=True):
        assert one.dtype == "bfloat16"
        _equal(jax, one, other, atol=0.03 * np.abs(np.asarray(other, np.float32)).max())


@pytest.mark.parametrize("order", ["vmap of grad", "grad of vmap"])
def test_lanes_take_the_scan(jax, cudnn, order):
    """cuDNN's primitive has no rule for vmap, so that this would fail if it were reached."""
    x, _, initial = _arrays()
    weights = jax.tree.map(lambda *w: np.stack(w), *[_arrays(seed)[1] for seed in range(3)])
    runs = [_run(how, mask=_mask("gaps")) for how in ("auto", "scan")]
    results = []
    for run in runs:
        if order == "vmap of grad":
            lanes = jax.vmap(_gradient(jax, run), (None, 0, None))
        else:
            lanes = _gradient(jax, jax.vmap(run, (None, 0, None)))
        results.append(jax.jit(lanes)(x, weights, initial))
    _equal(jax, *results, rtol=1e-6, atol=1e-6)
    forward = [jax.vmap(run, (None, 0, None))(x, weights, initial) for run in runs]
    _equal(jax, *forward, rtol=1e-6, atol=1e-6)


def test_each_platform_gets_its_own(jax, gpu):
    """One traced program: cuDNN's two calls for CUDA, none elsewhere; and no GPU is needed to
    lower it."""
    from fer_jax.models.layers.lstm import lstm

    x, weights, _ = _arrays()

    def gradient(weights, x):
        return jax.grad(lambda w: jax.numpy.sum(lstm(x, *w, mask=_mask("gaps"))[1].h))(weights)

    def calls(function, platform, *arguments):
        lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,))
        return [call for call in BOTH_CALLS if f"@{call}" in lowered.as_text()]

    assert calls(gradient, "cuda", weights, x) == [*BOTH_CALLS]
    assert calls(lambda w, x: lstm(x, *w)[0], "cuda", weights, x) == [BOTH_CALLS[0]]
    for platform in ("cpu", "tpu"):
        assert calls(gradient, platform, weights, x) == []
    lanes = jax.tree.map(lambda w: np.stack([w, w]), weights)
    assert calls(jax.vmap(gradient, (0, None)), "cuda", lanes, x) == []
    assert calls(lambda w, x: lstm(x, *w, implementation="scan")[0], "cuda", weights, x) == []
    # The scan's residuals are zeros that nobody reads on the GPU, and the other way round.
    compiled = jax.jit(gradient).lower(weights, x).compile().as_text()
    assert f"f32[{SPACES[1]}]" not in compiled


@pytest.mark.parametrize("mapper", ["shard_map", "pmap"])
def test_devices_share_a_batch(jax, cudnn, mapper):
    from jax.sharding import PartitionSpec

    from fer_jax.models.layers.lstm import lstm

    x, weights, _ = _arrays()

    def total(weights, x):
        gradient = jax.grad(lambda w: jax.numpy.sum(lstm(x, *w)[1].h ** 2))(weights)
        return jax.lax.psum(gradient, "data")

    if mapper == "pmap":
        parts = jax.pmap(total, axis_name="data", in_axes=(None, 0), out_axes=None)(
            weights, x.reshape(2, -1, T, F)
        )
    else:
        mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        whole = PartitionSpec()
        mapped = jax.shard_map(
            total, mesh=mesh, in_specs=(whole, PartitionSpec("data")), out_specs=whole,
            check_vma=False,
        )  # fmt: skip
        parts = jax.jit(mapped)(weights, x)
    alone = jax.grad(
        lambda w: jax.numpy.sum(lstm(x, *w, implementation="scan")[1].h ** 2)
    )(weights)  # fmt: skip
    _equal(jax, parts, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "precision, exact",
    [(None, False), ("high", False), ("bfloat16", False), ("highest", True), ("float32", True)],
)
def test_matmul_precision_says_whether_tf32_may_be_used(jax, gpu, precision, exact):
    x, weights, initial = _arrays()
    with jax.default_matmul_precision(precision):
        program = str(jax.make_jaxpr(_run("auto"))(x, weights, initial))
    assert f"cudnn_allow_tf32={not exact}" in program


def test_what_cudnn_cannot_serve_is_scanned(jax, gpu):
    from fer_jax.errors import UserError
    from fer_jax.models.layers.lstm import lstm

    known, weights, _ = _arrays()
    unknown = jax.ShapeDtypeStruct(jax.export.symbolic_shape(f"b, {T}, {F}"), np.float32)
    for x, activation, reason in (
        (known, "selu", "tanh alone, not selu"),
        (unknown, "tanh", "size"),
    ):

        def trace(how, x=x, activation=activation):
            run = partial(lstm, activation=activation, implementation=how)
            return str(jax.make_jaxpr(run)(x, *weights))

        program = trace("auto")
        assert "rnn_fwd" not in program and "scan" in program
        with pytest.raises(UserError, match=rf"implementation=cudnn: .*{reason}.*; set it to auto"):
            trace("cudnn")


def test_a_network_asks_for_cudnn(jax, gpu):
    from fer_jax import config, models
    from fer_jax.errors import UserError

    def build(settings):
        return models.build(settings, models.Inputs(frames=T, features=F), 3)

    def program(implementation):
        model = build(config.LSTM(units=(4, 3), implementation=implementation))
        variables = model.init(jax.random.key(0))
        batch = {"features": _arrays()[0], "frame_mask": _mask("prefix")}
        run = lambda v: model.apply(v, batch, train=True, key=jax.random.key(0))[0]  # noqa: E731
        return str(jax.make_jaxpr(run)(variables))

    assert program("cudnn").count("rnn_fwd") == program("auto").count("rnn_fwd") == 2
    assert "rnn_fwd" not in program("scan")
    with pytest.raises(UserError, match="for an LSTM alone; set it to auto"):
        build(config.GRU(implementation="cudnn"))
    with pytest.raises(UserError, match="not relu; set it to auto"):
        build(config.LSTM(activation="relu", implementation="cudnn"))
    gpu.undo()
    with pytest.raises(UserError, match="needs an NVIDIA GPU"):
        build(config.LSTM(implementation="cudnn"))


@pytest.mark.parametrize("mask", ["none", "gaps"])
def test_on_an_nvidia_gpu(jax, mask):
    """The real cuDNN: JAX_PLATFORMS=cuda,cpu python -m pytest tests/models/test_cudnn_lstm.py"""
    from fer_jax.models.layers import cudnn_lstm

    if not cudnn_lstm.available():
        pytest.skip("no NVIDIA GPU here")
    arguments = jax.device_put(_arrays(), jax.devices("cuda")[0])
    runs = [_run(how, mask=_mask(mask)) for how in ("cudnn", "scan")]
    with jax.default_matmul_precision("highest"):
        _equal(jax, *(jax.jit(run)(*arguments) for run in runs), rtol=1e-5, atol=1e-5)
        gradients = [jax.jit(_gradient(jax, run))(*arguments) for run in runs]
        _equal(jax, *gradients, rtol=1e-4, atol=1e-4)
