"""The whole recogniser of a run as pure functions of plain arrays: what every export is made of.

Outside stay only what is no arithmetic: finding faces and landmarks in pictures, and picking the
frames of a clip (`fer_jax.load` does both as evaluation does).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax import config, models
from fer_jax.config import Data, Experiment
from fer_jax.data import batches, geometry
from fer_jax.data.samples import streams_of
from fer_jax.errors import UserError

#: Of recogniser.json: what another number would say cannot be read by this code.
VERSION = 1
FRAME_MASK = "frame_mask"

Arrays = dict[str, Any]
#: (variables, {input: [B, ...]}) -> {output: [B, ...]}
Function = Callable[[Mapping[str, Any], Mapping[str, Any]], Arrays]

#: What an input is, for who has to make it.
MEANING = {
    "landmarks68": "dlib's 68 landmarks, x and y in pixels of the source picture",
    "box": "the face's box in the source picture: left, top, right, bottom, pixels",
    "frame_size": "width and height of the source picture, pixels",
    "crop_matrix": "the affine map from source pixels to those of the crop",
    "blendshapes": "MediaPipe's 52 blendshape scores, 0 to 1, in its order",
    "crops": "the aligned face crop, 0 to 255, RGB or gray",
    "frontal": "the frontalised face crop, 0 to 255, RGB or gray",
    FRAME_MASK: "true where a frame is real; the others, behind them, may hold anything finite",
}


def meaning_of(name: str) -> str:
    """What an input is, in words; state is of our own making."""
    if name.startswith("window_"):
        return f"state: the last frames of {name.removeprefix('window_')}, the newest last"
    return MEANING.get(name, "state")


@dataclasses.dataclass(frozen=True)
class Signature:
    """One function of a recogniser.

    Attributes:
      inputs: shape and dtype by name, without the batch axis.
      function: traceable by JAX for any batch, a symbolic one too; float32 throughout.
      state: the inputs that are state. All of it starts as zeros, and what the next call takes as
        NAME is the output next_NAME.
    """

    inputs: Mapping[str, jax.ShapeDtypeStruct]
    function: Function
    state: tuple[str, ...] = ()

    def start(self, batch: int) -> dict[str, np.ndarray]:
        """The state before the first frame of `batch` streams."""
        return {
            name: np.zeros((batch, *self.inputs[name].shape), self.inputs[name].dtype)
            for name in self.state
        }


@dataclasses.dataclass(frozen=True)
class Recogniser:
    """Streams of a face in, emotions out.

    Attributes:
      variables: nested dicts of NumPy arrays: params, stats, statistics and, where the network
        reads what another one extracts, embedder with the same three.
      clip: samples of T frames: `MEANING`'s streams [T, ...] and frame_mask bool[T].
      stream: one frame [...] after another, without a mask, and the state between them. After
        frame t it says what `clip` says of exactly these t frames. A network of windows keeps the
        last T; one of single frames has no state.
      classes: K names.
      facts: JSON; see `make_recogniser`.

    Both functions give logits f32[B, K], probabilities f32[B, K] and, where the network finds
    them, landmarks f32[B, 68, 2] in pixels of the image that it sees.
    """

    variables: Mapping[str, Any]
    clip: Signature
    stream: Signature | None
    classes: tuple[str, ...]
    facts: Mapping[str, Any]

    @property
    def signatures(self) -> dict[str, Signature]:
        """By name: "clip" and "stream"."""
        found = {"clip": self.clip, "stream": self.stream}
        return {name: one for name, one in found.items() if one is not None}


def reads(facts: Mapping[str, Any]) -> Data:
    """How a clip is read for a recogniser: streams, length policy, part of the clip."""
    return config.from_json({"name": "", "data": facts["reads"]}).data


def check_version(facts: Mapping[str, Any], where: object) -> None:
    """Raises:
    UserError: facts that this code does not read.
    """
    if (found := facts["recogniser_version"]) != VERSION:
        raise UserError(
            f"{where} is an export of version {found} and this FER-JAX reads version {VERSION}: "
            "export it again with `fer-jax export`, or use the FER-JAX that wrote it "
            f"({facts['versions']['fer-jax']})"
        )


def make_recogniser(facts: Mapping[str, Any], variables: Mapping[str, Any]) -> Recogniser:
    """The recogniser that `facts` describe.

    Args:
      facts: of which these decide: classes; network and, or null, embedder: {"experiment": the
        config, "inputs": the fields of `models.Inputs`, "classes": how many}; reads: a config's
        data, how clips are read; image_shapes: H, W, C by stream. The others are for people:
        frames T, recipe of the records, corpora, protocol, split_sha256, data_sha256, audit,
        metrics (of metrics.json, or null), notes, epoch, trained_in, versions.
      variables: see `Recogniser`.
    """
    data = reads(facts)
    shapes = _clip_inputs(data, facts)
    network = _Network.of(facts["network"])
    embedder = _Network.of(facts["embedder"]) if facts["embedder"] else None
    side = facts["image_shapes"].get("crops", (0,))[0]

    def apply(variables: Any, inputs: Mapping[str, Any], state: Any = None) -> models.Outputs:
        with jax.default_matmul_precision("highest"):
            mask = inputs[FRAME_MASK]
            streams = _streams(inputs, data, side)
            if embedder:
                streams["raw"] = _embedded(embedder, variables["embedder"], streams, mask)
            return network(variables, streams, mask, state)

    def clip(variables: Any, inputs: Mapping[str, Any]) -> Arrays:
        return _outputs(apply(variables, inputs))

    of_one = jax.eval_shape(
        lambda variables, inputs: apply(variables, inputs, {}),
        variables,
        {k: jax.ShapeDtypeStruct((1, *v.shape), v.dtype) for k, v in shapes.items()},
    )
    frame = {
        name: jax.ShapeDtypeStruct(like.shape[1:], like.dtype)
        for name, like in shapes.items()
        if name != FRAME_MASK
    }
    frames = shapes[FRAME_MASK].shape[0]
    if frames == 1:
        stream = Signature(frame, lambda v, inputs: clip(v, _one_frame(inputs, frame)))
    elif of_one.state is not None:
        stream = _recurrent(apply, frame, of_one.state)
    else:
        stream = _windowed(apply, frame, frames, data.length == "windows")
    return Recogniser(variables, Signature(shapes, clip), stream, tuple(facts["classes"]), facts)


@dataclasses.dataclass(frozen=True)
class _Network:
    """A trained network and how its batch is made, in float32 whatever it trained in."""

    experiment: Experiment
    model: models.Model
    key: jax.Array

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> _Network:
        experiment = config.from_json(facts["experiment"])
        inputs = models.Inputs.from_json(facts["inputs"])
        # cuDNN's call is of one batch size and one platform.
        model = models.build(_scanned(experiment.model), inputs, facts["classes"])
        # Made here, so that no trace holds how: without dropout it is not read.
        return cls(experiment, model, jax.random.key(0))

    def __call__(
        self, variables: Any, streams: Mapping[str, Any], mask: Any, state: Any = None
    ) -> models.Outputs:
        batch = batches.make_batch(streams, mask, variables["statistics"], self.experiment.data)
        if state is not None:
            batch["state"] = state
        network = {"params": variables["params"], "stats": variables["stats"]}
        return self.model.apply(network, batch, train=False, key=self.key)[0]


def _scanned(model: Any) -> Any:
    """Settings whose recurrence is a scan on every platform."""
    if hasattr(model, "rnn"):
        return config.with_values(model, {"rnn.implementation": "scan"})
    if hasattr(model, "implementation"):
        return config.with_values(model, {"implementation": "scan"})
    return model


def _clip_inputs(data: Data, facts: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """The inputs of a sample of T frames."""
    frames = facts["network"]["inputs"]["frames"]
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {}
    for name in streams_of(data):
        if name in data.images:
            shapes[name] = tuple(facts["image_shapes"][name]), np.uint8
        elif name == "crop_matrix":
            shapes[name] = (2, 3), np.float32
        else:
            shapes[name] = geometry.raw_shape(data.features), np.float32
    if "landmarks68" in shapes and data.landmark_scale == "face-box":
        shapes["box"] = (4,), np.float32
    elif "landmarks68" in shapes and data.landmark_scale == "full-frame":
        shapes["frame_size"] = (2,), np.float32
    shapes[FRAME_MASK] = (), np.bool_
    return {
        name: jax.ShapeDtypeStruct((frames, *shape), dtype)
        for name, (shape, dtype) in shapes.items()
    }


def _streams(inputs: Mapping[str, Any], data: Data, side: int) -> dict[str, Any]:
    """The streams of `Samples.streams` [B, T, ...] from what a sample is."""
    found = {name: inputs[name] for name in data.images}
    stream = geometry.stream_of(data.features)
    if stream == "landmarks68":
        found["raw"] = _scaled(inputs, data.landmark_scale, side)
    elif stream:
        found["raw"] = inputs[stream]
    return found


def _scaled(inputs: Mapping[str, Any], how: str, side: int) -> jax.Array:
    """`geometry.scale_landmarks` and, for "crop", `geometry.to_crop` of crops of `side` pixels."""
    points = inputs["landmarks68"]
    if how == "crop":
        matrix = inputs["crop_matrix"][:, :, None]
        moved = jnp.sum(points[..., None, :] * matrix[..., :2], axis=-1) + matrix[..., 2]
        return (moved + 0.5) * (geometry.SIDE / side) - 0.5
    if how == "full-frame":
        corner, size = jnp.zeros(()), inputs["frame_size"]
    else:
        corner = inputs["box"][..., None, :2]
        size = inputs["box"][..., 2:] - inputs["box"][..., :2]
    # A padded frame may be all zeros.
    size = jnp.where(size == 0, 1, size)[..., None, :]
    return (points - corner) * (geometry.SIDE / size)


def _embedded(
    embedder: _Network, variables: Any, streams: Mapping[str, Any], mask: Any
) -> jax.Array:
    """f32[B, T, D]: what the other network makes of every frame."""
    count, steps = mask.shape
    alone = {name: x.reshape(count * steps, 1, *x.shape[2:]) for name, x in streams.items()}
    every = jnp.ones((count * steps, 1), bool)
    return embedder(variables, alone, every).embedding.reshape(count, steps, -1)


def _outputs(outputs: models.Outputs) -> Arrays:
    found = {"logits": outputs.logits, "probabilities": jax.nn.softmax(outputs.logits)}
    if outputs.landmarks is not None:
        found["landmarks"] = outputs.landmarks
    for name, value in (outputs.state or {}).items():
        found[f"next_{name}"] = value
    return found


def _one_frame(inputs: Mapping[str, Any], names: Any) -> dict[str, Any]:
    """Samples [B, 1, ...] of frames [B, ...]."""
    found = {name: inputs[name][:, None] for name in names}
    count = next(iter(found.values())).shape[0]
    return {**found, FRAME_MASK: jnp.ones((count, 1), bool)}


def _recurrent(apply: Callable[..., models.Outputs], frame: Any, state: Any) -> Signature:
    """One step of a network whose state is all that it keeps of the frames before."""

    def function(variables: Any, inputs: Mapping[str, Any]) -> Arrays:
        before = {name: inputs[name] for name in state}
        return _outputs(apply(variables, _one_frame(inputs, frame), before))

    shapes = {name: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for name, x in state.items()}
    return Signature({**frame, **shapes}, function, tuple(state))


def _windowed(
    apply: Callable[..., models.Outputs], frame: Any, frames: int, whole: bool
) -> Signature:
    """The last `frames` frames are the state, the newest last.

    Until there are enough, the first one stands for those that lack if the network knows `whole`
    windows only; else padding follows.
    """
    windows = {
        f"window_{name}": jax.ShapeDtypeStruct((frames, *like.shape), like.dtype)
        for name, like in frame.items()
    }
    state = {**windows, "count": jax.ShapeDtypeStruct((), np.int32)}

    def function(variables: Any, inputs: Mapping[str, Any]) -> Arrays:
        seen = inputs["count"]
        place, read, after = jnp.arange(frames, dtype=jnp.int32), {}, {}
        for name in frame:
            window, new = inputs[f"window_{name}"], inputs[name][:, None]
            like = (-1, *(1,) * (window.ndim - 1))
            moved = jnp.concatenate([window[:, 1:], new], axis=1)
            if whole:
                first = jnp.broadcast_to(new, window.shape)
                window = jnp.where(seen.reshape(like) == 0, first, moved)
            else:
                here = place[None, :] == seen[:, None]
                put = jnp.where(here.reshape(-1, frames, *like[2:]), new, window)
                window = jnp.where(seen.reshape(like) < frames, put, moved)
            read[name], after[f"next_window_{name}"] = window, window
        seen = jnp.minimum(seen + 1, frames)
        limit = jnp.full_like(seen, frames) if whole else seen
        read[FRAME_MASK] = place[None, :] < limit[:, None]
        return {**_outputs(apply(variables, read)), **after, "next_count": seen}

    return Signature({**frame, **state}, function, tuple(state))
