"""Ryumina and Karpov 2020 (paper 1): LSTM on 259 landmark distances, CREMA-D, experiment 2.

Records: fer-jax preprocess crema-d RAW records/ --outputs landmarks
Run:     fer-jax train configs/ryumina2020_crema_d.py --data.dir records/ --protocol.fold 0

One fold of ten. The paper averages ten random folds of files, so every test subject also trains;
`--protocol.name subject-kfold` is the same run on unseen subjects, and the audit in metrics.json
says which of the two a number is. The other feature sets are `--data.features coords-136`,
emotii-272, distances-104, distances-368; experiment 6 is `--data.length sections --data.frames 30`.

Expected: the paper reports 79.07 % (mean of ten folds). Not run here: CREMA-D's videos are
downloaded by their users. 594,438 parameters.
"""

from fer_jax.config import LSTM, Data, Experiment, Optim, Protocol, Train


def experiment() -> Experiment:
    return Experiment(
        name="ryumina2020_crema_d",
        paper="ryumina2020",
        reported={"accuracy": 0.7907},
        data=Data(labels="crema6", features="distances-259", length="thin", frames=76),
        protocol=Protocol(name="random-kfold", folds=10, validation=0.0),
        model=LSTM(units=(128, 256), dropout=0.5),
        optim=Optim(name="adam", lr=1e-3, weight_decay=5e-5),
        train=Train(epochs=30, batch=64, monitor="train/loss"),
    )
