"""Zennou et al. 2023 (paper 3): three GRU layers on 100 principal components of fc7.

Records: fer-jax preprocess CORPUS RAW records/ --outputs crops --crop-size 224
Run:     fer-jax train configs/zennou2023_vgg_face.py --data.dir records/ --out CNN
         fer-jax extract CNN records/ --name fc7
         fer-jax train configs/zennou2023_gru_features.py --data.dir records/

Windows of 5 consecutive frames; ReLU layers of 512 with dropout 0.5 on their inputs. The components
are of the training frames only. The published code throws its PCA away and reads all 4096 features
(docs/reproduction.md 3.2): --data.pca 0. The paper's CNN is that of frontal views: train it with
--data.images frontal, on records of --outputs crops,frontal.
"""

from fer_jax.config import GRU, Data, Experiment, Optim, Protocol, Train


def experiment() -> Experiment:
    return Experiment(
        name="zennou2023_gru_features",
        paper="zennou2023",
        reported={"accuracy": 0.1797},
        data=Data(
            labels="oulu6",
            features="extracted/fc7-4096",
            length="windows",
            frames=5,
            keep=(0.5, 0.8),
            zscore=False,
            pca=100,
        ),
        protocol=Protocol(name="subject", validation=0.1, test=0.1),
        model=GRU(
            units=(512, 512, 512), input_dropout=0.5, dropout=0.0, activation="relu",
        ),
        optim=Optim(lr=1e-4),
        train=Train(epochs=20, batch=60),
    )  # fmt: skip
