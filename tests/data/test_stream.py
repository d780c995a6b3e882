"""Pictures that stay in the records: the same as from memory, in the order of the run."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from fer_jax.config import Data
from fer_jax.data import batches, frames, stream
from fer_jax.data.corpus import load
from fer_jax.data.samples import make_samples
from fer_jax.errors import UserError
from fer_jax.labels import LABEL_SPACES
from fer_jax.records import Clip, encode
from preprocessing import writer

SIDE, LENGTHS = 6, (3, 5, 4, 1, 6, 2, 5)
DATA = Data(features="none", images=("crops",), length="windows", frames=2)


def picture(clip: int, frame: int) -> np.ndarray:
    return np.full((SIDE, SIDE), 20 * clip + frame, np.uint8)


def encoded(clip: int, frame: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(clip, frame)).save(file, "PNG")
    return file.getvalue()


def make_clip(number: int, frame_count: int) -> Clip:
    found = np.ones(frame_count, bool)
    found[frame_count // 2] = frame_count < 5
    return Clip(
        clip_id=f"toy/{number}", corpus="toy", subject=str(number), emotion="HAP",
        width=8, height=8, frame_index=np.arange(frame_count, dtype=np.int32),
        time_ms=np.arange(frame_count, dtype=np.float32), face_found=found,
        box=np.zeros((frame_count, 4), np.float32),
        crops=tuple(encoded(number, t) if found[t] else None for t in range(frame_count)),
    )  # fmt: skip


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    out = tmp_path_factory.mktemp("records")
    clips = [make_clip(i, length) for i, length in enumerate(LENGTHS)]
    info = writer.write_shard(out / writer.shard_name("toy", 0, 1), map(encode, clips))
    shapes = {"crops": (SIDE, SIDE, 1)}
    writer.write_dataset_info(out, "toy", [info.records], info.bytes, ("crops",), shapes, "png", {})
    return out


@pytest.fixture
def samples(directory):
    space = LABEL_SPACES["crema6"]
    return make_samples(load(directory, ("crops",)), [4, 0, 1, 2, 6, 5], space, DATA)


def test_pictures_are_those_of_the_clips(samples) -> None:
    whole = samples.loaded().streams["crops"]
    assert whole.shape == samples.streams["crops"].shape and whole.nbytes == samples.nbytes
    expected = []
    for number in (4, 0, 1, 2, 6, 5):
        clip = make_clip(number, LENGTHS[number])
        expected += [picture(number, t) for t in range(clip.frames) if clip.face_found[t]]
    np.testing.assert_array_equal(whole[..., 0], expected)


@pytest.mark.parametrize("places", [
    np.array([[3, 3], [0, 7]]), np.array([5, 1]), slice(2, 6), 4, np.zeros((0, 2), int),
])  # fmt: skip
def test_any_places_in_any_order(samples, places, monkeypatch) -> None:
    whole = samples.loaded().streams["crops"]
    np.testing.assert_array_equal(samples.streams["crops"][places], whole[places])
    monkeypatch.setattr(frames, "_MANY", 0)
    monkeypatch.setattr(frames, "_AT_ONCE", 2)
    np.testing.assert_array_equal(samples.streams["crops"][places], whole[places])


def test_a_clip_is_read_once_for_all_of_its_pictures(samples, monkeypatch) -> None:
    from fer_jax.data.corpus import Corpus

    reads, read = [], Corpus.__getitem__
    monkeypatch.setattr(Corpus, "__getitem__", lambda self, i: reads.append(i) or read(self, i))
    shown = samples.streams["crops"][samples.rows]
    assert sorted(reads) == sorted(set(reads)) and shown.shape[:2] == samples.rows.shape


@pytest.mark.parametrize("processes", [0, 2])
def test_a_stream_is_what_the_order_wants(samples, processes: int) -> None:
    """Two epochs from the second step on, batches of 4 on 2 devices, against NumPy's gather."""
    size = len(samples)
    steps = -(-size // 4)
    made = stream.Stream(samples, batch=4, devices=2, seed=3)
    with stream.read_ahead(made, 1, 2 * steps, processes=processes) as iterator:
        found = [batch["crops"] for batch in iterator]
    pictures, expected = samples.loaded().streams["crops"], []
    for epoch in (0, 1):
        index, _ = batches.epoch_order(3, epoch, size, 4)
        expected += [pictures[samples.rows[row]] for row in index]
    assert len(found) == len(expected) - 1 and found[0].shape[:3] == (2, 2, 2)
    for batch, wanted in zip(found, expected[1:], strict=True):
        np.testing.assert_array_equal(batch.reshape(wanted.shape), wanted)


def test_validation_comes_in_its_own_order_every_time(samples) -> None:
    made = stream.Stream(samples, batch=5, devices=1)
    steps = -(-len(samples) // 5)
    index, _ = batches.pad_batches(np.arange(len(samples)), 5)
    pictures = samples.loaded().streams["crops"]
    for step in range(2 * steps):
        wanted = pictures[samples.rows[index[step % steps]]]
        np.testing.assert_array_equal(made(step)["crops"][0], wanted)


def test_shares_that_do_not_divide_are_padded() -> None:
    given = np.arange(1, 11).reshape(2, 5)
    divided = batches.divide_batches(given, devices=2, parts=2)
    assert divided.shape == (2, 2, 4)
    assert divided[:, 0].tolist() == [[1, 2, 3, 4], [5, 0, 0, 0]]


def test_a_damaged_picture_ends_the_stream_and_is_named(samples, tmp_path) -> None:
    clip = make_clip(1, 5)
    broken = clip.replace(crops=(b"no picture", *clip.crops[1:]))
    pictures = frames.Frames(
        [broken], "crops", (SIDE, SIDE, 1), np.zeros(4, int), np.array([0, 1, 3, 4])
    )

    def read(step: int) -> np.ndarray:
        return pictures[np.array([(step + 1) % 4])]

    with (
        pytest.raises(UserError, match=r"^toy/1, frame 0: its image is damaged \("),
        stream.read_ahead(read, 0, 9) as iterator,
    ):
        for found in iterator:
            assert found.shape == (1, SIDE, SIDE, 1)


def test_no_more_is_read_ahead_than_the_threads_hold() -> None:
    """A stream takes a few batches of memory, however long it is."""
    read = []
    with stream.read_ahead(lambda step: read.append(step) or step, 0, 10_000) as iterator:
        assert [next(iterator) for _ in range(10)] == list(range(10))
        assert len(read) <= 10 + (os.cpu_count() or 1) + stream._READY + 1
