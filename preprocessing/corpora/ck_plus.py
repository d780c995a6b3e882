"""CK+: 123 people, 593 sequences from neutral to the peak, 327 with one of 7 emotions; 640x490.

Obtain: http://www.jeffcohn.net/Resources/ (a signed agreement). Terms: research, not commercial; no
redistribution.

Layout, anywhere below ROOT (the four archives side by side):

    cohn-kanade-images/S005/001/S005_001_00000001.png ... 00000011.png      a sequence, 30 fps
    Emotion/S005/001/S005_001_00000011_emotion.txt                         of its last frame

The label is 0 neutral 1 anger 2 contempt 3 disgust 4 fear 5 happy 6 sadness 7 surprise. Landmarks
and FACS codes are not read. Sequences without a label are left out, and counted. Counts of the
labelled: anger 45, contempt 18, disgust 59, fear 25, happy 69, sadness 28, surprise 83.

`ck+` gives the sequences. `ck+-frames` gives pictures, as is done for recognisers of single images:
of each labelled sequence the peak (its last frame) with its emotion, and the first frame as
neutral; the two share their `recording`. Paper 4 leaves contempt out: 309 peaks.

Collections of CK+ that others made of it (e.g. 48x48 crops by class) are described by a `csv`
manifest; their names still tell who is seen, which `folder` would not know.

Lucey, Cohn, Kanade, Saragih, Ambadar, Matthews, The Extended Cohn-Kanade Dataset, CVPRW 2010.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

from fer_jax.labels import CORPUS_WORDS
from fer_jax.records import Clip
from preprocessing import video
from preprocessing.corpora.tree import Findings, media_files

LAYOUT = (
    "folders like cohn-kanade-images/S005/001/ and labels like "
    "Emotion/S005/001/S005_001_00000011_emotion.txt"
)

FPS = 30.0
_WORDS = CORPUS_WORDS["ck+"]
_COUNTS = dict(zip(_WORDS, (0, 45, 18, 59, 25, 69, 28, 83), strict=True))
_NAME = re.compile(r"((S\d{3})_(\d{3}))_(\d{8})(_emotion)?")


def scan(root: Path, findings: Findings) -> Iterator[Clip]:
    """The labelled sequences."""
    for clip, images in _sequences(root, findings):
        yield clip.replace(source=images[0].parent.as_posix())


def _scan_frames(root: Path, findings: Findings) -> Iterator[Clip]:
    """The first frame and the peak of each labelled sequence."""
    for clip, images in _sequences(root, findings):
        for image, emotion in ((images[0], "neutral"), (images[-1], clip.emotion)):
            clip_id = f"ck+/{image.stem}"
            yield clip.replace(clip_id=clip_id, emotion=emotion, source=image.as_posix())


def _sequences(root: Path, findings: Findings) -> Iterator[tuple[Clip, list[Path]]]:
    """Each labelled sequence with its images in order; sources are left open."""
    images: dict[str, list[Path]] = {}
    labels: dict[str, Path] = {}
    for path in media_files(root, video.IMAGE_SUFFIXES | {".txt"}, findings):
        match = _NAME.fullmatch(path.stem)
        if path.suffix.lower() == ".txt":
            if match is not None and match[5]:
                labels[match[1]] = path
        elif match is None or path.parts[-3:-1] != (match[2], match[3]):
            findings.reject(path.as_posix(), f"not like CK+'s {LAYOUT}")
        else:
            images.setdefault(match[1], []).append(path)
    for name in sorted(images.keys() | labels.keys()):
        if name not in labels:
            findings.skipped["sequences without an emotion label"] += 1
            continue
        if name not in images:
            findings.missing.append(name)
            continue
        label = (root / labels[name]).read_text(errors="replace").strip()
        number = int(float(label)) if re.fullmatch(r"[0-7](\.0*(e\+?0+)?)?", label) else None
        peak = labels[name].stem.removesuffix("_emotion")
        if number is None:
            findings.reject(labels[name].as_posix(), f"{label[:20]!r} is no emotion from 0 to 7")
        elif images[name][-1].stem != peak:
            findings.reject(images[name][-1].as_posix(), f"the last frame should be {peak}")
        else:
            emotion = _WORDS[number]
            yield (
                Clip(
                    clip_id=f"ck+/{name}",
                    corpus="ck+",
                    subject=name[:4],
                    emotion=emotion,
                    recording=name,
                ),
                images[name],
            )


def open_frames(root: Path) -> Callable[[Clip], Iterator[video.Frame]]:
    """The images of a sequence's folder."""
    return lambda clip: video.read_sequence(root / clip.source, FPS)


def published(clips: Sequence[Clip]) -> Mapping[tuple[str, str], int]:
    """327 labelled sequences."""
    return {("", word): n for word, n in _COUNTS.items() if n}


def _published_frames(clips: Sequence[Clip]) -> Mapping[tuple[str, str], int]:
    """327 peaks and as many first frames."""
    return {("", word): n or sum(_COUNTS.values()) for word, n in _COUNTS.items()}


#: The adapter `ck+-frames`.
FRAMES = SimpleNamespace(LAYOUT=LAYOUT, scan=_scan_frames, published=_published_frames)
