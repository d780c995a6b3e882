import csv
from collections import Counter
from itertools import product

import numpy as np
import pytest

from fer_jax.config import Protocol
from fer_jax.data.protocols import (
    PARTS,
    Index,
    check_classes,
    describe,
    make_split,
    save_split,
)
from fer_jax.errors import UserError
from fer_jax.labels import make_label_space
from fer_jax.records import Clip


def make_clips(subjects=20, takes=6, emotions=("ANG", "HAP", "SAD")):
    return [
        Clip(clip_id=f"test/{s:02d}_{e}_{t}", corpus="test", subject=f"{s:02d}", emotion=e)
        for s, e, t in product(range(subjects), emotions, range(takes))
    ]


def ids(clips, indices):
    return {clips[i].clip_id for i in indices}


def counts(clips, indices):
    return Counter(clips[i].emotion for i in indices)


@pytest.mark.parametrize("name", ["random", "subject", "random-kfold", "subject-kfold"])
def test_parts_are_disjoint_complete_and_independent_of_order(name):
    clips = make_clips()
    split = make_split(clips, Protocol(name=name))
    parts = [ids(clips, getattr(split, part)) for part in PARTS]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(clips)
    shuffled = [clips[i] for i in np.random.default_rng(0).permutation(len(clips))]
    again = make_split(shuffled, Protocol(name=name))
    assert [ids(shuffled, getattr(again, part)) for part in PARTS] == parts
    assert again.sha256 == split.sha256
    assert make_split(clips, Protocol(name=name, seed=1)).sha256 != split.sha256


PINNED = [
    ({"name": "random"}, "23f468f899cfa00bd04e51a5ed3d57bff85f4624fa049c4d4bda659325affe9b"),
    (
        {"name": "random", "validation": 0, "test": 0.2, "seed": 3},
        "24e79b26b2a7e63b25974a67364cce4a5ee15cf546802866054c95937acf3f02",
    ),
    ({"name": "subject"}, "9dae9a2c8f760ae08449b085c347c44b636f3c9afebe829d9d8f35c30f890222"),
    (
        {"name": "subject", "validation": 0.2, "test": 0.3, "seed": 1},
        "73790a88b424ac86d2f529bb8e06826a98abebb8b82a4214cd7391531f3c9d2a",
    ),
    ({"name": "random-kfold"}, "25267ed20ddba86e5a2b797d7891dbb4faafbf31141de48d86e3d6ff5e04e1a4"),
    (
        {"name": "random-kfold", "folds": 5, "fold": 3, "validation": 0, "seed": 2},
        "10a7b63b30e13a11750b6d159507c3f5adaa9037cdeadec7667d824cbc211cf3",
    ),
    ({"name": "subject-kfold"}, "0a3d01bbee82a008c1db554dc03ea6fc3f9cfb943720d431301eccb7d12a5bff"),
    (
        {"name": "subject-kfold", "folds": 3, "fold": 2, "seed": 5},
        "b88d52843e040165409021359bbeb969325c4ca06f236ebe5912512f88e4afd4",
    ),
]


@pytest.mark.parametrize(("settings", "sha256"), PINNED)
def test_split_hash_is_pinned(settings, sha256):
    """Published numbers name a split by its hash: it may not change with platform or version."""
    assert make_split(make_clips(), Protocol(**settings)).sha256 == sha256


def test_split_hash_of_the_official_partition_is_pinned():
    for sizes, sha256 in (
        ((30, 10, 10, 5), "82a207bdd2dffceed0a07b42b25b01234e38e6ca125bd03f4c432cd7334433c6"),
        ((30, 0, 10, 0), "e6ba54cbbe4c1473bc045c6fbabf3f5b688543b26f886380b5a70da3e10a6da2"),
    ):
        assert make_split(official(*sizes), Protocol(name="official")).sha256 == sha256


def test_split_hash_of_uneven_subjects_is_pinned():
    clips = make_clips(11, 2) + [c.replace(clip_id=c.clip_id + "x") for c in make_clips(4, 5)]
    for fold, sha256 in enumerate(
        (
            "ae4f77081c2d1e3c42aaba9a8c179801f51a8c7ec2f3c987fe4155fb89f6ab37",
            "59b1d39b2d3fbd4b8260ede92d1dfe5556efedb3121749b2ecccbd4cc02b435d",
            "34513dc7f0613f29f9f10de418cee39426d3a627ff05026128c5ece39091b613",
        )
    ):
        protocol = Protocol(name="subject-kfold", folds=3, fold=fold)
        assert make_split(clips, protocol).sha256 == sha256


