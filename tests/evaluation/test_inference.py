"""Inference in batches: any number of samples, one batch in memory."""

from __future__ import annotations

import numpy as np

from fer_jax.evaluation import inference
from fer_jax.training.steps import Prediction


def test_reads_no_more_than_a_batch_ahead(tiny_run, monkeypatch) -> None:
    from fer_jax.training.loop import load_run

    pulled, seen = 0, []

    def fake(model, data):
        def predict(variables, statistics, streams, mask):
            raw = streams["raw"]
            seen.append((pulled, raw.shape))
            return Prediction(np.tile(raw[:, :1, 0, 0], 3), raw[:, 0], raw[:, 0, 0, 0])

        return predict

    def samples():
        nonlocal pulled
        for i in range(10):
            pulled += 1
            yield {"raw": np.full((5, 68, 2), i, np.float32)}, np.ones(5, bool)

    monkeypatch.setattr(inference, "make_predictor", fake)
    inference._predictor.cache_clear()
    infer = inference.make_inference(load_run(tiny_run.dir), 4)
    found = infer(samples())
    assert seen == [(4, (4, 5, 68, 2)), (8, (4, 5, 68, 2)), (10, (4, 5, 68, 2))]
    wanted = np.arange(10.0)[:, None] * np.ones(3)
    np.testing.assert_array_equal(found.probabilities, wanted)
    assert infer(iter(())).probabilities.shape == (0, 3)
    inference._predictor.cache_clear()


def test_a_samples_numbers_do_not_depend_on_the_others(tiny_run) -> None:
    from fer_jax.training.loop import load_run

    rng = np.random.default_rng(0)
    samples = [
        ({"raw": rng.uniform(0, 224, (5, 68, 2)).astype(np.float32)}, np.arange(5) < 1 + i % 5)
        for i in range(7)
    ]
    infer = inference.make_inference(load_run(tiny_run.dir), 4)
    together = infer(samples).probabilities
    np.testing.assert_allclose(together.sum(1), 1, rtol=1e-6)
    for sample, row in zip(samples, together, strict=True):
        np.testing.assert_array_equal(infer([sample]).probabilities[0], row)
