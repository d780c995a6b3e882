import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.config import Data
from fer_jax.data import batches, geometry
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


def test_thin_drops_missing_frames_then_pads():
    clips = [make_clip(1, frames=4, missing=[0, 2]), make_clip(2, "SAD", frames=9, missing=[4])]
    samples = batches.make_samples(clips, [1, 0], CREMA6, Data(frames=4))
    # 8 usable frames thinned to 4: every other one of 0 1 2 3 5 6 7 8.
    assert samples.raw[0, :, 0, 0].tolist() == [200, 202, 205, 207]
    assert samples.raw[1, :, 0, 0].tolist() == [101, 103, 0, 0]
    assert samples.frame_mask.tolist() == [[True] * 4, [True, True, False, False]]
    assert samples.label.tolist() == [CREMA6.classes.index("sad"), CREMA6.classes.index("happy")]
    assert samples.clip.tolist() == [1, 0]
    assert samples.weight.tolist() == [1, 1]
    assert samples.raw.shape == (2, 4, 68, 2) and samples.raw.dtype == np.float32
    assert samples.label.dtype == samples.clip.dtype == np.int32
    assert set(samples.arrays()) == {"raw", "frame_mask", "label", "clip", "weight"}
    assert np.isfinite(samples.raw).all()


def test_sections_and_frames_give_several_samples_a_clip():
    clips = [make_clip(0, frames=5), make_clip(1, frames=3, missing=[1])]
    samples = batches.make_samples(clips, [0, 1], CREMA6, Data(length="sections", frames=2))
    assert samples.clip.tolist() == [0, 0, 0, 1]
    assert samples.frame_mask.sum(axis=1).tolist() == [2, 2, 1, 2]
    assert samples.raw[3, :, 0, 0].tolist() == [100, 102]
    data = Data(length="frames", features="blendshapes-52")
    samples = batches.make_samples(clips, [0, 1], CREMA6, data)
    assert samples.raw.shape == (7, 1, 52) and samples.frame_mask.all()
    assert samples.clip.tolist() == [0] * 5 + [1] * 2
    np.testing.assert_array_equal(samples.raw[6, 0], clips[1].blendshapes[2])


def test_frame_indices_say_where_each_sample_came_from():
    clip = make_clip(0, frames=6, missing=[0, 3])
    parts = batches.clip_sequences(clip, Data(length="sections", frames=3))
    assert parts.frames.tolist() == [[1, 2, 4], [5, 0, 0]]
    assert parts.frame_mask.tolist() == [[True] * 3, [True, False, False]]


def test_landmarks_are_scaled_as_the_config_says():
    clip = make_clip(0, frames=2, width=448, height=112)
    clip.landmarks68[:] = [112, 56]
    clip.box[:] = [100, 50, 300, 150]
    for scale, wanted in (("full-frame", [56, 112]), ("face-box", [12 * 1.12, 6 * 2.24])):
        data = Data(frames=2, landmark_scale=scale)
        samples = batches.make_samples([clip], [0], CREMA6, data)
        np.testing.assert_allclose(samples.raw[0, 0, 67], wanted, rtol=1e-5)


def test_what_cannot_be_used_is_counted():
    clips = [make_clip(0), make_clip(1, "contempt"), make_clip(2, frames=3, missing=[0, 1, 2])]
    samples = batches.make_samples(clips, [0, 1, 2], CREMA6, Data(frames=4))
    assert (len(samples), samples.unlabelled, samples.faceless) == (1, 1, 1)
    empty = batches.make_samples(clips, [], CREMA6, Data(frames=4))
    assert empty.raw.shape == (0, 4, 68, 2) and len(empty) == 0


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ([make_clip(0, landmarks68=None)], r"no landmarks68.*coords-136.*--outputs landmarks"),
        ([make_clip(0, "calm"), make_clip(1, "bored")], r"2 clips.*crema6.*bored, calm.*--data"),
        ([make_clip(0, frames=1, missing=[0])], r"none of the 1 clips has a frame.*inspect"),
    ],
)
def test_nothing_left_is_the_users_mistake(clips, message):
    with pytest.raises(UserError, match=message):
        batches.make_samples(clips, range(len(clips)), CREMA6, Data())


@pytest.fixture(scope="module")
def training():
    """About 1,500 real frames, more than one chunk, beside padding; blendshape 3 is constant."""
    rng = np.random.default_rng(11)
    clips = []
    for number in range(40):
        clip = make_clip(number, frames=int(rng.integers(20, 60)), missing=[5])
        points = rng.normal(112, 1, (68, 2)) + rng.normal(0, 30, (clip.frames, 68, 2))
        clip.landmarks68[:] = np.where(np.isnan(clip.landmarks68), np.nan, points)
        clip.blendshapes[:, 3] = np.where(clip.face_found, 0.1, np.nan)
        clips.append(clip)

    def make(features):
        data = Data(features=features, frames=50)
        return batches.make_samples(clips, range(40), CREMA6, data)

    return make