@pytest.mark.parametrize("n", [24, 460, 4904, 28709])
@pytest.mark.parametrize("share", [0.1, 0.15, 0.3])
def test_random_test_share_is_scikit_learns(n, share):
    """train_test_split rounds the test share up, and so do 491 of paper 2's 4,904."""
    from sklearn.model_selection import train_test_split

    clips = [Clip(clip_id=f"test/{i}", corpus="test", emotion="HAP") for i in range(n)]
    split = make_split(clips, Protocol(name="random", test=share, validation=0))
    assert [len(split.train), len(split.test)] == [
        len(part) for part in train_test_split(range(n), test_size=share)
    ]


def test_random_shares_are_exact_and_stratified():
    clips = make_clips(50, 3) + make_clips(10, 1, ("DIS",))
    split = make_split(clips, Protocol(name="random"))
    assert [len(split.test), len(split.validation)] == [46, 46]
    for part in (split.test, split.validation):
        for emotion, n in counts(clips, range(len(clips))).items():
            assert abs(counts(clips, part)[emotion] - n / 10) <= 1


@pytest.mark.parametrize("folds", [2, 5, 10])
def test_file_folds_have_scikit_learns_counts(folds):
    from sklearn.model_selection import StratifiedKFold

    clips = [
        Clip(clip_id=f"{e}{i:03d}", corpus="test", emotion=e)
        for e, n in (("ANG", 127), ("FEA", 31), ("HAP", 10), ("SAD", 55))
        for i in range(n)
    ]
    emotions = np.array([c.emotion for c in clips])
    oracle = StratifiedKFold(folds).split(np.zeros(len(clips)), emotions)
    seen = []
    for fold, (_, wanted) in enumerate(oracle):
        protocol = Protocol(name="random-kfold", folds=folds, fold=fold, validation=0)
        split = make_split(clips, protocol)
        assert counts(clips, split.test) == Counter(emotions[wanted].tolist())
        assert not len(split.validation)
        assert split.name == f"random-kfold[{fold}/{folds}]"
        seen += split.test.tolist()
    assert sorted(seen) == list(range(len(clips)))


@pytest.mark.parametrize("validation", [0, 0.1])
def test_subject_folds_keep_subjects_whole_and_balance_them(validation):
    clips = make_clips(23, 4)
    tested = Counter()
    for fold in range(5):
        protocol = Protocol(name="subject-kfold", folds=5, fold=fold, validation=validation)
        split = make_split(clips, protocol)
        who = [{clips[i].subject for i in getattr(split, part)} for part in PARTS]
        assert not (who[0] & who[1] or who[0] & who[2] or who[1] & who[2])
        assert len(who[1]) == (2 if validation else 0)
        assert len(who[2]) in (4, 5)
        tested.update(who[2])
    assert tested == Counter({f"{s:02d}": 1 for s in range(23)})


def test_subject_folds_spread_large_subjects():
    """Twelve subjects of 3 clips, two of which have 60 more: 6 subjects and 78 clips a fold."""
    clips = make_clips(12, 1) + [
        Clip(clip_id=f"test/big{s}_{i}", corpus="test", subject=f"{s:02d}", emotion="ANG")
        for s in (3, 8)
        for i in range(60)
    ]
    for seed in range(10):
        for fold in range(2):
            protocol = Protocol(name="subject-kfold", folds=2, fold=fold, seed=seed)
            split = make_split(clips, protocol)
            assert len(split.test) == 78
            assert len({clips[i].subject for i in split.test}) == 6


@pytest.mark.parametrize("seed", range(20))
def test_no_subject_fold_lacks_a_class_that_enough_subjects_show(seed):
    """Three of twelve subjects show contempt, four fear: each of three folds has both."""
    clips = make_clips(12, 2)
    for emotion, people in (("CON", (1, 4, 9)), ("FEA", (1, 2, 3, 11))):
        clips += [
            Clip(clip_id=f"test/{s}_{emotion}", corpus="test", subject=f"{s:02d}", emotion=emotion)
            for s in people
        ]
    tested = Counter()
    for fold in range(3):
        protocol = Protocol(name="subject-kfold", folds=3, fold=fold, validation=0, seed=seed)
        split = make_split(clips, protocol)
        assert set(counts(clips, split.test)) == {"ANG", "HAP", "SAD", "CON", "FEA"}
        assert len({clips[i].subject for i in split.test}) == 4
        tested.update(ids(clips, split.test))
    assert tested == Counter(c.clip_id for c in clips)


