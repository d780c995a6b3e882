from fractions import Fraction
from math import floor

import numpy as np
import pytest

from fer_jax.data.sequences import (
    kept,
    sample_frames,
    sample_length,
    sections,
    skip,
    thin,
    windows,
)


def thin_by_the_text(length, frames):
    """docs/reproduction.md 1.4, with exact fractions: idx_k = round_half_up(1 + k L / T) - 1."""
    step = Fraction(length, frames)
    rounded = [floor(1 + k * step + Fraction(1, 2)) for k in range(frames)]
    return [min(length - 1, r - 1) for r in rounded]


@pytest.mark.parametrize("frames", [1, 2, 7, 30, 76, 122])
def test_thin_follows_the_published_rule(frames):
    for length in range(frames, 4 * frames + 3):
        positions = thin(length, frames)
        assert positions.dtype == np.int32
        assert positions.tolist() == thin_by_the_text(length, frames)
        assert len(set(positions.tolist())) == frames


def test_thin_rounds_halves_up_and_keeps_short_clips_whole():
    # L / T = 1.5: positions 0, 1.5 -> 2, 3, 4.5 -> 5.
    assert thin(6, 4).tolist() == [0, 2, 3, 5]
    assert thin(152, 76).tolist() == list(range(0, 152, 2))
    assert thin(3, 76).tolist() == [0, 1, 2]
    assert thin(76, 76).tolist() == list(range(76))


def test_sections_use_every_frame_once():
    assert [s.tolist() for s in sections(7, 3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [len(s) for s in sections(90, 30)] == [30, 30, 30]
    assert np.concatenate(sections(101, 30)).tolist() == list(range(101))
    assert sections(0, 30) == []


def test_policies():
    assert [s.tolist() for s in sample_frames(5, "thin", 2)] == [thin(5, 2).tolist()]
    assert [len(s) for s in sample_frames(5, "sections", 2)] == [2, 2, 1]
    assert [s.tolist() for s in sample_frames(3, "frames", 76)] == [[0], [1], [2]]
    assert [sample_length(p, 76) for p in ("thin", "sections", "frames")] == [76, 76, 1]
    assert [s.tolist() for s in sample_frames(9, "skip", 4)] == [[0, 2, 4, 6]]
    assert [s.tolist() for s in sample_frames(5, "windows", 3, 2)] == [[0, 1, 2], [2, 3, 4]]


@pytest.mark.parametrize("length", [1, 39, 40, 41, 79, 80, 121, 300])
def test_skip_is_harvitronixs_rescale_list(length):
    """docs/reproduction.md 2.1: skip = floor(L / 40); indices 0, skip, 2 skip, ...; first 40."""
    step = length // 40
    wanted = [i for i in range(length) if step < 2 or i % step == 0][:40]
    assert skip(length, 40).tolist() == wanted


def test_windows_are_whole():
    assert [w.tolist() for w in windows(6, 5, 1)] == [[0, 1, 2, 3, 4], [1, 2, 3, 4, 5]]
    assert windows(4, 5, 1) == []
    assert len(windows(100, 5, 1)) == 96


def test_kept_part_of_a_clip():
    """Paper 3 keeps half of the duration to 80 %."""
    assert kept(10, (0.5, 0.8)) == slice(5, 8)
    assert kept(100, (0.0, 0.7)) == slice(0, 70)
    assert kept(7, (0.0, 1.0)) == slice(0, 7)
    for length in (1, 2, 3):
        part = kept(length, (0.5, 0.8))
        assert 0 <= part.start < part.stop <= length
    assert kept(5, (0.99, 1.0)) == slice(4, 5)
