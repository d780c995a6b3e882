"""JAFFE: 10 Japanese women, 7 posed expressions; 213 grey images of 256x256.

Obtain: https://zenodo.org/records/3451524 (request access). Terms: non-commercial scientific
research; no redistribution.

Layout: .tiff files (or converted ones) anywhere below ROOT, named <woman>.<expression><n>.<number>,
e.g. KA.AN1.39.tiff. Expression is AN anger, DI disgust, FE fear, HA happiness, NE neutral, SA
sadness, SU surprise: what the woman was asked for, not the raters' mean. n tells several takes
apart; the running number says nothing more and is not part of the clip's name. Counts: three of
each expression and woman, but for six fourth takes and three that are missing: anger 30, disgust
29, fear 32, happiness 31, neutral 30, sadness 31, surprise 30.

Lyons, Akamatsu, Kamachi, Gyoba, Coding facial expressions with Gabor wavelets, FG 1998.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from fer_jax.records import Clip
from preprocessing.corpora.tree import Findings, media_files
from preprocessing.video import IMAGE_SUFFIXES

LAYOUT = "images named like KA.AN1.39.tiff"

WOMEN = ("KA", "KL", "KM", "KR", "MK", "NA", "NM", "TM", "UY", "YM")
_WORDS = {
    "AN": "anger", "DI": "disgust", "FE": "fear", "HA": "happiness", "NE": "neutral",
    "SA": "sadness", "SU": "surprise",
}  # fmt: skip
_NAME = re.compile(rf"({'|'.join(WOMEN)})\.({'|'.join(_WORDS)})([1-9])\.\d{{1,3}}")
#: Where the corpus departs from takes 1 to 3 of everything.
_TOO_MANY = ("KA.FE4", "KA.HA4", "KL.DI4", "KM.HA4", "KM.SA5", "YM.FE4")
_TOO_FEW = ("KM.DI2", "KR.HA3", "NM.DI2")


def scan(root: Path, findings: Findings) -> Iterator[Clip]:
    """Images of the tree, by name."""
    for path in media_files(root, IMAGE_SUFFIXES, findings):
        match = _NAME.fullmatch(path.stem)
        if match is None:
            findings.reject(path.as_posix(), f"the name is not like JAFFE's ({LAYOUT})")
            continue
        yield _clip("{}.{}{}".format(*match.groups()), path.as_posix())


def _clip(name: str, source: str = "") -> Clip:
    return Clip(
        clip_id=f"jaffe/{name}",
        corpus="jaffe",
        subject=name[:2],
        emotion=_WORDS[name[3:5]],
        recording=name,
        source=source,
    )


def listing(clips: Sequence[Clip]) -> Iterator[Clip]:
    """213, whichever part of it is there."""
    names = {f"{woman}.{code}{n}" for woman in WOMEN for code in _WORDS for n in (1, 2, 3)}
    return (_clip(name) for name in sorted(names.union(_TOO_MANY).difference(_TOO_FEW)))
