"""Protocols of real corpora: file names by the corpora's rules, folds as they were published."""

from __future__ import annotations

import json
from collections import Counter
from itertools import product

import numpy as np
import pytest

from fer_jax.config import Protocol
from fer_jax.data.protocols import Index, check_classes, describe, fold_count, make_split
from fer_jax.errors import UserError
from fer_jax.labels import LABEL_SPACES, make_label_space
from fer_jax.records import Clip

WORDS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
TABLES = {
    "crema-d-5fold": "crema_d_5fold",
    "ravdess-speech-6fold": "ravdess_speech_6fold",
    "ravdess-5fold-luna-jimenez": "ravdess_5fold_luna_jimenez",
}


def clip(corpus, stem, subject, emotion, recording):
    return Clip(
        clip_id=f"{corpus}/{stem}", corpus=corpus, subject=subject, emotion=emotion,
        recording=recording,
    )  # fmt: skip


@pytest.fixture(scope="module")
def ravdess():
    """The 4,904 video files, by the rule of their names."""
    found = []
    for modality, channel, emotion, intensity, statement, repetition, actor in product(
        (1, 2), (1, 2), range(1, 9), (1, 2), (1, 2), (1, 2), range(1, 25)
    ):
        sung = channel == 2 and (emotion > 6 or actor == 18)
        if sung or (emotion == 1 and intensity == 2):
            continue
        fields = (channel, emotion, intensity, statement, repetition, actor)
        take = "-".join(f"{n:02d}" for n in fields)
        stem = f"{modality:02d}-{take}"
        found.append(clip("ravdess", stem, f"{actor:02d}", WORDS[emotion - 1], take))
    assert len(found) == 4904
    return found


@pytest.fixture(scope="module")
def crema(shared):
    names = shared / "papers/folds/crema_d_clip_names.txt"
    if not names.is_file():
        pytest.skip("no list of CREMA-D's clips")
    stems = names.read_text().split()
    assert len(stems) == 7442
    return [clip("crema-d", stem, stem[:4], stem.split("_")[2], stem) for stem in stems]


def ids(clips, indices):
    return {clips[i].clip_id for i in indices}


def subjects(clips, indices):
    return {clips[i].subject for i in indices}


def test_paper_2s_80_10_10_of_ravdess_are_its_sizes(ravdess):
    split = make_split(ravdess, Protocol(name="random", validation=0.1, test=0.1))
    assert [len(split.train), len(split.validation), len(split.test)] == [3923, 490, 491]


@pytest.mark.parametrize("name", TABLES)
def test_folds_are_the_published_ones(name, request, shared):
    """Test actors are the source's; clips are all that these actors have there."""
    path = shared / "papers/folds/published_folds.json"
    if not path.is_file():
        pytest.skip("no published_folds.json")
    wanted = json.loads(path.read_text())[TABLES[name]]["test_actors"]
    clips = request.getfixturevalue("crema" if name.startswith("crema") else "ravdess")
    used = clips
    if name == "ravdess-speech-6fold":
        used = [one for one in clips if one.clip_id.startswith("ravdess/02-01-")]
        assert len(used) == 1440
    tested: list[str] = []
    index = Index(clips)
    protocol = Protocol(name="published", published=name, validation=0)
    assert fold_count(protocol, lambda: clips) == len(wanted)
    for fold, actors in enumerate(wanted):
        protocol = Protocol(name="published", published=name, validation=0, fold=fold)
        split = make_split(index, protocol)
        assert split.name == f"{name}[{fold}/{len(wanted)}]"
        people = {f"{int(actor):02d}" for actor in actors}
        assert subjects(clips, split.test) == people
        assert ids(clips, split.test) == {c.clip_id for c in used if c.subject in people}
        assert ids(clips, split.train) == {c.clip_id for c in used if c.subject not in people}
        left = len(clips) - len(used)
        assert split.notes == ((f"{left:,} clips are not of {name} and are left out",) * bool(left))
        tested += [clips[i].clip_id for i in split.test]
    assert len(tested) == len(set(tested)) == len(used)


def test_published_folds_validate_on_whole_subjects(ravdess):
    protocol = Protocol(name="published", published="ravdess-speech-6fold", fold=2)
    split = make_split(ravdess, protocol)
    who = [subjects(ravdess, part) for part in (split.train, split.validation, split.test)]
    assert [len(people) for people in who] == [18, 2, 4]
    assert len(set.union(*who)) == 24


