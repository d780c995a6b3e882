"""The largest share of a batch that fits in memory, found with few compilations."""

from __future__ import annotations

from collections.abc import Callable

#: What is aimed at, of the memory: what is predicted is off by a little.
_AIM = 0.98
#: A share is a whole number of this part of itself: compilers pad odd ones anyway.
_GRAIN = 32
#: Examples that a program takes the memory of at least: registers are so many rows high.
_PADDED = 8
#: A share is at most so many times the largest that was looked at: what is small says little.
_LEAP = 64
#: No more is looked for where the next share would gain less.
_GAIN = 1.05
#: Shares beyond are not looked for: arrays would have more elements than XLA counts.
MOST = 1 << 20


def largest_share(
    measure: Callable[[int], int],
    start: int,
    limit: int,
    floor: int,
    *,
    compiles: int = 4,
    most: int = MOST,
) -> tuple[int, dict[int, int]]:
    """The largest share that was found to fit, and what each share that was looked at takes.

    Memory is near-linear in the share, so two measurements predict the largest and a third proves
    it; each further one mends the prediction. What fits is measured, never predicted.

    Args:
      measure: bytes that a share takes, the same each time; above `limit` it does not fit. 0 says
        that it does not fit and not by how much.
      start: the first share to look at.
      limit: bytes that there are.
      floor: bytes that are taken at a share of 0.
      compiles: calls of `measure` at most, but for two more where what fits is so far less than
        three quarters of what does not.
      most: the largest share that is asked for, if `start` is not larger.

    Returns:
      0 where not even a share of 1 was found to fit.
    """
    taken: dict[int, int] = {}
    fits, fails, share = 0, max(most, start) + 1, start
    while True:
        taken[share] = measure(share)
        if 0 < taken[share] <= limit:
            fits = max(fits, share)
        else:
            fails = min(fails, share)
        wide = 4 * fits < 3 * fails
        left = compiles + 2 * wide - len(taken)
        if fails - fits <= 1 or left <= 0:
            return fits, taken
        if not fits and left == 1:
            share = 1
            continue
        share = _predicted(taken, fits, fails, _AIM * limit, floor)
        if fits and share < _GAIN * fits:
            return fits, taken


def _predicted(taken: dict[int, int], fits: int, fails: int, aim: float, floor: int) -> int:
    """Between `fits` and `fails`, where a line through what is known reaches `aim`."""
    known = sorted({max(share, _PADDED): size for share, size in taken.items() if size}.items())
    if not known:
        return max(1, fails // 2)
    # The two nearest to the end: of small shares, the line is too steep or too flat.
    (first, low), (last, high) = ([(0, floor)] + known)[-2:]
    slope = (high - low) / (last - first)
    aimed = fails - 1 if slope <= 0 else int(last + (aim - high) / slope)
    if fails in taken and aimed >= fails:
        aimed = (fits + fails) // 2
    aimed = min(fails - 1, max(fits + 1, aimed), _LEAP * last)
    grain = 1 << max(0, aimed.bit_length() - _GRAIN.bit_length())
    return max(fits + 1, aimed // grain * grain)
