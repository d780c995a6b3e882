"""Features that a network made of every frame, beside the records that it read.

`<records>/extracted/NAME-SIZE/` holds a TFRecord file for each shard, with the shard's own name:
one `tf.train.Example` a clip, of clip_id and features f32[T, SIZE] as bytes, NaN where a frame has
no image. extracted.json says which run made them; it is written last, and counts.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from fer_jax.data.tfrecord import Shard
from fer_jax.errors import UserError
from fer_jax.records import example_class

#: What says that the features are complete, and of what.
FACTS = "extracted.json"


def encode(clip_id: str, values: np.ndarray) -> bytes:
    """The record of one clip's features f32[T, F]."""
    example = example_class()()
    feature = example.features.feature
    feature["clip_id"].bytes_list.value.append(clip_id.encode("utf-8", "surrogateescape"))
    data = np.ascontiguousarray(values, "<f4").tobytes()
    feature["features"].bytes_list.value.append(data)
    return example.SerializeToString(deterministic=True)


class Extracted:
    """The features of a record directory's clips, by shard and place in it.

    Args:
      records: the record directory.
      features: "extracted/NAME-SIZE".

    Attributes:
      features: its name.
      facts: extracted.json.

    Raises:
      UserError: they were not extracted, not completely, or of other records.
    """

    def __init__(self, records: Path, features: str, shards: list[Path]) -> None:
        self.features, self.dir = features, records / features
        self.size = int(features.rpartition("-")[2])
        name = features.removeprefix("extracted/").rpartition("-")[0]
        self._again = f"make them with `fer-jax extract RUN {records} --name {name}`"
        if not (self.dir / FACTS).is_file():
            there = sorted(p.parent.name for p in records.glob(f"extracted/*/{FACTS}"))
            hint = f" (it has extracted/{', extracted/'.join(there)})" if there else ""
            raise UserError(f"{records} has no {features}{hint}: {self._again}")
        self.facts: dict[str, Any] = json.loads((self.dir / FACTS).read_text())
        self._paths = [self.dir / shard.name for shard in shards]
        if missing := [path.name for path in self._paths if not path.is_file()]:
            raise UserError(f"{self.dir} lacks {missing[0]}: {self._again}")
        self._opened: dict[int, Shard] = {}

    def of(self, data_sha256: str) -> None:
        """Raises:
        UserError: they were made of other records than these.
        """
        if self.facts["data_sha256"] != data_sha256:
            raise UserError(
                f"{self.dir} was made of other records than lie there now: delete it and "
                f"{self._again}"
            )

    def values(self, which: int, i: int, clip_id: str) -> np.ndarray:
        """f32[T, F] of record i of a shard.

        Raises:
          UserError: the file is damaged or belongs to another clip.
        """
        shard = self._opened.get(which)
        if shard is None:
            shard = self._opened[which] = Shard(self._paths[which], keep_open=False)
        if i >= len(shard):
            raise UserError(f"{shard.path} holds {len(shard)} clips, not {i + 1}: {self._again}")
        feature = example_class().FromString(shard[i]).features.feature
        said = feature["clip_id"].bytes_list.value[0].decode("utf-8", "surrogateescape")
        if said != clip_id:
            raise UserError(f"{shard.path}, record {i}: is of {said}, not {clip_id}: {self._again}")
        return np.frombuffer(feature["features"].bytes_list.value[0], "<f4").reshape(-1, self.size)

    def digest(self, data_sha256: str) -> str:
        """What the records and the features together are, in hexadecimal."""
        text = json.dumps([data_sha256, self.facts["weights_sha256"]])
        return hashlib.sha256(text.encode()).hexdigest()
