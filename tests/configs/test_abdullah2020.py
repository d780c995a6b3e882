"""Paper 2's configs on real faces, small."""

import pytest

CNN = {
    "name": "xception", "stem": [4, 8], "stem_stride": 1, "entry": [8], "middle": 0, "exit": [],
    "dense": 8, "dropout": 0.0,
}  # fmt: skip
RNN = {"name": "lstm", "units": [8], "dropout": 0.0}


def test_xception(small, learns):
    learns(small("abdullah2020_xception", model=CNN, train__epochs=12))


def test_mini_xception(small, learns):
    learns(small("abdullah2020_mini_xception", model={**CNN, "dense": 0}, train__epochs=12))


def test_lstm(small, learns):
    experiment = small(
        "abdullah2020_lstm", model=RNN, data__features="extracted/xception-12", data__frames=4,
        data__zscore=True, train__epochs=30, data__image_size=0,
    )  # fmt: skip
    learns(experiment)


@pytest.mark.exhaustive
def test_xception_lstm(small, learns):
    model = {"name": "cnn-rnn", "cnn": CNN, "rnn": RNN}
    learns(small("abdullah2020_xception_lstm", model=model, data__frames=3, train__epochs=16))
