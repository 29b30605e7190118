# mypy: disable-error-code="no-untyped-def, no-untyped-call, no-any-return"
# Numba infers the types of what it compiles, and ships none of its own.
"""Let leaves work on tables of runs: on one thread or several, one compiled call in all.

These few functions serve every leaf, so a parallel kernel costs no second compilation.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numba import njit, types

from . import cache as disk
from .headers import C_CONTIGUOUS, DATA, FLAGS, array_size, same_shape
from .orders import (
    ALPHA,
    CUTS,
    DESTINATION,
    EXTRA,
    LENGTH,
    MORE,
    OF,
    ORDER,
    PARTIAL,
    PARTIALS,
    RESULTS,
    RUN,
    SEED,
    SOURCE,
    TABLE,
    TO,
)
from .scalars import (
    ask,
    call,
    double_of_bits,
    load_float64,
    load_int32,
    load_int64,
    run_team,
    stack,
    store_float64,
    store_int64,
)
from .variants import BLOCK

LEAF, WORKERS, THREAD, THREADS = range(RESULTS + 8, RESULTS + 40, 8)
"""What stands in an order for the launches alone: the leaf's address, the number of workers, and OpenMP's
functions that tell a thread its number and the team's size."""

TARGET, ROWS, INDICES, ADDED, WIDTH = range(0, 40, 8)
"""Where in a row of a `scatter`'s table are the addresses of destination, rows and indices, how many rows
are added, and the elements of one."""

COUNT = CUTS
"""Where the order of a `scatter` has the rows of that table."""

_TREE = 1024  # sums side by side when the blocks' sums are added
_TOGETHER = 64
"""Rows that a `scatter` gives to a leaf at once."""
_ROOM = _TOGETHER * RUN


@njit(inline="always")
def _first_and_step(order):
    """Return this thread's place in its team, which may be smaller than was asked for, and its size."""
    return ask(load_int64(order + THREAD)), ask(load_int64(order + THREADS))


def walk_share(order):
    """Do this thread's part of a `launch`."""
    worker, threads = _first_and_step(order)
    while worker < load_int64(order + WORKERS):
        call(load_int64(order + LEAF), order, worker)
        worker += threads


@njit(inline="always")
def _call_team(team, order, workers):
    """Let a team work by an order, which is told who is in it."""
    store_int64(order + WORKERS, workers)
    store_int64(order + THREAD, team[1])
    store_int64(order + THREADS, team[2])
    run_team(team[0], team[3], order, workers)


@njit(inline="always")
def _add_up(partials):
    """Add the blocks' sums: `_TREE` sums side by side, then by halves. The order knows no threads."""
    count = len(partials)
    if count < 2:
        return partials[0] if count == 1 else 0.0
    sums = np.zeros(_TREE)
    for start in range(0, count, _TREE):
        for lane in range(min(_TREE, count - start)):
            sums[lane] += partials[start + lane]
    half = _TREE
    while half > 1:
        half //= 2
        if half < count:  # above, the sums are still +0 and change nothing
            for lane in range(half):
                sums[lane] += sums[lane + half]
    return sums[0]


@njit(inline="always")
def _conclude(partials, results, doubles):
    """Put the blocks' sums and the workers' results together: see `plan.Stats`."""
    nonfinite, bits = 0, 0
    for worker in range(len(results)):
        nonfinite += results[worker, 0]
        bits = max(bits, results[worker, 1])
    total = _add_up(partials)
    return (total if total == total else math.nan), nonfinite, double_of_bits(bits, doubles)


