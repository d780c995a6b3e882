"""Near duplicates among signatures: candidates by an index of frames, then an aligned distance.

Thresholds are set by what was measured on FER2013's 35,887 images, on real videos that were encoded
again, scaled, shifted and cut, and on generated people who act twice (docs/audit.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial

import numpy as np

from fer_jax.data.audit.signatures import SIDE, Signature

Pairs = Mapping[int, Sequence[tuple[int, float]]]
"""Of each place with near duplicates, their places and distances."""

#: Mean squared distance over that of chance movement, above which two tracks are different takes;
#: and the error of measurement, as a root mean square in the track's own unit (points: the face's
#: size; scores: 1), below which they are one though nothing moves.
_MOVES = {"landmarks478": 0.1, "landmarks68": 0.19, "blendshapes": 0.2, "picture": 0.55}
_STILL = {"landmarks478": 0.008, "landmarks68": 0.008, "blendshapes": 0.012}
#: Two pictures of one photograph: band-passed, they correlate by more than this.
_SAME_PICTURE = 0.88
#: The same for videos of which nothing moves: people before one camera look alike.
_SAME_STILL = 0.998
#: Frames that two clips must have in common, as a share of the shorter.
_OVERLAP = 0.8
#: How far apart descriptors of a frame that two clips have in common lie at most.
_REACH = {"landmarks478": 0.15, "landmarks68": 0.15, "blendshapes": 0.36, "picture": 0.48}
#: Frames of a clip that are looked for, among how many of another.
_ASKED, _KNOWN = 4, 32
#: Candidates that are compared, the nearest, by whether clips are images.
_MOST = {True: 64, False: 8}
#: Numbers in a block of distances: 64 MB.
_BLOCK = 2**24
_PAIRS_AT_ONCE = 2048
#: How far a picture may have moved, in half pixels of a thumbnail.
_SHIFT = 6


def near_duplicates(signatures: Sequence[Signature | None]) -> Pairs:
    """Finds what was encoded again, scaled, shifted by a few pixels or cut at either end.

    Distances are 0 between equal clips and 1 where clips are no duplicates any more.
    """
    groups: dict[tuple[str, bool], list[int]] = {}
    for place, one in enumerate(signatures):
        if one is not None:
            groups.setdefault((one.stream, len(one.values) == 1), []).append(place)
    found: dict[int, list[tuple[int, float]]] = {}
    for (stream, still), places in groups.items():
        some = [one for p in places if (one := signatures[p]) is not None]
        first, second = _candidates(some, _kind(stream), still)
        if _kind(stream) == "picture":
            values = _pictures_apart(some, first, second, still)
        else:
            values = np.array(
                [_apart(some[i], some[j]) for i, j in zip(first, second, strict=True)]
            )
        for k in np.flatnonzero(values <= 1):
            i, j, distance = places[first[k]], places[second[k]], float(values[k])
            found.setdefault(i, []).append((j, distance))
            found.setdefault(j, []).append((i, distance))
    return found


def _kind(stream: str) -> str:
    return stream if stream in _STILL else "picture"


# Candidates


def _candidates(some: Sequence[Signature], kind: str, still: bool) -> tuple[np.ndarray, np.ndarray]:
    """Pairs i < j whose frames are alike, whatever moved, turned or scaled them."""
    known = 1 if still else _KNOWN
    asked = 1 if still else _ASKED
    base: np.ndarray | None = None
    for i, one in enumerate(some):  # Not all at once: thumbnails are larger than descriptors.
        rows = _descriptors(one.values[_evenly(len(one.values), known)], kind)
        if base is None:
            base = np.empty((known, len(some), rows.shape[1]), np.float32)
        base[:, i] = rows
    assert base is not None
    half = 0.5 * np.einsum("knd,knd->kn", base, base)
    reach = _REACH[kind]
    if still and kind in _STILL:  # No movement is forgiven.
        reach = 2 * _STILL[kind] * (1 if np.iscomplexobj(some[0].values) else base.shape[2] ** 0.5)
    # The middle of a clip is still there when its ends are cut off.
    middle = _evenly(known, asked + 2)[1:-1] if known > 1 else np.zeros(1, int)
    step = max(1, _BLOCK // len(some))
    pairs: list[np.ndarray] = []
    for start in range(0, len(some), step):
        stop = min(start + step, len(some))
        nearest = np.zeros((stop - start, len(some)), np.float32)
        for row in middle:
            query = base[row, start:stop]
            best = np.full((stop - start, len(some)), -np.inf, np.float32)
            for frame in range(known):
                np.maximum(best, query @ base[frame].T - half[frame], out=best)
            nearest += half[row, start:stop, None] - best
        nearest *= 2 / len(middle)
        nearest[np.arange(stop - start), np.arange(start, stop)] = np.inf
        pairs += _hits(nearest, start, reach**2, _MOST[still])
    both = np.unique(np.sort(np.concatenate(pairs, axis=1), axis=0), axis=1)
    return both[0], both[1]


def _hits(nearest: np.ndarray, start: int, reach: float, most: int) -> list[np.ndarray]:
    """i64[2, n]: the pairs within reach, of each row at most so many."""
    near = nearest <= reach
    crowded = near.sum(1) > most
    if crowded.any():
        some = nearest[crowded]
        near[crowded] &= some <= np.partition(some, most - 1, axis=1)[:, most - 1, None]
    rows, columns = np.nonzero(near)
    return [np.stack([rows + start, columns])]


def _evenly(count: int, wanted: int) -> np.ndarray:
    return np.round(np.linspace(0, count - 1, wanted)).astype(int)


def _descriptors(values: np.ndarray, kind: str) -> np.ndarray:
    """f32[n, D] of n frames."""
    if kind == "picture":
        return _magnitudes(values)
    if not np.iscomplexobj(values):
        return values
    shape = values[:, 1:]
    turn = np.conj(shape[:, :1]) / np.maximum(np.abs(shape[:, :1]), 1e-6)
    size = np.sqrt(np.sum(np.abs(shape) ** 2, axis=1, keepdims=True))
    shape = shape * turn / np.maximum(size, 1e-6)
    return np.concatenate([shape.real, shape.imag], axis=1)


# Tracks


def _apart(one: Signature, other: Signature) -> float:
    """The distance of two tracks where they fit best; both are compared at the finer step.

    A copy that is played faster has the same frames in other times: the frames count then.
    """
    step = min(one.step_ms, other.step_ms)
    best = _aligned(one.values, other.values, one.stream)
    if abs(one.step_ms - other.step_ms) > 0.02 * step:
        best = min(best, _aligned(_at(one, step), _at(other, step), one.stream))
    return best


def _at(one: Signature, step_ms: float) -> np.ndarray:
    """The values of a track at another step."""
    place = np.arange(0, len(one.values) - 0.999, step_ms / one.step_ms)
    low = np.minimum(place.astype(int), max(len(one.values) - 2, 0))
    share = (place - low)[:, None]
    return (1 - share) * one.values[low] + share * one.values[
        np.minimum(low + 1, len(one.values) - 1)
    ]


def _aligned(a: np.ndarray, b: np.ndarray, stream: str) -> float:
    """Least distance over all lags; points are free to be moved, turned and scaled as a whole."""
    a, b = (x.astype(np.complex128 if np.iscomplexobj(x) else np.float64) for x in (a, b))
    n, parts = _lags(len(a), len(b))
    cross = _diagonals(_products(a, b), n, parts)
    (energy_a, mean_a), (energy_b, mean_b) = (
        _moments(x, start, n) for x, start in ((a, parts[0]), (b, parts[1]))
    )
    if np.iscomplexobj(a):
        centre = np.conj(mean_a[:, 0]) * mean_b[:, 0]
        energy_a, energy_b = (
            e - np.abs(m[:, 0]) ** 2 for e, m in ((energy_a, mean_a), (energy_b, mean_b))
        )
        mean_a[:, 0] = mean_b[:, 0] = 0
        size = np.sqrt(np.maximum(energy_a * energy_b, 1e-12))
        squared = 2 - 2 * np.minimum(np.abs(cross - centre) / size, 1)
        still = [np.sum(np.abs(m) ** 2, 1) / np.maximum(e, 1e-12)
                 for e, m in ((energy_a, mean_a), (energy_b, mean_b))]  # fmt: skip
        moves = 1 - np.maximum(*still)
    else:
        squared = (energy_a + energy_b - 2 * cross) / a.shape[1]
        moves = np.minimum(*(
            (e - np.sum(m**2, 1)) / a.shape[1] for e, m in ((energy_a, mean_a), (energy_b, mean_b))
        ))  # fmt: skip
    limit = _STILL[stream] ** 2 + _MOVES[stream] * np.maximum(moves, 0)
    return float(np.sqrt(np.min(np.maximum(squared, 0) / limit)))


def _lags(frames_a: int, frames_b: int) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Of every lag with enough in common: frames in common, and the first of them in a and b."""
    need = max(1, int(np.ceil(_OVERLAP * min(frames_a, frames_b))))
    lag = np.arange(need - frames_b, frames_a - need + 1)
    start_a, start_b = np.maximum(lag, 0), np.maximum(-lag, 0)
    n = np.minimum(frames_a - start_a, frames_b - start_b)
    return n, (start_a, start_b)


