"""Zennou et al. 2023 (paper 3): C3D on 5 frames, from scratch.

Records: fer-jax preprocess CORPUS RAW records/ --outputs crops --crop-size 112
Run:     fer-jax train configs/zennou2023_c3d.py --data.dir records/

Windows of 5 consecutive frames; the published code's pooling, which has no window from the third
pool on (docs/reproduction.md 3.3). Reported 0.2000 on Oulu-CASIA, 0.1281 on SASE-FE's 12 classes,
both on frontal views: --data.images frontal, with records of --outputs crops,frontal.

Expected: see results/zennou2023.csv, generated videos of unseen people at 48 pixels with a quarter
of the widths: at chance for 30 epochs with Keras's first kernels, as the paper's; with --model.init
he it begins to learn in epoch 14 of 20 (35 % of windows, chance 17 %) and has not finished.
"""

from fer_jax.config import C3D, Augment, Data, Experiment, Optim, Protocol, Train


def experiment() -> Experiment:
    return Experiment(
        name="zennou2023_c3d",
        paper="zennou2023",
        reported={"accuracy": 0.2},
        data=Data(
            labels="oulu6",
            features="none",
            images=("crops",),
            image_size=112,
            pixels="1/224",
            length="windows",
            frames=5,
            keep=(0.5, 0.8),
            augment=Augment(flip=True, shear=0.2, zoom=0.2),
        ),
        protocol=Protocol(name="subject", validation=0.1, test=0.1),
        model=C3D(pools="thesis"),
        optim=Optim(lr=1e-4),
        train=Train(epochs=20, batch=20),
    )  # fmt: skip
