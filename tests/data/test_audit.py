import io
import json
from collections import Counter
from itertools import product

import numpy as np
import pytest
from PIL import Image

from fer_jax.config import Data, Protocol
from fer_jax.data.audit import Identities, audit, content_hash, refuse
from fer_jax.data.protocols import make_split
from fer_jax.errors import LeakError
from fer_jax.records import Clip


@pytest.fixture(scope="module")
def ravdess():
    """Clips of RAVDESS's 4,904 video files, made by the rule of its file names: modality, channel,
    emotion, intensity, statement, repetition, actor. Actor 18 has no songs."""
    clips = []
    for modality, channel, emotion, intensity, statement, repetition, actor in product(
        ("01", "02"), (1, 2), range(1, 9), (1, 2), (1, 2), (1, 2), range(1, 25)
    ):
        if emotion == 1 and intensity == 2:
            continue
        if channel == 2 and (emotion > 6 or actor == 18):
            continue
        take = f"{channel:02d}-{emotion:02d}-{intensity:02d}-{statement:02d}-{repetition:02d}"
        recording = f"{take}-{actor:02d}"
        clips.append(
            Clip(
                clip_id=f"ravdess/{modality}-{recording}",
                corpus="ravdess",
                subject=f"{actor:02d}",
                emotion=f"e{emotion}",
                statement=f"{statement:02d}",
                recording=recording,
            )
        )
    by_emotion = Counter(c.emotion for c in clips)
    # neutral 376; calm, happy, sad, angry, fear 752; disgust, surprise 384 (label_maps of RAVDESS)
    assert sorted(by_emotion.values()) == [376, 384, 384, 752, 752, 752, 752, 752]
    assert len(clips) == 4904
    return clips


def test_random_folds_of_ravdess_hold_the_twin_of_nine_in_ten(ravdess):
    """Expected: a twin is in the same fold with probability sum s (s - 1) / (n (n - 1)), s the
    fold sizes of its emotion, n its clips. The mean over all clips lies within 4 deviations."""
    shares, weights = [], []
    for fold in range(10):
        split = make_split(ravdess, Protocol(name="random-kfold", fold=fold, validation=0))
        report = audit(ravdess, split)
        train = {ravdess[i].recording for i in split.train}
        assert report["twin_overlap"] == np.mean(
            [ravdess[i].recording in train for i in split.test]
        )
        assert report["subject_overlap"] == 1
        assert report["verdict"].startswith(f"leaks: {100 * report['twin_overlap']:.1f} % of test")
        shares.append(report["twin_overlap"])
        weights.append(len(split.test))
    together = 0.0
    for n in Counter(c.emotion for c in ravdess).values():
        sizes = [n // 10 + (f < n % 10) for f in range(10)]
        together += n * sum(s * (s - 1) for s in sizes) / (n * (n - 1))
    expected = 1 - together / 4904
    assert expected == pytest.approx(0.9, abs=0.005)
    deviation = (0.1 * 0.9 / 2452) ** 0.5
    assert abs(np.average(shares, weights=weights) - expected) < 4 * deviation


def test_actor_folds_of_ravdess_are_clean(ravdess):
    for fold in range(10):
        report = audit(ravdess, make_split(ravdess, Protocol(name="subject-kfold", fold=fold)))
        assert report["subject_overlap"] == report["twin_overlap"] == 0
        assert report["statement_overlap"] == 1
        assert report["statistics_outside_train"] == 0
        assert report["near_duplicates"] is None
        assert report["verdict"] == "clean"


def test_folds_are_audited_from_one_reading(ravdess):
    reads = Counter()

    class Counted(list):
        def __getitem__(self, index):
            reads[index] += 1
            return super().__getitem__(index)

    clips = Counted(ravdess)
    identities = Identities(clips)
    for fold in range(10):
        split = make_split(ravdess, Protocol(name="random-kfold", fold=fold))
        assert audit(identities, split) == audit(ravdess, split)
    assert set(reads.values()) == {1} and len(reads) == 4904


def picture(pixels: bytes) -> bytes:
    """A PNG of noise, another for each text."""
    rng = np.random.default_rng([len(pixels), *pixels])
    encoded = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (16, 16), np.uint8)).save(encoded, "PNG")
    return encoded.getvalue()


