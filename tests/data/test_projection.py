import numpy as np
import pytest

from fer_jax.data import projection
from fer_jax.errors import UserError


def frames(n, features, rank, seed=0):
    """f32[n, F] about a far mean, with `rank` strong directions."""
    rng = np.random.default_rng(seed)
    strong = rng.normal(size=(n, rank)) * np.linspace(9, 1, rank)
    values = strong @ rng.normal(size=(rank, features)) + rng.normal(0, 0.1, (n, features))
    return (values + rng.uniform(50, 100, features)).astype(np.float32)


@pytest.mark.parametrize("chunk", [7, 300, 2500])
def test_components_are_those_of_scikit_learn(chunk):
    from sklearn.decomposition import PCA

    values = frames(2500, 40, 12)
    pieces = (values[start : start + chunk] for start in range(0, len(values), chunk))
    found = projection.fit_pca(pieces, 10)
    wanted = PCA(10, svd_solver="full").fit(values.astype(np.float64))
    assert [part.dtype for part in found] == [np.float32] * 3
    np.testing.assert_allclose(found.mean, wanted.mean_, rtol=1e-6)
    np.testing.assert_allclose(found.std**2, wanted.explained_variance_, rtol=1e-5)
    sign = np.sign(np.sum(found.matrix.T * wanted.components_, axis=1, keepdims=True))
    np.testing.assert_allclose(found.matrix.T * sign, wanted.components_, atol=2e-6)
    scores = (values - found.mean) @ found.matrix
    np.testing.assert_allclose(scores * sign.T, wanted.transform(values), atol=1e-3)
    np.testing.assert_allclose(scores.std(0, ddof=1), found.std, rtol=1e-4)


def test_the_largest_loading_is_positive():
    found = projection.fit_pca([frames(100, 9, 4)], 6)
    largest = np.abs(found.matrix).argmax(axis=0)
    assert (found.matrix[largest, np.arange(6)] > 0).all()
    np.testing.assert_allclose(found.matrix.T @ found.matrix, np.eye(6), atol=1e-6)
    opposite = projection.fit_pca([-frames(100, 9, 4)], 6)
    np.testing.assert_allclose(opposite.matrix, found.matrix, atol=1e-5)


def test_a_component_without_variance_has_deviation_one():
    values = np.repeat(frames(2, 5, 2), 4, axis=0)
    found = projection.fit_pca([values], 3)
    assert found.std[0] > 1
    np.testing.assert_array_equal(found.std[1:], 1)


def test_chunks_are_not_changed():
    values = frames(20, 4, 2)
    kept = values.copy()
    projection.fit_pca([values], 2)
    np.testing.assert_array_equal(values, kept)


@pytest.mark.parametrize(
    ("rows", "features", "components"), [(10, 4, 5), (10, 40, 10), (1, 4, 1), (0, 4, 1)]
)
def test_too_many_components(rows, features, components):
    with pytest.raises(UserError, match=f"^data.pca={components}: {rows} training frames of "):
        projection.fit_pca([frames(rows, features, 2)] if rows else [], components)


def test_as_many_components_as_there_can_be():
    assert projection.fit_pca([frames(10, 40, 2)], 9).matrix.shape == (40, 9)
    assert projection.fit_pca([frames(10, 4, 2)], 4).matrix.shape == (4, 4)
