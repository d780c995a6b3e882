"""Settings of the input: which clips, cut into which samples, as what a model sees."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from fer_jax.config.base import STRICT, Floats, Strings, _sequence, validated

#: The feature vectors that are computed from landmarks and blendshapes.
FEATURES = (
    "coords-136", "emotii-272", "distances-104", "distances-259", "distances-368",
    "distances-2278", "geometry-136", "blendshapes-52", "blendshapes-27",
)  # fmt: skip

#: Distances between two of 68 landmarks.
DISTANCES = 68 * 67 // 2


def _features(name: str) -> str:
    if name == "none" or name in FEATURES or re.fullmatch(r"extracted/[\w.-]+-[1-9]\d*", name):
        return name
    if chosen := re.fullmatch(r"(?:importance|pairs/.+)-([1-9]\d*)(?:\.csv)?", name):
        if int(chosen[1]) > DISTANCES:
            raise ValueError(f"68 landmarks have {DISTANCES} distances, {name} would be more")
        return name.removesuffix(".csv")
    near = get_close_matches(name, (*FEATURES, "importance-259"), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"choose none, {', '.join(FEATURES)}, importance-SIZE, pairs/FILE-SIZE or "
        f"extracted/NAME-SIZE{hint}"
    )


Features = Annotated[str, AfterValidator(_features)]
Image = Literal["crops", "frontal"]
Leak = Literal["twins", "duplicates", "subjects", "statistics", "selections", "sources"]


@validated(frozen=True, kw_only=True, config=STRICT)
class Augment:
    """Random changes of training samples, drawn on the device from the run's seed.

    Images, landmark targets and landmark features of a sample change alike.
    """

    flip: bool = False
    """Mirror half of the samples; landmarks change sides with their names."""
    rotation_degrees: float = Field(default=0.0, ge=0, le=180)
    """Turn by up to so much either way."""
    shear: float = Field(default=0.0, ge=0, lt=1.5)
    """Shear by up to this angle either way, radians (paper 3: 0.2)."""
    zoom: float = Field(default=0.0, ge=0, lt=1)
    """Show 1 - zoom to 1 + zoom of each axis: above 1 the face shrinks (paper 3: 0.2)."""
    shift: float = Field(default=0.0, ge=0, lt=1)
    """Move by up to this share of the image's side."""
    brightness: float = Field(default=0.0, ge=0)
    """Add up to this to the normalised pixels, either way (paper 4: 0.3)."""
    contrast: float = Field(default=0.0, ge=0, lt=1)
    """Stretch about the image's mean by 1 - contrast to 1 + contrast (paper 4: 0.8)."""
    erase: float = Field(default=0.0, ge=0, le=1)
    """Probability of random erasing (Zhong et al. 2020), one rectangle a sample."""
    mixup: float = Field(default=0.0, ge=0)
    """Alpha of mixup (Zhang et al. 2018) with another training sample; 0 does not mix."""
    per: Literal["clip", "frame", "batch"] = "clip"
    """What one draw serves: paper 3's code draws per frame, paper 4's once for a batch."""

    @property
    def active(self) -> bool:
        """Whether anything is changed at all."""
        amounts = (self.rotation_degrees, self.shear, self.zoom, self.shift, self.brightness,
                   self.contrast, self.erase, self.mixup)  # fmt: skip
        return self.flip or any(amounts)


@validated(frozen=True, kw_only=True, config=STRICT)
class Importance:
    """How the distances of "importance-SIZE" are chosen (paper 1, section 3)."""

    frames: int = Field(default=4000, ge=2)
    """Training frames drawn at random, or all if there are fewer (paper 1: 120,000, for which
    AdaBoost takes hours: docs/reproduction.md)."""
    trees: int = Field(default=500, ge=1)
    """Of each of the three ensembles (paper 1: 500)."""
    seed: int = 0


