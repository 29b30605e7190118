# mypy: disable-error-code="no-untyped-def, no-untyped-call, no-any-return"
# Numba infers the types of what it compiles, and ships none of its own.
"""Tables of runs made from many pieces by compiled code, which also sees that they are apart.

What `plan.prepare` does with NumPy costs 60 us before the first piece: more than a kernel on a hundred
small arrays. Here it is 10.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from . import cache as disk
from .orders import DESTINATION, EXTRA, LENGTH, PARTIAL, SOURCE
from .variants import BLOCK

__all__ = ["table_of"]


def _fill(targets, sources, lengths, sizes, measures, table, spans):
    """Fill a table with the pieces that have elements, neighbours joined where nothing is measured.

    Parameters
    ----------
    targets, sources, lengths : int64 array, shape (pieces,)
    sizes : int64 array, shape (3,)
        Bytes of an element of destination and source, and what the leaf counts to an element.
    measures : bool
    table : int64 array, shape (pieces, 5)
        To be filled.
    spans : int64 array, shape (2, 2 * pieces)
        To be filled: where the memory of destination and source of each row begins and ends. A source
        that is exactly its destination has none of its own.

    Returns
    -------
    rows, blocks : int
    """
    row, blocks, to_end, of_end = -1, 0, 0, 0
    for number in range(len(lengths)):
        count, to, of = lengths[number], targets[number], sources[number]
        if count == 0:
            continue
        if row >= 0 and not measures and to == to_end and of == of_end:
            table[row, LENGTH] += count * sizes[2]
        else:
            row += 1
            table[row, DESTINATION] = to
            table[row, SOURCE] = of
            table[row, LENGTH] = count * sizes[2]
            table[row, PARTIAL] = blocks
            table[row, EXTRA] = 0
            spans[0, 2 * row] = to
            spans[0, 2 * row + 1] = of
            blocks += -(-count // BLOCK)
        to_end, of_end = to + count * sizes[0], of + count * sizes[1]
        spans[1, 2 * row] = to_end
        in_place = of_end == to_end and spans[0, 2 * row] == spans[0, 2 * row + 1]
        spans[1, 2 * row + 1] = spans[0, 2 * row + 1] if in_place else of_end
    return row + 1, (blocks if measures else 0)


def _are_apart(order, spans):
    """Tell whether no destination overlaps another span; these are ordered by where they begin."""
    reached, written = 0, 0
    for number in order:
        begin, end = spans[0, number], spans[1, number]
        if begin == end:
            continue
        is_written = number % 2 == 0
        if begin < written or (is_written and begin < reached):
            return False
        reached = max(reached, end)
        if is_written:
            written = max(written, end)
    return True


_NUMBERS, _ROWS = types.Array(types.int64, 1, "C"), types.Array(types.int64, 2, "C")
_SIGNATURES = {
    _fill: types.UniTuple(types.int64, 2)(*[_NUMBERS] * 4, types.boolean, _ROWS, _ROWS),
    _are_apart: types.boolean(_NUMBERS, _ROWS),
}


@cache
def _compiled(function: Any) -> Any:
    return disk.compiled(function, _SIGNATURES[function], function.__name__, nogil=True)


def table_of(
    targets: NDArray[np.int64],
    sources: NDArray[np.int64],
    lengths: NDArray[np.int64],
    sizes: NDArray[np.int64],
    *,
    measures: bool,
    apart: bool,
) -> tuple[NDArray[np.int64], int] | None:
    """Return a table of runs over pieces, and how many blocks there are to be measured.

    Parameters
    ----------
    targets, sources, lengths : int64 array, shape (pieces,)
        Addresses and elements.
    sizes : int64 array, shape (3,)
        Bytes of an element of destination and source, and what the leaf counts to an element.
    measures : bool
        Whether each piece has blocks of its own.
    apart : bool
        Whether no destination may overlap anything but the very source of its own.

    Returns
    -------
    tuple of array and int, or None
        None where something overlaps.
    """
    table, spans = np.empty((len(lengths), 5), np.int64), np.empty((2, 2 * len(lengths)), np.int64)
    rows, blocks = _compiled(_fill)(targets, sources, lengths, sizes, measures, table, spans)
    if apart:
        order = spans[0, : 2 * rows].argsort(kind="stable")
        if not _compiled(_are_apart)(order, spans):
            return None
    return table[:rows], blocks