def image(number, pixels=b"", split="train", **fields):
    return Clip(
        clip_id=f"test/{number}",
        corpus="test",
        emotion="happy",
        split=split,
        frame_index=np.zeros(1, np.int32),
        time_ms=np.zeros(1, np.float32),
        face_found=np.ones(1, bool),
        box=np.zeros((1, 4), np.float32),
        blendshapes=np.full((1, 52), len(pixels), np.float32),
        crops=(picture(pixels),),
        **fields,
    )


OFFICIAL = Protocol(name="official", validation=0)


def test_exact_copies_are_found_and_silence_is_none():
    train = [image(i, bytes(range(i))) for i in range(8)]
    test = [image(10, bytes(range(3)), "test"), image(11, b"\xff" * 3, "test")]
    report = audit(clips := [*train, *test], make_split(clips, OFFICIAL))
    table = report.pop("parts")
    assert table["near_duplicates"]["train-test"] == {"clips": 1, "of": 2, "share": 0.5}
    assert table["near_duplicates"]["train-validation"]["share"] is None
    assert report.pop("classes")["test"] == {"happy": 2}
    assert report == {
        "verdict": "leaks: 50.0 % of test clips have a copy in training (50.0 % an exact one) "
        "(the records name no subjects and no recordings)",
        "subject_overlap": None,
        "twin_overlap": None,
        "near_duplicates": 0.5,
        "exact_duplicates": 0.5,
        "statement_overlap": None,
        "statistics_outside_train": 0.0,
        "selection_outside_train": None,
        "source_overlap": None,
        "pairs": [{"sides": "train-test", "distance": 0.0, "clips": ["test/3", "test/10"]}],
        "fitted": [],
    }
    assert json.loads(json.dumps(report)) == report


def test_augmented_copies_add_no_overlap():
    clips = [image(i, bytes([i]), "test" if i > 6 else "train") for i in range(10)]
    clips = [c.replace(recording=c.clip_id, subject=c.clip_id) for c in clips]
    copies = [
        c.replace(clip_id=f"{c.clip_id}+aug1", augmentation="flip", split="train") for c in clips
    ]
    report = audit([*clips, *copies], make_split([*clips, *copies], OFFICIAL))
    assert report["verdict"] == "clean"
    assert report["subject_overlap"] == report["twin_overlap"] == report["near_duplicates"] == 0


def test_statistics_taken_from_test_clips_are_a_leak():
    clips = [image(i, bytes([i]), "test" if i > 7 else "train") for i in range(12)]
    report = audit(clips, make_split(clips, OFFICIAL), statistics=range(9))
    assert report["statistics_outside_train"] == 0.25
    assert "25.0 % of test clips were used for statistics" in report["verdict"]


def test_content_hash_reads_every_stream_and_nothing_else():
    clip = image(0, b"abc")
    assert content_hash(clip) == content_hash(clip.replace(clip_id="x", subject="y", fps=25.0))
    changed = [
        clip.replace(crops=(b"abd",)),
        clip.replace(crops=None),
        clip.replace(blendshapes=clip.blendshapes + 1),
        clip.replace(landmarks68=np.zeros((1, 68, 2), np.float32)),
    ]
    assert len({content_hash(c) for c in (clip, *changed)}) == 5
    assert content_hash(Clip(clip_id="x", corpus="test")) == ""


