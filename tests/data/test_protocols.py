import csv
from collections import Counter
from itertools import product

import numpy as np
import pytest

from fer_jax.config import Protocol
from fer_jax.data.protocols import PARTS, make_split, save_split
from fer_jax.errors import UserError
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


def test_split_hash_is_pinned():
    """Published numbers name a split by its hash: it may not change with platform or version."""
    clips = make_clips(4, 2)
    assert make_split(clips, Protocol(name="random")).sha256 == (
        "d0b1381da8110f085d88240cfbcfc0cf4a3aa9a0ec202a068a41db1fd7cb8f1a"
    )
    assert make_split(clips, Protocol(name="subject")).sha256 == (
        "aaa8f91a9359a739f3ec9019a5d3425d3a92cb1fbbfb55dade88c7944dcb48dd"
    )


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