def test_published_folds_of_incomplete_records_say_what_is_missing(ravdess):
    some = [c for c in ravdess if c.clip_id.startswith("ravdess/02-01-")]
    protocol = Protocol(name="published", published="ravdess-speech-6fold")
    four = make_split(some[4:], protocol)
    assert four.notes == ("ravdess-speech-6fold has 1,440 clips, the records 1,436 of them",)
    without = make_split([c for c in some if c.subject not in ("07", "09")], protocol)
    assert "the records lack subjects 07, 09" in without.notes[-1]
    first = {"01", "02", "03", "04"}
    with pytest.raises(UserError, match=r"tests on subjects 01, 02, 03 and 1 more, and the rec"):
        make_split([c for c in some if c.subject not in first], protocol)
    with pytest.raises(UserError, match=r"holds? nothing of it, but 2452 clips of ravdess"):
        make_split([c for c in ravdess if c.clip_id.startswith("ravdess/01")], protocol)
    with pytest.raises(UserError, match="fold 6 of 6 does not exist"):
        make_split(some, Protocol(name="published", published="ravdess-speech-6fold", fold=6))
    with pytest.raises(UserError, match="did you mean crema-d-5fold"):
        make_split(some, Protocol(name="published", published="crema-5fold"))
    with pytest.raises(UserError, match=r"needs --protocol\.published: one of crema-d-5fold"):
        make_split(some, Protocol(name="published"))


def test_cross_corpus_with_six_of_eight_classes(crema, ravdess):
    """Paper 1: RAVDESS without calm and surprise is 3,768 videos (reproduction 1.6)."""
    clips = [*ravdess, *crema]
    protocol = Protocol(name="cross-corpus", train_corpora=("crema-d",), test_corpora=("ravdess",))
    split = make_split(clips, protocol)
    assert split.name == "cross-corpus[crema-d to ravdess]"
    assert {clips[i].corpus for i in [*split.train, *split.validation]} == {"crema-d"}
    assert {clips[i].corpus for i in split.test} == {"ravdess"}
    assert len(split.train) + len(split.validation) == 7442 and len(split.test) == 4904
    assert not subjects(clips, split.train) & subjects(clips, split.validation)
    assert len(subjects(clips, split.validation)) == 9  # A tenth of 91.
    space, index = LABEL_SPACES["crema6"], Index(clips)
    found = describe(index, split, space)
    assert sum(found["classes"]["test"].values()) == 4904 - 752 - 384 == 3768
    assert found["notes"] == [
        "1,136 clips have no class in crema6 and are left out: 752 calm, 384 surprised"
    ]
    auto = make_label_space("auto", {c.emotion for c in clips})
    with pytest.raises(UserError, match=r"no clip of calm, surprise, which 1,136 test .*crema6"):
        check_classes(index, split, auto)
    back = Protocol(name="cross-corpus", train_corpora=("ravdess",), test_corpora=("crema-d",))
    reverse = make_split(clips, back)
    assert len(reverse.test) == 7442 and len(reverse.train) + len(reverse.validation) == 4904
    assert check_classes(index, reverse, space)[0].startswith("1,136 clips have no class in")
    assert len(subjects(clips, reverse.validation)) == 2


def test_leave_one_corpus_out(crema, ravdess):
    clips = [*crema[:200], *ravdess[:300], clip("fer", "a", "01", "sad", "a")]
    assert fold_count(Protocol(name="loco"), lambda: clips) == 3
    for fold, corpus in enumerate(("crema-d", "fer", "ravdess")):
        split = make_split(clips, Protocol(name="loco", fold=fold))
        assert split.name == f"loco[{fold}/3 {corpus}]"
        assert {clips[i].corpus for i in split.test} == {corpus}
        others = {clips[i].corpus for i in [*split.train, *split.validation]}
        assert others == {"crema-d", "fer", "ravdess"} - {corpus}
        assert len(split.train) + len(split.validation) + len(split.test) == 501
        assert len(split.validation)


