"""Paper 4's baseline CNN(2): two convolutions, each pooled, and one dense layer.

Records: fer-jax preprocess CORPUS RAW records/ --outputs crops --crop-size 32
Run:     fer-jax train configs/emotionaldan2018_cnn2.py --data.dir records/

Lopes et al. 2015 on 32x32 gray pictures (docs/reproduction.md 4.5). Trained on AffectNet the paper
reports 62.8 % on CK+, 48.4 % on JAFFE and 51.6 % on ISED; none of them is here.
"""

from fer_jax.config import Data, Experiment, Optim, Protocol, SmallCNN, Train


def experiment() -> Experiment:
    return Experiment(
        name="emotionaldan2018_cnn2",
        paper="emotionaldan2018",
        data=Data(
            labels="affectnet7",
            features="none",
            images=("crops",),
            image_size=32,
            image_color="gray",
            length="frames",
        ),
        protocol=Protocol(name="official"),
        model=SmallCNN(),
        optim=Optim(lr=1e-3),
        train=Train(epochs=40, batch=50),
    )  # fmt: skip
