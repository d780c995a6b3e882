"""The landmark error against NumPy and closed forms."""

import numpy as np
import pytest


def _shapes(batch=3, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.uniform(20, 90, (batch, 68, 2)).astype(np.float32)
    return truth + rng.normal(0, 3, truth.shape).astype(np.float32), truth


def _numpy(predicted, truth):
    errors = []
    for p, g in zip(predicted.astype(np.float64), truth.astype(np.float64), strict=True):
        pupils = np.hypot(*(g[36:42].mean(0) - g[42:48].mean(0)))
        errors.append(np.mean([np.hypot(*(a - b)) for a, b in zip(p, g, strict=True)]) / pupils)
    return np.array(errors)


def test_error_equals_numpy_and_does_not_know_scale():
    from fer_jax.training.landmark_loss import landmark_error

    predicted, truth = _shapes()
    errors = landmark_error(predicted, truth)
    np.testing.assert_allclose(errors, _numpy(predicted, truth), rtol=1e-5)
    np.testing.assert_allclose(landmark_error(predicted * 3, truth * 3), errors, rtol=1e-5)


def test_a_shift_by_the_pupils_distance_is_an_error_of_one():
    from fer_jax.training.landmark_loss import landmark_error

    truth = np.zeros((1, 68, 2), np.float32)
    truth[:, 36:42], truth[:, 42:48] = (30, 50), (60, 90)  # 50 px apart
    moved = truth + np.array([30, 40], np.float32)
    np.testing.assert_allclose(landmark_error(moved, truth), [1.0], rtol=1e-6)


def test_gradient_is_the_unit_vector_over_the_scale_and_zero_at_the_target():
    import jax

    from fer_jax.training.landmark_loss import landmark_error

    predicted, truth = _shapes(batch=1)
    predicted[0, :10] = truth[0, :10]
    gradient = jax.grad(lambda p: landmark_error(p, truth)[0])(predicted)[0]
    apart = (predicted - truth)[0, 10:].astype(np.float64)
    pupils = np.hypot(*(truth[0, 36:42].mean(0) - truth[0, 42:48].mean(0)))
    expected = apart / np.linalg.norm(apart, axis=1, keepdims=True) / pupils / 68
    np.testing.assert_allclose(gradient[10:], expected, rtol=1e-4)
    np.testing.assert_array_equal(gradient[:10], 0)


@pytest.mark.parametrize("same", [True, False])
def test_an_example_without_a_face_stays_finite(same):
    import jax

    from fer_jax.training.landmark_loss import landmark_error

    truth = np.zeros((1, 68, 2), np.float32)
    predicted = truth if same else _shapes(batch=1)[0]
    value, gradient = jax.value_and_grad(lambda p: landmark_error(p, truth)[0])(predicted)
    assert np.isfinite(value) and np.isfinite(gradient).all()
