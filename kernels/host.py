# mypy: disable-error-code="no-untyped-def, no-untyped-call, no-any-return, attr-defined, misc, arg-type"
# Numba infers the types of what it compiles, and ships none of its own.
"""The kernels on the host, compiled by Numba.

A *leaf* handles one contiguous run of elements; there is one for each `Variant`, compiled when first
used. A *launch* walks a table of runs and calls the leaf by its address, on one thread or several:
two functions serve all leaves, and a parallel kernel costs no second compilation.
"""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from functools import cache
from typing import Any

import numba
import numpy as np
from numba import njit, prange, types

from . import cache as disk
from .intrinsics import (
    LEAF,
    VariantType,
    call,
    count_nonfinite,
    destination_size,
    end_block,
    extra_size,
    fence,
    first_lanes,
    infinity,
    keeps_blocks,
    largest_magnitude,
    load_int64,
    measures,
    move,
    nothing_found,
    prefetch_source,
    set_zero,
    source_size,
    spread,
    step,
    store_int64,
    stream_copy,
    stream_zero,
    streams,
    tune,
    width,
    writes,
)
from .machine import get_num_threads
from .plan import Plan, Stats, count_launch
from .variants import BLOCK, Variant

DESTINATION, SOURCE, LENGTH, PARTIAL, EXTRA = range(5)
"""Columns of a table of runs: addresses, elements, number of the first block, the variant's extra."""

_AHEAD = 1024  # bytes a streaming copy asks for in advance; 1 to 2 KiB gave 12 to 18 % on Zen 4
_TREE = 1024  # sums side by side when the blocks' sums are added


# --- leaves --------------------------------------------------------------------------------------


def blend(variant, destination, source, count, alpha, extra, seed, partials, results):
    """Compute ``destination = add * destination + alpha * source`` over one run, as the variant says.

    The sum of squares of each block goes to `partials`, the largest magnitude (as the bits of a
    float of the arithmetic's type) and the number of nonfinite elements to `results`.
    """
    tune(variant)
    lanes = width(variant)
    to, of, more = destination_size(variant), source_size(variant), extra_size(variant)
    factor = spread(variant, alpha)
    found = nothing_found(variant)
    i = 0
    while i < count:
        stop = count
        if measures(variant):
            stop = min(count, i + BLOCK)
        elif streams(variant) and not keeps_blocks(variant) and i == 0:
            head = -destination % 64 // to  # the elements before the first whole cache line
            stop = head if 0 < head < count else count
        while i + lanes <= stop:
            if streams(variant):
                prefetch_source(variant, source + of * i + _AHEAD)
            found = step(
                variant, destination + to * i, source + of * i, extra + more * i, seed, factor, None, found
            )
            i += lanes
        if i < stop:
            mask = first_lanes(variant, stop - i)
            found = step(
                variant, destination + to * i, source + of * i, extra + more * i, seed, factor, mask, found
            )
            i = stop
        if measures(variant):
            found = end_block(variant, found, partials)
            partials += 8
    if measures(variant):
        magnitude = largest_magnitude(found)
        if magnitude > load_int64(results + 8):
            store_int64(results + 8, magnitude)
        if magnitude >= infinity(variant):
            measured = destination if writes(variant) else source
            nonfinite = load_int64(results)
            for i in range(0, count, lanes):
                mask = first_lanes(variant, count - i)
                nonfinite += count_nonfinite(variant, measured + to * i, extra + more * i, mask)
            store_int64(results, nonfinite)


def zero(variant, destination, source, count, alpha, extra, seed, partials, results):
    """Fill `count` bytes with zeros."""
    stop = destination + count
    if streams(variant) and count >= 512:
        set_zero(destination, -destination % 64)
        destination += -destination % 64
        while destination + 256 <= stop:
            stream_zero(destination)
            destination += 256
    set_zero(destination, stop - destination)


def copy(variant, destination, source, count, alpha, extra, seed, partials, results):
    """Copy `count` bytes that do not overlap."""
    if streams(variant) and count >= 512:
        head = -destination % 64
        move(destination, source, head)
        destination += head
        source += head
        count -= head
        while count >= 256:
            stream_copy(destination, source, _AHEAD)
            destination += 256
            source += 256
            count -= 256
    move(destination, source, count)


_compiling = threading.Lock()


@cache
def _compiled(function: Any, variant: Variant) -> Any:
    """Compile a leaf, or load it from the disk cache."""
    with _compiling, disk.directory(f"{function.__name__}-{variant.key}") as cached:
        dispatcher = njit(cache=cached, nogil=True)(function)
        signature = (VariantType(variant), *LEAF.args)
        dispatcher.compile(signature)
    return dispatcher.overloads[signature]


