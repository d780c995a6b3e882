"""Paper 2: Xception on FER2013, an LSTM on its features of RAVDESS (docs/reproduction.md 2)."""

from __future__ import annotations

from fer_jax.evaluation.papers.plan import Cell, Paper, Step, Table, config, flags

_FER, _RAVDESS = "{fer2013:crops}", "{ravdess:crops}"


def plan(small: bool) -> Paper:
    """Args:
    small: small networks and few epochs: for generated corpora.
    """
    cnn, lstm = (), ()
    if small:
        cnn = flags(model__stem="4,8", model__stem_stride=1, model__entry=8, model__middle=0,
                    model__exit="", model__dense=16, data__image_size=24, train__epochs=2,
                    train__batch=64)  # fmt: skip
        lstm = flags(data__frames=6, model__units=16, train__epochs=8, optim__lr=5e-3)
    size = 16 if small else 1024
    train = ("train", config("abdullah2020_lstm"))
    shared = flags(
        data__dir=_RAVDESS, data__features=f"extracted/{{name:abdullah-xception}}-{size}"
    )
    subject = flags(protocol__name="subject")
    steps = (
        Step("xception", ("train", config("abdullah2020_xception"), *flags(data__dir=_FER), *cnn)),
        Step("xception-validation", ("evaluate", "{run:xception}", "--split", "validation")),
        Step("abdullah-xception",
             ("extract", "{run:xception}", _RAVDESS, "--name", "abdullah-xception")),
        Step("lstm", (*train, *shared, *lstm)),
        Step("lstm-validation", ("evaluate", "{run:lstm}", "--split", "validation")),
        Step("lstm-leak-free", (*train, *shared, *subject, *lstm)),
        Step("lstm-leak-free-validation",
             ("evaluate", "{run:lstm-leak-free}", "--split", "validation")),
    )  # fmt: skip
    cells = (
        Cell("Xception, FER2013, validation", "accuracy", 0.80, "xception-validation"),
        Cell("Xception, FER2013, test", "accuracy", None, "xception"),
        Cell("LSTM, RAVDESS, validation", "accuracy", 0.65, "lstm-validation",
             "lstm-leak-free-validation"),
        Cell("LSTM, RAVDESS, test", "accuracy", 0.61, "lstm", "lstm-leak-free"),
    )  # fmt: skip
    note = (
        "80:10:10 of RAVDESS's files at random, as the paper: most test clips' twins train. "
        "Leak-free: the same shares of subjects."
    )
    return Paper(
        name="abdullah2020",
        title="Facial Expression Recognition in Videos: a CNN-LSTM based model",
        tables=(Table("Section 4", "Accuracy that the text reports", cells, note),),
        steps=steps,
        shown=("xception", "lstm", "lstm-leak-free"),
    )
