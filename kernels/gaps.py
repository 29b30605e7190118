"""Find out whether arrays with gaps between their elements share any of them.

Kernels work on contiguous copies of such arrays, which are apart even where the arrays are not: what is
written to one would be lost when the other is written back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, pairwise
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .pieces import OverlapError, address_of

__all__ = ["check_apart"]


class _Extent(NamedTuple):
    """The bytes of an array: runs of `run` bytes, one at each sum of multiples of the strides, from `low` on.

    The strides rise, and none is shorter than what lies within it.
    """

    low: int
    high: int
    run: int
    strides: tuple[int, ...]
    counts: tuple[int, ...]


def check_apart(arrays: Sequence[Any]) -> None:
    """Refuse arrays to be written of which one shares memory with another, or with itself.

    Parameters
    ----------
    arrays : sequence of array
        Of NumPy, or of CuPy on one device.

    Raises
    ------
    OverlapError
    """
    group: list[_Extent] = []
    reached = 0
    for extent in sorted(_extent(array) for array in arrays if array.size):
        if extent.low >= reached:
            _check_group(group)
            group = []
        group.append(extent)
        reached = max(reached, extent.high)
    _check_group(group)


def _extent(array: Any) -> _Extent:
    low, reach, run = address_of(array), array.itemsize, array.itemsize
    axes = [(abs(stride), n) for stride, n in zip(array.strides, array.shape, strict=True) if n > 1]
    low += sum(stride * (n - 1) for stride, n in zip(array.strides, array.shape, strict=True) if stride < 0)
    outer: list[tuple[int, int]] = []
    for stride, count in sorted(axes):
        if stride < reach:
            raise OverlapError(
                f"an array of shape {array.shape} and strides {array.strides} that is written shares memory "
                "with itself; write to a copy of it"
            )
        if stride == run and not outer:
            run *= count
        else:
            outer.append((stride, count))
        reach += stride * (count - 1)
    strides, counts = (tuple(axis[part] for axis in outer) for part in (0, 1))
    return _Extent(low, low + reach, run, strides, counts)


def _check_group(group: list[_Extent]) -> None:
    """Check arrays whose ranges of addresses overlap, in the order of these."""
    if len(group) < 2 or _lie_side_by_side(group):
        return
    shadows = [(extent, _shadow(extent)) for extent in group]
    for (one, left), (other, right) in combinations(shadows, 2):
        if other.low < one.high and np.shares_memory(left, right):
            raise OverlapError(
                "an array that is written shares memory with another one that is written, and one of them "
                "has gaps; copy one of the two first"
            )


def _lie_side_by_side(group: list[_Extent]) -> bool:
    """Tell whether arrays are columns of one matrix, so to say, and different ones.

    To compare any two takes 0.4 us, 0.2 s for the thousand columns of a matrix, and this 1 ms.
    """
    period = math.gcd(*(stride for extent in group for stride in extent.strides))
    if period == 0:
        return False
    places = sorted((extent.low % period, extent.run) for extent in group)
    again = (places[0][0] + period, 0)
    return all(start + run <= following for (start, run), (following, _) in pairwise([*places, again]))


def _shadow(extent: _Extent) -> NDArray[np.uint8]:
    """Return a NumPy array over the same addresses, never to be read: they may be another device's."""
    interface = {
        "version": 3,
        "typestr": "|u1",
        "data": (extent.low, True),
        "shape": (*extent.counts, extent.run),
        "strides": (*extent.strides, 1),
    }
    return np.asarray(SimpleNamespace(__array_interface__=interface))
