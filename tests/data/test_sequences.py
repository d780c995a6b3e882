from fractions import Fraction
from math import floor

import numpy as np
import pytest

from fer_jax.data.sequences import sample_frames, sample_length, sections, thin


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
