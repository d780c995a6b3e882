"""Raw corpora: one module an adapter, all behind `scan` and `open_frames`.

An adapter has `scan(root, findings)`, which yields clips with T = 0 from names and tables alone,
and LAYOUT, what it expects. It may have

    open_frames(root)   how a clip's frames are read
    folder(root)        what sources are relative to, if not the root
    listing(clips)      every clip of the publisher's, where names follow a rule
    published(clips)    else how many the publisher counts, by split and emotion
    notes(clips)        what else a user should know of these clips
    RECIPE              options that suit the corpus

Of a corpus that is there in part (one modality, one camera), `listing` and `published` count the
parts that are there at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from fer_jax.errors import UserError
from fer_jax.records import Clip
from preprocessing import video
from preprocessing.corpora import (
    affectnet,
    ck_plus,
    crema_d,
    csv_manifest,
    fer2013,
    folder,
    ised,
    jaffe,
    oulu_casia,
    ravdess,
    sase_fe,
    savee,
)
from preprocessing.corpora.tree import Findings

#: Every adapter by the name that a user gives. "-frames" is another view of the same files: single
#: pictures where the corpus itself has sequences.
CORPORA: Mapping[str, ModuleType | SimpleNamespace] = {
    "folder": folder,
    "csv": csv_manifest,
    "crema-d": crema_d,
    "ravdess": ravdess,
    "savee": savee,
    "sase-fe": sase_fe,
    "oulu-casia": oulu_casia,
    "ck+": ck_plus,
    "ck+-frames": ck_plus.FRAMES,
    "ised": ised,
    "ised-frames": ised.FRAMES,
    "fer2013": fer2013,
    "affectnet": affectnet,
    "jaffe": jaffe,
}


def adapter(name: str) -> ModuleType | SimpleNamespace:
    """The adapter of a corpus.

    Raises:
      UserError: the name is unknown.
    """
    if name not in CORPORA:
        near = get_close_matches(name.lower().replace("_", "-"), CORPORA, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"unknown corpus {name!r}{hint} (known: {', '.join(CORPORA)})")
    return CORPORA[name]


def scan(name: str, root: Path, findings: Findings | None = None) -> Iterator[Clip]:
    """The clips of a raw tree, from names and tables alone: nothing is decoded, T = 0.

    Args:
      name: a key of `CORPORA`.
      root: the raw corpus: a directory, or the table itself for `csv` and `fer2013`.
      findings: takes what is no clip: names that do not parse, files of other kinds.

    Raises:
      UserError: unknown corpus; root missing, empty, or laid out in a way the adapter cannot read.
    """
    module = adapter(name)
    root = Path(root)
    findings = Findings() if findings is None else findings
    if not root.exists():
        raise UserError(f"{root} does not exist; give the directory that holds the raw {name} data")
    seen: dict[str, str] = {}
    for clip in module.scan(root, findings):
        if clip.clip_id in seen:
            findings.reject(clip.source, f"a second copy of {seen[clip.clip_id]}")
            continue
        seen[clip.clip_id] = clip.source
        yield clip
    if not seen:
        first = f" (the first: {': '.join(findings.rejected[0])})" if findings.rejected else ""
        raise UserError(f"no {name} clip below {root}{first}; expected {module.LAYOUT}")


def open_frames(name: str, root: Path) -> Callable[[Clip], Iterator[video.Frame]]:
    """How the frames of a corpus's clips are read: a function of a clip.

    The function raises `preprocessing.video.VideoError` for a source that cannot be read.
    """
    module = adapter(name)
    root = Path(root)
    if hasattr(module, "open_frames"):
        return module.open_frames(root)
    return lambda clip: video.read_frames(root / clip.source)


def source_size(name: str, root: Path, clip: Clip) -> int | None:
    """Bytes of the file or the folder of images that a clip is read from; None without one."""
    module = adapter(name)
    folder = module.folder(root) if hasattr(module, "folder") else Path(root)
    path = folder / clip.source.partition("#")[0]
    if path.is_dir():
        return sum(file.stat().st_size for file in path.iterdir())
    return path.stat().st_size if path.is_file() else None


def listing(name: str, clips: Sequence[Clip]) -> Sequence[Clip]:
    """Every clip that the publisher lists, T = 0 and without a source; empty without a rule."""
    module = adapter(name)
    return list(module.listing(clips)) if hasattr(module, "listing") else []


def published(name: str, clips: Sequence[Clip]) -> Mapping[tuple[str, str], int]:
    """Clips by (split, emotion) that the publisher counts; empty where nothing is published."""
    module = adapter(name)
    if hasattr(module, "published"):
        return module.published(clips)
    return Counter((clip.split, clip.emotion) for clip in listing(name, clips))


def notes(name: str, clips: Sequence[Clip]) -> list[str]:
    """What a user should know of these clips, a sentence each."""
    module = adapter(name)
    return list(module.notes(clips)) if hasattr(module, "notes") else []


def recipe_defaults(name: str) -> Mapping[str, Any]:
    """Arguments of `Recipe` that suit a corpus, where they differ from the general defaults."""
    return getattr(adapter(name), "RECIPE", {})