@pytest.mark.parametrize(
    "features",
    ["coords-136", "emotii-272", "distances-104", "distances-2278", "blendshapes-52"],
)
def test_statistics_equal_scikit_learns(training, features):
    from sklearn.preprocessing import StandardScaler

    samples = training(features)
    real = np.asarray(geometry.compute(features, samples.raw[samples.frame_mask]), np.float64)
    assert len(real) > 1024 and not samples.frame_mask.all()
    scaler = StandardScaler().fit(real)
    statistics = batches.fit_statistics(samples, features)
    np.testing.assert_allclose(statistics.mean, scaler.mean_, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(statistics.std, scaler.scale_, rtol=1e-5)
    if features == "blendshapes-52":
        assert statistics.std[3] == 1
    normal = jax.jit(batches.features, static_argnums=3)(
        samples.raw, samples.frame_mask, statistics, features
    )
    wanted = scaler.transform(real)
    np.testing.assert_allclose(np.asarray(normal)[samples.frame_mask], wanted, atol=3e-4)
    assert not np.asarray(normal)[~samples.frame_mask].any()


def test_without_zscore_features_stay_and_padding_is_zero(training):
    samples = training("blendshapes-27")
    statistics = batches.fit_statistics(samples, "blendshapes-27", zscore=False)
    found = batches.features(
        jnp.asarray(samples.raw), samples.frame_mask, statistics, "blendshapes-27"
    )
    wanted = geometry.compute("blendshapes-27", samples.raw)
    np.testing.assert_array_equal(found, np.where(samples.frame_mask[..., None], wanted, 0))


def test_statistics_of_far_away_values_stay_exact():
    """Mean 10,000 and deviation 0.5: sums of float32 squares would lose the deviation."""
    rng = np.random.default_rng(5)
    raw = rng.normal(1e4, 0.5, (3000, 1, 52)).astype(np.float32)
    ones = np.ones((3000, 1), bool)
    zeros = np.zeros(3000, np.int32)
    samples = batches.Samples(raw, ones, zeros, zeros, np.ones(3000, np.float32))
    statistics = batches.fit_statistics(samples, "blendshapes-52")
    np.testing.assert_allclose(statistics.std, raw[:, 0].astype(np.float64).std(0), rtol=1e-4)
    np.testing.assert_allclose(statistics.mean, raw[:, 0].astype(np.float64).mean(0), rtol=1e-7)


def test_epochs_see_every_sample_once_in_a_new_order():
    index, weight = batches.epoch_order(seed=3, epoch=0, n=103, batch=10)
    assert index.shape == weight.shape == (11, 10)
    assert index.dtype == np.int32 and weight.dtype == np.float32
    assert sorted(index[weight == 1].tolist()) == list(range(103))
    assert weight[-1].tolist() == [1] * 3 + [0] * 7
    again, _ = batches.epoch_order(3, 0, 103, 10)
    np.testing.assert_array_equal(index, again)
    for seed, epoch in ((3, 1), (4, 0), (-1, 0)):
        assert (batches.epoch_order(seed, epoch, 103, 10)[0] != index).any()


def test_epoch_order_is_pinned():
    """Resumed and repeated runs depend on it: Philox's counter output must never change."""
    assert batches.epoch_order(0, 0, 8, 8)[0].tolist() == [[0, 2, 1, 5, 4, 3, 6, 7]]


def test_small_sets_fill_a_batch_by_going_round():
    index, weight = batches.pad_batches(np.array([2, 0, 1]), 8)
    assert index.tolist() == [[2, 0, 1, 2, 0, 1, 2, 0]]
    assert weight.tolist() == [[1, 1, 1, 0, 0, 0, 0, 0]]
    assert batches.pad_batches(np.arange(0), 8)[0].shape == (0, 8)


def test_caps_keep_the_first_and_their_copies():
    happy = [make_clip(n, "HAP") for n in (5, 2, 9, 7)]
    sad = [make_clip(n, "sad") for n in (1, 3)]
    copies = [c.replace(clip_id=f"{c.clip_id}+aug1", augmentation="flip") for c in (*happy, *sad)]
    clips = [*copies, *happy, *sad]

    def kept(**settings):
        found = batches.apply_caps(clips, range(len(clips)), Data(**settings))
        return [clips[i].clip_id[5:] for i in found]

    assert kept(caps={"happy": 2}) == [
        "0005+aug1", "0002+aug1", "0001+aug1", "0003+aug1", "0005", "0002", "0001", "0003",
    ]  # fmt: skip
    assert kept(caps={"HAP": 1, "sad": 0}, augmented=False) == ["0002"]
    assert kept(augmented=False) == ["0005", "0002", "0009", "0007", "0001", "0003"]
    assert len(kept()) == 12
    with pytest.raises(UserError, match=r"'hapy'; did you mean 'happy'"):
        kept(caps={"hapy": 2})
