"""Paper 4's baseline Inception-V3, from ImageNet's weights.

Records: fer-jax preprocess CORPUS RAW records/ --outputs crops --crop-size 299
Run:     fer-jax train configs/emotionaldan2018_inception_v3.py --data.dir records/ \\
             --train.init.weights inception_v3.h5

Keras's network at 299 pixels (docs/reproduction.md 4.5); bring the weight file that Keras
publishes. The paper reports 30.4 % on CK+, 26.8 % on JAFFE and 47.9 % on ISED.
"""

from fer_jax.config import Data, Experiment, InceptionV3, Init, Optim, Protocol, Train


def experiment() -> Experiment:
    return Experiment(
        name="emotionaldan2018_inception_v3",
        paper="emotionaldan2018",
        data=Data(
            labels="affectnet7",
            features="none",
            images=("crops",),
            image_size=299,
            pixels="-1-1",
            length="frames",
        ),
        protocol=Protocol(name="official"),
        model=InceptionV3(),
        optim=Optim(lr=1e-3),
        train=Train(epochs=40, batch=50, init=Init(skip=("classifier",))),
    )  # fmt: skip
