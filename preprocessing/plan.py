"""What a build will write: which clips into which shard, decided by names alone."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fer_jax.errors import UserError
from fer_jax.records import SCHEMA_VERSION, Clip, shard_name
from preprocessing import corpora
from preprocessing.augment import make_copies
from preprocessing.corpora.tree import is_image
from preprocessing.coverage import Quarantined
from preprocessing.extract import Recipe
from preprocessing.worker import manifest_path
from preprocessing.workspace import BUILD
from preprocessing.writer import write_json

IMAGES_PER_SHARD = 1024
VIDEOS_PER_SHARD = 32

_IDENTITY = ("clip_id", "subject", "emotion", "intensity", "statement", "recording", "split",
             "augmentation", "source")  # fmt: skip


def place(clip: Clip) -> bytes:
    """Where a clip stands: an order that scatters subjects and classes, and follows from names."""
    return hashlib.sha256(clip.clip_id.encode()).digest()


@dataclass(frozen=True)
class Plan:
    """The shards of a build.

    Attributes:
      corpus, recipe: what is read, and what is extracted.
      options: augment, clips_per_shard and limit.
      clips: all of them, augmented copies included, in the order of the records.
    """

    corpus: str
    recipe: Recipe
    options: dict[str, int | None]
    clips: tuple[Clip, ...]

    @classmethod
    def make(
        cls,
        corpus: str,
        recipe: Recipe,
        scanned: Sequence[Clip],
        *,
        clips_per_shard: int | None,
        augment: int,
        limit: int | None,
    ) -> Plan:
        """The plan for the clips of a scan; arguments as of `preprocessing.build.preprocess`.

        Raises:
          UserError: copies are asked for where there is no training image.
        """
        clips = sorted(scanned, key=place)[:limit]
        if augment:
            originals = [c for c in clips if c.split in ("train", "") and is_image(c.source)]
            if not originals:
                raise UserError(f"augment is {augment}, but {corpus} has no training image here")
            copies = [copy for clip in originals for copy in make_copies(clip, augment)]
            clips = sorted([*clips, *copies], key=place)
        if clips_per_shard is None:
            images = all(is_image(clip.source) for clip in clips)
            clips_per_shard = IMAGES_PER_SHARD if images else VIDEOS_PER_SHARD
        options = {"clips_per_shard": clips_per_shard, "augment": augment, "limit": limit}
        return cls(corpus, recipe, options, tuple(clips))

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that determines the records, as JSON."""
        digest = hashlib.sha256()
        for clip in self.clips:
            digest.update("\x1f".join(getattr(clip, name) for name in _IDENTITY).encode())
            digest.update(b"" if clip.votes is None else clip.votes.tobytes())
        return {
            "corpus": self.corpus,
            "schema_version": SCHEMA_VERSION,
            **{f"recipe.{name}": value for name, value in self.recipe.to_json().items()},
            **self.options,
            "clips": len(self.clips),
            "clips_sha256": digest.hexdigest(),
        }

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()

    @property
    def name(self) -> str:
        """The corpus as TFDS spells names."""
        return self.corpus.replace("-", "_")

    @cached_property
    def shards(self) -> tuple[str, ...]:
        """File names of the shards."""
        count = math.ceil(len(self.clips) / (self.options["clips_per_shard"] or 1))
        return tuple(shard_name(self.name, i, count) for i in range(count))

    def members(self, index: int) -> tuple[Clip, ...]:
        """The clips of a shard; shards differ by one clip at most."""
        total, count = len(self.clips), len(self.shards)
        return self.clips[index * total // count : (index + 1) * total // count]

    @property
    def streams(self) -> tuple[str, ...]:
        """The optional streams of the records."""
        streams = self.recipe.streams
        return (*streams, "votes") if self.clips[0].votes is not None else streams

    def claim(self, out: Path) -> None:
        """Mark `out` as this build's, or check that it is.

        Raises:
          UserError: it is another build's; the message says what differs.
        """
        path = out / BUILD
        if not path.exists() or not any(out.glob("*.manifest.json")):
            write_json(path, self.identity)
            return
        try:
            old = json.loads(path.read_bytes())
        except ValueError as error:
            raise UserError(f"{path} is damaged; delete {out} and build it again") from error
        remedy = f"repeat it as it was, give another directory, or delete {out}"
        differing = [name for name, value in self.identity.items() if old.get(name) != value]
        # Other files or labels change these two; an option that differs says more.
        options = [name for name in differing if name not in ("clips", "clips_sha256")]
        if options:
            name = options[0]
            raise UserError(
                f"{out} was built with {name.removeprefix('recipe.')} {_said(old.get(name))}, not "
                f"{_said(self.identity[name])}; {remedy}"
            )
        if differing:
            raise UserError(
                f"the raw corpus has changed since {out} was begun ({old.get('clips')} clips then, "
                f"{len(self.clips)} now, or other names or labels); delete {out}, or give another"
            )

    def finished(self, out: Path, raw: Path) -> dict[str, dict]:
        """Manifests of the shards that are complete, by the shard's file name.

        A shard is built again if its file or manifest is gone or damaged, or if a source that was
        quarantined has changed since.
        """
        manifests = {}
        for i, shard in enumerate(self.shards):
            path = out / shard
            try:
                manifest = json.loads(manifest_path(path).read_bytes())
            except (FileNotFoundError, ValueError):
                continue
            if manifest["build_sha256"] != self.sha256 or not path.is_file():
                continue
            if path.stat().st_size != manifest["bytes"]:
                continue
            clips = {clip.clip_id: clip for clip in self.members(i)}
            items = [Quarantined(*item) for item in manifest["quarantined"]]
            if all(
                item.size == corpora.source_size(self.corpus, raw, clips[item.clip_id])
                for item in items
            ):
                manifests[shard] = manifest
        return manifests


def _said(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
