"""Paper 2's CNN in a small size: separable convolutions, residual blocks, no dense layer.

Records: fer-jax preprocess fer2013 RAW records/ --outputs crops
Run:     fer-jax train configs/abdullah2020_mini_xception.py --data.dir records/

Data and protocol are those of configs/abdullah2020_xception.py; network (597 thousand parameters)
and recipe are for a CPU. The published mini-XCEPTION (Arriaga et al. 2017, 58 thousand parameters)
reports 66 % on FER2013 and its published weights score 65.9 % on this test part.

Expected: see results/abdullah2020.csv: 65.7 % on the private test (63.2 % on the public one) after
20 epochs, 45 minutes on 2 cores of a CPU that had other work too (an epoch takes about a minute on
idle ones). It fits the training set no better than 67.3 % and still gains: more epochs help.
"""

from fer_jax.config import Augment, Data, Experiment, Loss, Optim, Protocol, Train, Xception


def experiment() -> Experiment:
    return Experiment(
        name="abdullah2020_mini_xception",
        paper="abdullah2020",
        data=Data(
            labels="fer7",
            features="none",
            images=("crops",),
            image_size=48,
            image_color="gray",
            pixels="-1-1",
            length="frames",
            augment=Augment(flip=True, rotation_degrees=10, zoom=0.1, shift=0.1),
        ),
        protocol=Protocol(name="official"),
        model=Xception(
            stem=(8, 16), stem_stride=1, entry=(32, 64, 128, 256), middle=2, exit=(), dense=0
        ),
        optim=Optim(
            name="adamw", lr=3e-3, schedule="cosine", warmup_epochs=1, weight_decay=0.05,
            decay_kernels_only=True, clip_norm=1.0,
        ),
        train=Train(epochs=20, batch=128, ema=0.998, loss=Loss(label_smoothing=0.1)),
    )  # fmt: skip
