"""Emotion words, classes and their order."""

from __future__ import annotations

import json

import pytest

from fer_jax.errors import UserError
from fer_jax.labels import (
    CANONICAL,
    CORPUS_WORDS,
    LABEL_SPACES,
    LabelSpace,
    canonical,
    check_word,
    make_label_space,
)

#: The corpora's own documentation: words by code.
CREMA_D = {"ANG": "angry", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral",
           "SAD": "sad"}  # fmt: skip
RAVDESS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
FER2013 = ("Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise", "Neutral")


def test_every_corpus_word_is_a_known_emotion() -> None:
    assert {word: canonical(word) for word in CORPUS_WORDS["crema-d"]} == CREMA_D
    assert CORPUS_WORDS["ravdess"] == RAVDESS
    assert CORPUS_WORDS["fer2013"] == tuple(word.lower() for word in FER2013)
    for corpus, words in CORPUS_WORDS.items():
        # SASE-FE has each emotion felt and acted.
        assert len({canonical(word) for word in words}) == len(words) // (1 + (corpus == "sase-fe"))
        assert {canonical(word) for word in words} <= set(CANONICAL)
        space = make_label_space("auto", words)
        assert sorted(space.index(word) for word in words) == list(range(len(words)))


@pytest.mark.parametrize(
    ("word", "emotion"),
    [(" Happiness ", "happy"), ("SURPRISED", "surprise"), ("fearful", "fear"), ("Bored", "bored")],
)
def test_canonical(word: str, emotion: str) -> None:
    assert canonical(word) == emotion
    assert canonical(emotion) == emotion


def test_order_of_classes_is_the_corpora_own() -> None:
    assert LABEL_SPACES["ravdess8"].classes == tuple(canonical(word) for word in RAVDESS)
    assert LABEL_SPACES["fer7"].classes == tuple(canonical(word) for word in FER2013)
    assert LABEL_SPACES["crema6"].classes == tuple(CREMA_D[code] for code in CREMA_D)


@pytest.mark.parametrize("name", LABEL_SPACES)
def test_label_spaces_are_sound(name: str) -> None:
    space = LABEL_SPACES[name]
    assert space.name == name
    assert set(space.members.values()) == set(space.classes)
    assert len(set(space.classes)) == len(space.classes)
    assert {canonical(emotion) for emotion in space.members} <= set(CANONICAL)
    assert LabelSpace.from_json(json.loads(json.dumps(space.to_json()))) == space


def test_paper_5s_three_classes() -> None:
    space = LABEL_SPACES["attrah3"]
    found = {word: space.index(word) for word in (*FER2013, "contempt")}
    assert found == {"Angry": 1, "Disgust": 1, "Fear": 1, "Happy": 0, "Sad": 2, "Surprise": 1,
                     "Neutral": 1, "contempt": None}  # fmt: skip


def test_sase_fe_is_twelve_classes_or_six(shared) -> None:
    maps = json.loads((shared / "papers/label_maps.json").read_text())
    words = CORPUS_WORDS["sase-fe"]
    assert list(words) == maps["sase_fe_12"]
    assert [LABEL_SPACES["sase12"].index(word) for word in words] == list(range(12))
    assert [LABEL_SPACES["sase6"].index(word) for word in words] == [n // 2 for n in range(12)]
    # The code of paper 3 says contentment, the paper and the corpus's page say contempt.
    for space in ("sase12", "sase6"):
        pair = [LABEL_SPACES[space].index(w) for w in ("Contempt_Real", "Contentment_Real")]
        assert pair[0] == pair[1] is not None
    # Who does not ask gets the emotion; who asks is not given what nobody said.
    assert LABEL_SPACES["oulu6"].index("Anger_Fake") == LABEL_SPACES["oulu6"].index("Anger")
    assert LABEL_SPACES["sase12"].index("Anger") is None
    assert make_label_space("auto", ["is_real", "is_fake"]).classes == ("is_fake", "is_real")


def test_an_emotion_outside_the_space_has_no_index() -> None:
    assert LABEL_SPACES["crema6"].index("surprise") is None
    assert LABEL_SPACES["crema6"].index("HAP") == 3


def test_auto_knows_synonyms_and_keeps_strange_words() -> None:
    space = make_label_space("auto", ["SAD", "happiness", "Zen", "sad", "bored", "NEU"])
    assert space.classes == ("neutral", "happy", "sad", "bored", "zen")
    assert space.index("HAP") == 1
    assert space.index("ZEN") == 4


def test_unknown_names_are_the_users_to_mend() -> None:
    with pytest.raises(UserError, match=r"'fer6'; did you mean 'fer7'\? \(known: .*auto\)"):
        make_label_space("fer6", [])
    with pytest.raises(UserError, match=r"row 3: unknown crema-d emotion 'XXX'; known are ANG, "):
        check_word("crema-d", "XXX", "row 3")
    assert check_word("crema-d", "hap", "row 3") == "HAP"
