"""Ryumina and Karpov 2020 (paper 1): LSTM on 259 landmark distances, RAVDESS, experiment 4.

Records: fer-jax preprocess ravdess RAW records/ --outputs landmarks
Run:     fer-jax train configs/ryumina2020_ravdess.py --data.dir records/ --protocol.fold 0

One fold of ten. The 4,904 files are 2,452 recordings twice (audio-video and video-only), so random
folds of files hold the twin of about nine in ten test files: the paper's 98.86 % is that. Compare
`--protocol.name subject-kfold`; the audit in metrics.json says which of the two a number is.
Experiment 8 is `--data.length sections --data.frames 30`.

Expected: the paper reports 98.86 % (mean of ten folds). Not run here: RAVDESS's videos are
downloaded by their users. 594,952 parameters.
"""

from fer_jax.config import LSTM, Data, Experiment, Optim, Protocol, Train


def experiment() -> Experiment:
    return Experiment(
        name="ryumina2020_ravdess",
        paper="ryumina2020",
        reported={"accuracy": 0.9886},
        data=Data(labels="ravdess8", features="distances-259", length="thin", frames=122),
        protocol=Protocol(name="random-kfold", folds=10, validation=0.0),
        model=LSTM(units=(128, 256), dropout=0.5),
        optim=Optim(name="adam", lr=1e-3, weight_decay=5e-5),
        train=Train(epochs=30, batch=64, monitor="train/loss"),
    )
