"""Paper 4: tables 1 and 2, trained on AffectNet, tested on three other corpora (reproduction 4)."""

from __future__ import annotations

from typing import Any

from fer_jax.evaluation.papers.plan import Cell, Paper, Step, Table, config, flags

_TESTS = {"ck+-frames": "CK+", "jaffe": "JAFFE", "ised-frames": "ISED"}
_SYSTEMS: dict[str, tuple[str, tuple[float, ...], tuple[float, ...]]] = {
    "CNN (2)": ("cnn2", (0.628, 0.484, 0.516), (0.819, 0.525, 0.814)),
    "CNN (5)": ("cnn5", (0.728, 0.502, 0.593), (0.92, 0.765, 0.867)),
    "Inception-V3": ("inception_v3", (0.304, 0.268, 0.479), (0.582, 0.536, 0.673)),
    "EmotionNet 2": ("emotionnet2", (0.204, 0.249, 0.21), (0.478, 0.497, 0.587)),
    "EmotionalDAN": ("", (0.736, 0.465, 0.62), (0.921, 0.634, 0.896)),
}
_DAN: dict[str, Any] = {
    "model__widths": "4,4,4,4",
    "model__dense": 16,
    "model__patch": 4,
    "data__image_size": 32,
}
_SMALL: dict[str, dict[str, Any]] = {
    "cnn2": {},
    "": _DAN | {"optim__half_cycle": 20},
    "stage1": _DAN,
}  # fmt: skip


def plan(small: bool) -> Paper:
    """Args:
    small: two small networks, two epochs: for generated corpora.
    """
    data = flags(data__dir="{affectnet:crops,landmarks68}")
    picture = flags(data__dir="{affectnet:crops}")
    steps: list[Step] = []
    tables: dict[int, list[Cell]] = {7: [], 3: []}

    def less(system: str) -> tuple[str, ...]:
        return flags(train__epochs=2, train__batch=32, **_SMALL[system]) if small else ()

    for title, (system, seven, three) in _SYSTEMS.items():
        if small and system not in ("cnn2", ""):
            continue
        name = system or "emotionaldan"
        if not system:
            words = ("train", config("emotionaldan2018_stage1"), *data, *less("stage1"))
            steps.append(Step("stage1", words))
            words = ("train", config("emotionaldan2018"), *data, "--train.init.run",
                     "{run:stage1}", *less(system))  # fmt: skip
        else:
            words = ("train", config(f"emotionaldan2018_{system}"), *picture, *less(system))
        steps.append(Step(name, words))
        for (corpus, column), *reported in zip(_TESTS.items(), seven, three, strict=True):
            streams = "crops" if system else "crops,landmarks68"
            for classes, figure in zip((7, 3), reported, strict=True):
                merge = ("--labels", "affectnet3") if classes == 3 else ()
                step = f"{name}-{corpus}-{classes}"
                words = ("evaluate", f"{{run:{name}}}", f"{{{corpus}:{streams}}}", *merge)
                steps.append(Step(step, words))
                tables[classes].append(Cell(title, column, figure, step))
    note = (
        "Trained on AffectNet, tested on other corpora, so nothing of a test corpus trains. The "
        "frames of CK+, JAFFE and ISED that the paper took are not documented."
    )
    return Paper(
        name="emotionaldan2018",
        title="EmotionalDAN: Classifying Emotions in the Wild with Facial Landmarks",
        tables=(
            Table("Table 1", "Seven classes", tuple(tables[7]), note),
            Table("Table 2", "Three classes, the seven summed", tuple(tables[3]), note),
        ),
        steps=tuple(steps),
        shown=("emotionaldan",),
    )
