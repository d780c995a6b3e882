"""Abdullah et al. 2020 (paper 2), end to end: Xception on every frame, an LSTM over the frames.

Records: fer-jax preprocess ravdess RAW records/ --outputs crops --crop-size 48 --crop-color gray
Run:     fer-jax train configs/abdullah2020_xception.py --data.dir fer2013-records/ --out XCEPTION
         fer-jax train configs/abdullah2020_xception_lstm.py --data.dir records/ \\
             --train.init.run XCEPTION

The same network as configs/abdullah2020_lstm.py, trained through both parts. The Xception of a run
on FER2013 becomes the part `cnn`; the LSTM starts at random. --train.freeze "cnn/*" trains the LSTM
alone, which is the paper's own way with other bookkeeping.

Expected: see results/abdullah2020.csv, generated videos of unseen people and the small Xception of
FER2013: 69 % of 36 clips, chance 17 %; the LSTM alone, on extracted features, 67 %.
"""

from fer_jax.config import CNNRNN, LSTM, Data, Experiment, Init, Optim, Protocol, Train, Xception


def experiment() -> Experiment:
    return Experiment(
        name="abdullah2020_xception_lstm",
        paper="abdullah2020",
        reported={"accuracy": 0.61},
        data=Data(
            labels="ravdess8",
            features="none",
            images=("crops",),
            image_size=48,
            image_color="gray",
            pixels="-1-1",
            length="skip",
            frames=40,
        ),
        protocol=Protocol(name="random", validation=0.1, test=0.1),
        model=CNNRNN(
            cnn=Xception(), rnn=LSTM(units=(2048,), input_dropout=0.5, dropout=0.5)
        ),
        optim=Optim(lr=1e-5, schedule="inverse-time", decay=1e-6),
        train=Train(
            epochs=240, batch=32, accumulate=4, init=Init(rename={"": "cnn"}, skip=("rnn",)),
        ),
    )  # fmt: skip
