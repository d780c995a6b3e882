"""What the rest of the project sees of a network: two pure functions on plain dicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from fer_jax import config
from fer_jax.models.layers.batch_norm import BatchNorm
from fer_jax.models.layers.rematerialise import rematerialised
from fer_jax.models.paths import matches

Params = dict[str, Any]
"""Nested plain dicts of arrays."""
Batch = Mapping[str, Any]
"""What a network reads of B samples of T frames (`fer_jax.data.batches.make_batch`):
features f32[B, T, F]; frames, a dict by image stream of f32[B, T, H, W, C], normalised;
frame_mask bool[B, T]; weight f32[B], 0 for the examples that only fill the batch; mean_shape
f32[68, 2], the training set's landmarks in pixels; state, what `Outputs.state` was after the frames
before these, {} before the first. Only what the config asks for is there."""


@dataclass(frozen=True)
class Inputs:
    """The shape of a network's input.

    Attributes:
      frames: T.
      features: F; 0 without.
      images: the image streams, in order.
      image_shape: H, W, C of each of them.
      landmarks: the batch holds mean_shape, and landmarks are wanted.
    """

    frames: int
    features: int = 0
    images: tuple[str, ...] = ()
    image_shape: tuple[int, int, int] = (0, 0, 0)
    landmarks: bool = False

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Inputs:
        """The inputs of `dataclasses.asdict`, after JSON made lists of its tuples."""
        whole: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in value.items()
        }
        return cls(**whole)


class Outputs(NamedTuple):
    """What a network says of B samples."""

    logits: jax.Array
    """f32[B, K], before the softmax."""
    embedding: jax.Array
    """f32[B, D], what the classifier reads, before dropout."""
    landmarks: jax.Array | None = None
    """f32[B, 68, 2], pixels of the image, of networks that localise landmarks."""
    state: dict[str, jax.Array] | None = None
    """f32[B, H] by name: what a network that reads frame after frame hands to the next one, where
    the batch has a state."""


class Network(Protocol):
    """An NNX module of `fer_jax.models.NETWORKS`.

    Made as (settings, inputs, classes, rngs). A network whose `penalised` names layers adds
    settings.kernel_l2 times the sum of their squared kernels to the loss.
    """

    def __call__(self, batch: Batch, *, train: bool, key: jax.Array) -> Outputs: ...


class Apply(Protocol):
    def __call__(
        self, variables: Mapping[str, Params], batch: Batch, *, train: bool, key: jax.Array
    ) -> tuple[Outputs, Params]: ...


@dataclass(frozen=True)
class Model:
    """A network as pure functions: nothing outside fer_jax.models knows its module system."""

    init: Callable[[jax.Array], dict[str, Params]]
    """key -> {"params": ..., "stats": ...}; stats is what the network updates itself
    (BatchNorm averages) and is empty for a network without. For many keys use `lax.map`: under
    vmap XLA's generator draws otherwise than for each key alone."""
    apply: Apply
    """(variables, batch, *, train, key) -> (Outputs, new stats). The key only matters in training:
    one key an example, [B], or one for all, which is folded with each example's place."""
    penalty: Callable[[Params], jax.Array]
    """params -> f32[], what the network's regularisers add to the loss."""


def model_of(
    make: Callable[[nnx.Rngs], nnx.Module],
    *,
    axis: str | None = None,
    freeze: Sequence[str] = (),
    precision: str = "float32",
    remat: str = "none",
    kernel_l2: float | config.Given = 0.0,
) -> Model:
    """The Model of an NNX module (see `Network`).

    Args:
      make: builds the module.
      axis: the mapped axis over whose devices BatchNorm takes its statistics; None for one device.
      freeze: paths of parameters that do not train; BatchNorm there uses its averages.
      precision: what the network computes in. Parameters and BatchNorm's arithmetic stay float32.
      remat: "blocks" computes each block again in the backward pass of training.
      kernel_l2: times the sum of the squared kernels of the module's `penalised` layers.
    """

    def build(rngs: nnx.Rngs) -> nnx.Module:
        module = make(rngs)
        for path, norm in _norms(module):
            norm.axis = axis
            norm.frozen = matches(f"{path}/scale", freeze) or matches(f"{path}/bias", freeze)
        return module

    blank = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    graph = nnx.graphdef(blank)
    norms = frozenset(path for path, _ in _norms(blank))
    penalised = tuple(getattr(blank, "penalised", ()))
    penalised = () if config.off(kernel_l2) else penalised
    times = kernel_l2.value if isinstance(kernel_l2, config.Given) else kernel_l2
    dtype = jnp.dtype(precision)

    def states(module: nnx.Module) -> tuple[Params, Params]:
        params, stats = nnx.state(module, nnx.Param, ...)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(stats)

    @jax.jit
    def init(key: jax.Array) -> dict[str, Params]:
        params, stats = states(build(nnx.Rngs(key)))
        return {"params": params, "stats": stats}

    def cast(path: Any, leaf: Any) -> Any:
        inside = "/".join(str(part.key) for part in path[:-1])
        real = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        return leaf.astype(dtype) if real and inside not in norms else leaf

    def apply(
        variables: Mapping[str, Params], batch: Batch, *, train: bool, key: jax.Array
    ) -> tuple[Outputs, Params]:
        run = partial(forward, train=train)
        return (rematerialised(run) if train and remat == "blocks" else run)(variables, batch, key)

    def forward(
        variables: Mapping[str, Params], batch: Batch, key: jax.Array, *, train: bool
    ) -> tuple[Outputs, Params]:
        params, seen = variables["params"], dict(batch)
        if precision != "float32":
            params = jax.tree_util.tree_map_with_path(cast, params)
            # Landmarks are pixels: bfloat16 would round them to whole ones.
            for name in ("features", "frames"):
                if name in seen:
                    seen[name] = jax.tree.map(lambda x: x.astype(dtype), seen[name])
        module: Any = nnx.merge(graph, params, variables["stats"])
        outputs = module(seen, train=train, key=key)
        outputs = jax.tree.map(lambda x: x.astype(jnp.float32), outputs)
        return outputs, states(module)[1]

    def penalty(params: Params) -> jax.Array:
        squares = [jnp.sum(jnp.square(params[layer]["kernel"])) for layer in penalised]
        return times * sum(squares, jnp.zeros(()))

    return Model(init, apply, penalty if penalised else lambda params: jnp.zeros(()))


def _norms(module: nnx.Module) -> list[tuple[str, BatchNorm]]:
    return [
        ("/".join(map(str, path)), part)
        for path, part in nnx.iter_modules(module)
        if isinstance(part, BatchNorm)
    ]


def parameter_count(params: Params) -> int:
    """How many numbers training fits."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
