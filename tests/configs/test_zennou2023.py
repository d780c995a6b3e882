"""Paper 3's single-image and recurrent configs on real faces, small."""

import pytest

VGG = {"name": "vgg-face", "widths": [4, 4, 8, 8, 8], "dense": [16, 8]}


def vgg(small, name, **changes):
    common = {"model": VGG, "data__image_size": 32, "data__length": "frames",
              "optim": {"lr": 3e-3}, "data__pixels": "-1-1", "train__epochs": 25}  # fmt: skip
    return small(name, **{**common, **changes})


def test_vgg_face(small, learns):
    learns(vgg(small, "zennou2023_vgg_face", model={**VGG, "pooling": "max"}))


def test_two_stream(small, learns):
    learns(vgg(small, "zennou2023_two_stream"))


def test_geometry(small, learns):
    learns(vgg(small, "zennou2023_geometry"))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_features(small, learns, cell):
    experiment = small(
        f"zennou2023_{cell}_features", data__features="extracted/fc7-12", data__pca=5,
        data__zscore=True, data__frames=4, data__image_size=0, train__epochs=25,
        model={"name": cell, "units": [8, 8], "dropout": 0.0, "activation": "relu"},
    )  # fmt: skip
    learns(experiment)


@pytest.mark.parametrize("cell", ["lstm", pytest.param("gru", marks=pytest.mark.exhaustive)])
def test_images(small, learns, cell):
    rnn = {"name": cell, "units": [8], "dropout": 0.0}
    cnn = {**VGG, "widths": [8] * 5, "dense": [32]}
    model = {"name": "cnn-rnn", "cnn": cnn, "rnn": rnn}
    name = f"zennou2023_{cell}_image"
    learns(
        vgg(
            small,
            name,
            model=model,
            data__length="windows",
            data__frames=4,
            data__stride=2,
            train__epochs=50,
            optim={"lr": 1e-3},
        )
    )