@cache
def leaf(function: Any, variant: Variant) -> int:
    """Return the address of a leaf as a C function."""
    compiled = _compiled(function, variant)
    return int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name))


# --- launches ------------------------------------------------------------------------------------


@njit(inline="always")
def _walk(leaf, table, first, last, sizes, alpha, seed, partials, results):
    """Call the leaf for each run between two cuts of the table; a cut is a row and an element in it."""
    row, begin = first
    last_row, last_element = last
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
                partials + 8 * (table[row, PARTIAL] + begin // BLOCK),
                results,
            )
        row += 1
        begin = 0
    fence()


@njit(inline="always")
def _add_up(partials):
    """Add the blocks' sums: `_TREE` sums side by side, then by halves. The order knows no threads."""
    if len(partials) == 1:
        return partials[0]
    sums = np.zeros(_TREE)
    for start in range(0, len(partials), _TREE):
        for lane in range(min(_TREE, len(partials) - start)):
            sums[lane] += partials[start + lane]
    # Sums that are still +0 change nothing: begin below them.
    count = _TREE
    while count > 1:
        count //= 2
        if count < len(partials):
            for lane in range(count):
                sums[lane] += sums[lane + count]
    return sums[0]


def launch(leaf, table, cuts, sizes, alpha, seed, partials, results):
    """Run a leaf over a table on this thread; return the sum of squares.

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
    partials : float64 array, shape (blocks,)
    results : int64 array, shape (workers, 8)
        Nonfinite elements and largest magnitude, for each worker on a cache line of its own.
    """
    for worker in range(len(cuts) - 1):
        _walk(
            leaf,
            table,
            (cuts[worker, 0], cuts[worker, 1]),
            (cuts[worker + 1, 0], cuts[worker + 1, 1]),
            (sizes[0], sizes[1], sizes[2]),
            alpha,
            seed,
            partials.ctypes.data,
            results[worker].ctypes.data,
        )
    return _add_up(partials) if len(partials) > 0 else 0.0


def launch_parallel(leaf, table, cuts, sizes, alpha, seed, partials, results):
    """Do what `launch` does with one thread for each worker."""
    for worker in prange(len(cuts) - 1):
        _walk(
            leaf,
            table,
            (cuts[worker, 0], cuts[worker, 1]),
            (cuts[worker + 1, 0], cuts[worker + 1, 1]),
            (sizes[0], sizes[1], sizes[2]),
            alpha,
            seed,
            partials.ctypes.data,
            results[worker].ctypes.data,
        )
    return _add_up(partials) if len(partials) > 0 else 0.0


_INT64_TABLE = types.Array(types.int64, 2, "C")
_LAUNCH = types.float64(
    types.intp,
    _INT64_TABLE,
    _INT64_TABLE,
    types.Array(types.int64, 1, "C"),
    types.float64,
    types.int64,
    types.Array(types.float64, 1, "C"),
    _INT64_TABLE,
)


@cache
def _serial() -> Any:
    with _compiling, disk.directory("launch") as cached:
        return njit(_LAUNCH, cache=cached, nogil=True)(launch)


@cache
def _parallel() -> Any:
    """Return the launch on several threads, or None where Numba's threads are not OpenMP's.

    Its other layers lose: `workqueue` needs 55 to 80 us for a launch, `tbb` gave no gain below 1 ms.
    """
    try:
        from numba.np.ufunc import omppool  # noqa: F401
    except ImportError:
        return None
    try:
        layer = numba.threading_layer()
    except ValueError:  # none was started yet
        if numba.config.THREADING_LAYER not in ("default", "omp"):
            return None
        before = numba.config.THREADING_LAYER
        numba.config.THREADING_LAYER = "omp"
        try:
            numba.set_num_threads(numba.get_num_threads())  # starts the layer
            layer = numba.threading_layer()
        finally:
            numba.config.THREADING_LAYER = before
    if layer != "omp":
        return None
    with _compiling, disk.directory("launch_parallel") as cached:
        compiled = njit(_LAUNCH, cache=cached, nogil=True, parallel=True)(launch_parallel)

    def run(leaf: int, table: Any, cuts: Any, *others: Any) -> float:
        workers, before = len(cuts) - 1, numba.get_num_threads()
        if workers == before:
            return compiled(leaf, table, cuts, *others)
        numba.set_num_threads(workers)
        try:
            return compiled(leaf, table, cuts, *others)
        finally:
            numba.set_num_threads(before)

    return run


