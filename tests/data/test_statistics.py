import jax
import numpy as np
import pytest

from fer_jax.config import Data
from fer_jax.data import batches, geometry
from fer_jax.data.samples import Samples
from fer_jax.data.statistics import fit_statistics


def make_samples(raw, mask):
    """One sample a row of `mask`, showing the rows of `raw` in turn."""
    count = len(mask)
    rows = np.where(mask, np.cumsum(mask.ravel()).reshape(mask.shape) - 1, 0).astype(np.int32)
    label = np.zeros(count, np.int32)
    return Samples({"raw": raw}, rows, mask, label, np.arange(count), np.ones(count, np.float32))


@pytest.fixture(scope="module")
def training():
    """About 1,500 real frames, more than one chunk, beside padding; blendshape 3 is constant."""
    rng = np.random.default_rng(11)
    mask = np.arange(50) < rng.integers(20, 51, 40)[:, None]
    points = rng.normal(112, 1, (68, 2)) + rng.normal(0, 30, (mask.sum(), 68, 2))
    scores = rng.uniform(size=(mask.sum(), 52))
    scores[:, 3] = 0.1

    def make(features):
        raw = scores if features.startswith("blendshapes") else points
        return make_samples(raw.astype(np.float32), mask)

    return make


def features_of(samples, found, features):
    """f32[N, T, F], as a network reads them."""

    @jax.jit
    def run(raw, mask):
        data = Data(features=features)
        return batches.make_batch({"raw": raw}, mask, found, data)["features"]

    return np.asarray(run(samples.streams["raw"][samples.rows], samples.frame_mask))


@pytest.mark.parametrize(
    "features",
    ["coords-136", "emotii-272", "distances-104", "distances-2278", "blendshapes-52"],
)
def test_statistics_equal_scikit_learns(training, features):
    from sklearn.preprocessing import StandardScaler

    samples = training(features)
    real = np.asarray(geometry.compute(features, samples.streams["raw"]), np.float64)
    assert len(real) > 1024 and not samples.frame_mask.all()
    scaler = StandardScaler().fit(real)
    found = fit_statistics(samples, Data(features=features))
    np.testing.assert_allclose(found["mean"], scaler.mean_, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["std"], scaler.scale_, rtol=1e-5)
    if features == "blendshapes-52":
        assert found["std"][3] == 1
    normal = features_of(samples, found, features)
    np.testing.assert_allclose(normal[samples.frame_mask], scaler.transform(real), atol=3e-4)
    assert not normal[~samples.frame_mask].any()


def test_without_zscore_features_stay_and_padding_is_zero(training):
    samples = training("blendshapes-27")
    found = fit_statistics(samples, Data(features="blendshapes-27", zscore=False))
    shown = samples.streams["raw"][samples.rows]
    wanted = np.asarray(geometry.compute("blendshapes-27", shown))
    wanted = np.where(samples.frame_mask[..., None], wanted, 0)
    np.testing.assert_array_equal(features_of(samples, found, "blendshapes-27"), wanted)


def test_statistics_of_far_away_values_stay_exact():
    """Mean 10,000 and deviation 0.5: sums of float32 squares would lose the deviation."""
    raw = np.random.default_rng(5).normal(1e4, 0.5, (3000, 52)).astype(np.float32)
    samples = make_samples(raw, np.ones((3000, 1), bool))
    found = fit_statistics(samples, Data(features="blendshapes-52", length="frames"))
    np.testing.assert_allclose(found["std"], raw.astype(np.float64).std(0), rtol=1e-4)
    np.testing.assert_allclose(found["mean"], raw.astype(np.float64).mean(0), rtol=1e-7)


@pytest.mark.parametrize("whiten", [False, True])
def test_projection_equals_scikit_learns(training, whiten):
    from sklearn.decomposition import PCA

    samples = training("coords-136")
    flat = samples.streams["raw"].reshape(-1, 136).astype(np.float64)
    wanted = PCA(5, whiten=whiten).fit_transform(flat)
    found = fit_statistics(samples, Data(features="coords-136", pca=5, zscore=whiten))
    ours = features_of(samples, found, "coords-136")[samples.frame_mask]
    assert ours.shape == wanted.shape
    sign = np.sign((ours * wanted).sum(0))
    # scikit-learn divides by the deviation with n - 1.
    np.testing.assert_allclose(ours * sign, wanted, atol=2e-3 * wanted.std(0).max())


def test_only_shown_frames_count():
    """Frames that no sample shows are as good as not there; those in several count once."""
    raw = np.random.default_rng(0).normal(size=(6, 52)).astype(np.float32)
    raw[4] = 1e6
    rows = np.array([[0, 1], [1, 2], [3, 5]], np.int32)
    label = np.zeros(3, np.int32)
    samples = Samples({"raw": raw}, rows, np.ones((3, 2), bool), label, label, np.ones(3))
    found = fit_statistics(samples, Data(features="blendshapes-52", length="windows", frames=2))
    np.testing.assert_allclose(found["mean"], raw[[0, 1, 2, 3, 5]].mean(0), rtol=1e-5, atol=1e-6)
