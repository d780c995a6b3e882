"""Oulu-CASIA NIR&VIS: 80 people, 6 emotions, 3 lights, 2 cameras; 2,880 sequences, 25 fps.

Obtain: https://www.oulu.fi/cmvs (Center for Machine Vision and Signal Analysis, University of Oulu;
a signed agreement). Terms: research, not commercial.

Layout: sequences are folders of images, from neutral to the peak, anywhere below ROOT:

    OriginalImg/<camera>/<light>/<person>/<emotion>/000.jpeg ...
    PreProcessImg/<camera>_Acropped/<light>/<person>/<emotion>/000.jpeg ...

Camera is VL (visible light) or NI (near infrared); light is Strong, Weak or Dark; person is P001 to
P080. PreProcessImg holds crops of OriginalImg's faces, which are left out and counted where both
are there. ROOT may also lie further down: OriginalImg/VL/Strong is the part that papers mostly use,
480 sequences (paper 3 among them).

`intensity` is the light. Both cameras see one performance, so VL and NI of a light share their
`recording`; lights are separate performances. Counts: 80 of each camera, light and emotion.

Zhao, Huang, Taini, Li, Pietikäinen, Facial expression recognition from near-infrared videos, Image
and Vision Computing, 2011.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from fer_jax.labels import CORPUS_WORDS
from fer_jax.records import Clip
from preprocessing import video
from preprocessing.corpora.tree import Findings, media_files

LAYOUT = "folders of images like OriginalImg/VL/Strong/P001/Anger/"

FPS = 25.0
_WORDS = CORPUS_WORDS["oulu-casia"]
_PEOPLE = tuple(f"P{n:03d}" for n in range(1, 81))
_FOLDER = re.compile(
    rf"/(VL|NI)(_Acropped)?/(Strong|Weak|Dark)/({'|'.join(_PEOPLE)})/({'|'.join(_WORDS)})$"
)


def scan(root: Path, findings: Findings) -> Iterator[Clip]:
    """Sequences of the tree, by the names of their folders."""
    above = root.absolute()
    crops: list[Clip] = []
    seen: set[str] = set()
    for folder in dict.fromkeys(
        path.parent for path in media_files(root, video.IMAGE_SUFFIXES, findings)
    ):
        match = _FOLDER.search((above / folder).as_posix())
        if match is None:
            findings.reject(folder.as_posix(), f"not like Oulu-CASIA's {LAYOUT}")
            continue
        camera, crop, *rest = match.groups()
        clip = _clip(camera, *rest, source=folder.as_posix())
        if crop:
            crops.append(clip)
            continue
        seen.add(clip.clip_id)
        yield clip
    for clip in crops:
        if clip.clip_id not in seen:
            yield clip
        else:
            findings.skipped["sequences of crops, the whole pictures of which are here"] += 1


def _clip(camera: str, light: str, person: str, emotion: str, source: str = "") -> Clip:
    return Clip(
        clip_id=f"oulu-casia/{camera}-{light}-{person}-{emotion}",
        corpus="oulu-casia",
        subject=person,
        emotion=emotion,
        intensity=light,
        recording=f"{light}-{person}-{emotion}",
        source=source,
    )


def open_frames(root: Path) -> Callable[[Clip], Iterator[video.Frame]]:
    """The images of a sequence's folder."""
    return lambda clip: video.read_sequence(root / clip.source, FPS)


def listing(clips: Sequence[Clip]) -> Iterator[Clip]:
    """480 sequences of each camera and light that is there at all."""
    parts = {tuple(clip.clip_id.partition("/")[2].split("-")[:2]) for clip in clips}
    for camera, light in sorted(parts):
        for person in _PEOPLE:
            for emotion in _WORDS:
                yield _clip(camera, light, person, emotion)
