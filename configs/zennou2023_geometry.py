"""Zennou et al. 2023 (paper 3): VGG-Face on the frontal view, joined by the landmarks' geometry.

Records: fer-jax preprocess CORPUS RAW records/ --outputs landmarks,crops,frontal --crop-size 224
Run:     fer-jax train configs/zennou2023_geometry.py --data.dir records/ --train.init.run FRONTAL

136 coordinates in a new centre and one range (docs/reproduction.md 3.2) beside the flattened
convolutions. FRONTAL is a run of configs/zennou2023_vgg_face.py with --data.images frontal.
"""

from fer_jax.config import Augment, Data, Experiment, Init, Optim, Protocol, Train, VGGFace


def experiment() -> Experiment:
    return Experiment(
        name="zennou2023_geometry",
        paper="zennou2023",
        reported={"accuracy": 0.4411},
        data=Data(
            labels="oulu6",
            features="geometry-136",
            images=("frontal",),
            image_size=224,
            pixels="1/224",
            length="frames",
            keep=(0.5, 0.8),
            augment=Augment(flip=True, shear=0.2, zoom=0.2),
            landmark_scale="crop",
            zscore=False,
        ),
        protocol=Protocol(name="subject", validation=0.1, test=0.1),
        model=VGGFace(),
        optim=Optim(lr=1e-4),
        train=Train(
            epochs=20, batch=40, freeze=("stack_*",), init=Init(skip=("fc*", "classifier")),
        ),
    )  # fmt: skip
