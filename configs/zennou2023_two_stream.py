"""Zennou et al. 2023 (paper 3): two VGG-Face stacks, the face and its frontal view, fused.

Records: fer-jax preprocess CORPUS RAW records/ --outputs crops,frontal --crop-size 224
Run:     fer-jax train configs/zennou2023_two_stream.py --data.dir records/ \\
             --train.init.run FACE,FRONTAL

Both stacks' last pooling, end to end, into dense layers of 1024, 1024 and 512 (docs/reproduction.md
3.1). FACE and FRONTAL are runs of configs/zennou2023_vgg_face.py, the second with --data.images
frontal: each stack starts from its own, or both from a VGG-Face file with --train.init.weights.
"""

from fer_jax.config import Augment, Data, Experiment, Init, Optim, Protocol, Train, VGGFace


def experiment() -> Experiment:
    return Experiment(
        name="zennou2023_two_stream",
        paper="zennou2023",
        reported={"accuracy": 0.2737},
        data=Data(
            labels="oulu6",
            features="none",
            images=("crops", "frontal"),
            image_size=224,
            pixels="1/224",
            length="frames",
            keep=(0.5, 0.8),
            augment=Augment(flip=True, shear=0.2, zoom=0.2),
        ),
        protocol=Protocol(name="subject", validation=0.1, test=0.1),
        model=VGGFace(dense=(1024, 1024, 512)),
        optim=Optim(lr=1e-4),
        train=Train(
            epochs=20, batch=20, freeze=("stack_*",), init=Init(skip=("fc*", "classifier")),
        ),
    )  # fmt: skip
