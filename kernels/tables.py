# mypy: disable-error-code="no-untyped-def, no-untyped-call, no-any-return"
# Numba infers the types of what it compiles, and ships none of its own.
"""Tables of runs made from many pieces by compiled code, which also sees whether they are apart."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from . import cache as disk
from .orders import DESTINATION, EXTRA, LENGTH, PARTIAL, SOURCE
from .variants import BLOCK

__all__ = ["are_apart", "table_of"]


def _fill(targets, sources, lengths, sizes, joins, table, spans):
    """Fill a table with the pieces that have elements.

    Parameters
    ----------
    targets, sources, lengths : int64 array, shape (pieces,)
    sizes : int64 array, shape (3,)
        Bytes of an element of destination and source, and what the leaf counts to an element.
    joins : bool
        Whether neighbours become one row.
    table : int64 array, shape (pieces, 5)
        To be filled.
    spans : int64 array, shape (3, 2 * pieces)
        To be filled for `_are_apart`, with destination and source of each row. A source that is exactly
        its destination has no memory of its own.

    Returns
    -------
    rows, blocks : int
    """
    row, blocks, to_end, of_end = -1, 0, 0, 0
    for number in range(len(lengths)):
        count, to, of = lengths[number], targets[number], sources[number]
        if count == 0:
            continue
        if joins and row >= 0 and to == to_end and of == of_end:
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
            spans[2, 2 * row] = 1
            spans[2, 2 * row + 1] = 0
            blocks += -(-count // BLOCK)
        to_end, of_end = to + count * sizes[0], of + count * sizes[1]
        spans[1, 2 * row] = to_end
        in_place = of_end == to_end and spans[0, 2 * row] == spans[0, 2 * row + 1]
        spans[1, 2 * row + 1] = spans[0, 2 * row + 1] if in_place else of_end
    return row + 1, blocks


def _are_apart(order, spans):
    """Tell whether spans are apart; see `are_apart`. They are ordered by where they begin."""
    reached, written = 0, 0
    for number in order:
        begin, end = spans[0, number], spans[1, number]
        if begin == end:
            continue
        is_written = spans[2, number] != 0
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


def are_apart(spans: NDArray[np.int64]) -> bool:
    """Tell whether no span that is written overlaps another one.

    Parameters
    ----------
    spans : int64 array, shape (3, spans)
        Where each begins and ends, and whether it is written. Those without a byte are apart from all.
    """
    return bool(_compiled(_are_apart)(spans[0].argsort(kind="stable"), spans))


def table_of(
    targets: NDArray[np.int64],
    sources: NDArray[np.int64],
    lengths: NDArray[np.int64],
    sizes: NDArray[np.int64],
    *,
    joins: bool,
) -> tuple[NDArray[np.int64], int, NDArray[np.int64]]:
    """Return a table of runs over pieces.

    Parameters
    ----------
    targets, sources, lengths : int64 array, shape (pieces,)
        Addresses and elements.
    sizes : int64 array, shape (3,)
        Bytes of an element of destination and source, and what the leaf counts to an element.
    joins : bool
        Whether neighbours become one row; not where blocks or random numbers begin with a piece.

    Returns
    -------
    table : int64 array, shape (rows, 5)
        See `orders`. Pieces without elements are left out.
    blocks : int
        Of all rows, where neighbours stay apart.
    spans : int64 array, shape (3, 2 * rows)
        What is to be given to `are_apart`.
    """
    table, spans = np.empty((len(lengths), 5), np.int64), np.empty((3, 2 * len(lengths)), np.int64)
    pieces = map(np.ascontiguousarray, (targets, sources, lengths))
    rows, blocks = _compiled(_fill)(*pieces, sizes, joins, table, spans)
    return table[:rows], blocks, np.ascontiguousarray(spans[:, : 2 * rows])
