"""Zennou et al. 2023 (paper 3), the proposal on the frontal view, joined by the geometry.

Records: fer-jax preprocess CORPUS RAW records/ --outputs landmarks,crops,frontal --crop-size 112
Run:     fer-jax train configs/zennou2023_nested_lstm_geometry.py --data.dir records/

configs/zennou2023_nested_lstm.py on frontal pictures, with the clip's mean of 136 coordinates
beside the Conv-LSTM's output. Reported 0.5890 on Oulu-CASIA (0.5673 without the geometry).
"""

from fer_jax.config import Augment, Data, Experiment, NestedLSTM, Optim, Protocol, Train


def experiment() -> Experiment:
    return Experiment(
        name="zennou2023_nested_lstm_geometry",
        paper="zennou2023",
        reported={"accuracy": 0.5890},
        data=Data(
            labels="oulu6",
            features="geometry-136",
            images=("frontal",),
            image_size=112,
            pixels="1/224",
            length="windows",
            frames=5,
            keep=(0.5, 0.8),
            augment=Augment(flip=True, shear=0.2, zoom=0.2),
            landmark_scale="crop",
            zscore=False,
        ),
        protocol=Protocol(name="subject", validation=0.1, test=0.1),
        model=NestedLSTM(),
        optim=Optim(lr=1e-4),
        train=Train(epochs=20, batch=20),
    )  # fmt: skip
