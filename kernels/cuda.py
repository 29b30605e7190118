# mypy: disable-error-code="no-untyped-def, no-untyped-call, no-any-return, attr-defined, misc, arg-type"
# Numba infers the types of what it compiles, and ships none of its own.
"""The kernel on a CUDA device, written in Numba: one body for every `Form`, card and simulator.

A launch walks over the tiles of all runs. One run lies in the arguments; several are rows of a table in
device memory, and a second table tells of each tile to which row it belongs: two dependent loads a
tile, both from the L2 cache, where a search would take a dozen.

Where statistics are wanted every tile leaves its sum of squares behind, and a second launch, of one CUDA
block, adds these up in the order that `plan.Stats` fixes: a thread for each of the sums side by side.
Left to the last block of the first launch, whose threads are an eighth as many, that would take
some 30 us for 1 GiB, 3 % of the pass: one multiprocessor has too few loads under way.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import config, cuda, types

from .cuda_forms import GROUPS, LANES, THREADS, TREE, Form
from .cuda_layout import (
    COLUMNS,
    DESTINATION,
    EXTRA,
    FIRST,
    LENGTH,
    MAGNITUDE,
    NONFINITE,
    RESULTS,
    SOURCE,
    SUM_OF_SQUARES,
)

if config.ENABLE_CUDASIM:
    from . import cuda_simulator as primitives
else:
    from . import cuda_intrinsics as primitives  # type: ignore[no-redef]

__all__ = ["SIGNATURE", "body"]

_SUMS = 8 * THREADS  # of a block's teams: a thread has 8 at most
_ROWS = 16
"""Tiles' sums that a thread of the second launch has under way at once."""


@primitives.device_function
def _do_run(form, destination, source, extra, seed, factor, begin, stop, found):
    """Do this thread's share of the elements from `begin` to `stop` of one run."""
    width = primitives.lanes(form)
    stride = primitives.team(form) * width
    begin += (cuda.threadIdx.x % primitives.team(form)) * width
    to, of, more = (
        primitives.destination_size(form),
        primitives.source_size(form),
        primitives.extra_size(form),
    )
    unaligned = destination & (width * to - 1) | source & (width * of - 1)
    if primitives.plane_size(form) > 0:
        unaligned |= extra & (width * primitives.plane_size(form) - 1)
    destination += to * begin
    source += of * begin
    extra += more * begin
    left = stop - begin
    if unaligned == 0:
        while left >= (GROUPS - 1) * stride + width:
            found = primitives.step(form, destination, source, extra, seed, factor, stride, None, found)
            destination += to * GROUPS * stride
            source += of * GROUPS * stride
            extra += more * GROUPS * stride
            left -= GROUPS * stride
        while left >= width:
            found = primitives.step(form, destination, source, extra, seed, factor, None, None, found)
            destination += to * stride
            source += of * stride
            extra += more * stride
            left -= stride
    while left > 0:
        found = primitives.step(form, destination, source, extra, seed, factor, None, left, found)
        destination += to * stride
        source += of * stride
        extra += more * stride
        left -= stride
    return found


@primitives.device_function
def _do_tile(form, number, rows, table, destination, source, length, extra, seed, factor, found):
    """Do this thread's share of one tile; return what was found out so far."""
    begin = number
    if rows != 0:
        row = table + 8 * COLUMNS * primitives.load_int32(rows + 4 * number)
        destination = primitives.load_int64(row + 8 * DESTINATION)
        source = primitives.load_int64(row + 8 * SOURCE)
        length = primitives.load_int64(row + 8 * LENGTH)
        extra = primitives.load_int64(row + 8 * EXTRA)
        begin = number - primitives.load_int64(row + 8 * FIRST)
    begin *= primitives.tile(form)
    stop = min(begin + primitives.tile(form), length)
    return _do_run(form, destination, source, extra, seed, factor, begin, stop, found)


