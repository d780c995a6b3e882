"""What a config uses that was fitted or chosen somewhere, and where that was."""

from __future__ import annotations

from typing import NamedTuple

from fer_jax.config import Data
from fer_jax.data.audit.identities import Identity


class Fitted(NamedTuple):
    """Something that a config fits or takes over.

    Attributes:
      what: e.g. "z-score".
      where: what it was fitted on, for people.
      corpora: those whose clips it was fitted on beside the training part; none for our own.
      split: the official part of them, "" for all of them.
    """

    what: str
    where: str
    corpora: tuple[str, ...] = ()
    split: str = ""

    def saw(self, clip: Identity) -> bool:
        """Whether a clip is among what it was fitted on."""
        return clip.corpus in self.corpora and self.split in ("", clip.split)


_OURS = "the training part"
#: Features whose choice was published, and what it was made on.
_PUBLISHED = {
    name: Fitted(
        f"choice of {name}", "a published list fitted on crema-d and ravdess",  # Paper 1's annex.
        ("crema-d", "ravdess"),
    )
    for name in ("distances-104", "distances-259", "distances-368")
} | {
    "blendshapes-27": Fitted(
        "choice of blendshapes-27", "a published list fitted on fer2013's training part",
        ("fer2013",), "train",  # Paper 5.
    )
}  # fmt: skip


def fitted_by(data: Data) -> list[Fitted]:
    """Everything that a config fits on its training part, and what it takes from elsewhere."""
    found = []
    if data.features in _PUBLISHED:
        found.append(_PUBLISHED[data.features])
    elif data.features.startswith("importance-"):
        found.append(Fitted(f"choice of {data.features}", _OURS))
    if data.features != "none":
        found += [Fitted("z-score", _OURS)] if data.zscore else []
        found += [Fitted("principal components", _OURS)] if data.pca else []
    if data.pixels == "standard":
        found.append(Fitted("mean and deviation of pixels", _OURS))
    if data.pixels == "imagenet":
        found.append(Fitted("mean and deviation of pixels", "ImageNet"))
    if data.pixels == "vgg-face":
        found.append(Fitted("mean of pixels", "VGG-Face's training set"))
    if data.landmarks:
        found.append(Fitted("mean shape", _OURS))
    if data.caps:
        found.append(Fitted("class caps", _OURS))
    return found
