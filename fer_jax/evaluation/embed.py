"""What a trained network makes of every frame, written beside the records it came from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fer_jax.data import corpus, extracted
from fer_jax.data.samples import clip_samples, decoded, streams_of
from fer_jax.errors import UserError
from fer_jax.evaluation.inference import make_inference
from fer_jax.records import Clip, frame_record
from fer_jax.training import loop
from fer_jax.training.run_directory import LoadedRun, write_text


class Embedder:
    """A network of single frames without its classifier: papers 2 and 3's feature extraction.

    Attributes:
      streams: the clip streams that it reads.
      size: D.

    Raises:
      UserError: the run's network reads sequences.
    """

    def __init__(self, loaded: LoadedRun):
        if loaded.inputs.frames != 1:
            raise UserError(
                f"{loaded.experiment.name} reads {loaded.inputs.frames} frames at once: features "
                "of every frame need a network of single images (data.length=frames)"
            )
        # Every frame, whatever the run trained on; what the network is to find is no input.
        self._data = dataclasses.replace(
            loaded.experiment.data, length="frames", keep=(0.0, 1.0), landmarks=False
        )
        self._shapes = {k: tuple(v) for k, v in loaded.facts["image_shapes"].items()}
        self._infer = make_inference(loaded)
        self.streams = streams_of(self._data)
        blank = {name: np.zeros((1, *shape), kind) for name, shape, kind in self._blank()}
        self.size = int(self._infer([(blank, np.ones(1, bool))]).embedding.shape[1])

    def _blank(self) -> list[tuple[str, tuple[int, ...], Any]]:
        from fer_jax.data.geometry import raw_shape

        found: list[tuple[str, tuple[int, ...], Any]] = []
        if self._data.features != "none":
            found.append(("raw", raw_shape(self._data.features), np.float32))
        return found + [(name, self._shapes[name], np.uint8) for name in self._data.images]

    def clip(self, clip: Clip) -> np.ndarray:
        """f32[T, D]; NaN where a frame lacks what the network reads."""
        found = clip_samples(clip, self._data, self._shapes)
        streams = decoded(found.streams, self._shapes)
        out = np.full((clip.frames, self.size), np.nan, np.float32)
        if len(found.usable):
            each = (
                ({name: values[t : t + 1] for name, values in streams.items()}, np.ones(1, bool))
                for t in range(len(found.usable))
            )
            out[found.usable] = self._infer(each).embedding
        return out


def weights_sha256(loaded: LoadedRun) -> str:
    """What a trained network is: SHA-256 over its variables and statistics."""
    digest = hashlib.sha256()
    leaves, _ = jax.tree_util.tree_flatten_with_path([loaded.variables, loaded.statistics])
    for path, leaf in leaves:
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def extract(
    run: str | Path,
    records: str | Path,
    name: str,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """Writes `<records>/extracted/NAME-SIZE/`: the run's embedding of every frame.

    Stopped anywhere, the same command goes on after the last finished shard.

    Args:
      run: a run directory of a single-image network.
      records: a record directory with the streams that it reads.
      name: letters, digits, ".", "_" and "-".

    Returns:
      {"features": "extracted/NAME-SIZE", "dir", "clips", "frames", "run"}; features is what a
      config's data.features is set to.

    Raises:
      UserError: no such run or records, a stream is missing, the name cannot be one, or NAME-SIZE
        holds another network's features.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise UserError(f"--name {name}: use letters, digits, '.', '_' and '-'")
    loaded = loop.load_run(run)
    embedder = Embedder(loaded)
    clips = corpus.load(records, streams=embedder.streams)
    features = f"extracted/{name}-{embedder.size}"
    out = Path(records) / features
    facts = {
        "features": features,
        "run": str(Path(run).resolve()),
        "experiment": loaded.experiment.name,
        "epoch": loaded.epoch,
        "weights_sha256": weights_sha256(loaded),
        "data_sha256": clips.data_sha256,
    }
    _prepare(out, facts)
    frames = done = 0
    start = 0
    for shard, length in zip(clips.shards, clips.shard_lengths, strict=True):
        path = out / shard.name
        if not path.is_file():
            temporary = path.with_name(f".{path.name}.tmp")
            with open(temporary, "wb") as file:
                for clip in (clips[i] for i in range(start, start + length)):
                    values = embedder.clip(clip)
                    file.write(frame_record(extracted.encode(clip.clip_id, values)))
                    frames, done = frames + len(values), done + 1
                    if on_progress is not None:
                        on_progress(start + done, len(clips), f"{frames} frames")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        start, done = start + length, 0
    write_text(out / extracted.FACTS, json.dumps(facts, indent=1) + "\n")
    (out / _PARTIAL).unlink(missing_ok=True)
    return {"features": features, "dir": str(out), "clips": len(clips), "frames": frames,
            "run": str(run)}  # fmt: skip


#: extracted.json while the shards are being written.
_PARTIAL = "partial.json"


def _prepare(out: Path, facts: dict[str, Any]) -> None:
    """Makes the directory, or finds in it the beginning of the same work."""
    same = ("weights_sha256", "data_sha256")
    for name in (extracted.FACTS, _PARTIAL):
        if (out / name).is_file():
            before = json.loads((out / name).read_text())
            if any(before[key] != facts[key] for key in same):
                if name == _PARTIAL:
                    shutil.rmtree(out)
                    break
                raise UserError(
                    f"{out} holds the features of another network or of other records "
                    f"({before['experiment']}, {before['run']}): choose another --name, or delete "
                    "that directory"
                )
    out.mkdir(parents=True, exist_ok=True)
    if not (out / extracted.FACTS).is_file():
        write_text(out / _PARTIAL, json.dumps(facts, indent=1) + "\n")
