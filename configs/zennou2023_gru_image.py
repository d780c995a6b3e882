"""Zennou et al. 2023 (paper 3): VGG-Face's fc7 of every frame into one GRU layer, end to end.

Records: fer-jax preprocess CORPUS RAW records/ --outputs crops --crop-size 224
Run:     fer-jax train configs/zennou2023_vgg_face.py --data.dir records/ --out CNN
         fer-jax train configs/zennou2023_gru_image.py --data.dir records/ --train.init.run CNN

Windows of 5 consecutive frames, the whole CNN frozen; 1024 units, input dropout 0.5. The published
code feeds class probabilities and forgets the softmax; this follows the paper's text: the 4096
features of the seventh layer (docs/reproduction.md 3.1). The paper's CNN is that of frontal views:
--data.images frontal in both runs, on records of --outputs crops,frontal.
"""

from fer_jax.config import (
    CNNRNN,
    GRU,
    Augment,
    Data,
    Experiment,
    Init,
    Optim,
    Protocol,
    Train,
    VGGFace,
)


def experiment() -> Experiment:
    return Experiment(
        name="zennou2023_gru_image",
        paper="zennou2023",
        reported={"accuracy": 0.2241},
        data=Data(
            labels="oulu6",
            features="none",
            images=("crops",),
            image_size=224,
            pixels="1/224",
            length="windows",
            frames=5,
            keep=(0.5, 0.8),
            augment=Augment(flip=True, shear=0.2, zoom=0.2),
        ),
        protocol=Protocol(name="subject", validation=0.1, test=0.1),
        model=CNNRNN(
            cnn=VGGFace(pooling="max"), rnn=GRU(units=(1024,), input_dropout=0.5, dropout=0.0)
        ),
        optim=Optim(lr=1e-4),
        train=Train(epochs=20, batch=20, freeze=("cnn",),
            init=Init(rename={"": "cnn"}, skip=("rnn",)),
        ),
    )  # fmt: skip
