"""Paper 3's 3-D networks on real faces, small."""

import pytest

WIDTHS = [4, 4, 8, 8, 8]
C3D = {"name": "c3d", "widths": WIDTHS, "dense": [16], "dropout": 0.0}
NESTED = {"name": "nested-lstm", "widths": WIDTHS, "bins": 2, "projection": 8,
          "temporal_units": 8, "convolutional_units": 8, "dropout": 0.0}  # fmt: skip


def volumes(small, name, **changes):
    changes = {"data__image_size": 32, "optim": {"lr": 3e-3}, "data__pixels": "-1-1",
               "train__epochs": 25, "data__stride": 2, **changes}  # fmt: skip
    return small(name, **changes)


def test_c3d(small, learns):
    learns(volumes(small, "zennou2023_c3d", model={**C3D, "pools": "thesis"}))


@pytest.mark.exhaustive
def test_c3d_of_16(small, learns):
    learns(volumes(small, "zennou2023_c3d_16", model=C3D))


@pytest.mark.exhaustive
def test_nested_lstm(small, learns):
    learns(volumes(small, "zennou2023_nested_lstm", model=NESTED, data__frames=4))


@pytest.mark.exhaustive
def test_nested_lstm_and_geometry(small, learns):
    learns(volumes(small, "zennou2023_nested_lstm_geometry", model=NESTED, data__frames=4))


def test_a_clip_shorter_than_a_window_is_one_line(small, tmp_path):
    from fer_jax.errors import UserError
    from fer_jax.training import loop

    experiment = volumes(small, "zennou2023_c3d_16", model=C3D, data__frames=24)
    message = r"all 4 clips are shorter .* 24 .*--data\.frames 16 or less"
    with pytest.raises(UserError, match=message):
        loop.train(experiment, tmp_path / "run")
