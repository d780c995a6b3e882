import numpy as np
import pytest

from fer_jax.config import Data
from fer_jax.data import samples as sampling
from fer_jax.data.samples import make_samples
from fer_jax.errors import UserError
from fer_jax.labels import LABEL_SPACES
from fer_jax.records import Clip

CREMA6 = LABEL_SPACES["crema6"]


def make_clip(number, emotion="HAP", frames=5, missing=(), **fields):
    """A clip whose landmarks say which frame of which clip they are: x = 100 number + frame."""
    landmarks = np.zeros((frames, 68, 2), np.float32)
    landmarks[..., 0] = 100 * number + np.arange(frames)[:, None]
    landmarks[list(missing)] = np.nan
    box = np.tile(np.float32([0, 0, 224, 224]), (frames, 1))
    scores = np.random.default_rng(number).uniform(size=(frames, 52)).astype(np.float32)
    scores[list(missing)] = np.nan
    found = np.isfinite(landmarks[:, 0, 0])
    return Clip(
        **{
            "clip_id": f"test/{number:04d}",
            "corpus": "test",
            "emotion": emotion,
            "width": 224,
            "height": 224,
            "frame_index": np.arange(frames, dtype=np.int32),
            "time_ms": np.arange(frames, dtype=np.float32) * 40,
            "face_found": found,
            "box": box,
            "landmarks68": landmarks,
            "blendshapes": scores,
            **fields,
        }
    )


def shown(samples):
    """What each sample shows, [N, T, ...], zero where padded."""
    values = samples.streams["raw"][samples.rows] if len(samples) else samples.streams["raw"]
    mask = samples.frame_mask.reshape(*samples.frame_mask.shape, *[1] * (values.ndim - 2))
    return np.where(mask, values, 0) if len(samples) else values


def test_thin_drops_missing_frames_then_pads():
    clips = [make_clip(1, frames=4, missing=[0, 2]), make_clip(2, "SAD", frames=9, missing=[4])]
    samples = make_samples(clips, [1, 0], CREMA6, Data(frames=4))
    # 8 usable frames thinned to 4: every other one of 0 1 2 3 5 6 7 8.
    assert shown(samples)[0, :, 0, 0].tolist() == [200, 202, 205, 207]
    assert shown(samples)[1, :, 0, 0].tolist() == [101, 103, 0, 0]
    assert samples.frame_mask.tolist() == [[True] * 4, [True, True, False, False]]
    assert samples.label.tolist() == [CREMA6.classes.index("sad"), CREMA6.classes.index("happy")]
    assert samples.clip.tolist() == [1, 0]
    assert samples.weight.tolist() == [1, 1]
    assert shown(samples).shape == (2, 4, 68, 2) and shown(samples).dtype == np.float32
    assert samples.label.dtype == samples.clip.dtype == np.int32
    assert set(samples.arrays()) == {"rows", "frame_mask", "label", "weight"}
    assert np.isfinite(samples.streams["raw"]).all()


def test_sections_and_frames_give_several_samples_a_clip():
    clips = [make_clip(0, frames=5), make_clip(1, frames=3, missing=[1])]
    samples = make_samples(clips, [0, 1], CREMA6, Data(length="sections", frames=2))
    assert samples.clip.tolist() == [0, 0, 0, 1]
    assert samples.frame_mask.sum(axis=1).tolist() == [2, 2, 1, 2]
    assert shown(samples)[3, :, 0, 0].tolist() == [100, 102]
    data = Data(length="frames", features="blendshapes-52")
    samples = make_samples(clips, [0, 1], CREMA6, data)
    assert shown(samples).shape == (7, 1, 52) and samples.frame_mask.all()
    assert samples.clip.tolist() == [0] * 5 + [1] * 2
    np.testing.assert_array_equal(shown(samples)[6, 0], clips[1].blendshapes[2])


def test_rows_say_where_each_sample_came_from():
    clip = make_clip(0, frames=6, missing=[0, 3])
    parts = sampling.clip_samples(clip, Data(length="sections", frames=3), {})
    assert parts.usable.tolist() == [1, 2, 4, 5]
    assert parts.rows.tolist() == [[0, 1, 2], [3, 0, 0]]
    assert parts.frame_mask.tolist() == [[True] * 3, [True, False, False]]


def test_windows_share_their_frames():
    """Paper 3: windows of consecutive kept frames, each frame held once."""
    clips = [make_clip(0, frames=20, missing=[12]), make_clip(1, frames=7)]
    data = Data(length="windows", frames=3, keep=(0.5, 0.8))
    samples = make_samples(clips, [0, 1], CREMA6, data)
    # Frames 10, 11, 13, 14, 15 of the first; 3, 4 of the second are too few.
    assert shown(samples)[:, :, 0, 0].tolist() == [[10, 11, 13], [11, 13, 14], [13, 14, 15]]
    assert samples.left_out("short") == 1 and len(samples.streams["raw"]) == 5
    wide = make_samples(clips, [0, 1], CREMA6, Data(length="windows", frames=3, stride=4))
    assert wide.clip.tolist() == [0] * 5 + [1] * 2
    assert shown(wide)[5:, :, 0, 0].tolist() == [[100, 101, 102], [104, 105, 106]]