@primitives.device_function
def _takes_place(gate, checks):
    """Tell whether a launch is to do something: see `body`. Each thread looks at one result."""
    thread = cuda.threadIdx.x
    nonfinite = types.int64(0)
    if thread < abs(checks):
        nonfinite = primitives.load_int64(gate + 8 * (RESULTS * thread + NONFINITE))
    return (cuda.syncthreads_or(types.int32(nonfinite != 0)) == 0) == (checks > 0)


# --- kernels -------------------------------------------------------------------------------------


def _writing(form):
    """Return the kernel of a form that gathers no statistics: a CUDA block takes a tile after the other."""

    def kernel(
        rows, table, destination, source, length, extra, tiles, alpha, seed, partials, slots, gate, checks
    ):
        if checks != 0 and not _takes_place(gate, checks):
            return
        factor = primitives.spread(form, alpha)
        found = primitives.nothing_found(form)
        number = types.int64(cuda.blockIdx.x)
        while number < tiles:
            found = _do_tile(
                form, number, rows, table, destination, source, length, extra, seed, factor, found
            )
            number += cuda.gridDim.x

    return kernel


def _measuring(form):
    """Return the kernel of a form that does: each team of a CUDA block takes tiles."""

    def kernel(
        rows, table, destination, source, length, extra, tiles, alpha, seed, partials, slots, gate, checks
    ):
        thread = cuda.threadIdx.x
        sums = cuda.shared.array(_SUMS, types.float64)
        magnitudes = cuda.shared.array(THREADS, types.int64)
        counts = cuda.shared.array(THREADS, types.int64)
        teams = THREADS // primitives.team(form)
        factor = primitives.spread(form, alpha)
        found = primitives.nothing_found(form)
        first = types.int64(cuda.blockIdx.x) * teams
        while first < tiles:
            number = first + thread // primitives.team(form)
            found = primitives.begin_tile(form, found)
            if number < tiles:
                found = _do_tile(
                    form, number, rows, table, destination, source, length, extra, seed, factor, found
                )
            primitives.keep_sums(form, found, sums, thread * primitives.lanes(form))
            cuda.syncthreads()
            if thread % primitives.team(form) == 0 and number < tiles:
                base = thread * primitives.lanes(form)
                half = LANES // 2
                while half > 0:
                    for lane in range(half):
                        sums[base + lane] += sums[base + half + lane]
                    half //= 2
                primitives.store_float64(partials + 8 * number, sums[base])
            cuda.syncthreads()
            first += types.int64(cuda.gridDim.x) * teams
        magnitudes[thread] = primitives.largest_magnitude(found)
        counts[thread] = primitives.count_nonfinite(found)
        half = THREADS // 2
        while half > 0:
            cuda.syncthreads()
            if thread < half:
                magnitudes[thread] = max(magnitudes[thread], magnitudes[thread + half])
                counts[thread] += counts[thread + half]
            half //= 2
        if thread == 0:
            slot = slots + 16 * cuda.blockIdx.x
            primitives.store_int64(slot, magnitudes[0])
            primitives.store_int64(slot + 8, counts[0])

    return kernel


def _adding_up():
    """Return the kernel of the second launch, one CUDA block of `TREE` threads.

    `length` is the number of CUDA blocks of the first launch, `destination` is where the results go.
    """

    def kernel(
        rows, table, destination, source, length, extra, tiles, alpha, seed, partials, slots, gate, checks
    ):
        thread = types.int64(cuda.threadIdx.x)
        sums = cuda.shared.array(TREE, types.float64)
        magnitudes = cuda.shared.array(TREE, types.int64)
        counts = cuda.shared.array(TREE, types.int64)
        total = 0.0
        tile = thread
        while tile + (_ROWS - 1) * TREE < tiles:
            for row in range(_ROWS):
                total += primitives.load_float64(partials + 8 * (tile + row * TREE))
            tile += _ROWS * TREE
        while tile < tiles:
            total += primitives.load_float64(partials + 8 * tile)
            tile += TREE
        magnitude = 0
        count = 0
        slot = thread
        while slot < length:
            magnitude = max(magnitude, primitives.load_int64(slots + 16 * slot))
            count += primitives.load_int64(slots + 16 * slot + 8)
            slot += TREE
        sums[thread] = total
        magnitudes[thread] = magnitude
        counts[thread] = count
        half = TREE // 2
        while half > 0:
            cuda.syncthreads()
            if thread < half:
                sums[thread] += sums[thread + half]
                magnitudes[thread] = max(magnitudes[thread], magnitudes[thread + half])
                counts[thread] += counts[thread + half]
            half //= 2
        if thread == 0:
            primitives.store_float64(destination + 8 * SUM_OF_SQUARES, sums[0])
            primitives.store_int64(destination + 8 * MAGNITUDE, magnitudes[0])
            primitives.store_int64(destination + 8 * NONFINITE, counts[0])

    return kernel


