"""Annotated copies: what is drawn where, time that is kept, nothing half-written."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_jax.records import Clip
from preprocessing import annotate
from preprocessing.annotate import PALETTE, write_annotated
from preprocessing.video import Frame, VideoError, probe, read_frames

CLASSES = ("angry", "happy", "sad")
GREY = 90


def make_clip(times: list[float], width: int = 320, height: int = 180, **changes) -> Clip:
    """A face in the middle of every frame."""
    frames = len(times)
    box = np.float32([width * 0.4, height * 0.3, width * 0.6, height * 0.7])
    points = np.float32([width * 0.5, height * 0.5]) + np.zeros((frames, 68, 2), np.float32)
    return Clip(
        clip_id="c", corpus="file", width=width, height=height, fps=25.0,
        frame_index=np.arange(frames, dtype=np.int32), time_ms=np.float32(times),
        face_found=np.ones(frames, bool), box=np.tile(box, (frames, 1)), landmarks68=points,
    ).replace(**changes)  # fmt: skip


def frames_of(clip: Clip) -> list[Frame]:
    shape = (clip.height, clip.width, 3)
    return [
        Frame(int(i), float(t), np.full(shape, GREY, np.uint8))
        for i, t in zip(clip.frame_index, clip.time_ms, strict=True)
    ]


def certain(frames: int, k: int = 1, classes: int = 3) -> np.ndarray:
    """Class k at 80 %, the others share the rest."""
    shares = np.full((frames, classes), 0.2 / (classes - 1), np.float32)
    shares[:, k] = 0.8
    return shares


def draw(clip: Clip, shares: np.ndarray, t: int, classes=CLASSES) -> np.ndarray:
    """Frame t of the annotated copy before encoding, RGB."""
    board = annotate._Board(clip, shares, classes)
    return cv2.cvtColor(board.draw(frames_of(clip)[t].image, t), cv2.COLOR_BGR2RGB)


def near(picture: np.ndarray, colour: tuple[int, int, int], tolerance: int = 12) -> np.ndarray:
    return (np.abs(picture.astype(int) - colour) <= tolerance).all(-1)


def test_bars_are_as_long_as_the_probabilities() -> None:
    clip = make_clip([0, 40])
    picture = draw(clip, certain(2), 0)
    sidebar = picture[:360, 640:]
    for k, share in enumerate((0.1, 0.8, 0.1)):
        painted = near(sidebar, PALETTE[k], 2).sum(1).max()
        empty = near(sidebar, annotate._TRACK, 2).sum(1).max()
        assert painted == pytest.approx(share * (empty / 0.9), abs=3), k


def test_box_is_drawn_in_the_predicted_colour_around_the_face() -> None:
    clip = make_clip([0, 40])
    for k in range(3):
        image = draw(clip, certain(2, k), 0)[:360, :640]
        where = np.argwhere(near(image, PALETTE[k]))
        # 320x180 is shown twice as large: the box is 256..384 by 108..252, its tag above it.
        assert abs(where[:, 1].min() - 256) <= 2
        assert abs(where[:, 0].max() - 252) <= 2
        assert abs(where[:, 0].min() - (108 - 22)) <= 2


def test_the_cursor_parts_past_from_future() -> None:
    clip = make_clip([0, 40, 80, 120, 160])
    shares = certain(5)
    columns = []
    for t in range(5):
        panel = draw(clip, shares, t)[360 + 8 : 360 + 140]
        (column,) = np.flatnonzero(near(panel, annotate._INK, 2).all(0))
        columns.append(column)
        curve = near(panel, PALETTE[1], 2).any(0)
        assert curve[51 : column - 2].all() or t == 0
        assert not curve[column + 2 :].any()
    assert columns[0] == 50
    assert np.ptp(np.diff(columns)) <= 1
    assert columns[-1] == 880 - 20


def test_no_face_no_box_no_bars() -> None:
    shares = certain(3)
    shares[1] = np.nan
    clip = make_clip([0, 40, 80], face_found=np.array([True, False, True]))
    clip.box[1] = np.nan
    clip.landmarks68[1] = np.nan
    picture = draw(clip, shares, 1)
    assert near(picture[:360, :640], (GREY, GREY, GREY), 0).all()
    for colour in PALETTE[:3]:
        assert not near(picture[:360, 640:], colour, 2).any()
    # The curve has a gap there, and its lone ends are dots.
    panel = picture[360:, 50:860]
    assert near(panel[:, :5], PALETTE[1], 3).any()
    assert not near(panel[:, 200:600], PALETTE[1], 60).any()


@pytest.mark.parametrize("size", [(1920, 1080), (1080, 1920), (48, 48), (1000, 40), (33, 777)])
@pytest.mark.parametrize("count", [2, 9, 20])
def test_every_class_has_room_in_any_shape(size: tuple[int, int], count: int) -> None:
    classes = [f"{'äußerst ' * 6}{k}" for k in range(count)]
    clip = make_clip([0, 40], *size)
    for k in (0, count - 1):
        shares = certain(2, k, count)
        board = annotate._Board(clip, shares, classes)
        assert board.size[0] % 2 == board.size[1] % 2 == 0
        assert max(board.size) <= 1000
        picture = draw(clip, shares, 0, classes)
        assert picture.shape == (board.size[1], board.size[0], 3)
        row = board._row(k)
        assert near(picture[row[3], row[1] + 2 : row[1] + 20], PALETTE[k % 9], 2).all()
        assert row[3] < board._top


def test_an_image_becomes_a_png(tmp_path: Path) -> None:
    clip = make_clip([0.0], 48, 48, fps=0.0)
    path = write_annotated(tmp_path / "a.b", frames_of(clip), clip, certain(1), CLASSES)
    assert path == tmp_path / "a.b.png"
    info = probe(path)
    # No curve over time; 48 pixels are shown as 540.
    assert (info.width, info.height) == (540 + annotate.SIDEBAR_PX, 540)
    assert [p.name for p in tmp_path.iterdir()] == ["a.b.png"]


def test_even_times_give_every_frame_once(tmp_path: Path) -> None:
    # Container times are rounded to milliseconds.
    clip = make_clip([round(i * 1000 / 29.97) for i in range(40)])
    path = write_annotated(tmp_path / "v", frames_of(clip), clip, certain(40), CLASSES)
    info = probe(path)
    assert path.name == "v.mp4"
    assert info.frames == 40
    assert info.fps == pytest.approx(29.97, rel=2e-3)


def test_uneven_times_are_kept() -> None:
    # A second at 30 frames a second, a pause, a second at 15.
    first, second = np.arange(30) * 1000 / 30, 1800 + np.arange(15) * 1000 / 15
    times = np.concatenate([first, second])
    fps, repeats = annotate._cadence(times)
    assert fps == pytest.approx(30)
    shown_at = np.concatenate([[0], np.cumsum(repeats)[:-1]]) * 1000 / fps
    assert np.abs(shown_at - times).max() <= 1000 / 30 / 2 + 1
    assert repeats.min() >= 1


def test_a_broken_clock_does_not_fill_the_disk() -> None:
    _, repeats = annotate._cadence(np.array([0.0, 40, 80, 1e9, 1e9 + 40]))
    assert repeats.sum() < 300


def test_frames_are_the_sources_own(tmp_path: Path) -> None:
    clip = make_clip([i * 40.0 for i in range(6)])
    frames = frames_of(clip)
    for t, frame in enumerate(frames):
        frame.image[:] = 30 * t
    path = write_annotated(tmp_path / "v", iter(frames), clip, certain(6), CLASSES)
    shown = [frame.image[10:80, 10:200].mean() for frame in read_frames(path)]
    np.testing.assert_allclose(shown, [0, 30, 60, 90, 120, 150], atol=6)


def one_less(frames: list[Frame]) -> list[Frame]:
    return frames[:-1]


def other_size(frames: list[Frame]) -> list[Frame]:
    return [*frames[:1], Frame(1, 40.0, np.zeros((20, 20, 3), np.uint8)), *frames[2:]]


def other_index(frames: list[Frame]) -> list[Frame]:
    return [frames[0], *frames[2:], frames[1]]


@pytest.mark.parametrize("change", [one_less, other_size, other_index, lambda frames: []])
def test_a_file_that_changed_leaves_the_old_copy(tmp_path: Path, change) -> None:
    clip = make_clip([i * 40.0 for i in range(4)])
    (tmp_path / "v.mp4").write_text("older")
    with pytest.raises(VideoError, match="changed while it was read"):
        write_annotated(tmp_path / "v", change(frames_of(clip)), clip, certain(4), CLASSES)
    assert [p.name for p in tmp_path.iterdir()] == ["v.mp4"]
    assert (tmp_path / "v.mp4").read_text() == "older"


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    clip = make_clip([0.0, 40.0])
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        write_annotated(tmp_path / "file" / "v", frames_of(clip), clip, certain(2), CLASSES)


def test_a_full_disk_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __init__(self, path: str, *_: object):
            Path(path).write_bytes(b"")

        def isOpened(self) -> bool:
            return True

        def write(self, picture: np.ndarray) -> None: ...

        def release(self) -> None: ...

    Full.fourcc = staticmethod(lambda *_: 0)
    monkeypatch.setattr(cv2, "VideoWriter", Full)
    clip = make_clip([0.0, 40.0])
    with pytest.raises(OSError, match="only 0 of 2 frames"):
        write_annotated(tmp_path / "v", frames_of(clip), clip, certain(2), CLASSES)
    assert not list(tmp_path.iterdir())
