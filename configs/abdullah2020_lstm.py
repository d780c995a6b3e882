"""Abdullah et al. 2020 (paper 2): an LSTM on the Xception features of 40 frames of a video.

Records: fer-jax preprocess ravdess RAW records/ --outputs crops --crop-size 48 --crop-color gray
Run:     fer-jax train configs/abdullah2020_xception.py --data.dir fer2013-records/ --out XCEPTION
         fer-jax extract XCEPTION records/ --name xception
         fer-jax train configs/abdullah2020_lstm.py --data.dir records/

One LSTM layer of 2048 with dropout 0.5 before and after it (docs/reproduction.md 2.2); the paper's
random 80:10:10 split puts the twin of nearly every test clip into training: for a number that
speaks of unknown people add --protocol.name subject. Adam at 1e-5 as in the recipe that the paper
follows; 240 epochs. The paper reports 65 % (validation) and 61 % (test) on RAVDESS.
"""

from fer_jax.config import LSTM, Data, Experiment, Optim, Protocol, Train


def experiment() -> Experiment:
    return Experiment(
        name="abdullah2020_lstm",
        paper="abdullah2020",
        reported={"accuracy": 0.61},
        data=Data(
            labels="ravdess8",
            features="extracted/xception-1024",
            length="skip",
            frames=40,
            zscore=False,
        ),
        protocol=Protocol(name="random", validation=0.1, test=0.1),
        model=LSTM(units=(2048,), input_dropout=0.5, dropout=0.5),
        optim=Optim(lr=1e-5, schedule="inverse-time", decay=1e-6),
        train=Train(epochs=240, batch=32),
    )