def _scattering(form):
    """Return the kernel that adds rows at their indices, each destination's in the order of the indices.

    `table` has the indices of all rows, destination after destination and rising in each, `rows` has the
    numbers of the rows in the same order. The CUDA block at the first of equal indices adds all their
    rows, and each of its threads always the same elements. `extra` is how many rows the destination has;
    of an index beyond them nothing is added, and it is left at the address `partials`.

    One destination lies in the arguments; several are rows of a table at the address `gate`, with one row
    more to tell where the last ends, and `slots` is the address of int32 (tiles,): which one it is.
    """

    def kernel(
        rows, table, destination, source, length, extra, tiles, alpha, seed, partials, slots, gate, checks
    ):
        factor = primitives.spread(form, alpha)
        found = primitives.nothing_found(form)
        start, first, end = types.int64(0), types.int64(0), tiles
        place = types.int64(cuda.blockIdx.x)
        while place < tiles:
            if slots != 0:
                row = gate + 8 * COLUMNS * primitives.load_int32(slots + 4 * place)
                destination = primitives.load_int64(row + 8 * DESTINATION)
                source = primitives.load_int64(row + 8 * SOURCE)
                length = primitives.load_int64(row + 8 * LENGTH)
                extra = primitives.load_int64(row + 8 * EXTRA)
                first = primitives.load_int64(row + 8 * FIRST)
                end = primitives.load_int64(row + 8 * (COLUMNS + FIRST))
            index = primitives.load_int64(table + 8 * place)
            following = place
            if place > first and primitives.load_int64(table + 8 * place - 8) == index:
                following = end
            elif index < 0 or index >= extra:
                primitives.store_int64(partials, index)
                following = end
            target = destination + primitives.destination_size(form) * length * index
            while following < end and primitives.load_int64(table + 8 * following) == index:
                number = primitives.load_int64(rows + 8 * following)
                added = source + primitives.source_size(form) * length * number
                found = _do_run(form, target, added, start, seed, factor, start, length, found)
                following += 1
            place += cuda.gridDim.x

    return kernel


@cache
def body(form: Form) -> Any:
    """Return the kernel of a form, as a Python function to compile or to simulate.

    Its arguments are those of `SIGNATURE`:

    rows, table : addresses of int32 (tiles,) and int64 (runs, COLUMNS); 0 for one run in the arguments
    destination, source, length, extra : the one run
    tiles : how many there are
    alpha, seed : of the arithmetic and the rounding
    partials : address of float64 (tiles,): a sum of squares each
    slots : address of int64 (CUDA blocks, 2): the largest magnitude, as bits, and the nonfinite elements
    gate, checks : address of int64 (checks, RESULTS), the results of measurements, `THREADS` at most. What
        only writes does nothing unless all of these found finite elements; where the number of `checks`
        is negative, unless one did not. 0 for no condition.
    """
    if form.kernel == "add_up":
        return _adding_up()
    if form.kernel == "scatter":
        return _scattering(form)
    return _measuring(form) if form.variant.measure else _writing(form)


SIGNATURE = types.void(*[types.int64] * 7, types.float64, *[types.int64] * 5)
