"""Paper 4's baseline CNN(5): five convolutions, each pooled, and one dense layer.

Records: fer-jax preprocess CORPUS RAW records/ --outputs crops --crop-size 64
Run:     fer-jax train configs/emotionaldan2018_cnn5.py --data.dir records/

The paper does not say more: 32 to 256 channels of 3x3 on 64x64 gray pictures are our choice
(docs/reproduction.md 4.5). It reports 72.8 % on CK+, 50.2 % on JAFFE and 59.3 % on ISED.
"""

from fer_jax.config import Data, Experiment, Optim, Protocol, SmallCNN, Train


def experiment() -> Experiment:
    return Experiment(
        name="emotionaldan2018_cnn5",
        paper="emotionaldan2018",
        data=Data(
            labels="affectnet7",
            features="none",
            images=("crops",),
            image_size=64,
            image_color="gray",
            length="frames",
        ),
        protocol=Protocol(name="official"),
        model=SmallCNN(
            kernels=(3, 3, 3, 3, 3), widths=(32, 64, 128, 256, 256), padding="same", dropout=0.5
        ),
        optim=Optim(lr=1e-3),
        train=Train(epochs=40, batch=50),
    )  # fmt: skip