def test_landmarks_are_scaled_as_the_config_says():
    clip = make_clip(0, frames=2, width=448, height=112)
    clip.landmarks68[:] = [112, 56]
    clip.box[:] = [100, 50, 300, 150]
    for scale, wanted in (("full-frame", [56, 112]), ("face-box", [12 * 1.12, 6 * 2.24])):
        data = Data(frames=2, landmark_scale=scale)
        samples = make_samples([clip], [0], CREMA6, data)
        np.testing.assert_allclose(shown(samples)[0, 0, 67], wanted, rtol=1e-5)


def test_what_cannot_be_used_is_counted():
    clips = [make_clip(0), make_clip(1, "contempt"), make_clip(2, frames=3, missing=[0, 1, 2])]
    samples = make_samples(clips, [0, 1, 2], CREMA6, Data(frames=4))
    assert len(samples) == samples.left_out("unlabelled") == samples.left_out("faceless") == 1
    empty = make_samples(clips, [], CREMA6, Data(frames=4))
    assert empty.streams["raw"].shape == (0, 68, 2) and empty.rows.shape == (0, 4)


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ([make_clip(0, landmarks68=None)], r"none of the 1 clips has a frame with landmarks68"),
        ([make_clip(0, "calm"), make_clip(1, "bored")], r"2 clips.*crema6.*bored, calm.*--data"),
        ([make_clip(0, frames=1, missing=[0])], r"none of the 1 clips has a frame.*inspect"),
    ],
)
def test_nothing_left_is_the_users_mistake(clips, message):
    with pytest.raises(UserError, match=message):
        make_samples(clips, range(len(clips)), CREMA6, Data())


def test_caps_keep_the_first_and_their_copies():
    happy = [make_clip(n, "HAP") for n in (5, 2, 9, 7)]
    sad = [make_clip(n, "sad") for n in (1, 3)]
    copies = [c.replace(clip_id=f"{c.clip_id}+aug1", augmentation="flip") for c in (*happy, *sad)]
    clips = [*copies, *happy, *sad]

    def kept(**settings):
        found = sampling.apply_caps(clips, range(len(clips)), Data(**settings))
        return [clips[i].clip_id[5:] for i in found]

    assert kept(caps={"happy": 2}) == [
        "0005+aug1", "0002+aug1", "0001+aug1", "0003+aug1", "0005", "0002", "0001", "0003",
    ]  # fmt: skip
    assert kept(caps={"HAP": 1, "sad": 0}, augmented=False) == ["0002"]
    assert kept(augmented=False) == ["0005", "0002", "0009", "0007", "0001", "0003"]
    assert len(kept()) == 12
    with pytest.raises(UserError, match=r"'hapy'; did you mean 'happy'"):
        kept(caps={"hapy": 2})


def test_all_too_short_names_the_window_that_fits():
    clips = [make_clip(0, frames=4), make_clip(1, frames=3)]
    with pytest.raises(
        UserError, match=r"all 2 clips.*window of 5.*longest has 4.*--data.frames 4"
    ):
        make_samples(clips, [0, 1], CREMA6, Data(length="windows", frames=5))


def png(value, size=8):
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.full((size, size), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


class Corpus(list):
    image_shapes = {"crops": (8, 8, 1)}  # noqa: RUF012


def test_images_and_their_landmarks():
    """Landmarks come in pixels of the image at the size that the model sees."""
    clip = make_clip(1, frames=4, missing=[1], width=100, height=50)
    crops = tuple(None if t == 1 else png(10 * t) for t in range(4))
    matrix = np.tile(np.float32([[0.5, 0, 3], [0, 2, -1]]), (4, 1, 1))
    matrix[1] = np.nan
    clips = Corpus([clip.replace(crops=crops, crop_matrix=matrix)])
    data = Data(
        features="none", images=("crops",), image_color="gray", image_size=16, landmarks=True,
        length="frames",
    )  # fmt: skip
    assert sampling.streams_of(data) == ("crops", "landmarks68", "crop_matrix")
    samples = make_samples(clips, [0], CREMA6, data)
    assert samples.streams["crops"].shape == (3, 8, 8, 1)
    assert samples.loaded().streams["crops"][:, 0, 0, 0].tolist() == [0, 20, 30]
    # x = 102 -> 0.5 * 102 + 3 = 54 in the crop of 8 -> (54 + 0.5) * 2 - 0.5 in 16.
    np.testing.assert_allclose(samples.streams["landmarks"][1, 0], [108.5, -1.5])
    data = Data(features="geometry-136", landmark_scale="crop", length="frames")
    assert sampling.streams_of(data) == ("landmarks68", "crop_matrix")
    raw = make_samples(clips, [0], CREMA6, data).streams["raw"]
    np.testing.assert_allclose(raw[1, 0], [54.5 * 28 - 0.5, -0.5 * 28 - 0.5])