def launch(team, leaf, table, cuts, sizes, alpha, seed, blocks, doubles):
    """Run a leaf over a table, on this thread or on one for each worker.

    Parameters
    ----------
    team : int64 array, shape (4,)
        What `threads.team` returned for `walk_share`; not used for one worker.
    leaf : int
        Address of the leaf.
    table : int64 array, shape (runs, 5)
    cuts : int64 array, shape (workers + 1, 2)
        Where each worker's share begins: row of the table and element in it.
    sizes : int64 array, shape (3,)
        Bytes of an element of destination and source, and what an element adds to the extra.
    alpha : float
    seed : int
    blocks : int
        Blocks of all runs where the leaf measures, otherwise 0.
    doubles : bool
        Whether the leaf computes in float64.

    Returns
    -------
    tuple of float, int, float
        Sum of squares, nonfinite elements, largest magnitude.
    """
    workers = len(cuts) - 1
    partials = np.empty(blocks)
    lines = np.zeros((ORDER // 64 + workers, 8), np.int64)  # the order, a cache line for each worker
    order = lines.ctypes.data
    store_int64(order + LEAF, leaf)
    store_int64(order + TABLE, table.ctypes.data)
    store_int64(order + CUTS, cuts.ctypes.data)
    store_int64(order + TO, sizes[0])
    store_int64(order + OF, sizes[1])
    store_int64(order + MORE, sizes[2])
    store_float64(order + ALPHA, alpha)
    store_int64(order + SEED, seed)
    store_int64(order + PARTIALS, partials.ctypes.data)
    store_int64(order + RESULTS, order + ORDER)
    if workers == 1:
        call(leaf, order, 0)
    else:
        _call_team(team, order, workers)
    return _conclude(partials, lines[ORDER // 64 :], doubles)


CODE, TO_SIZE, OF_SIZE, UNITS, LONGEST, REQUIRED, DOUBLES = range(0, 56, 8)
"""Where a `Single`'s numbers are in the memory it passes: the leaf's address, bytes of an element of
destination and source, what the leaf counts to an element, the most elements, the flags that the
destination must have, whether the leaf computes in float64."""


@njit(inline="always")
def _is_simple(numbers, target, source):
    """Tell whether a leaf can run over two ndarrays, whose headers are at these addresses, as they are.

    They must be of one shape and without gaps, not too long, have the flags, and be the same or
    apart. The caller goes the long way otherwise, which mends it or tells what is wrong.
    """
    count = array_size(target)
    to, of = load_int64(target + DATA), load_int64(source + DATA)
    to_end = to + count * load_int64(numbers + TO_SIZE)
    of_end = of + count * load_int64(numbers + OF_SIZE)
    flags = load_int64(numbers + REQUIRED)
    return (
        count <= load_int64(numbers + LONGEST)
        and load_int32(target + FLAGS) & flags == flags
        and load_int32(source + FLAGS) & C_CONTIGUOUS != 0
        and same_shape(target, source)
        and ((to == of and to_end == of_end) or to_end <= of or of_end <= to)
    )


@njit(inline="always")
def _order_all(order, table, cuts, alpha):
    """Write the order for one worker who has a whole table; return the address of its number of runs."""
    store_int64(order + TABLE, table)
    store_int64(order + CUTS, cuts)
    store_int64(order + TO, 0)  # shares begin at the first element
    store_int64(order + OF, 0)
    store_int64(order + MORE, 0)
    store_float64(order + ALPHA, alpha)
    store_int64(order + SEED, 0)
    store_int64(order + PARTIALS, 0)
    store_int64(order + RESULTS, 0)
    store_int64(cuts, 0)
    store_int64(cuts + 8, 0)
    store_int64(cuts + 24, 0)
    return cuts + 16


@njit(inline="always")
def _write_run(run, destination, source, count):
    """Write a row of a table."""
    store_int64(run + 8 * DESTINATION, destination)
    store_int64(run + 8 * SOURCE, source)
    store_int64(run + 8 * LENGTH, count)
    store_int64(run + 8 * PARTIAL, 0)
    store_int64(run + 8 * EXTRA, 0)


def launch_arrays(numbers, target, source, alpha):
    """Run a leaf over one small ndarray, or a pair.

    Parameters
    ----------
    numbers, target, source : int
        Addresses of the numbers and of the arrays' headers.
    alpha : float

    Returns
    -------
    bool
        Whether it was done.
    """
    if not _is_simple(numbers, target, source):
        return False
    units = array_size(target) * load_int64(numbers + UNITS)
    if units > 0:
        order, run, cuts = stack(ORDER), stack(RUN), stack(32)
        store_int64(_order_all(order, run, cuts, alpha), 1)
        _write_run(run, load_int64(target + DATA), load_int64(source + DATA), units)
        call(load_int64(numbers + CODE), order, 0)
    return True


def measure_arrays(numbers, target, source, alpha):
    """Do what `launch_arrays` does with a leaf that measures; return its results as well."""
    if not _is_simple(numbers, target, source):
        return False, 0.0, 0, 0.0
    count = array_size(target)
    partials = np.empty(-(-count // BLOCK))
    results = np.zeros((1, 8), np.int64)
    if count > 0:
        order, run, cuts = stack(ORDER), stack(RUN), stack(32)
        store_int64(_order_all(order, run, cuts, alpha), 1)
        store_int64(order + PARTIALS, partials.ctypes.data)
        store_int64(order + RESULTS, results.ctypes.data)
        _write_run(run, load_int64(target + DATA), load_int64(source + DATA), count)
        call(load_int64(numbers + CODE), order, 0)
    doubles = load_int64(numbers + DOUBLES) != 0
    total, nonfinite, largest = _conclude(partials, results, doubles)
    return True, total, nonfinite, largest


@njit(inline="always")
def _scatter(order, worker, workers):
    """Add the rows of one worker's destinations, `_TOGETHER` in a table at a time."""
    leaf, alpha = load_int64(order + LEAF), load_float64(order + ALPHA)
    to, of = load_int64(order + TO), load_int64(order + OF)
    inner, table, cuts = stack(ORDER), stack(_ROOM), stack(32)
    runs = _order_all(inner, table, cuts, alpha)
    count = 0
    for number in range(load_int64(order + COUNT)):
        entry = load_int64(order + TABLE) + 40 * number
        target, source = load_int64(entry + TARGET), load_int64(entry + ROWS)
        indices, width = load_int64(entry + INDICES), load_int64(entry + WIDTH)
        for row in range(load_int64(entry + ADDED)):
            index = load_int64(indices + 8 * row)
            if index % workers == worker:
                _write_run(table + RUN * count, target + index * width * to, source + row * width * of, width)
                count += 1
                if count == _TOGETHER:
                    store_int64(runs, count)
                    call(leaf, inner, 0)
                    count = 0
    store_int64(runs, count)
    call(leaf, inner, 0)


def scatter_share(order):
    """Do this thread's part of a `scatter`."""
    worker, threads = _first_and_step(order)
    while worker < load_int64(order + WORKERS):
        _scatter(order, worker, load_int64(order + WORKERS))
        worker += threads


def scatter(team, leaf, table, sizes, alpha, workers):
    """Add rows at their indices to one destination or many, to each row in the order of its indices.

    Worker ``w`` has the rows of destinations whose index is ``w`` modulo the workers; so the order, and
    every bit, is the same for any number of them.

    Parameters
    ----------
    team, leaf, alpha
        As for `launch`; the team is that for `scatter_share`.
    table : int64 array, shape (destinations, 5)
    sizes : tuple of int
        Bytes of an element of destination and rows.
    workers : int
    """
    lines = np.zeros((2, 8), np.int64)
    order = lines.ctypes.data
    store_int64(order + LEAF, leaf)
    store_int64(order + TABLE, table.ctypes.data)
    store_int64(order + COUNT, len(table))
    store_int64(order + TO, sizes[0])
    store_int64(order + OF, sizes[1])
    store_float64(order + ALPHA, alpha)
    if workers == 1:
        _scatter(order, 0, 1)
    else:
        _call_team(team, order, workers)
    lines[0, 0] = 0  # used to the end, so that it lives to it


_TABLE = types.Array(types.int64, 2, "C")
_FOUND = (types.float64, types.int64, types.float64)
_NUMBERS = types.Array(types.int64, 1, "C")
_LAUNCH = types.Tuple(_FOUND)(
    _NUMBERS,
    types.int64,
    _TABLE,
    _TABLE,
    _NUMBERS,
    types.float64,
    types.int64,
    types.int64,
    types.boolean,
)
_ARRAYS = (*[types.int64] * 3, types.float64)
_SCATTER = types.void(
    _NUMBERS, types.int64, _TABLE, types.UniTuple(types.int64, 2), types.float64, types.int64
)
_SIGNATURES = {
    launch: _LAUNCH,
    launch_arrays: types.boolean(*_ARRAYS),
    measure_arrays: types.Tuple((types.boolean, *_FOUND))(*_ARRAYS),
    scatter: _SCATTER,
}


@cache
def compiled(function: Any) -> Any:
    """Compile one of the launches, or load it from the disk cache."""
    return disk.compiled(function, _SIGNATURES[function], function.__name__, nogil=True)


@cache
def share(function: Any) -> int:
    """Return the address of what each thread of a team does."""
    return disk.address(function, (types.int64,), function.__name__)