@validated(frozen=True, kw_only=True, config=STRICT)
class Data:
    """Which clips, as what sequences, as which features and images."""

    dir: str = ""
    """The record directory, or several as one with commas between them."""
    labels: str = "auto"
    """A label space of fer_jax.labels, or "auto": the emotions found in the data."""
    features: Features = "coords-136"
    """The feature vector of each frame, "none" without. "importance-SIZE" are the most important
    distances of the training part; "pairs/FILE-SIZE" those that FILE-SIZE.csv lists, as
    `fer-jax importance` writes it. "extracted/NAME-SIZE" is what `fer-jax extract --name NAME`
    wrote beside the records."""
    importance: Importance = Field(default_factory=Importance)
    landmark_scale: Literal["face-box", "full-frame", "crop"] = "face-box"
    """What is scaled to 224x224: the face box, the whole frame (docs/reproduction.md 1.3), or the
    crop (paper 3's geometry)."""
    images: Annotated[tuple[Image, ...], BeforeValidator(_sequence)] = ()
    """The image streams that the model sees: "crops", "frontal" or both."""
    image_size: int = Field(default=0, ge=0)
    """Side of the images that the model sees, pixels; 0 is as they are stored."""
    image_color: Literal["rgb", "gray"] = "rgb"
    pixels: Literal["0-1", "-1-1", "1/224", "standard", "imagenet", "vgg-face"] = "0-1"
    """What a pixel value becomes. standard: 0-1, then minus the training set's mean image, divided
    by its standard deviation image (paper 4). imagenet: 0-1, then ImageNet's mean and deviation by
    channel. vgg-face: 0-255, BGR, minus VGG-Face's mean. 1/224: paper 3's own."""
    landmarks: bool = False
    """Give the model's loss the 68 landmarks, in pixels of the image (paper 4)."""
    length: Literal["thin", "skip", "sections", "windows", "frames"] = "thin"
    """thin: stride-thin or zero-pad a clip to `frames`; skip: every floor(L / frames)-th frame, the
    first `frames` of them (paper 2); sections: pieces of `frames` that use every frame, the last
    zero-padded; windows: `frames` consecutive frames every `stride` (paper 3), no padding; frames:
    each frame is a sample of its own (paper 5)."""
    frames: int = Field(default=76, ge=1)
    """T of a sample."""
    stride: int = Field(default=1, ge=1)
    """Frames from one of the "windows" to the next."""
    keep: Floats = (0.0, 1.0)
    """The part of a clip that is used, as shares of its frames (paper 3: 0.5,0.8)."""
    zscore: bool = True
    """Normalise features by the training set's mean and standard deviation."""
    pca: int = Field(default=0, ge=0)
    """Project features on so many principal components of the training frames; 0 does not."""
    caps: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    """At most so many training clips of a canonical emotion (paper 5, table 2)."""
    augmented: bool = True
    """Train on the augmented copies that preprocessing made, if it made any."""
    augment: Augment = Field(default_factory=Augment)

    def __post_init__(self) -> None:
        if len(self.keep) != 2 or not 0 <= self.keep[0] < self.keep[1] <= 1:
            raise ValueError("keep is two shares of a clip, first below second, as in 0.5,0.8")


@validated(frozen=True, kw_only=True, config=STRICT)
class Protocol:
    """Which clips train, validate and test."""

    name: Literal[
        "official", "random", "subject", "random-kfold", "subject-kfold", "loso", "loco",
        "cross-corpus", "published", "actors", "file",
    ] = "subject"  # fmt: skip
    """official: the corpus's own; random: files at random; subject: whole subjects;
    *-kfold: fold `fold` of `folds` is the test set; loso, loco: fold `fold` is a subject, a corpus;
    cross-corpus, published, actors, file: see below."""
    folds: int = Field(default=10, ge=2)
    """Of random-kfold and subject-kfold; the others with folds have as many as there are."""
    fold: int = Field(default=0, ge=0)
    validation: float = Field(default=0.1, ge=0, lt=1)
    """Share of all clips (or subjects) that validates; 0 validates on nothing."""
    test: float = Field(default=0.1, gt=0, lt=1)
    """Share that tests ("random" and "subject")."""
    seed: int = 0
    train_corpora: Strings = ()
    test_corpora: Strings = ()
    """What trains and what tests in cross-corpus, as in --protocol.test_corpora ravdess."""
    published: str = ""
    """crema-d-5fold, ravdess-speech-6fold or ravdess-5fold-luna-jimenez."""
    train_subjects: int = Field(default=0, ge=0)
    validation_subjects: int = Field(default=0, ge=0)
    """With actors: the first so many subjects by name train, the next validate, the rest test."""
    test_on_validation: bool = False
    """With actors: the validation part is the test part too, as paper 3 reports."""
    file: str = ""
    """With file: a CSV of part and clip_id, or a directory of train.csv, val.csv and test.csv with
    lines like `path label`, or of such directories, a fold each."""
    strict: bool = False
    """Refuse to train where the audit finds a leak (`--strict`)."""
    allow: Annotated[tuple[Leak, ...], BeforeValidator(_sequence)] = ()
    """The leaks that are accepted all the same, e.g. "twins,subjects"."""