def test_subjects_of_two_corpora_are_two_people(ravdess):
    """Both have subjects 01 to 24: 48 people."""
    other = [c.replace(clip_id=f"savee/{c.clip_id[8:]}", corpus="savee") for c in ravdess]
    clips = [*ravdess, *other]
    assert fold_count(Protocol(name="loso"), lambda: clips) == 48
    split = make_split(clips, Protocol(name="loso", fold=24))
    assert split.name == "loso[24/48 savee/01]"
    assert {(clips[i].corpus, clips[i].subject) for i in split.test} == {("savee", "01")}
    split = make_split(clips, Protocol(name="subject", validation=0))
    people = {(clips[i].corpus, clips[i].subject) for i in split.test}
    assert len(people) == 5 and {corpus for corpus, _ in people} == {"ravdess", "savee"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "loco"}, "needs several corpora, the records hold ravdess alone"),
        ({"name": "cross-corpus"}, r"needs --protocol\.train_corpora: the records hold ravdess"),
        (
            {"name": "cross-corpus", "train_corpora": "ravdes"},
            r"train_corpora: the records hold no corpus 'ravdes', but ravdess; did you mean ravd",
        ),
        (
            {"name": "cross-corpus", "train_corpora": "ravdess", "test_corpora": "crema"},
            "hold no corpus 'crema', but ravdess",
        ),
        (
            {"name": "cross-corpus", "train_corpora": "ravdess", "test_corpora": "ravdess"},
            "ravdess cannot both train and test",
        ),
        ({"name": "actors"}, r"needs --protocol\.train_subjects and"),
        (
            {"name": "actors", "train_subjects": 20, "validation_subjects": 5},
            "20 subjects to train and 5 to validate on are more than the 24",
        ),
        (
            {"name": "actors", "train_subjects": 20, "validation_subjects": 4},
            r"leaves none of 24 subjects to test on: .*--protocol\.test_on_validation true",
        ),
        (
            {"name": "actors", "train_subjects": 24, "test_on_validation": True},
            r"needs a --protocol\.validation_subjects above 0",
        ),
        ({"name": "loso", "fold": 24}, "fold 24 of 24 does not exist"),
    ],
)
def test_mistakes(ravdess, settings, message):
    with pytest.raises(UserError, match=message) as caught:
        make_split(ravdess[::7], Protocol(**settings))
    assert "\n" not in str(caught.value)


def people(count, takes=3):
    return [
        Clip(clip_id=f"sase-fe/P{s}_{e}_{t}", corpus="sase-fe", subject=f"P{s}", emotion=e)
        for s, e, t in product(range(1, count + 1), ("happy", "sad"), range(takes))
    ]


def test_actor_counts_of_paper_3():
    """SASE-FE: 40 train, 8 validate, the rest test, by name: P2 before P10."""
    clips = people(54)
    split = make_split(clips, Protocol(name="actors", train_subjects=40, validation_subjects=8))
    assert split.name == "actors[40/8/6]" and not split.notes
    who = [subjects(clips, part) for part in (split.train, split.validation, split.test)]
    assert who == [
        {f"P{i}" for i in range(1, 41)},
        {f"P{i}" for i in range(41, 49)},
        {f"P{i}" for i in range(49, 55)},
    ]
    # Oulu-CASIA: 65 and 15 of 80, and the paper's figures are those of the 15.
    clips = people(80)
    oulu = {"name": "actors", "train_subjects": 65, "validation_subjects": 15}
    split = make_split(clips, Protocol(**oulu, test_on_validation=True))
    assert split.name == "actors[65/15/validation]"
    assert "tests on the validation part" in split.notes[0]
    np.testing.assert_array_equal(split.validation, split.test)
    assert subjects(clips, split.test) == {f"P{i}" for i in range(66, 81)}


def test_each_subject_alone():
    clips = people(12)
    tested = Counter()
    for fold in range(12):
        split = make_split(clips, Protocol(name="loso", fold=fold))
        assert split.name == f"loso[{fold}/12 P{fold + 1}]"
        assert subjects(clips, split.test) == {f"P{fold + 1}"}
        assert len(subjects(clips, split.validation)) == 1 and len(split.train) == 60
        tested.update(clips[i].clip_id for i in split.test)
    assert tested == Counter(c.clip_id for c in clips)


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "loso", "fold": 3},
        {"name": "published", "published": "ravdess-5fold-luna-jimenez", "fold": 1},
        {"name": "actors", "train_subjects": 12, "validation_subjects": 4},
        {"name": "cross-corpus", "train_corpora": "savee", "test_corpora": "ravdess"},
        {"name": "loco", "fold": 1},
    ],
)
def test_order_does_not_matter(ravdess, settings):
    clips = [
        *ravdess[::3],
        *(c.replace(clip_id=f"s/{c.clip_id}", corpus="savee") for c in ravdess[:99]),
    ]
    split = make_split(clips, Protocol(**settings))
    shuffled = [clips[i] for i in np.random.default_rng(0).permutation(len(clips))]
    again = make_split(shuffled, Protocol(**settings))
    assert (again.sha256, again.name, again.notes) == (split.sha256, split.name, split.notes)
