"""Zennou et al. 2023 (paper 3): VGG-Face on single pictures, convolutions frozen.

Records: fer-jax preprocess CORPUS RAW records/ --outputs crops --crop-size 224
Run:     fer-jax train configs/zennou2023_vgg_face.py --data.dir records/ \\
             --train.init.weights vgg_face.h5

Table 6's best: all convolutions frozen, max pooling, three dense layers (docs/reproduction.md 3.1).
Its other rows:
  no freeze, no pooling    --train.freeze "" --model.pooling flatten --model.dense ""
  first frozen, 3 dense    --train.freeze "stack_*/conv[12]_*" --model.pooling flatten
  all frozen, 3 dense      --model.pooling flatten (or average)
  all frozen, no dense     --model.dense "" --model.pooling flatten (or average, max)
The frontal picture: --data.images frontal, with records of --outputs crops,frontal. The weight file
is yours to bring: VGG-Face's terms allow no copy here; without it the frozen layers are random. One
that has dense layers too needs --train.init.skip "fc*,classifier".
The paper selects by the person-disjoint validation part, whose figure it calls test accuracy.
"""

from fer_jax.config import Augment, Data, Experiment, Optim, Protocol, Train, VGGFace


def experiment() -> Experiment:
    return Experiment(
        name="zennou2023_vgg_face",
        paper="zennou2023",
        reported={"accuracy": 0.2386},
        data=Data(
            labels="oulu6",
            features="none",
            images=("crops",),
            image_size=224,
            pixels="1/224",
            length="frames",
            keep=(0.5, 0.8),
            augment=Augment(flip=True, shear=0.2, zoom=0.2),
        ),
        protocol=Protocol(name="subject", validation=0.1, test=0.1),
        model=VGGFace(pooling="max"),
        optim=Optim(lr=1e-4),
        train=Train(epochs=20, batch=40, freeze=("stack_*",)),
    )  # fmt: skip
