"""Paper 4's baseline EmotionNet 2: a residual network of 33 basic blocks.

Records: fer-jax preprocess CORPUS RAW records/ --outputs crops --crop-size 224
Run:     fer-jax train configs/emotionaldan2018_emotionnet2.py --data.dir records/

Blocks [3, 4, 23, 3] on 224x224 pictures with ImageNet's normalisation, flips and random zoom, Adam
1e-3, batch 48, 200 epochs (docs/reproduction.md 4.5). The paper reports 20.4 % on CK+, 24.9 % on
JAFFE and 21.0 % on ISED.
"""

from fer_jax.config import Augment, Data, Experiment, Optim, Protocol, ResNet, Train


def experiment() -> Experiment:
    return Experiment(
        name="emotionaldan2018_emotionnet2",
        paper="emotionaldan2018",
        data=Data(
            labels="affectnet7",
            features="none",
            images=("crops",),
            image_size=224,
            pixels="imagenet",
            augment=Augment(flip=True, zoom=0.25, shift=0.1),
            length="frames",
        ),
        protocol=Protocol(name="official"),
        model=ResNet(),
        optim=Optim(lr=1e-3),
        train=Train(epochs=200, batch=48),
    )  # fmt: skip
