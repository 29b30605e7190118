# mypy: disable-error-code="no-untyped-def, no-untyped-call, no-any-return"
# Numba infers the types of what it compiles, and ships none of its own.
"""Walk tables of runs and call a leaf for each: on one thread or several, one compiled call in all.

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
from .scalars import (
    ask,
    call,
    double_of_bits,
    fence,
    load_float64,
    load_int32,
    load_int64,
    run_team,
    store_float64,
    store_int64,
)
from .variants import BLOCK

DESTINATION, SOURCE, LENGTH, PARTIAL, EXTRA = range(5)
"""Columns of a table of runs: addresses, elements, number of the first block, the variant's extra."""

LEAF, TABLE, CUTS, TO, OF, MORE, ALPHA, SEED, PARTIALS, RESULTS, *TEAM = range(0, 104, 8)
WORKERS, THREAD, THREADS = TEAM
"""Where the words of an order are, by which all workers go: the leaf, its table of runs and where each
worker's share begins, bytes of elements, factor and seed, where the blocks' sums and the results go;
then the number of workers, and OpenMP's functions that tell a thread its number and the team's size."""

COUNT = CUTS
"""Where the order of a `scatter` has the rows of its table: each is a destination, by these columns."""

TARGET, ROWS, INDICES, ADDED, WIDTH = range(0, 40, 8)
"""Where in such a row are the addresses of destination, rows and indices, how many rows are added, and the
elements of one."""

_TREE = 1024  # sums side by side when the blocks' sums are added


@njit(inline="always")
def _walk(order, worker):
    """Call the leaf for each run of a worker's share."""
    leaf, table = load_int64(order + LEAF), load_int64(order + TABLE)
    to, of, more = load_int64(order + TO), load_int64(order + OF), load_int64(order + MORE)
    alpha, seed = load_float64(order + ALPHA), load_int64(order + SEED)
    partials, results = load_int64(order + PARTIALS), load_int64(order + RESULTS) + 64 * worker
    cut = load_int64(order + CUTS) + 16 * worker
    row, begin = load_int64(cut), load_int64(cut + 8)
    last_row, last_element = load_int64(cut + 16), load_int64(cut + 24)
    while row < last_row or (row == last_row and begin < last_element):
        run = table + 40 * row
        end = last_element if row == last_row else load_int64(run + 8 * LENGTH)
        if begin < end:
            call(
                leaf,
                load_int64(run + 8 * DESTINATION) + begin * to,
                load_int64(run + 8 * SOURCE) + begin * of,
                end - begin,
                alpha,
                load_int64(run + 8 * EXTRA) + begin * more,
                seed,
                partials + 8 * (load_int64(run + 8 * PARTIAL) + begin // BLOCK),
                results,
            )
        row += 1
        begin = 0
    fence()


@njit(inline="always")
def _first_and_step(order):
    """Return this thread's place in its team, which may be smaller than was asked for, and its size."""
    return ask(load_int64(order + THREAD)), ask(load_int64(order + THREADS))


def walk_share(order):
    """Do this thread's part of a `launch`."""
    worker, threads = _first_and_step(order)
    while worker < load_int64(order + WORKERS):
        _walk(order, worker)
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
    lines = np.zeros((workers + 2, 8), np.int64)  # the order in two, then a cache line for each worker
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
    store_int64(order + RESULTS, order + 128)
    if workers == 1:
        _walk(order, 0)
    else:
        _call_team(team, order, workers)
    return _conclude(partials, lines[2:], doubles)


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
        to, of = load_int64(target + DATA), load_int64(source + DATA)
        call(load_int64(numbers + CODE), to, of, units, alpha, 0, 0, 0, 0)
    return True


def measure_arrays(numbers, target, source, alpha):
    """Do what `launch_arrays` does with a leaf that measures; return its results as well."""
    if not _is_simple(numbers, target, source):
        return False, 0.0, 0, 0.0
    count = array_size(target)
    partials = np.empty(-(-count // BLOCK))
    results = np.zeros((1, 8), np.int64)
    if count > 0:
        to, of = load_int64(target + DATA), load_int64(source + DATA)
        leaf = load_int64(numbers + CODE)
        call(leaf, to, of, count, alpha, 0, 0, partials.ctypes.data, results.ctypes.data)
    doubles = load_int64(numbers + DOUBLES) != 0
    total, nonfinite, largest = _conclude(partials, results, doubles)
    return True, total, nonfinite, largest


@njit(inline="always")
def _scatter(order, worker, workers):
    """Add the rows of one worker's destinations."""
    leaf, alpha = load_int64(order + LEAF), load_float64(order + ALPHA)
    to, of = load_int64(order + TO), load_int64(order + OF)
    for number in range(load_int64(order + COUNT)):
        entry = load_int64(order + TABLE) + 40 * number
        target, source = load_int64(entry + TARGET), load_int64(entry + ROWS)
        indices, width = load_int64(entry + INDICES), load_int64(entry + WIDTH)
        for row in range(load_int64(entry + ADDED)):
            index = load_int64(indices + 8 * row)
            if index % workers == worker:
                call(leaf, target + index * width * to, source + row * width * of, width, alpha, 0, 0, 0, 0)


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
