"""Paper 3: tables 6 to 12 and 14, SASE-FE and Oulu-CASIA (docs/reproduction.md 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fer_jax.evaluation.papers.plan import Cell, Paper, Step, Table, config, flags, part_of

#: Record directory, label space, subjects that train and validate.
_CORPORA = {
    "sase6": ("sase-fe", "sase6", 40, 8),
    "sase12": ("sase-fe", "sase12", 40, 8),
    "oulu6": ("oulu-casia", "oulu6", 65, 15),
}
#: Table 6: row, overrides, accuracy.
_FREEZING: Sequence[tuple[str, dict[str, str], float]] = (
    ("none frozen, no pooling", {"train__freeze": "", "model__pooling": "flatten",
                                 "model__dense": ""}, 0.2842),
    ("first frozen, 3 dense, no pooling", {"train__freeze": "stack_*/conv[12]_*",
                                           "model__pooling": "flatten"}, 0.1970),
    ("all frozen, 3 dense", {"model__pooling": "flatten"}, 0.4281),
    ("all frozen, 3 dense, average pooling", {"model__pooling": "average"}, 0.4207),
    ("all frozen, 3 dense, max pooling", {}, 0.4375),
    ("all frozen, no pooling", {"model__pooling": "flatten", "model__dense": ""}, 0.4250),
    ("all frozen, average pooling", {"model__pooling": "average", "model__dense": ""}, 0.4226),
    ("all frozen, max pooling", {"model__dense": ""}, 0.4310),
)  # fmt: skip
#: Tables 9 to 12: row, step, accuracy on SASE-FE's 12 classes and on Oulu-CASIA.
_STILL = (
    ("CNN, face", "face", 0.2806, 0.2386),
    ("CNN, frontal", "frontal", 0.2866, 0.2659),
    ("two-stream CNN, both", "two-stream", 0.3206, 0.2737),
    ("CNN + geometry, frontal", "geometry", 0.2994, 0.4411),
)
_MOVING = (
    ("3D CNN, frontal", "c3d", 0.1281, 0.2000),
    ("CNN + LSTM, features", "lstm-features", 0.1592, 0.2062),
    ("CNN + LSTM, images", "lstm-images", 0.1487, 0.2209),
    ("CNN + GRU, features", "gru-features", 0.1833, 0.1797),
    ("CNN + GRU, images", "gru-images", 0.0841, 0.2241),
)
_PROPOSED = {
    "sase12": (("face and frontal", "nested-both", 0.6275), ("frontal", "nested-frontal", 0.4298)),
    "oulu6": (("frontal and geometry", "nested-geometry", 0.5890),
              ("frontal", "nested-frontal", 0.5673)),
}  # fmt: skip
_NOTE = (
    "Subjects are divided, but the paper's test accuracy is that of the part that also chose the "
    "epoch. Leak-free: another tenth of the subjects tests. VGG-Face's weights are the user's to "
    "bring (--train.init.weights); without them the frozen layers are random."
)
_STACK: dict[str, Any] = {"model__widths": "4,4,8,8,8", "model__dense": "16,16"}
_CNN = {"model__cnn__widths": "4,4,8,8,8", "model__cnn__dense": "16,16"}
_VOLUME = {"model__widths": "4,4,8,8,8"}
_SMALL: dict[str, dict[str, Any]] = {
    "vgg_face": _STACK, "two_stream": _STACK, "geometry": _STACK,
    "c3d": {**_VOLUME, "model__dense": "16,16"},
    "lstm_features": {"model__units": "16", "data__pca": 8},
    "gru_features": {"model__units": "16", "data__pca": 8},
    "lstm_image": {**_CNN, "model__rnn__units": "16"},
    "gru_image": {**_CNN, "model__rnn__units": "16"},
    "nested_lstm": {**_VOLUME, "model__projection": 8, "model__temporal_units": 8,
                    "model__convolutional_units": 8, "model__bins": 2},
}  # fmt: skip
_SMALL["nested_lstm_geometry"] = _SMALL["nested_lstm"]


class _Steps:
    """The steps of one corpus and label space, each once."""

    def __init__(self, space: str, small: bool) -> None:
        self.space, self.small = space, small
        self.made: dict[str, Step] = {}
        corpus, labels, self._train, self._validation = _CORPORA[space]
        if small:
            self._train, self._validation = (8, 2)
        self._corpus, self._labels = corpus, labels

    def train(
        self, name: str, config_name: str, streams: str, after: str = "", recipe: str = "",
        **changes: Any,
    ) -> str:  # fmt: skip
        """The step of the paper's protocol, and the leak-free one; the first's name."""
        less: dict[str, Any] = {}
        if self.small:
            less = {"train__epochs": 2, "data__image_size": 32, "optim__lr": 1e-3}
            less |= _SMALL[config_name]
            if config_name.endswith("features"):
                less.pop("data__image_size")
        where = f"{{{self._corpus}:{streams}{':' + recipe if recipe else ''}}}"
        words = ("train", config(f"zennou2023_{config_name}"),
                 *flags(data__dir=where, data__labels=self._labels,
                        **{**less, **changes}))  # fmt: skip
        actors = flags(
            protocol__name="actors", protocol__train_subjects=self._train,
            protocol__validation_subjects=self._validation, protocol__test_on_validation="true",
        )  # fmt: skip
        subject = flags(protocol__name="subject")
        for suffix, protocol in (("", actors), ("-leak-free", subject)):
            full = f"{self.space}-{name}{suffix}"
            if full not in self.made:
                started = (
                    tuple(f"{{run:{self.space}-{one}{suffix}}}" for one in after.split(","))
                    if after else ()
                )  # fmt: skip
                start = ("--train.init.run", ",".join(started)) if started else ()
                self.made[full] = Step(full, (*words, *protocol, *start))
        return f"{self.space}-{name}"

    def still(self, name: str) -> str:
        if name == "two-stream":
            self.still("face")
            self.still("frontal")
            return self.train(name, "two_stream", "crops,frontal", "face,frontal")
        if name == "geometry":
            self.still("frontal")
            return self.train(name, "geometry", "frontal,landmarks68", "frontal")
        image = "crops" if name == "face" else "frontal"
        return self.train(name, "vgg_face", image, data__images=image)

    def moving(self, name: str) -> str:
        if name == "c3d":
            return self.train(name, "c3d", "frontal", data__images="frontal")
        self.still("frontal")
        kind = name.partition("-")[0]
        if name.endswith("images"):
            return self.train(name, f"{kind}_image", "frontal", "frontal", data__images="frontal")
        size = 16 if self.small else 4096
        for suffix in ("", "-leak-free"):
            network = f"{self.space}-frontal{suffix}"
            step = f"{network}-fc7"
            where = f"{{{self._corpus}:frontal}}"
            words = ("extract", f"{{run:{network}}}", where, "--name", step)
            self.made.setdefault(step, Step(step, words))
        features = f"extracted/{{name:{self.space}-frontal-fc7}}-{size}"
        made = self.train(name, f"{kind}_features", "frontal", data__features=features)
        own = f"{made}-leak-free"
        other = f"extracted/{{name:{self.space}-frontal-leak-free-fc7}}-{size}"
        words = self.made[own].words
        place = words.index("--data.features") + 1
        self.made[own] = Step(own, (*words[:place], other, *words[place + 1 :]))
        return made

    def proposed(self, name: str) -> str:
        images = "crops,frontal" if name == "nested-both" else "frontal"
        if name == "nested-geometry":
            return self.train(name, "nested_lstm_geometry", "frontal,landmarks68")
        return self.train(name, "nested_lstm", images, data__images=images)


def _cell(row: str, column: str, reported: float, step: str) -> Cell:
    return Cell(row, column, reported, step, f"{step}-leak-free")


def plan(small: bool) -> Paper:
    """Args:
    small: tables 7, 12 and 14, small networks, two epochs: for generated corpora.
    """
    made = {space: _Steps(space, small) for space in _CORPORA}
    six = made["sase6"]
    tables = []
    cells = [
        _cell(row, "accuracy", figure,
              six.still("face") if not changes
              else six.train(f"face-{row.replace(',', '').replace(' ', '-')}", "vgg_face", "crops",
                             **changes))
        for row, changes, figure in _FREEZING
    ]  # fmt: skip
    tables.append(Table("Table 6", "SASE-FE, 6 emotions, no frontal view", tuple(cells), _NOTE))
    symmetries = [("no symmetry", six.still("frontal"), 0.594999)]
    if not small:
        soft = six.train("frontal-soft", "vgg_face", "frontal", recipe="frontal_symmetry=soft",
                         data__images="frontal")  # fmt: skip
        symmetries.insert(0, ("soft symmetry", soft, 0.454692))
    tables += [
        Table("Table 7", "SASE-FE, 6 emotions, frontal views",
              tuple(_cell(row, "accuracy", figure, step) for row, step, figure in symmetries),
              _NOTE),
        Table("Table 8", "SASE-FE, 6 emotions, two streams",
              (_cell("two-stream CNN", "accuracy", 0.583234, six.still("two-stream")),), _NOTE),
    ]  # fmt: skip
    for space, column, still, moving in (
        ("sase12", 0, ("Table 9", "SASE-FE, 12 classes, pictures"),
         ("Table 10", "SASE-FE, 12 classes, sequences")),
        ("oulu6", 1, ("Table 11", "Oulu-CASIA, pictures"),
         ("Table 12", "Oulu-CASIA, sequences")),
    ):  # fmt: skip
        steps = made[space]
        for names, rows_, make in ((still, _STILL, steps.still), (moving, _MOVING, steps.moving)):
            cells = [
                _cell(row, "accuracy", figures[column], make(step)) for row, step, *figures in rows_
            ]
            tables.append(Table(*names, tuple(cells), _NOTE))
    names = {"sase12": "SASE-FE, 12 classes", "oulu6": "Oulu-CASIA"}
    cells = [
        _cell(f"{names[space]}: {row}", "accuracy", figure, made[space].proposed(step))
        for space, proposed in _PROPOSED.items()
        for row, step, figure in proposed
    ]
    tables.append(Table("Table 14", "The proposed nested LSTM", tuple(cells), _NOTE))
    steps = tuple(step for one in made.values() for step in one.made.values())
    paper = Paper(
        name="zennou2023",
        title="Toward an Efficient Emotion Recognition from Facial Expressions",
        tables=tuple(tables),
        steps=steps,
        shown=("sase12-nested-both", "oulu6-nested-frontal"),
    )
    return part_of(paper, ("Table 7", "Table 12", "Table 14")) if small else paper
