"""What a trained network makes of every frame, written beside the records it came from."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fer_jax.data import corpus, extracted
from fer_jax.data.samples import Shapes, streams_of
from fer_jax.errors import UserError
from fer_jax.evaluation.inference import Sample, data_of, each, make_inference, samples_of
from fer_jax.models.cost import batch_shapes
from fer_jax.records import Clip, frame_record
from fer_jax.training import loop
from fer_jax.training.run_directory import LoadedRun, write_text

#: extracted.json while the shards are being written.
_PARTIAL = "partial.json"
_LOCK = ".lock"
#: Frames that are embedded together, at least: several batches.
_FRAMES = 1024


class Embedder:
    """A network of single frames without its classifier: papers 2 and 3's feature extraction.

    Attributes:
      streams: the clip streams that it reads.
      size: D.

    Raises:
      UserError: the run's network reads sequences, or what another network extracted.
    """

    def __init__(self, loaded: LoadedRun) -> None:
        inputs, name = loaded.inputs, loaded.experiment.name
        if inputs.frames != 1:
            raise UserError(
                f"{name} reads {inputs.frames} frames at once: features of every frame need a "
                "network of single images (data.length=frames)"
            )
        if loaded.facts["extracted"]:
            raise UserError(
                f"{name} reads {loaded.experiment.data.features} itself: features of every frame "
                "need a network of images"
            )
        # Every frame, whatever the run trained on; what the network is to find is no input.
        self._data = dataclasses.replace(
            data_of(loaded), length="frames", keep=(0.0, 1.0), landmarks=False
        )
        self._infer = make_inference(loaded)
        self.streams = streams_of(self._data)
        outputs, _ = jax.eval_shape(
            lambda batch: loaded.model.apply(
                loaded.variables, batch, train=False, key=jax.random.key(0)
            ),
            batch_shapes(inputs, 1),
        )
        self.size: int = outputs.embedding.shape[1]

    def embed(self, clips: Iterable[Clip], shapes: Shapes) -> list[np.ndarray]:
        """f32[T, D] of each clip; NaN where a frame lacks what the network reads.

        Args:
          shapes: H, W, C of the clips' images, by stream.
        """
        features: list[np.ndarray] = []
        places: list[np.ndarray] = []

        def samples() -> Iterator[Sample]:
            for clip in clips:
                found = samples_of(clip, self._data, shapes)
                features.append(np.full((clip.frames, self.size), np.nan, np.float32))
                places.append(found.usable)
                yield from each(found)

        embedding, start = self._infer(samples()).embedding, 0
        for values, usable in zip(features, places, strict=True):
            if len(usable):
                values[usable] = embedding[start : start + len(usable)]
                start += len(usable)
        return features


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
      on_progress: called with clips done, clips in all and the shard's name.

    Returns:
      {"features": "extracted/NAME-SIZE", "dir", "clips", "run"}; features is what a config's
      data.features is set to.

    Raises:
      UserError: no such run or records, a stream is missing, the name cannot be one, NAME-SIZE
        holds another network's features, cannot be written, or another process is writing it.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII):
        raise UserError(f"--name {name!r}: use letters, digits, '.', '_' and '-'")
    loaded = loop.load_run(run)
    embedder = Embedder(loaded)
    clips = corpus.load(records, streams=embedder.streams)
    if len(clips.parts) > 1:
        each = ", then of ".join(str(part.dir) for part in clips.parts)
        raise UserError(
            f"features lie beside the records that they are of: extract those of {each}"
        )
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
    try:
        with _locked(out):
            _claim(out, facts)
            _write_shards(embedder, clips, out, on_progress)
            write_text(out / extracted.FACTS, json.dumps(facts, indent=1) + "\n")
            (out / _PARTIAL).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}") from error
    return {"features": features, "dir": str(out), "clips": len(clips), "run": str(run)}


def _write_shards(
    embedder: Embedder,
    clips: corpus.Corpus,
    out: Path,
    on_progress: Callable[[int, int, str], None] | None,
) -> None:
    """A file of features for each shard that has none."""
    done = 0
    for shard, length in zip(clips.shards, clips.shard_lengths, strict=True):
        path = out / shard.name
        if path.is_file():
            done += length
            continue
        temporary = path.with_name(f".{path.name}.tmp")
        with open(temporary, "wb") as file:
            for some in _together(clips[i] for i in range(done, done + length)):
                embedded = embedder.embed(some, clips.image_shapes)
                for clip, values in zip(some, embedded, strict=True):
                    file.write(frame_record(extracted.encode(clip.clip_id, values)))
                done += len(some)
                if on_progress is not None:
                    on_progress(done, len(clips), shard.name)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def _together(clips: Iterable[Clip]) -> Iterator[list[Clip]]:
    """The clips in order, so many at once that their frames fill batches."""
    some: list[Clip] = []
    for clip in clips:
        some.append(clip)
        if sum(clip.frames for clip in some) >= _FRAMES:
            yield some
            some = []
    if some:
        yield some


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Makes the directory, and keeps other extractions away from it."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / _LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"another process is extracting into {out}: wait for it or stop it"
            ) from None
        yield


def _claim(out: Path, facts: dict[str, Any]) -> None:
    """Empties the directory, unless the beginning of the same work lies in it.

    Raises:
      UserError: it holds all features of another network or of other records.
    """
    for name in (extracted.FACTS, _PARTIAL):
        if not (out / name).is_file():
            continue
        before = extracted.read_facts(out / name)
        if all(before[key] == facts[key] for key in ("weights_sha256", "data_sha256")):
            return
        if name == extracted.FACTS:
            raise UserError(
                f"{out} holds the features of another network or of other records (made by "
                f"{before['run']}): choose another --name, or delete that directory"
            )
    for path in out.iterdir():
        if path.name != _LOCK:
            path.unlink()
    write_text(out / _PARTIAL, json.dumps(facts, indent=1) + "\n")
