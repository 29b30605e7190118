"""The kernels' oracle: slow and obvious, in float64, one array at a time."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class ReferenceStats(NamedTuple):
    sum_of_squares: float
    nonfinite: int
    max_abs: float


def cast(values: Array, dtype: Any) -> Array:
    """Cast by NumPy and ml_dtypes, to nearest even; the latter rounds float64 twice, mended here."""
    with np.errstate(all="ignore"):
        result = values.astype(dtype)
        if values.dtype != np.float64 or (result.dtype.kind != "V" and result.dtype.itemsize > 2):
            return result
        return _nearest(values, result)


def _nearest(values: Array, close: Array) -> Array:
    """Choose of each short float in `close` and its two neighbours the nearest, of two such the even."""
    words = close.view(f"i{close.dtype.itemsize}")
    best, distance = words.copy(), np.abs(close.astype(np.float64) - values)
    for step in (-1, 1):
        other = words + words.dtype.type(step)
        gap = np.abs(other.view(close.dtype).astype(np.float64) - values)
        better = (gap < distance) | ((gap == distance) & (other % 2 == 0))
        best, distance = np.where(better, other, best), np.where(better, gap, distance)
    finite = np.isfinite(values) & np.isfinite(close.astype(np.float64))
    if close.dtype.name == "float8_e4m3fn":  # no infinity beside the largest value, 448: a NaN
        words = np.where(np.abs(values) > 464, np.where(values > 0, 0x7F, -1), words)
        finite &= np.abs(values) <= 464
    return np.where(finite, best, words).astype(best.dtype).view(close.dtype)


def accumulate(dst: Array, src: Array, alpha: float = 1.0, beta: float = 1.0) -> Array:
    """Return what ``dst = beta * dst + alpha * src`` leaves in `dst`.

    float64 holds the product of two float32 exactly and rounds its sum once; the rounding to the
    destination that follows may differ from a single one by half a unit in the last place in rare
    cases, which `same` allows for.
    """
    wide = np.float64 if np.float64 in (dst.dtype, src.dtype) else np.float32
    factor = np.float64(wide(alpha))
    with np.errstate(all="ignore"):
        old = dst.astype(np.float64) if beta else np.full(dst.shape, -0.0)
        total = factor * src.astype(np.float64) + old
        if wide is np.float64:
            exact = np.frompyfunc(_exact_multiply_add, 4, 1)
            total = exact(factor, src.astype(np.float64), old, total).astype(np.float64)
        return cast(cast(total, wide), dst.dtype)


def _exact_multiply_add(x: float, y: float, z: float, rounded: float) -> float:
    """Round ``x * y + z`` once; where it is not finite or 0, what came of rounding twice is right."""
    if not math.isfinite(rounded) or rounded == 0:
        return rounded
    return float(Fraction(x) * Fraction(y) + Fraction(z))


def stats(arrays: list[Array]) -> ReferenceStats:
    """Return the statistics of several arrays, the sum without any rounding before the last."""
    values = np.concatenate([np.zeros(0), *[array.astype(np.float64).ravel() for array in arrays]])
    nonfinite = int(np.count_nonzero(~np.isfinite(values)))
    max_abs = float(np.max(np.abs(values), initial=0.0))
    total = max_abs if nonfinite else math.fsum(value * value for value in values.tolist())
    return ReferenceStats(total, nonfinite, max_abs)


def same(got: Array, expected: Array, units: int = 0) -> bool:
    """Tell whether two arrays hold the same bits but for NaN payloads and `units` in the last place."""
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    words = np.dtype(f"i{got.dtype.itemsize}")
    left, right = (np.ascontiguousarray(array).view(words).astype(np.int64) for array in (got, expected))
    with np.errstate(invalid="ignore"):  # ml_dtypes, of signalling NaNs
        both_nan = np.isnan(got) & np.isnan(expected)
    return bool(np.all(both_nan | (np.abs(left - right) <= units)))


def values(rng: np.random.Generator, size: int, dtype: Any, special: bool = True) -> Array:
    """Draw values of many magnitudes, with special ones at the first, middle and last places."""
    drawn = rng.standard_normal(size) * 10.0 ** rng.integers(-6, 5, size)
    array = cast(drawn, dtype)
    if special and size:
        info = ml_finfo(array.dtype)
        planted = [math.nan, math.inf, -math.inf, -0.0, info[0], -info[0], info[1], -info[1], 0.0]
        for place in (0, size // 2, size - 1):
            array[place] = cast(np.array(planted[rng.integers(len(planted))]), dtype)
    return array


def ml_finfo(dtype: np.dtype[Any]) -> tuple[float, float]:
    """Return the smallest subnormal and the largest value of a float dtype."""
    import ml_dtypes

    info = ml_dtypes.finfo(dtype)
    return float(info.smallest_subnormal), float(info.max)