def _products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[Ta, Tb] inner products. Not by BLAS, whose threads take longer to begin than this does."""
    return np.einsum("id,jd->ij", np.conj(a), b)


def _diagonals(
    products: np.ndarray, n: np.ndarray, starts: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Means of products [Ta, Tb] along the diagonals that begin at `starts`."""
    rows, columns = products.shape
    # Row i shifted right by rows - 1 - i: a diagonal becomes a column.
    padded = np.zeros((rows, rows + columns), products.dtype)
    padded[:, :columns] = products[::-1]
    skewed = padded.ravel()[: rows * (rows + columns - 1)].reshape(rows, rows + columns - 1)
    sums = skewed.sum(0)
    return sums[rows - 1 - starts[0] + starts[1]] / n


def _moments(values: np.ndarray, start: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of n frames from each start: mean energy [lags] and mean [lags, D]."""
    energy = np.concatenate([[0], np.cumsum(np.sum(np.abs(values) ** 2, 1))])
    sums = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, 0)])
    return (energy[start + n] - energy[start]) / n, (sums[start + n] - sums[start]) / n[:, None]


# Pictures


@cache
def _filters() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Window [S, S]; of its half spectrum the band of faces' detail, what is low, and weights."""
    ramp = np.hanning(SIDE + 2)[1:-1]
    window = np.outer(ramp, ramp).astype(np.float32)
    radius = SIDE * np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None])
    band = (1 - np.exp(-((radius / 4) ** 2) / 2)) * np.exp(-((radius / 12) ** 2) / 2)
    band = np.where(radius > 12.5, 0, band).astype(np.float32)
    twice = np.where(np.isin(np.arange(SIDE // 2 + 1), (0, SIDE // 2)), 1, 2).astype(np.float32)
    return window, band, (radius >= 1) & (radius <= 6), twice


def _spectra(pictures: np.ndarray) -> np.ndarray:
    """complex64[n, S, S / 2 + 1] of windowed pictures without their mean."""
    from scipy import fft

    window = _filters()[0]
    values = pictures.astype(np.float32)
    mean = np.sum(values * window, axis=(1, 2), keepdims=True) / window.sum()
    return fft.rfft2((values - mean) * window)  # pyright: ignore[reportReturnType]


def _magnitudes(pictures: np.ndarray) -> np.ndarray:
    """f32[n, 62]: square roots of low frequencies' magnitudes, which a shift leaves as they are."""
    size = np.abs(_spectra(pictures)[:, _filters()[2]])
    norm = np.linalg.norm(size, axis=1, keepdims=True)
    return np.sqrt(size / np.maximum(norm, 1e-6))


def _details(pictures: np.ndarray) -> np.ndarray:
    """complex64[n, S, S / 2 + 1]: band-passed, of energy 1."""
    _, band, _, twice = _filters()
    spectra = _spectra(pictures) * band
    energy = np.sqrt(np.sum(twice * np.abs(spectra) ** 2, axis=(1, 2), keepdims=True)) / SIDE
    return spectra / np.maximum(energy, 1e-3)


def _peaks(products: np.ndarray) -> np.ndarray:
    """f32[n]: the largest correlation over shifts of half pixels, of cross spectra."""
    from scipy import fft

    keep, fine = SIDE // 2 - 3, 2 * SIDE  # The band ends before `keep`.
    wide = np.zeros((len(products), fine, fine // 2 + 1), np.complex64)
    wide[:, :keep, :keep] = products[:, :keep, :keep]
    wide[:, 1 - keep :, :keep] = products[:, 1 - keep :, :keep]
    surface = 4 * np.asarray(fft.irfft2(wide, s=(fine, fine)))
    reach = np.arange(-_SHIFT, _SHIFT + 1)
    return surface[:, reach[:, None], reach].max(axis=(1, 2))


def _pictures_apart(
    some: Sequence[Signature], first: np.ndarray, second: np.ndarray, still: bool
) -> np.ndarray:
    if still:
        stack = np.concatenate([one.values for one in some])
        alike = [
            _peaks(_details(stack[first[part]]) * np.conj(_details(stack[second[part]])))
            for part in _chunks(len(first))
        ]
        apart = 1 - np.concatenate([np.zeros(0, np.float32), *alike])
        return np.sqrt(np.maximum(apart, 0) / (1 - _SAME_PICTURE))
    return np.array(
        [_films_apart(some[i], some[j]) for i, j in zip(first, second, strict=True)], float
    )


def _chunks(count: int) -> Iterator[slice]:
    return (slice(at, at + _PAIRS_AT_ONCE) for at in range(0, count, _PAIRS_AT_ONCE))


def _films_apart(one: Signature, other: Signature) -> float:
    """The distance of two videos where their low frequencies fit best; the shift is one for all."""
    step = min(one.step_ms, other.step_ms)
    ways = [(one.values, other.values)]
    if abs(one.step_ms - other.step_ms) > 0.02 * step:
        ways.append((_nearest(one, step), _nearest(other, step)))
    return min(map(partial(_film_distance), *zip(*ways, strict=True)))


def _nearest(one: Signature, step_ms: float) -> np.ndarray:
    return one.values[
        np.round(np.arange(0, len(one.values) - 0.5, step_ms / one.step_ms)).astype(int)
    ]


def _film_distance(a: np.ndarray, b: np.ndarray) -> float:
    low_a, low_b = _magnitudes(a).astype(np.float64), _magnitudes(b).astype(np.float64)
    n, starts = _lags(len(a), len(b))
    squared = (
        _moments(low_a, starts[0], n)[0] + _moments(low_b, starts[1], n)[0]
        - 2 * _diagonals(_products(low_a, low_b), n, starts)
    )  # fmt: skip
    k = int(np.argmin(squared))
    a = _details(a[starts[0][k] : starts[0][k] + n[k]])
    b = _details(b[starts[1][k] : starts[1][k] + n[k]])
    alike = float(_peaks(np.mean(a * np.conj(b), axis=0, keepdims=True))[0])
    twice = _filters()[3]
    moves = min(1 - float(np.sum(twice * np.abs(x.mean(0)) ** 2)) / SIDE**2 for x in (a, b))
    limit = min(2 - 2 * _SAME_PICTURE, 2 - 2 * _SAME_STILL + _MOVES["picture"] * max(moves, 0))
    return float(np.sqrt(max(2 - 2 * alike, 0) / limit))