def test_test_clips_that_an_earlier_network_learned_from_are_a_leak(ravdess):
    split = make_split(ravdess, Protocol(name="subject-kfold", fold=0, folds=4, validation=0))
    test = [ravdess[i].clip_id for i in split.test]
    report = audit(ravdess, split, seen=set(test[: len(test) // 2]) | {"fer2013/1"})
    assert report["source_overlap"] == pytest.approx(0.5, abs=1 / len(test))
    wanted = "leaks: 50.0 % of test clips trained or validated a network that this one starts from"
    assert report["verdict"] == wanted
    assert audit(ravdess, split, seen=set())["source_overlap"] == 0
    assert audit(ravdess, split)["source_overlap"] is None


PLANTED = 500


def planted(**fields) -> list[Clip]:
    """Clips of as many training and test clips, and of each leak of a kind in the test part."""
    clips = []
    for i in range(PLANTED):
        own = {name: f"{name}{i}" for name in ("subject", "recording", "statement")}
        for part in ("train", "validation", "test"):
            mine = {name: f"{value}-{part}" for name, value in own.items()}
            clips.append(image(f"{part}{i}", split=part, **mine).replace(crops=None))
            clips[-1] = clips[-1].replace(blendshapes=np.eye(52, dtype=np.float32)[:1] * len(clips))
        leaked = {name: own[name] + "-train" for name in fields}
        clips.append(clips[-1].replace(clip_id=f"test/leak{i}", **leaked))
        blendshapes = np.eye(52, dtype=np.float32)[1:2] * (i + 1)
        clips[-1] = clips[-1].replace(blendshapes=blendshapes)
    return clips


@pytest.mark.parametrize(
    ("field", "name"),
    [("subject", "subject_overlap"), ("recording", "twin_overlap"),
     ("statement", "statement_overlap")],
)  # fmt: skip
def test_every_planted_subject_twin_and_statement_is_found(field, name):
    clips = planted(**{field: True})
    report = audit(clips, make_split(clips, Protocol(name="official", validation=0.1)))
    parts = report["parts"]
    assert parts[name]["train-test"] == {"clips": PLANTED, "of": 2 * PLANTED, "share": 0.5}
    assert parts[name]["train-validation"]["clips"] == 0
    assert parts[name]["validation-test"]["clips"] == 0
    others = {"subject_overlap", "twin_overlap", "statement_overlap", "near_duplicates"} - {name}
    assert all(report[other] == 0 for other in others)
    assert report["verdict"].startswith("clean" if field == "statement" else "leaks: 50.0 %")


def test_every_planted_statistic_is_found():
    clips = planted()
    split = make_split(clips, Protocol(name="official", validation=0.1))
    used = [*split.train, *split.test[:PLANTED]]
    found = audit(clips, split, statistics=used)["parts"]["statistics_outside_train"]
    assert found["train-test"] == {"clips": PLANTED, "of": 2 * PLANTED, "share": 0.5}


def test_what_validation_shares_is_said_and_is_no_leak_of_the_test():
    clips = [image(i, bytes([i]), ("train", "validation", "test")[i % 3]) for i in range(9)]
    clips = [c.replace(subject=("a", "a", "b")[i % 3]) for i, c in enumerate(clips)]
    report = audit(clips, make_split(clips, Protocol(name="official", validation=0.1)))
    wanted = "clean; 100.0 % of validation clips show a subject of training (a leak of model"
    assert report["verdict"].startswith(wanted)
    assert report["subject_overlap"] == 0


def test_names_of_two_corpora_are_two_peoples():
    clips = [image(0, b"a"), image(1, b"b", "test")]
    one, two = (c.replace(subject="1", recording="1", statement="1") for c in clips)
    two = two.replace(corpus="another")
    report = audit([one, two], make_split([one, two], OFFICIAL))
    assert report["subject_overlap"] == report["twin_overlap"] == report["statement_overlap"] == 0


@pytest.mark.parametrize(
    ("features", "corpus", "share"),
    [("distances-368", "ravdess", 1), ("distances-104", "crema-d", 1),
     ("distances-2278", "ravdess", 0), ("distances-259", "folder", 0),
     ("blendshapes-27", "fer2013", 0)],
)  # fmt: skip
def test_published_selections_are_told_by_their_corpora(features, corpus, share):
    """blendshapes-27 were counted on FER2013's official training part: fit for its test part."""
    clips = [image(0, b"a"), image(1, b"b", "test")]
    clips = [c.replace(corpus=corpus, subject=c.clip_id, recording=c.clip_id) for c in clips]
    report = audit(clips, make_split(clips, OFFICIAL), data=Data(features=features))
    assert report["selection_outside_train"] == share
    list_ = "selection: a published list fitted on crema-d and ravdess"
    assert (list_ in report["verdict"]) == bool(share)
    assert {"what": "z-score", "where": "the training part"} in report["fitted"]


def test_a_leak_is_refused_unless_it_is_named(ravdess):
    report = audit(ravdess, make_split(ravdess, Protocol(name="random-kfold")))
    with pytest.raises(LeakError, match=r"leaks: .*: add twins,subjects$"):
        refuse(report, (), "add {}")
    with pytest.raises(LeakError, match=r"add twins,subjects$"):
        refuse(report, ("twins",), "add {}")
    refuse(report, ("subjects", "twins"), "add {}")
    refuse(audit(ravdess, make_split(ravdess, Protocol())), (), "add {}")
