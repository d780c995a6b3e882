"""How fast are records read, both checksums verified, beside tf.data and Grain?

    python -m benchmarks.record_reading --json

Two files: clips of 76 frames with every stream and crops (0.8 MB a clip), and single images with
blendshapes and a crop (2 KB). Read means: payloads as bytes in Python. Decoded means: every field
as an array, crops still encoded. tf.data verifies the checksums too; it runs with several buffer
sizes, mapping in sequence and in parallel, and its fastest setting counts. Grain verifies none, and
decodes nothing: its records are decoded by what decodes ours, so that only the reading differs.
Files lie in the page cache. Peers take turns; `ratio_*` is the peer's median time over ours: above
1, we are faster. `ratio_tfdata` and `ratio_grain` are the lowest of their four.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import race
from fer_jax import records
from fer_jax.data.tfrecord import Shard
from preprocessing import writer

#: Frames of a clip, clips of a file, bytes of a crop.
FILES = {"video": (76, 60, 4000), "image": (1, 5000, 1500)}
#: Settings of tf.data: bytes of its read buffer, None for its own choice.
BUFFERS = (None, 1 << 18, 8 << 20)


def make_clip(frames: int, crop_bytes: int) -> records.Clip:
    """A clip of random numbers: all streams for a video, blendshapes for an image."""
    rng = np.random.default_rng(0)
    names = (
        ("landmarks68", "landmarks478", "blendshapes", "pose") if frames > 1 else ("blendshapes",)
    )
    shapes = {n: [frames if s is None else s for s in records.TENSORS[n][0]] for n in names}
    return records.Clip(
        clip_id="bench/clip", corpus="bench", emotion="happy",
        frame_index=np.arange(frames, dtype="i4"), time_ms=np.zeros(frames, "f4"),
        face_found=np.ones(frames, bool), box=np.zeros((frames, 4), "f4"),
        crops=tuple(rng.bytes(crop_bytes) for _ in range(frames)),
    ).replace(**{n: rng.random(shape, "f4") for n, shape in shapes.items()})  # fmt: skip


def tensorflow_parser(clip: records.Clip) -> Callable[[Any], Any]:
    """What a tf.data pipeline maps over the records of such clips."""
    import tensorflow as tf

    payload = records.encode(clip)
    kinds = {"bytes_list": tf.string, "float_list": tf.float32, "int64_list": tf.int64}
    spec: dict[str, Any] = {
        name: tf.io.FixedLenFeature((), kinds[feature.WhichOneof("kind")])
        for name, feature in tf.train.Example.FromString(payload).features.feature.items()
    }
    spec["crops"] = tf.io.VarLenFeature(tf.string)

    def parse(raw: Any) -> Any:
        example = tf.io.parse_single_example(raw, spec)
        for name, (shape, dtype) in records.TENSORS.items():
            if name in spec:
                values = tf.io.decode_raw(example[name], tf.as_dtype(dtype))
                example[name] = tf.reshape(values, [-1 if n is None else n for n in shape])
        return example | {"crops": example["crops"].values}

    return parse


def read_times(rounds: int) -> dict[str, float]:
    """Microseconds a record, by file, work and reader: the median of the fastest setting."""
    import tensorflow as tf
    from grain.experimental import TFRecordIterDataset

    def drain(items: Any) -> None:
        for _ in items:
            pass

    fastest: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for file, (frames, count, crop_bytes) in FILES.items():
            clip, path = make_clip(frames, crop_bytes), Path(folder) / file
            writer.write_shard(path, [records.encode(clip)] * count)
            parse = tensorflow_parser(clip)
            works: dict[tuple[str, int], Callable[[], None]] = {
                ("read_ours", 0): lambda p=path: drain(Shard(p)),
                ("decode_ours", 0): lambda p=path: drain(map(records.decode, Shard(p))),
            }
            grain = TFRecordIterDataset(str(path))
            works["read_grain", 0] = lambda d=grain: drain(d)
            decoded = grain.map(records.decode)
            works["decode_grain", 0] = lambda d=decoded: drain(d)
            for i, buffer in enumerate(BUFFERS):
                data = tf.data.TFRecordDataset(str(path), buffer_size=buffer)
                sequential = data.map(parse)
                parallel = data.map(parse, num_parallel_calls=tf.data.AUTOTUNE)
                works["read_tfdata", i] = lambda d=data: drain(d.as_numpy_iterator())
                works["decode_tfdata", i] = lambda d=sequential: drain(d.as_numpy_iterator())
                works["decode_tfdata", -i - 1] = lambda d=parallel: drain(d.as_numpy_iterator())
            times: dict[tuple[str, int], list[float]] = {key: [] for key in works}
            for _ in range(rounds):
                for key, run in works.items():
                    start = time.perf_counter()
                    run()
                    times[key].append((time.perf_counter() - start) / count * 1e6)
            for (work, _), values in times.items():
                name, median = f"{file}_{work}", statistics.median(values)
                fastest[name] = min(median, fastest.get(name, median))
    return fastest


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    times = read_times(arguments.rounds)
    answer: dict[str, Any] = {}
    for peer in ("tfdata", "grain"):
        ratios = {
            f"ratio_{peer}_{file}_{work}": round(
                times[f"{file}_{work}_{peer}"] / times[f"{file}_{work}_ours"], 2
            )
            for file in FILES
            for work in ("read", "decode")
        }
        answer |= {f"ratio_{peer}": min(ratios.values()), **ratios}
    # A video's record: at best, memory is read once.
    size = len(records.encode(make_clip(*FILES["video"][::2])))
    answer |= {"ours_ms": round(times["video_read_ours"] / 1e3, 4), "mib": round(size / 2**20, 3)}
    answer["share_of_roof"] = round(1e3 * size / race.memory_bandwidth() / answer["ours_ms"], 3)
    answer["microseconds_a_record"] = {name: round(value, 1) for name, value in times.items()}
    answer["records_per_s"] = {name: round(1e6 / value) for name, value in times.items()}
    return answer


if __name__ == "__main__":
    race.main("record_reading", __doc__, measure, {"rounds": (7, "turns of each peer")})
