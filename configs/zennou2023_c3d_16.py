"""Paper 3's 3-D network in its original form (Tran et al. 2015): 16 frames of 112x112.

Records: fer-jax preprocess CORPUS RAW records/ --outputs crops --crop-size 112
Run:     fer-jax train configs/zennou2023_c3d_16.py --data.dir records/

Like configs/zennou2023_c3d.py with windows of 16 frames of the whole clip and 2x2x2 pools.
"""

from fer_jax.config import C3D, Augment, Data, Experiment, Optim, Protocol, Train


def experiment() -> Experiment:
    return Experiment(
        name="zennou2023_c3d_16",
        paper="zennou2023",
        data=Data(
            labels="oulu6",
            features="none",
            images=("crops",),
            image_size=112,
            pixels="1/224",
            length="windows",
            frames=16,
            augment=Augment(flip=True, shear=0.2, zoom=0.2),
        ),
        protocol=Protocol(name="subject", validation=0.1, test=0.1),
        model=C3D(),
        optim=Optim(lr=1e-4),
        train=Train(epochs=20, batch=20),
    )  # fmt: skip
