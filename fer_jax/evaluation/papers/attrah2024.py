"""Paper 5: tables 1 to 4 on FER2013, and the same for seven classes (docs/reproduction.md 5)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from fer_jax.evaluation.papers import figures
from fer_jax.evaluation.papers.plan import Cell, Figure, Paper, Step, Table, config, flags
from fer_jax.labels import canonical

_FER = "{fer2013:blendshapes}"
_WORDS = {"happy": "Happy", "sad": "Sad", "angry": "Angry", "fear": "Afraid",
          "surprise": "Surprise", "disgust": "Disgust", "neutral": "Neutral"}  # fmt: skip
_PARTS = {"Full": ("train", "validation", "test"), "Training": ("train",),
          "Public test": ("validation",), "Private test": ("test",)}  # fmt: skip
_TABLE_1 = {
    "Full": (8989, 6077, 4953, 5121, 4002, 547, 6198),
    "Training": (7215, 4830, 3995, 4097, 3171, 436, 4965),
    "Public test": (895, 653, 467, 496, 415, 56, 607),
    "Private test": (879, 594, 491, 528, 416, 55, 626),
}
_CAPS = (4000, 4000, 1500, 1500, 1500, 436, 1500)
_UNDETECTED = (377, 835, 597, 616, 239, 72, 261)
_CLASSES = ("happy", "unknown", "sad")
_CONFUSION = ((251, 35, 5), (110, 850, 150), (21, 140, 84))
_FIGURES = {"accuracy": 0.7199, "macro_f1": 0.6298, "cross_entropy": 0.6235}


def plan(small: bool) -> Paper:
    """Args:
    small: few epochs: for generated corpora.
    """
    less = flags(train__epochs=8, data__caps="{}") if small else ()
    seven = flags(data__labels="fer7", train__loss__class_weights="none", data__caps="{}")
    train = ("train", config("attrah2024_lstm"), *flags(data__dir=_FER))
    clean = flags(protocol__name="file", protocol__file="{split:clean}")
    steps = (
        Step("clean", ("audit", _FER, "--protocol", "official", "--clean", "{split:clean}")),
        *(
            Step(f"{name}{suffix}", (*train, *classes, *protocol, *less))
            for name, classes in (("lstm", ()), ("lstm-7", seven))
            for suffix, protocol in (("", ()), ("-leak-free", clean))
        ),
    )
    note = "MediaPipe's releases find slightly different faces; images without one are left out."
    leak = (
        "FER2013's own parts hold copies of one another's images. Leak-free: training images that "
        "are also in the other parts are left out. The paper tests on 1,646 images, for reasons "
        "that are not known; here all that MediaPipe finds a face in."
    )
    shares = [
        Cell(f"truth {truth}", f"predicted {said}", count / sum(row), "lstm", "lstm-leak-free",
             f"confusion/{truth}/{said}")
        for truth, row in zip(_CLASSES, _CONFUSION, strict=True)
        for said, count in zip(_CLASSES, row, strict=True)
    ]  # fmt: skip
    return Paper(
        name="attrah2024",
        title="Emotion estimation from video footage with LSTM",
        tables=(
            _counts("Table 1", "FER2013's classes and splits", _TABLE_1, _images),
            _counts("Table 2", "Training images of each class", {"Count": _CAPS}, _capped, note),
            _counts("Table 3", "Images without a face that MediaPipe finds",
                    {"Counts": _UNDETECTED}, _undetected,
                    "Of all training images. The paper's numbers are of its whole training part."),
            Table("Section 5", "Test figures, three classes",
                  tuple(Cell("LSTM", name, value, "lstm", "lstm-leak-free", name)
                        for name, value in _FIGURES.items()), leak, shares=False),
            Table("Table 4", "Confusion matrix, shares of the true class", tuple(shares), leak),
            Table("Seven classes", "The same network on FER2013's own classes",
                  tuple(Cell("LSTM", name, None, "lstm-7", "lstm-7-leak-free", name)
                        for name in _FIGURES), leak, shares=False),
        ),
        steps=steps,
        figures=(
            Figure("Figure 2: the blendshapes of one image", figures.blendshape_bars, (_FER,)),
            Figure("Figure 5: the 52 blendshapes of all training images, and those kept",
                   figures.blendshape_scatter, (_FER,)),
            Figure("Class counts before and after cleaning and capping",
                   figures.class_counts(_images, _capped, _undetected), (_FER,)),
        ),
        shown=("lstm", "lstm-7"),
    )  # fmt: skip


_Counted = Mapping[tuple[str, str], float]


def _counts(
    name: str,
    title: str,
    reported: Mapping[str, tuple[int, ...]],
    count: Callable[[Path], _Counted],
    note: str = "",
) -> Table:
    cells = tuple(
        Cell(word, column, value)
        for column, values in reported.items()
        for word, value in zip(_WORDS.values(), values, strict=True)
    )
    return Table(name, title, cells, note, count=count, reads=_FER, shares=False)


def _coverage(records: Path) -> list[dict]:
    """What preprocessing counted, originals only; see preprocessing.coverage."""
    path = records / "coverage.json"
    return json.loads(path.read_text())["coverage"] if path.is_file() else []


def _sum(records: Path, what: str, parts: tuple[str, ...]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for row in _coverage(records):
        if row["split"] in parts:
            counts[canonical(row["emotion"])] += row[what]
    return counts


def _images(records: Path) -> _Counted:
    """Table 1: what the corpus holds, faces or none."""
    return {
        (word, column): counts[name]
        for column, parts in _PARTS.items()
        for counts in [_sum(records, "clips", parts)]
        for name, word in _WORDS.items()
    }


def _capped(records: Path) -> _Counted:
    """Table 2: the training images that remain with a face, at most the paper's caps."""
    counts = _sum(records, "written", ("train",))
    return {
        (word, "Count"): min(counts[name], cap) if name != "disgust" else counts[name]
        for (name, word), cap in zip(_WORDS.items(), _CAPS, strict=True)
    }


def _undetected(records: Path) -> _Counted:
    """Table 3: the training images without a face."""
    counts = _sum(records, "no_face", ("train",))
    return {(word, "Counts"): counts[name] for name, word in _WORDS.items()}
