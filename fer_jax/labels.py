"""Emotion vocabularies, and how each corpus's own words map to classes.

This file is the only owner of class order. A clip stores its corpus's own word; a `LabelSpace`
turns that word into a class index when clips are selected for training or evaluation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from fer_jax.errors import UserError

#: One word for each emotion, whatever a corpus calls it.
CANONICAL = (
    "neutral", "calm", "happy", "sad", "angry", "fear", "disgust", "surprise", "contempt",
)  # fmt: skip

_SYNONYMS = {
    "neutral": ("neutrality", "neu", "none"),
    "calm": ("calmness",),
    "happy": ("happiness", "joy", "hap", "enjoyment"),
    "sad": ("sadness", "sorrow"),
    "angry": ("anger", "ang", "mad"),
    "fear": ("fearful", "afraid", "scared", "fea"),
    "disgust": ("disgusted", "dis"),
    "surprise": ("surprised", "sur", "astonishment"),
    # SASE-FE's paper and page say contempt where its files say contentment.
    "contempt": ("contemptuous", "contentment"),
}
_CANONICAL_OF = {
    word: canonical for canonical in CANONICAL for word in (canonical, *_SYNONYMS[canonical])
}

#: What SASE-FE's words end with: a felt expression is not an acted one. A space tells them apart
#: if it has both as classes, else they are one.
QUALITIES = ("_fake", "_real")

#: The words that a corpus may use, in the corpus's own order.
CORPUS_WORDS: Mapping[str, tuple[str, ...]] = {
    "crema-d": ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD"),
    "ravdess": (
        "neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised",
    ),
    "fer2013": ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"),
    "affectnet": (
        "Neutral", "Happiness", "Sadness", "Surprise", "Fear", "Disgust", "Anger", "Contempt",
    ),
    "ck+": (
        "neutral", "anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise",
    ),
    "ised": ("happiness", "surprise", "sadness", "disgust"),
    "jaffe": ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"),
    "oulu-casia": ("Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise"),
    "sase-fe": (
        "Anger_Fake", "Anger_Real", "Contentment_Fake", "Contentment_Real", "Disgust_Fake",
        "Disgust_Real", "Happiness_Fake", "Happiness_Real", "Sadness_Fake", "Sadness_Real",
        "Surprise_Fake", "Surprise_Real",
    ),
    "savee": ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"),
}  # fmt: skip


def canonical(word: str) -> str:
    """The canonical emotion of a corpus's word; a word nobody knows is its own emotion.

    What is known stays known with one of `QUALITIES` at its end: "Anger_Fake" is "angry".
    """
    return _parts(word)[0]


def _parts(word: str) -> tuple[str, str]:
    """The canonical emotion, and the one of `QUALITIES` that the word ends with, or ""."""
    key = word.strip().lower()
    for quality in QUALITIES:
        emotion = _CANONICAL_OF.get(key.removesuffix(quality))
        if key.endswith(quality) and emotion is not None:
            return emotion, quality
    return _CANONICAL_OF.get(key, key), ""


def check_word(corpus: str, word: str, where: str) -> str:
    """`word` as `corpus` spells it, or a `UserError` that lists what the corpus knows."""
    words = CORPUS_WORDS[corpus]
    for known in words:
        if known.lower() == word.lower():
            return known
    raise UserError(f"{where}: unknown {corpus} emotion {word!r}; known are {', '.join(words)}")


@dataclass(frozen=True)
class LabelSpace:
    """The classes that a recogniser tells apart, in the order of its outputs.

    Attributes:
      name: what a config calls it.
      classes: K class names; a class's index is its place here.
      members: canonical emotion -> class name. Emotions that are absent are left out of the data.
        An emotion with one of `QUALITIES` ("angry_fake") goes before the emotion without.
    """

    name: str
    classes: tuple[str, ...]
    members: Mapping[str, str]

    def index(self, word: str) -> int | None:
        """The class index of a corpus's word; None where the space leaves this emotion out."""
        emotion, quality = _parts(word)
        name = self.members.get(emotion + quality) or self.members.get(emotion)
        return None if name is None else self.classes.index(name)

    def to_json(self) -> dict:
        return {
            "name": self.name,
            "classes": list(self.classes),
            "members": dict(self.members),
        }

    @classmethod
    def from_json(cls, value: dict) -> LabelSpace:
        return cls(value["name"], tuple(value["classes"]), dict(value["members"]))


def _same(name: str, *classes: str) -> LabelSpace:
    return LabelSpace(name, classes, {c: c for c in classes})


#: Named label spaces. `crema6` is also paper 1's 6-class cross-corpus space.
LABEL_SPACES: Mapping[str, LabelSpace] = {
    space.name: space
    for space in (
        _same("crema6", "angry", "disgust", "fear", "happy", "neutral", "sad"),
        _same(
            "ravdess8", "neutral", "calm", "happy", "sad", "angry", "fear", "disgust", "surprise"
        ),
        # Paper 2's seven, which it does not count: without neutral, or with calm as neutral.
        _same("ravdess7", "calm", "happy", "sad", "angry", "fear", "disgust", "surprise"),
        LabelSpace(
            "ravdess7-calm-neutral",
            ("neutral", "happy", "sad", "angry", "fear", "disgust", "surprise"),
            {c: "neutral" if c == "calm" else c for c in CANONICAL if c != "contempt"},
        ),
        _same("fer7", "angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"),
        # Paper 3: SASE-FE's six, felt or acted; both alphabetical by the corpus's words.
        _same(
            "sase12",
            *(
                emotion + quality
                for emotion in ("angry", "contempt", "disgust", "happy", "sad", "surprise")
                for quality in QUALITIES
            ),
        ),
        _same("sase6", "angry", "contempt", "disgust", "happy", "sad", "surprise"),
        # Papers 3 and 4: Oulu-CASIA's six, alphabetical; AffectNet's seven in the order of its ids.
        _same("oulu6", "angry", "disgust", "fear", "happy", "sad", "surprise"),
        _same("affectnet7", "neutral", "happy", "sad", "surprise", "fear", "disgust", "angry"),
        # Paper 4's three classes; it does not say where surprise belongs (reproduction 4.4).
        LabelSpace(
            "affectnet3",
            ("neutral", "positive", "negative"),
            {
                "neutral": "neutral",
                **dict.fromkeys(("happy", "surprise"), "positive"),
                **dict.fromkeys(("sad", "fear", "disgust", "angry"), "negative"),
            },
        ),
        # Paper 5: happy and sad are what a robot reacts to, everything else is one class.
        LabelSpace(
            "attrah3",
            ("happy", "unknown", "sad"),
            {c: c if c in ("happy", "sad") else "unknown" for c in CANONICAL if c != "contempt"},
        ),
    )
}


def make_label_space(name: str, words: Iterable[str]) -> LabelSpace:
    """The label space that a config names; `auto` makes one of the emotions found in the data.

    Args:
      name: a key of `LABEL_SPACES`, or "auto".
      words: the corpus words that occur (read for "auto" only).

    Raises:
      UserError: the name is unknown.
    """
    if name == "auto":
        found = {"".join(_parts(word)) for word in words if word}
        known = [c + q for c in CANONICAL for q in ("", *QUALITIES) if c + q in found]
        return _same("auto", *known, *sorted(found.difference(known)))
    if name not in LABEL_SPACES:
        near = get_close_matches(name, [*LABEL_SPACES, "auto"], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        known = ", ".join([*LABEL_SPACES, "auto"])
        raise UserError(f"unknown label space {name!r}{hint} (known: {known})")
    return LABEL_SPACES[name]
