"""Attrah 2024 (paper 5), ablation: a fully connected network on the blendshapes of one image.

Records: fer-jax preprocess fer2013 RAW records/ --outputs blendshapes,crops
Run:     fer-jax train configs/attrah2024_dense.py --data.dir records/

330-300-250-220-200-150-10 ReLU units, dropout 0.2, L2 0.01 on the middle layers
(docs/reproduction.md 5.4). The paper gives no number for it, only that its answers oscillate in a
live stream.

Sweep:   fer-jax sweep configs/attrah2024_dense.py --data.dir records/
The paper tuned no dense network: the space is ours, around its values, with the ranges of rate and
L2 that its last tuner has.
"""

from fer_jax.config import (
    Data,
    Dense,
    EarlyStop,
    Experiment,
    Optim,
    Protocol,
    Sweep,
    Train,
    choice,
    log_uniform,
)


def experiment() -> Experiment:
    return Experiment(
        name="attrah2024_dense",
        paper="attrah2024",
        data=Data(
            labels="attrah3",
            features="blendshapes-52",
            length="frames",
            zscore=False,
            caps={"happy": 4000, "sad": 4000, "angry": 1500, "fear": 1500, "surprise": 1500,
                  "neutral": 1500},
        ),
        protocol=Protocol(name="official"),
        model=Dense(),
        optim=Optim(name="adamw", lr=1e-4, weight_decay=0.004, amsgrad=True, clip_norm=1.0),
        train=Train(
            epochs=100, batch=128, monitor="validation/accuracy",
            early_stop=EarlyStop(patience=15),
        ),
    )  # fmt: skip


def sweep() -> Sweep:
    wide, narrow = (330, 300, 250, 220, 200, 150, 10), (128, 112, 96, 80, 64, 48, 10)
    return Sweep(
        space={
            "model.units": choice(wide, narrow),
            "model.dropout": choice(*((0.0, *(5 * (rate,)), 0.0) for rate in (0.0, 0.2, 0.4))),
            "model.kernel_l2": log_uniform(1e-10, 1e-2),
            "optim.lr": log_uniform(1e-6, 1e-3),
        },
        fixed={"train.epochs": 25},
        objective="validation/macro_f1",
        trials=64,
    )
