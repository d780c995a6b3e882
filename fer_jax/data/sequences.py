"""Length policies: which frames of a clip make which sample."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

Policy = Literal["thin", "skip", "sections", "windows", "frames"]


def kept(length: int, keep: tuple[float, ...]) -> slice:
    """The frames of a clip between two shares of its length, at least one (paper 3: 0.5, 0.8)."""
    # Rounding before flooring: 0.8 * 10 is 8 and 0.7 * 10 is 7, as one counts.
    first, last = (math.floor(round(share * length, 6)) for share in keep)
    first = min(first, length - 1)
    return slice(first, max(last, first + 1))


def thin(length: int, frames: int) -> np.ndarray:
    """Evenly strided frame positions of a clip, or all of them if it is short.

    idx_k = min(L - 1, round_half_up(1 + k L / T) - 1) for k = 0 .. T - 1: paper 1's author's rule
    (docs/reproduction.md 1.4), here in exact integer arithmetic.

    Args:
      length: L, frames that the clip has.
      frames: T, frames that the sample holds.

    Returns:
      i32[min(L, T)], increasing.
    """
    if length <= frames:
        return np.arange(length, dtype=np.int32)
    k = np.arange(frames, dtype=np.int64)
    return np.minimum(length - 1, (2 * k * length + frames) // (2 * frames)).astype(np.int32)


def skip(length: int, frames: int) -> np.ndarray:
    """Every floor(L / T)-th frame, the first T of them (paper 2; docs/reproduction.md 2.1).

    Returns:
      i32[min(L, T)], increasing.
    """
    return np.arange(0, length, max(1, length // frames), dtype=np.int32)[:frames]


def sections(length: int, frames: int) -> list[np.ndarray]:
    """Consecutive sections of T frames that use every frame; the last may be shorter (paper 1).

    Returns:
      i32[<= T] arrays, none of them empty.
    """
    every = np.arange(length, dtype=np.int32)
    return [every[start : start + frames] for start in range(0, length, frames)]


def windows(length: int, frames: int, stride: int) -> list[np.ndarray]:
    """Windows of T consecutive frames, one every `stride` (paper 3; docs/reproduction.md 3.2).

    Returns:
      i32[T] arrays; none where the clip is shorter than a window.
    """
    every = np.arange(length, dtype=np.int32)
    return [every[start : start + frames] for start in range(0, length - frames + 1, stride)]


def sample_frames(length: int, policy: Policy, frames: int, stride: int = 1) -> list[np.ndarray]:
    """The frame positions of each sample that a clip of `length` frames gives.

    Args:
      length: L > 0.
      policy: see `fer_jax.config.Data.length`.
      frames: T.
      stride: of "windows".

    Returns:
      One i32[<= T] array a sample.
    """
    match policy:
        case "thin":
            return [thin(length, frames)]
        case "skip":
            return [skip(length, frames)]
        case "windows":
            return windows(length, frames, stride)
        case "sections":
            return sections(length, frames)
        case "frames":
            return sections(length, 1)


def sample_length(policy: Policy, frames: int) -> int:
    """T of a sample: `frames`, or 1 where each frame is a sample."""
    return 1 if policy == "frames" else frames
