"""The subject of a clip: large and persistent, with gaps."""

import numpy as np
import pytest

from preprocessing.track import LONGEST_GAP, Face, Tracker, iou, match


def face(x, y=0.0, side=100.0, score=1.0):
    return Face(np.array([x, y, x + side, y + side], np.float32), score)


def follow(frames):
    """frames: for each t the list of (name, face). Returns {t: name} of the subject."""
    tracker, names = Tracker(), {}
    for t, faces in enumerate(frames):
        names.update({id(f): name for name, f in faces})
        tracker.add(t, [f for _, f in faces])
    subject = tracker.subject()
    assert list(subject) == sorted(subject)
    return {t: names[id(f)] for t, f in subject.items()}


def test_iou():
    a = np.array([0, 0, 2, 2.0])
    assert iou(a, a) == 1
    assert iou(a, a + 1) == pytest.approx(1 / 7)
    assert iou(a, a + 2) == 0
    assert iou(a, np.array([0, 0, 0, 0.0])) == 0


def test_match_takes_the_best_first_and_each_once():
    a = [face(0).box, face(30).box]
    b = [face(20).box, face(500).box, face(31).box]
    assert match(a, b, 0.3) == [(1, 2), (0, 0)]
    assert match(a, b, 0.9) == [(1, 2)]
    assert match([], b, 0.3) == []


def test_nobody():
    assert follow([[], []]) == {}


def test_the_larger_of_two_that_stay():
    frames = [[("small", face(500, side=60)), ("large", face(3 * t))] for t in range(10)]
    assert follow(frames) == dict.fromkeys(range(10), "large")


def test_the_persistent_one_beats_a_larger_passer_by():
    frames = [[("stays", face(0))] for _ in range(20)]
    for t in range(5, 9):
        frames[t].insert(0, ("passes", face(400, side=200)))
    assert follow(frames) == dict.fromkeys(range(20), "stays")


def test_a_doubtful_larger_one_is_not_the_subject():
    frames = [[("a", face(0)), ("b", face(400, side=150, score=0.2))] for _ in range(9)]
    assert follow(frames) == dict.fromkeys(range(9), "a")


def test_gaps_are_left_out():
    frames = [[("a", face(t))] if t not in (3, 4, 8) else [] for t in range(12)]
    assert sorted(follow(frames)) == [0, 1, 2, 5, 6, 7, 9, 10, 11]


def test_a_quick_move_keeps_the_subject():
    frames = [[("a", face(0 if t < 5 else 150))] for t in range(10)]
    assert len(follow(frames)) == 10


def test_a_long_gap_keeps_the_subject():
    gap = range(5, 6 + 2 * LONGEST_GAP)
    frames = [[] if t in gap else [("a", face(10))] for t in range(gap.stop + 5)]
    assert len(follow(frames)) == 10


@pytest.mark.parametrize("stranger", [face(900), face(0, side=30)], ids=["elsewhere", "too small"])
def test_a_face_unlike_the_subject_does_not_fill_its_gap(stranger):
    frames = [[("a", face(0))] for _ in range(10)] + [[("b", stranger)] for _ in range(5)]
    assert follow(frames) == dict.fromkeys(range(10), "a")


def test_someone_beside_the_subject_is_not_joined():
    frames = [[("a", face(0))] + [("b", face(120))] * (4 <= t < 8) for t in range(10)]
    assert follow(frames) == dict.fromkeys(range(10), "a")


def test_two_who_are_near_are_not_exchanged():
    frames = [[("b", face(130 - t)), ("a", face(t, side=110))] for t in range(15)]
    assert follow(frames) == dict.fromkeys(range(15), "a")


def test_equal_tracks_the_first_wins():
    frames = [[("a", face(0)), ("b", face(900))] for _ in range(4)]
    assert follow(frames) == dict.fromkeys(range(4), "a")
