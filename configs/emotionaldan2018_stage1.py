"""EmotionalDAN (paper 4), first stage: the landmarks alone.

Records: fer-jax preprocess CORPUS RAW records/ --outputs landmarks,crops --crop-size 224 \\
             --crop-color gray
Run:     fer-jax train configs/emotionaldan2018_stage1.py --data.dir records/ --out STAGE1
         fer-jax train configs/emotionaldan2018.py --data.dir records/ --train.init.run STAGE1

One stage of the Deep Alignment Network on 224x224 gray pictures, from the training set's mean
shape: Adam 1e-3 on the landmark error in inter-pupil distances, chosen by the validation landmark
error (docs/reproduction.md 4.3). It says nothing of emotions. 112 pixels, as DAN:
--data.image_size 112, in both stages.

Expected: 0.075 inter-pupil distances on FER2013 at 48 pixels with a quarter of the widths, 10
epochs, 7 minutes on 2 busy CPU cores. The truth there is dlib's own points.
"""

from fer_jax.config import (
    Augment,
    Data,
    EmotionalDAN,
    Experiment,
    Loss,
    Optim,
    Protocol,
    Train,
)


def experiment() -> Experiment:
    return Experiment(
        name="emotionaldan2018_stage1",
        paper="emotionaldan2018",
        data=Data(
            labels="affectnet7",
            features="none",
            images=("crops",),
            image_size=224,
            image_color="gray",
            pixels="standard",
            landmarks=True,
            length="frames",
            augment=Augment(brightness=0.3, contrast=0.8, per="batch"),
        ),
        protocol=Protocol(name="official"),
        model=EmotionalDAN(stages=1),
        optim=Optim(lr=1e-3),
        train=Train(
            epochs=40, batch=50, monitor="validation/landmark_error",
            loss=Loss(emotion=0.0, landmarks=1.0),
        ),
    )  # fmt: skip
