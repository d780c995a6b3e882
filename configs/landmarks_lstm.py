"""Your own videos: LSTM on 259 landmark distances, on people it has not seen.

Records: fer-jax preprocess folder VIDEOS records/
Run:     fer-jax train configs/landmarks_lstm.py --data.dir records/

Paper 1's network at half its width, with masking and early stopping, which small corpora need.
Where the records name no subjects set `--protocol.name random`; the report then says that the
same people may be on both sides. Classes are the emotions that the records hold.

Expected: 86 % on the six acted emotions of `fer-jax demo`'s generated people, whom it has not
seen (chance 17 %); your own corpus decides what it is for you.
"""

from fer_jax.config import LSTM, Data, EarlyStop, Experiment, Optim, Protocol, Train


def experiment() -> Experiment:
    return Experiment(
        name="landmarks_lstm",
        data=Data(labels="auto", features="distances-259", length="thin", frames=60),
        protocol=Protocol(name="subject", validation=0.15, test=0.2),
        model=LSTM(units=(64, 128), dropout=0.4, mask_padding=True),
        optim=Optim(name="adam", lr=1e-3, weight_decay=5e-5),
        train=Train(
            epochs=60,
            batch=32,
            monitor="validation/uar",
            early_stop=EarlyStop(patience=15),
        ),
    )