# --- what the package calls ----------------------------------------------------------------------

_SHARE = 512 << 10  # bytes a thread must have to touch: with less, starting it costs more than it gains
_LEAVES = {"zero": zero, "copy": copy, "blend": blend}
_NO_PARTIALS = np.empty(0)


class Prepared:
    """A `Plan` bound to the host; see `plan.Prepared`."""

    __slots__ = (
        "_cuts",
        "_finish",
        "_launch",
        "_leaf",
        "_moves_bytes",
        "_partials",
        "_results",
        "_sizes",
        "_table",
        "_threads",
        "_touched",
    )

    def __init__(self, plan: Plan):
        variant, destination, source = plan.variant, plan.destination, plan.source
        if variant.streaming and not _can_stream(plan):
            variant = replace(variant, streaming=False)
        self._leaf = leaf(_LEAVES[plan.kernel], variant)
        self._moves_bytes = plan.kernel != "blend"
        self._sizes = np.array([destination.dtype.itemsize, source.dtype.itemsize, variant.extra_size])
        rows = np.flatnonzero(destination.lengths)
        lengths = destination.lengths[rows]
        self._table = table = np.zeros((len(rows), 5), np.int64)
        table[:, DESTINATION] = destination.addresses[rows]
        table[:, SOURCE] = source.addresses[rows]
        table[:, LENGTH] = lengths
        self._partials = 0
        self._finish = None
        if variant.measure:
            blocks = np.cumsum(-(-lengths // BLOCK))
            table[1:, PARTIAL] = blocks[:-1]
            self._partials = int(blocks[-1]) if len(blocks) else 0
            self._finish = _as_float32 if variant.compute == "float32" else _as_float64
        if plan.extra is not None:
            table[:, EXTRA] = plan.extra[rows]
        passes = variant.write + variant.add, (plan.kernel != "zero") + variant.zero_source
        self._touched = destination.nbytes * passes[0] + source.nbytes * passes[1]
        self._cut()

    def _cut(self) -> None:
        """Share the table out to the threads, at borders of blocks."""
        self._threads = get_num_threads()
        workers = min(self._threads, numba.config.NUMBA_NUM_THREADS, self._touched // _SHARE)
        parallel = _parallel() if workers > 1 else None
        self._launch = parallel or _serial()
        workers = workers if parallel else 1
        lengths = self._table[:, LENGTH]
        ends = np.cumsum(lengths)
        unit = 4 * BLOCK if self._moves_bytes else BLOCK
        self._cuts = np.zeros((workers + 1, 2), np.int64)
        self._cuts[workers, 0] = len(lengths)
        for worker in range(1, workers):
            target = int(ends[-1]) * worker // workers
            row = int(np.searchsorted(ends, target, side="right"))
            inside = target - int(ends[row] - lengths[row])
            self._cuts[worker] = row, inside // unit * unit
        self._results = np.zeros((workers, 8), np.int64)

    def __call__(self, alpha: float = 1.0, seed: int = 0) -> Stats | None:
        """Run the kernel once."""
        if self._threads != get_num_threads():
            self._cut()
        count_launch()
        if self._finish is None:
            if self._moves_bytes and alpha != 1.0:
                raise ValueError(f"alpha must be 1 where bytes are moved, got {alpha!r}")
            self._launch(
                self._leaf,
                self._table,
                self._cuts,
                self._sizes,
                float(alpha),
                seed,
                _NO_PARTIALS,
                self._results,
            )
            return None
        results = np.zeros_like(self._results)
        partials = np.empty(self._partials)
        total = self._launch(
            self._leaf, self._table, self._cuts, self._sizes, float(alpha), seed, partials, results
        )
        largest = self._finish(int(results[:, 1].max()))
        nonfinite = int(results[:, 0].sum())
        return Stats(largest if nonfinite else total, nonfinite, largest)


def _can_stream(plan: Plan) -> bool:
    """Tell whether every run can be brought to a multiple of 64 bytes, which streaming stores need.

    Where the place of an element in its vector counts, a run cannot give up its head.
    """
    unit = 64 if plan.variant.keeps_blocks else plan.destination.dtype.itemsize
    return not np.any(plan.destination.addresses % unit)


def _as_float32(bits: int) -> float:
    return math.nan if bits > 0x7F800000 else float(np.int32(bits).view(np.float32))


def _as_float64(bits: int) -> float:
    return math.nan if bits > 0x7FF0000000000000 else float(np.int64(bits).view(np.float64))