def test_classes_that_a_part_lacks_are_named():
    clips = make_clips(6, 2) + [
        Clip(clip_id="test/one", corpus="test", subject="05", emotion="contempt"),
        Clip(clip_id="test/none", corpus="test", subject="04", emotion=""),
    ]
    space = make_label_space("auto", {c.emotion for c in clips})
    assert space.classes == ("happy", "sad", "angry", "contempt")
    index = Index(clips)
    for fold in range(3):
        split = make_split(index, Protocol(name="subject-kfold", folds=3, fold=fold, validation=0))
        if "05" in {clips[i].subject for i in split.test}:
            with pytest.raises(UserError, match="no clip of contempt, which 1 test clips show"):
                check_classes(index, split, space)
            assert "no clip of contempt" in describe(index, split, space)["notes"][0]
        else:
            assert check_classes(index, split, space) == [
                f"subject-kfold[{fold}/3]: the test part has no clip of contempt",
                "1 clips have no class in auto and are left out: 1 no label",
            ]


def test_subject_shares():
    split = make_split(clips := make_clips(20), Protocol(name="subject", test=0.2))
    who = [len({clips[i].subject for i in getattr(split, part)}) for part in PARTS]
    assert who == [14, 2, 4]


def official(*sizes):
    return [
        Clip(clip_id=f"test/{part}{i:03d}", corpus="test", emotion="HAP", split=part)
        for part, n in zip((*PARTS, ""), sizes, strict=True)
        for i in range(n)
    ]


def test_official_partition():
    clips = official(30, 10, 10, 5)
    protocol = Protocol(name="official")
    split = make_split(clips, protocol)
    for part, n in zip(PARTS, (30, 10, 10), strict=True):
        assert {clips[i].split for i in getattr(split, part)} == {part}
        assert len(getattr(split, part)) == n
    without = make_split(clips, Protocol(name="official", validation=0))
    assert (len(without.train), len(without.validation), len(without.test)) == (30, 0, 10)
    own = make_split(official(30, 0, 10, 0), protocol)
    assert (len(own.train), len(own.validation), len(own.test)) == (27, 3, 10)


@pytest.mark.parametrize("name", ["official", "random", "subject", "random-kfold"])
def test_augmented_copies_train_with_their_original_or_not_at_all(name):
    clips = make_clips(10, 2)
    clips = [c.replace(split=PARTS[i % 3]) for i, c in enumerate(clips)]
    copies = [
        c.replace(clip_id=f"{c.clip_id}+aug{k}", augmentation="flip", split="train")
        for c in clips
        for k in (1, 2)
    ]
    orphan = copies[0].replace(clip_id="test/gone+aug1")
    everything = [orphan, *copies, *clips]
    plain = make_split(clips, Protocol(name=name))
    split = make_split(everything, Protocol(name=name))
    assert ids(everything, split.test) == ids(clips, plain.test)
    assert ids(everything, split.validation) == ids(clips, plain.validation)
    originals = ids(clips, plain.train)
    wanted = originals | {f"{name}+aug{k}" for name in originals for k in (1, 2)}
    assert ids(everything, split.train) == wanted


@pytest.mark.parametrize(
    ("clips", "settings", "message"),
    [
        (make_clips(), {"name": "official"}, "no official train and test parts"),
        (make_clips(4), {"name": "subject-kfold"}, "4 subjects cannot make 10 folds"),
        (make_clips(2), {"name": "subject"}, "needs 3 subjects, the records have 2"),
        (make_clips(2, 1, ("ANG",)), {"name": "random-kfold"}, "2 clips cannot make 10 folds"),
        (make_clips(2, 1, ("ANG",)), {"name": "random"}, "no clip to train on"),
        (official(9, 0, 0, 0), {"name": "subject"}, "9 of 9 clips have none"),
        (make_clips(), {"name": "subject-kfold", "fold": 10}, "fold 10 of 10 does not exist"),
        (make_clips(2) + make_clips(1), {"name": "random"}, "18 clip ids occur twice"),
        ([], {"name": "random"}, "no clip to train on"),
    ],
)
def test_impossible_splits_are_the_users_mistake(clips, settings, message):
    with pytest.raises(UserError, match=message):
        make_split(clips, Protocol(**settings))


def test_saved_split_is_a_readable_table(tmp_path):
    clips = make_clips(6, 1)
    split = make_split(clips, Protocol(name="subject"))
    save_split(tmp_path / "split.csv", split)
    with (tmp_path / "split.csv").open() as file:
        rows = list(csv.DictReader(file))
    for part in PARTS:
        saved = [row["clip_id"] for row in rows if row["part"] == part]
        assert saved == [clips[i].clip_id for i in getattr(split, part)] == sorted(saved)
    assert len(rows) == len(clips)
    assert [p.name for p in tmp_path.iterdir()] == ["split.csv"]
