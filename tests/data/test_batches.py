import numpy as np

from fer_jax.data import batches


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
