# mypy: disable-error-code="no-untyped-def, no-untyped-call, no-any-return"
# Numba infers the types of what it compiles, and ships none of its own.
"""Walk tables of runs and call a leaf for each: on one thread or several, one compiled call in all.

These few functions serve every leaf, so a parallel kernel costs no second compilation.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numba
import numpy as np
from numba import njit, prange, types

from . import cache as disk
from .headers import C_CONTIGUOUS, DATA, FLAGS, array_size, same_shape
from .intrinsics import call, double_of_bits, fence, load_int32, load_int64
from .variants import BLOCK

DESTINATION, SOURCE, LENGTH, PARTIAL, EXTRA = range(5)
"""Columns of a table of runs: addresses, elements, number of the first block, the variant's extra."""

_TREE = 1024  # sums side by side when the blocks' sums are added


@njit(inline="always")
def _walk(leaf, table, cuts, worker, sizes, alpha, seed, partials, results):
    """Call the leaf for each run of a worker's share."""
    row, begin = cuts[worker, 0], cuts[worker, 1]
    last_row, last_element = cuts[worker + 1, 0], cuts[worker + 1, 1]
    while row < last_row or (row == last_row and begin < last_element):
        end = last_element if row == last_row else table[row, LENGTH]
        if begin < end:
            call(
                leaf,
                table[row, DESTINATION] + begin * sizes[0],
                table[row, SOURCE] + begin * sizes[1],
                end - begin,
                alpha,
                table[row, EXTRA] + begin * sizes[2],
                seed,
                partials.ctypes.data + 8 * (table[row, PARTIAL] + begin // BLOCK),
                results.ctypes.data + 64 * worker,
            )
        row += 1
        begin = 0
    fence()


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


def launch(leaf, table, cuts, sizes, alpha, seed, blocks, doubles):
    """Run a leaf over a table, on this thread.

    Parameters
    ----------
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
    partials = np.empty(blocks)
    results = np.zeros((len(cuts) - 1, 8), np.int64)  # nonfinite and magnitude, a cache line a worker
    for worker in range(len(cuts) - 1):
        _walk(leaf, table, cuts, worker, sizes, alpha, seed, partials, results)
    return _conclude(partials, results, doubles)


def launch_parallel(leaf, table, cuts, sizes, alpha, seed, blocks, doubles):
    """Do what `launch` does with one thread for each worker."""
    partials = np.empty(blocks)
    results = np.zeros((len(cuts) - 1, 8), np.int64)
    for worker in prange(len(cuts) - 1):
        _walk(leaf, table, cuts, worker, sizes, alpha, seed, partials, results)
    return _conclude(partials, results, doubles)


LEAF, TO_SIZE, OF_SIZE, UNITS, LONGEST, REQUIRED, DOUBLES = range(0, 56, 8)
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
        call(load_int64(numbers + LEAF), to, of, units, alpha, 0, 0, 0, 0)
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
        leaf = load_int64(numbers + LEAF)
        call(leaf, to, of, count, alpha, 0, 0, partials.ctypes.data, results.ctypes.data)
    doubles = load_int64(numbers + DOUBLES) != 0
    total, nonfinite, largest = _conclude(partials, results, doubles)
    return True, total, nonfinite, largest


@njit(inline="always")
def _scatter_share(leaf, destination, rows, indices, width, sizes, alpha, worker, workers):
    for number in range(len(indices)):
        index = indices[number]
        if index % workers == worker:
            to = destination + index * width * sizes[0]
            call(leaf, to, rows + number * width * sizes[1], width, alpha, 0, 0, 0, 0)


def scatter(leaf, destination, rows, indices, width, sizes, alpha, workers):
    """Add rows at their indices, each destination's in the order of `indices`.

    Worker ``w`` has the destinations whose index is ``w`` modulo the workers; so the order, and every
    bit, is the same for any number of them.
    """
    for worker in range(workers):
        _scatter_share(leaf, destination, rows, indices, width, sizes, alpha, worker, workers)


def scatter_parallel(leaf, destination, rows, indices, width, sizes, alpha, workers):
    """Do what `scatter` does with one thread for each worker."""
    for worker in prange(workers):
        _scatter_share(leaf, destination, rows, indices, width, sizes, alpha, worker, workers)


_TABLE = types.Array(types.int64, 2, "C")
_FOUND = (types.float64, types.int64, types.float64)
_LAUNCH = types.Tuple(_FOUND)(
    types.int64,
    _TABLE,
    _TABLE,
    types.Array(types.int64, 1, "C"),
    types.float64,
    types.int64,
    types.int64,
    types.boolean,
)
_ARRAYS = (*[types.int64] * 3, types.float64)
_SCATTER = types.void(
    *[types.int64] * 3,
    types.Array(types.int64, 1, "C"),
    types.int64,
    types.UniTuple(types.int64, 3),
    types.float64,
    types.int64,
)
_SIGNATURES = {
    launch: _LAUNCH,
    launch_parallel: _LAUNCH,
    launch_arrays: types.boolean(*_ARRAYS),
    measure_arrays: types.Tuple((types.boolean, *_FOUND))(*_ARRAYS),
    scatter: _SCATTER,
    scatter_parallel: _SCATTER,
}


@cache
def compiled(function: Any) -> Any:
    """Compile one of the launches, or load it from the disk cache."""
    parallel = function in (launch_parallel, scatter_parallel)
    signature, name = _SIGNATURES[function], function.__name__
    return disk.compiled(function, signature, name, nogil=True, parallel=parallel)


@contextmanager
def _brief_spinning() -> Iterator[None]:
    """Let OpenMP's threads, while it is loaded, read that they wait for one another by sleeping soon.

    By default libgomp's spin for milliseconds, and on a core that another process wants the one waited
    for does not come to run: with two busy processes beside it on two cores, a kernel of 25 us took
    32 ms. With 1,000 turns it takes 0.15 ms then, and 1 us more on an idle machine; sleeping at once
    costs 30 us more there. What the user said for himself stays.
    """
    if "GOMP_SPINCOUNT" in os.environ or "OMP_WAIT_POLICY" in os.environ:
        yield
        return
    os.environ["GOMP_SPINCOUNT"] = "1000"
    try:
        yield
    finally:
        del os.environ["GOMP_SPINCOUNT"]


@cache
def has_openmp() -> bool:
    """Tell whether Numba's threads are OpenMP's, starting them where none were.

    Its other layers lose: ``workqueue`` needs 55 to 80 us for a launch, ``tbb`` gave no gain below
    1 ms. Where another layer runs already, or was asked for, the kernels stay on one thread.
    """
    try:
        with _brief_spinning():
            importlib.import_module("numba.np.ufunc.omppool")
    except ImportError:
        return False
    try:
        return bool(numba.threading_layer() == "omp")
    except ValueError:  # none was started yet
        wanted = numba.config.THREADING_LAYER
    if wanted not in ("default", "omp"):
        return False
    numba.config.THREADING_LAYER = "omp"
    try:
        numba.get_num_threads()  # starts the layer
        return bool(numba.threading_layer() == "omp")
    finally:
        numba.config.THREADING_LAYER = wanted


def run_parallel(function: Any, workers: int, *arguments: Any) -> Any:
    """Call a parallel launch with as many of Numba's threads as there are workers."""
    before = numba.get_num_threads()
    if workers == before:
        return compiled(function)(*arguments)
    numba.set_num_threads(workers)
    try:
        return compiled(function)(*arguments)
    finally:
        numba.set_num_threads(before)
