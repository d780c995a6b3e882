"""Length policies: which frames of a clip make which sample."""

from __future__ import annotations

from typing import Literal

import numpy as np


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


def sections(length: int, frames: int) -> list[np.ndarray]:
    """Consecutive sections of T frames that use every frame; the last may be shorter (paper 1).

    Returns:
      i32[<= T] arrays, none of them empty.
    """
    every = np.arange(length, dtype=np.int32)
    return [every[start : start + frames] for start in range(0, length, frames)]


def sample_frames(
    length: int, policy: Literal["thin", "sections", "frames"], frames: int
) -> list[np.ndarray]:
    """The frame positions of each sample that a clip of `length` frames gives.

    Args:
      length: L > 0.
      policy: "thin": one sample; "sections": one per section; "frames": one per frame (paper 5).
      frames: T of "thin" and "sections".

    Returns:
      One i32[<= T] array a sample.
    """
    if policy == "thin":
        return [thin(length, frames)]
    return sections(length, frames if policy == "sections" else 1)


def sample_length(policy: Literal["thin", "sections", "frames"], frames: int) -> int:
    """T of a sample: `frames`, or 1 where each frame is a sample."""
    return 1 if policy == "frames" else frames
