"""Any collection that is sorted into one directory a class.

Layouts, all of videos or images (mixed if you like), at any depth below the class:

    ROOT/<class>/<file>
    ROOT/<class>/<subject>/.../<file>       the directory below the class names the subject
    ROOT/<split>/<class>/...                if every directory of ROOT is named like a split: train,
                                            training, val, valid, validation, dev, test, testing

The class directory's name is the clip's emotion, in whatever words you use. Where there is no
subject directory, the subject is unknown (""); a collection whose second level means something else
(sessions, cameras) is better described by a `csv` manifest. Files of other kinds are ignored and
counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from fer_jax.errors import UserError
from fer_jax.records import Clip
from preprocessing.corpora.tree import Findings, media_files
from preprocessing.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES

LAYOUT = "one directory a class: ROOT/<class>/<file> or ROOT/<class>/<subject>/<file>"

#: Directory names that mean an official partition.
SPLITS = {
    "train": "train", "training": "train",
    "val": "validation", "valid": "validation", "validation": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


def scan(root: Path, findings: Findings) -> Iterator[Clip]:
    """Clips of the tree, by name."""
    if not root.is_dir():
        raise UserError(f"{root} is no directory; expected {LAYOUT}")
    files = list(media_files(root, VIDEO_SUFFIXES | IMAGE_SUFFIXES, findings))
    below = [path for path in files if len(path.parts) > 1]
    has_splits = bool(below) and all(path.parts[0].lower() in SPLITS for path in below)
    stems = Counter(path.with_suffix("") for path in files)
    for path in files:
        *folders, _ = path.parts
        split = SPLITS[folders.pop(0).lower()] if has_splits and folders else ""
        if not folders:
            findings.reject(path.as_posix(), "lies in no class directory")
            continue
        # a.jpg beside a.png: both keep their suffix, so that each has a name of its own.
        stem = path if stems[path.with_suffix("")] > 1 else path.with_suffix("")
        yield Clip(
            clip_id=f"folder/{stem.as_posix()}",
            corpus="folder",
            subject=folders[1] if len(folders) > 1 else "",
            emotion=folders[0],
            recording=stem.as_posix(),
            split=split,
            source=path.as_posix(),
        )
