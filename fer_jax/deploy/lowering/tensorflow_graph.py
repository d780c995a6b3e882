"""A recogniser's functions as TensorFlow's, of operations that LiteRT has too."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from fer_jax.deploy.lowering import lower
from fer_jax.deploy.lowering.target import Pads, Step, Tensor
from fer_jax.deploy.recogniser import Recogniser, Signature

#: Larger constants are variables, which the signatures share.
_LARGE = 1024
_UNARY = {
    "abs": tf.abs,
    "atan": lambda x: tf.atan2(x, tf.ones_like(x)),  # LiteRT has no atan.
    "ceil": tf.math.ceil,
    "erf": tf.math.erf,
    "exp": tf.exp,
    "floor": tf.floor,
    "is_finite": tf.math.is_finite,
    "log": tf.math.log,
    "logistic": tf.sigmoid,
    "neg": tf.negative,
    "not": tf.logical_not,
    "relu": tf.nn.relu,
    "round": tf.round,
    "rsqrt": tf.math.rsqrt,
    "sign": tf.sign,
    "sqrt": tf.sqrt,
    "tanh": tf.tanh,
}
_BINARY = {
    "add": tf.add,
    "and": tf.logical_and,
    "div": tf.divide,
    "eq": tf.equal,
    "ge": tf.greater_equal,
    "gt": tf.greater,
    "le": tf.less_equal,
    "lt": tf.less,
    "max": tf.maximum,
    "min": tf.minimum,
    "mul": tf.multiply,
    "ne": tf.not_equal,
    "or": tf.logical_or,
    "pow": tf.pow,
    "sub": tf.subtract,
}
_REDUCE = {
    "and": tf.reduce_all,
    "max": tf.reduce_max,
    "min": tf.reduce_min,
    "or": tf.reduce_any,
    "sum": tf.reduce_sum,
}


def module_of(recogniser: Recogniser) -> tuple[tf.Module, dict[str, Any]]:
    """A module that holds the weights, and a concrete function a signature, of any batch."""
    module: Any = tf.Module()
    weights: dict[Any, Any] = {}
    functions = {}
    for name, signature in recogniser.signatures.items():
        functions[name] = _function(recogniser, signature, weights)
        setattr(module, name, functions[name])  # What a module holds is saved.
    module.weights = list(weights.values())
    return module, functions


def _function(recogniser: Recogniser, signature: Signature, weights: dict[Any, Any]) -> Any:
    @tf.function(autograph=False)
    def traced(**inputs: Tensor) -> dict[str, Tensor]:
        graph = _Graph(next(iter(inputs.values())), weights)
        found = lower(signature.function, recogniser.variables, signature.inputs, inputs, graph)
        return {key: tf.identity(tensor, name=key) for key, (tensor, _) in found.items()}

    return traced.get_concrete_function(
        **{
            key: tf.TensorSpec((None, *like.shape), tf.as_dtype(like.dtype), name=key)
            for key, like in signature.inputs.items()
        }
    )


class _Graph:
    """The operations; see `target.Target`."""

    def __init__(self, first: Tensor, weights: dict[Any, Any]) -> None:
        """Args:
        first: an input, which tells the size of a batch.
        weights: of all signatures so far; new ones are added.
        """
        self._batch = tf.shape(first)[0]
        self._weights = weights

    def constant(self, value: Any) -> Tensor:
        value = np.asarray(value)
        if value.size < _LARGE:
            return tf.constant(value)
        key = value.dtype.str, value.shape, hashlib.sha256(value.tobytes()).digest()
        if key not in self._weights:
            with tf.init_scope():
                self._weights[key] = tf.Variable(tf.constant(value), trainable=False)
        return self._weights[key].read_value()

    def unary(self, name: str, x: Tensor) -> Tensor:
        return _UNARY[name](x)

    def binary(self, name: str, x: Tensor, y: Tensor) -> Tensor:
        return _BINARY[name](x, y)

    def where(self, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
        if x.dtype == tf.uint8:
            # LiteRT selects bytes of one shape only.
            chosen = tf.where(condition, tf.cast(x, tf.int32), tf.cast(y, tf.int32))
            return tf.cast(chosen, tf.uint8)
        return tf.where(condition, x, y)

    def cast(self, x: Tensor, dtype: np.dtype) -> Tensor:
        return tf.cast(x, tf.as_dtype(dtype))

    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        return tf.reshape(x, shape)

    def broadcast(self, x: Tensor, shape: Sequence[tuple[int, bool]]) -> Tensor:
        return tf.broadcast_to(
            x, tf.stack([self._batch * number if free else number for number, free in shape])
        )

    def transpose(self, x: Tensor, axes: Sequence[int]) -> Tensor:
        return tf.transpose(x, axes)

    def slice(self, x: Tensor, parts: Mapping[int, tuple[int, int, int]]) -> Tensor:
        where = [slice(None)] * len(x.shape)
        for axis, part in parts.items():
            where[axis] = slice(*part)
        return x[tuple(where)]

    def concatenate(self, xs: Sequence[Tensor], axis: int) -> Tensor:
        return tf.concat(xs, axis)

    def pad(self, x: Tensor, pads: Pads, value: Any) -> Tensor:
        return tf.pad(x, pads, constant_values=tf.constant(value))

    def take(self, x: Tensor, index: Tensor, axis: int) -> Tensor:
        return tf.gather(x, index, axis=axis)

    def take_each(self, x: Tensor, index: Tensor) -> Tensor:
        return tf.gather(x, index, batch_dims=1)

    def reduce(self, kind: str, x: Tensor, axes: Sequence[int]) -> Tensor:
        return _REDUCE[kind](x, axes)

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        return tf.matmul(x, y)

    def convolve(
        self,
        x: Tensor,
        kernel: Any,
        strides: Sequence[int],
        pads: Pads,
        dilation: Sequence[int],
        groups: int,
    ) -> Tensor:
        sizes = [(k - 1) * d + 1 for k, d in zip(kernel.shape, dilation, strict=False)]
        x, padding = _padded(x, sizes, strides, pads, 0)
        if groups > 1 and groups == x.shape[-1]:
            # One kernel a channel.
            *space, _, out = kernel.shape
            weights = self._weights_of(kernel, (*space, groups, out // groups))
            step = [1, *strides, 1]
            return tf.nn.depthwise_conv2d(x, weights, step, padding, dilations=list(dilation))
        weights = self._weights_of(kernel, tuple(kernel.shape))
        if len(strides) == 3:
            step, holes = [1, *strides, 1], [1, *dilation, 1]
            return tf.nn.conv3d(x, weights, step, padding, dilations=holes)
        return tf.nn.conv2d(x, weights, list(strides), padding, dilations=list(dilation))

    def _weights_of(self, kernel: Any, shape: tuple[int, ...]) -> Tensor:
        if isinstance(kernel, np.ndarray):
            return self.constant(kernel.reshape(shape))
        return tf.reshape(kernel, shape)

    def pool(
        self,
        kind: str,
        x: Tensor,
        window: Sequence[int],
        strides: Sequence[int],
        pads: Pads,
    ) -> Tensor:
        if kind == "max":
            x, padding = _padded(x, window, strides, pads, x.dtype.min)
            return tf.nn.max_pool2d(x, list(window), list(strides), padding)
        # A mean of a padded picture would not count the padding.
        x = tf.pad(x, [(0, 0), *pads, (0, 0)])
        mean = tf.nn.avg_pool2d(x, list(window), list(strides), "VALID")
        return mean * float(np.prod(window))

    def scan(
        self,
        step: Step,
        length: int,
        carries: list[Tensor],
        xs: list[Tensor],
        blank: Callable[[], list[Tensor]],
    ) -> tuple[list[Tensor], list[Tensor]]:
        if length == 1:
            last, made = step(carries, [tf.squeeze(x, 0) for x in xs])
            return last, [x[None] for x in made]
        places, count = tf.range(length), len(carries)

        def body(index: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
            after, made = step(list(state[:count]), [tf.gather(x, index) for x in xs])
            # LiteRT's lists want a batch of known size: what is stacked is put in its place.
            put = []
            for new, stack in zip(made, state[count:], strict=True):
                here = tf.reshape(places == index, (-1, *(1,) * len(new.shape)))
                put.append(tf.where(here, new[None], stack))
            return index + 1, *after, *put

        state = [*carries, *blank()]
        _, *found = tf.while_loop(lambda index, *_: index < length, body, [tf.constant(0), *state])
        return found[:count], found[count:]


def _padded(
    x: Tensor, sizes: Sequence[int], strides: Sequence[int], pads: Pads, value: float
) -> tuple[Tensor, Any]:
    """The picture, and the word for its padding; what no word says is written out."""
    same = []
    for n, size, stride in zip(x.shape[1:], sizes, strides, strict=False):
        total = max((-(-n // stride) - 1) * stride + size - n, 0)
        same.append((total // 2, total - total // 2))
    if list(map(tuple, pads)) == same:
        return x, "SAME"
    if any(map(any, pads)):
        x = tf.pad(x, [(0, 0), *pads, (0, 0)], constant_values=value)
    return x, "VALID"
