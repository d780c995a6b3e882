"""Zennou et al. 2023 (paper 3), the proposal: C3D levels, MSPP, a Temp-LSTM a level, a Conv-LSTM.

Records: fer-jax preprocess CORPUS RAW records/ --outputs crops,frontal --crop-size 112
Run:     fer-jax train configs/zennou2023_nested_lstm.py --data.dir records/

The face and its frontal view as six channels, windows of 5 frames (docs/reproduction.md 3.5, which
says what the paper leaves open). One stream: --data.images crops (or frontal); a backbone a stream:
--model.fusion backbones; --model.bins 2 or 8. Reported 0.6275 on SASE-FE's 12 classes.

Expected: see results/zennou2023.csv, generated videos of unseen people at 48 pixels with a quarter
of the widths, 20 epochs, 7 minutes on 2 busy CPU cores: 41 % of windows and 47 % of clips by vote,
chance 17 %, and still gaining.
"""

from fer_jax.config import Augment, Data, Experiment, NestedLSTM, Optim, Protocol, Train


def experiment() -> Experiment:
    return Experiment(
        name="zennou2023_nested_lstm",
        paper="zennou2023",
        data=Data(
            labels="oulu6",
            features="none",
            images=("crops", "frontal"),
            image_size=112,
            pixels="1/224",
            length="windows",
            frames=5,
            keep=(0.5, 0.8),
            augment=Augment(flip=True, shear=0.2, zoom=0.2),
        ),
        protocol=Protocol(name="subject", validation=0.1, test=0.1),
        model=NestedLSTM(),
        optim=Optim(lr=1e-4),
        train=Train(epochs=20, batch=20),
    )  # fmt: skip
