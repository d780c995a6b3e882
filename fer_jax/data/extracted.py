"""Features that a network made of every frame, beside the records that it read.

`<records>/extracted/NAME-SIZE/` holds a TFRecord file for each shard, with the shard's own name:
one `tf.train.Example` a clip, of clip_id, shape (T, SIZE) and features f32[T, SIZE] as bytes, NaN
where a frame has no image. extracted.json says which run made them; it is written last, and counts.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from fer_jax.data.tfrecord import REMEDY, Shard
from fer_jax.errors import UserError
from fer_jax.example import example_class

#: What says that the features are complete, and of what.
FACTS = "extracted.json"
_KEYS = {"run", "weights_sha256", "data_sha256"}
_ESCAPE = "surrogateescape"


def encode(clip_id: str, values: np.ndarray) -> bytes:
    """The record of one clip's features f32[T, F]."""
    example = example_class()()
    feature = example.features.feature
    feature["clip_id"].bytes_list.value.append(clip_id.encode("utf-8", _ESCAPE))
    feature["shape"].int64_list.value.extend(values.shape)
    data = np.ascontiguousarray(values, "<f4").tobytes()
    feature["features"].bytes_list.value.append(data)
    return example.SerializeToString(deterministic=True)


def read_facts(path: Path) -> dict[str, Any]:
    """extracted.json: run, weights_sha256, data_sha256 and more.

    Raises:
      UserError: it is damaged.
    """
    try:
        facts = json.loads(path.read_bytes())
        if missing := _KEYS - facts.keys():
            raise ValueError(missing)
    except (AttributeError, ValueError):
        raise UserError(
            f"{path} is damaged: delete {path.parent} and repeat `fer-jax extract`"
        ) from None
    return facts


class Extracted:
    """The features of a record directory's clips, by shard and place in it.

    Args:
      records: the record directory.
      features: "extracted/NAME-SIZE".
      shards: of the records, in order.

    Attributes:
      features: its name.
      facts: extracted.json.

    Raises:
      UserError: they were not extracted, or not completely.
    """

    def __init__(self, records: Path, features: str, shards: list[Path]) -> None:
        self.features, self.dir = features, records / features
        name, _, size = features.removeprefix("extracted/").rpartition("-")
        self._size = int(size)
        command = f"`fer-jax extract {{run}} {records} --name {name}`"
        if not (self.dir / FACTS).is_file():
            others = sorted(path.parent.name for path in records.glob(f"extracted/*/{FACTS}"))
            hint = f" (it has extracted/{', extracted/'.join(others)})" if others else ""
            again = command.format(run="RUN")
            raise UserError(f"{records} has no {features}{hint}: make them with {again}")
        self.facts = read_facts(self.dir / FACTS)
        self._again = f"repeat {command.format(run=self.facts['run'])}"
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
        """f32[T, SIZE] of record i of a shard, read-only.

        Raises:
          UserError: the file is damaged or belongs to another clip.
        """
        from google.protobuf.message import DecodeError

        path = self._paths[which]
        try:
            if which not in self._opened:
                self._opened[which] = Shard(path, keep_open=False)
            feature = example_class().FromString(self._opened[which][i]).features.feature
            said = feature["clip_id"].bytes_list.value[0].decode("utf-8", _ESCAPE)
            values = np.frombuffer(feature["features"].bytes_list.value[0], "<f4")
            values = values.reshape(feature["shape"].int64_list.value)
            right = said == clip_id and values.shape[1:] == (self._size,)
        except UserError as error:
            damage = str(error).removesuffix(f"; {REMEDY}")
            raise UserError(f"{damage}; delete it and {self._again}") from error
        except (DecodeError, IndexError, ValueError):
            right, values = False, np.zeros(0)
        if not right:
            raise UserError(
                f"{path}: record {i} is not {self.features} of {clip_id}; delete it and "
                f"{self._again}"
            )
        return values

    def digest(self, data_sha256: str) -> str:
        """What the records and the features together are, in hexadecimal."""
        text = json.dumps([data_sha256, self.facts["weights_sha256"]])
        return hashlib.sha256(text.encode()).hexdigest()
