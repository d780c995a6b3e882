"""Abdullah et al. 2020 (paper 2): Xception on FER2013, whose dense layer is the frame's feature.

Records: fer-jax preprocess fer2013 RAW records/ --outputs crops
Run:     fer-jax train configs/abdullah2020_xception.py --data.dir records/

The standard Xception on 48x48 gray pictures, then a dense layer of 1024, the feature, and seven
classes (docs/reproduction.md 2.2). FER2013's public test validates, its private test tests. The
paper starts from VGG-Face's pictures, which are not to be had any more, and names neither optimizer
nor augmentation; its 80 % after 330 epochs are of a validation part, and well above what single
networks reach on these pictures (70 to 76 %).

Expected: see results/abdullah2020.csv: 56.5 % on the private test after 6 epochs (3 to 4 minutes
each on 2 CPU cores), far from done: the training set is at 55.1 %. All 60 were not run.
"""

from fer_jax.config import Augment, Data, Experiment, Loss, Optim, Protocol, Train, Xception


def experiment() -> Experiment:
    return Experiment(
        name="abdullah2020_xception",
        paper="abdullah2020",
        data=Data(
            labels="fer7",
            features="none",
            images=("crops",),
            image_size=48,
            image_color="gray",
            pixels="-1-1",
            length="frames",
            augment=Augment(flip=True, rotation_degrees=15, zoom=0.1, shift=0.1, erase=0.3),
        ),
        protocol=Protocol(name="official"),
        model=Xception(),
        optim=Optim(
            name="adamw", lr=2e-3, schedule="cosine", warmup_epochs=2, weight_decay=0.05,
            decay_kernels_only=True, clip_norm=1.0,
        ),
        train=Train(epochs=60, batch=128, ema=0.999, loss=Loss(label_smoothing=0.1)),
    )  # fmt: skip
