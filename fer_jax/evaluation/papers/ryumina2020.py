"""Paper 1: tables 3 and 4, eight experiments, five sets of features (docs/reproduction.md 1)."""

from __future__ import annotations

from fer_jax.evaluation.papers import figures
from fer_jax.evaluation.papers.plan import Cell, Figure, Paper, Step, Table, config, flags

#: Number: trained on, tested on ("" is ten folds of the same), T.
_EXPERIMENTS = {
    1: ("crema-d", "ravdess", 76), 2: ("crema-d", "", 76), 3: ("ravdess", "crema-d", 76),
    4: ("ravdess", "", 122), 5: ("crema-d", "ravdess", 30), 6: ("crema-d", "", 30),
    7: ("ravdess", "crema-d", 30), 8: ("ravdess", "", 30),
}  # fmt: skip
#: Feature set by its size, and the paper's accuracy of the experiments in percent.
_FEATURES = {
    136: ("coords-136", (66.69, 76.65, 47.88, 97.80, 57.64, 76.58, 42.28, 97.59)),
    104: ("distances-104", (68.07, 77.87, 49.54, 98.65, 59.00, 77.64, 43.81, 98.22)),
    259: ("distances-259", (69.43, 79.07, 49.91, 98.86, 58.43, 78.14, 44.83, 98.37)),
    272: ("emotii-272", (66.75, 77.37, 47.41, 97.84, 57.71, 77.20, 42.83, 98.12)),
    368: ("distances-368", (69.59, 78.03, 49.15, 98.41, 57.44, 77.60, 43.74, 98.14)),
}
_NAMES = {"crema-d": "CREMA-D", "ravdess": "RAVDESS"}
_NOTE = (
    "The paper's folds are of files: every test subject also trains, and RAVDESS's files are 2,452 "
    "recordings twice, so that nearly every test clip's twin trains. Its lists of distances were "
    "chosen on frames of both corpora. Leak-free: folds of subjects, and as many distances, chosen "
    "on each fold's training part."
)


def plan(small: bool) -> Paper:
    """Args:
    small: experiments 1 to 4 with two sets of features, three folds, small networks: for
      generated corpora.
    """
    less = ()
    if small:
        less = flags(train__epochs=8, train__batch=32, optim__lr=5e-3, model__units="24",
                     model__dropout=0.2, data__importance__frames=600,
                     data__importance__trees=20)  # fmt: skip
    sizes = [136, 259] if small else list(_FEATURES)
    steps: list[Step] = []
    cells: dict[int, list[Cell]] = {size: [] for size in sizes}
    for size in sizes:
        features, reported = _FEATURES[size]
        for number, (trained, tested, length) in _EXPERIMENTS.items():
            folds = not tested
            if small and (number > 4 or (size == 136 and tested)):
                continue
            name = f"experiment{number}-{features}"
            classes = "ravdess8" if number in (4, 8) else "crema6"
            places = (trained, tested) if tested else (trained,)
            shared = (
                "crossval" if folds else "train", config(_config(trained)),
                *flags(data__dir=",".join(f"{{{place}:landmarks68}}" for place in places),
                       data__labels=classes, **_length(length, small)),
                *less,
            )  # fmt: skip
            if folds:
                paper = flags(protocol__name="random-kfold", protocol__folds=3 if small else 10)
                clean = flags(protocol__name="subject-kfold", protocol__folds=3 if small else 10)
            else:
                paper = clean = flags(
                    protocol__name="cross-corpus", protocol__train_corpora=trained,
                    protocol__test_corpora=tested,
                )  # fmt: skip
            own = features.replace("distances", "importance")
            steps.append(Step(name, (*shared, *paper, *flags(data__features=features))))
            leak_free = ""
            if folds or own != features:
                leak_free = f"{name}-leak-free"
                steps.append(Step(leak_free, (*shared, *clean, *flags(data__features=own))))
            to = f"{_NAMES[trained]} to {_NAMES[tested]}" if tested else f"{_NAMES[trained]}, folds"
            row = f"{number}: {to}, {classes[-1]} classes, T {length}"
            cells[size].append(Cell(row, str(size), reported[number - 1] / 100, name, leak_free))
    tables = [Table("Table 3", "136 coordinates", tuple(cells[136]), _NOTE)]
    rest = tuple(cell for size in sizes if size != 136 for cell in cells[size])
    tables.append(Table("Table 4", "Other sets of features", rest, _NOTE))
    frames = ("--frames", "300", "--trees", "20") if small else ()
    both = ",".join(f"{{{corpus}:landmarks68}}" for corpus in _NAMES)
    words = ("importance", both, "--everything", "--out", "{run:importance}", *frames)
    steps.append(Step("importance", words))
    return Paper(
        name="ryumina2020",
        title="Facial Expression Recognition using Distance Importance Scores",
        tables=tuple(tables),
        steps=tuple(steps),
        figures=(
            Figure("Figure 2: the ten most important distances, chosen as the paper does",
                   figures.face_of("importance")),
        ),
        shown=("experiment2-distances-259", "experiment4-distances-259"),
    )  # fmt: skip


def _config(corpus: str) -> str:
    return f"ryumina2020_{corpus.replace('-', '_')}"


def _length(frames: int, small: bool) -> dict[str, object]:
    how = "sections" if frames == 30 else "thin"
    return {"data__length": how, "data__frames": frames // 8 if small else frames}
