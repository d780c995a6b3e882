"""Attrah 2024 (paper 5): an LSTM over the 52 blendshapes of one image; happy, sad or unknown.

Records: fer-jax preprocess fer2013 RAW records/ --outputs blendshapes,crops
Run:     fer-jax train configs/attrah2024_lstm.py --data.dir records/

The paper's network (44,631 parameters), classes, caps and cleaning; FER2013's public test
validates, its private test tests.
"""

from fer_jax.config import LSTM, Data, Experiment, Loss, Optim, Protocol, Train


def experiment() -> Experiment:
    return Experiment(
        name="attrah2024_lstm",
        paper="attrah2024",
        reported={"accuracy": 0.7199, "macro_f1": 0.6298, "cross_entropy": 0.6235},
        data=Data(
            labels="attrah3",
            features="blendshapes-52",
            length="frames",
            zscore=True,
            caps={"happy": 4000, "sad": 4000, "angry": 1500, "fear": 1500, "surprise": 1500,
                  "neutral": 1500},
        ),
        protocol=Protocol(name="official"),
        model=LSTM(
            units=(52, 16, 48, 44), dropout=0.2, activation="selu", steps="features",
            kernel_l2=1.95e-6,
        ),
        optim=Optim(
            name="adamw", lr=1e-3, schedule="cosine", weight_decay=0.05, amsgrad=True,
            clip_norm=1.0,
        ),
        train=Train(
            epochs=50, batch=128, monitor="validation/macro_f1",
            loss=Loss(class_weights=(0.9, 1.35, 0.9)),
        ),
    )  # fmt: skip
