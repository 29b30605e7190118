# mypy: disable-error-code="no-untyped-def, no-untyped-call, no-any-return, attr-defined, misc, arg-type"
# Numba infers the types of what it compiles, and ships none of its own.
"""The kernel on a CUDA device, written in Numba: one body for every `Form`, card and simulator.

A launch walks over the tiles of all runs. One run lies in the arguments; several are rows of a table in
device memory, and a second table tells of each tile to which row it belongs: two dependent loads a
tile, both from the L2 cache, where a search would take a dozen.

The statistics come out of the same launch. Every tile has its sum of squares; the CUDA block that
is the last to finish adds them up in the order that `plan.Stats` fixes, whichever block that is.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import config, cuda, types

from .cuda_forms import GROUPS, LANES, THREADS, Form
from .cuda_layout import COLUMNS, DESTINATION, EXTRA, FIRST, LENGTH, SOURCE, TREE

if config.ENABLE_CUDASIM:
    from . import cuda_simulator as primitives
else:
    from . import cuda_intrinsics as primitives  # type: ignore[no-redef]

__all__ = ["SIGNATURE", "body"]

_SUMS = TREE  # 8 KiB of shared memory: first the sums of a block's teams, of which a thread has 8 at most


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
def _reduce_block(magnitudes, counts):
    """Leave the largest magnitude and the sum of the counts of all threads in element 0."""
    thread = cuda.threadIdx.x
    half = THREADS // 2
    while half > 0:
        cuda.syncthreads()
        if thread < half:
            magnitudes[thread] = max(magnitudes[thread], magnitudes[thread + half])
            counts[thread] += counts[thread + half]
        half //= 2
    cuda.syncthreads()


@primitives.device_function
def _add_up(sums, partials, tiles):
    """Add the tiles' sums: `TREE` sums side by side, then by halves; the total is left in element 0.

    Each thread has eight of the sums side by side, in registers: nothing is stored between the
    loads, so that they overlap.
    """
    thread = cuda.threadIdx.x
    a = b = c = d = e = f = g = h = 0.0
    address = partials + 8 * thread
    end = partials + 8 * tiles
    while address - 8 * thread < end:
        a += primitives.load_float64(address)
        b += primitives.load_float64(address + 8 * THREADS)
        c += primitives.load_float64(address + 16 * THREADS)
        d += primitives.load_float64(address + 24 * THREADS)
        e += primitives.load_float64(address + 32 * THREADS)
        f += primitives.load_float64(address + 40 * THREADS)
        g += primitives.load_float64(address + 48 * THREADS)
        h += primitives.load_float64(address + 56 * THREADS)
        address += 8 * TREE
    sums[thread] = (a + e) + (c + g)
    sums[thread + THREADS] = (b + f) + (d + h)
    half = THREADS
    while half > 0:
        cuda.syncthreads()
        if thread < half:
            sums[thread] += sums[thread + half]
        half //= 2
    cuda.syncthreads()


@primitives.device_function
def _finish(sums, magnitudes, counts, partials, tiles, slots, results):
    """Combine what all CUDA blocks have found out; run by the last of them."""
    thread = cuda.threadIdx.x
    cuda.threadfence()
    _add_up(sums, partials, tiles)
    magnitude = 0
    count = 0
    slot = thread
    while slot < cuda.gridDim.x:
        magnitude = max(magnitude, primitives.load_int64(slots + 16 * slot + 8))
        count += primitives.load_int64(slots + 16 * slot + 16)
        slot += THREADS
    magnitudes[thread] = magnitude
    counts[thread] = count
    _reduce_block(magnitudes, counts)
    if thread == 0:
        primitives.store_float64(results, sums[0])
        primitives.store_int64(results + 8, magnitudes[0])
        primitives.store_int64(results + 16, counts[0])
        primitives.store_int64(slots, 0)  # ready for the next launch


# --- kernels -------------------------------------------------------------------------------------


def _writing(form):
    """Return the kernel of a form that gathers no statistics: a CUDA block takes a tile after the other."""

    def kernel(rows, table, destination, source, length, extra, tiles, alpha, seed, partials, slots, results):
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

    def kernel(rows, table, destination, source, length, extra, tiles, alpha, seed, partials, slots, results):
        thread = cuda.threadIdx.x
        sums = cuda.shared.array(_SUMS, types.float64)
        magnitudes = cuda.shared.array(THREADS, types.int64)
        counts = cuda.shared.array(THREADS, types.int64)
        last = cuda.shared.array(1, types.int64)
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
        cuda.threadfence()
        _reduce_block(magnitudes, counts)
        if thread == 0:
            slot = slots + 16 * cuda.blockIdx.x
            primitives.store_int64(slot + 8, magnitudes[0])
            primitives.store_int64(slot + 16, counts[0])
            cuda.threadfence()
            last[0] = primitives.take_number(slots)
        cuda.syncthreads()
        if last[0] == cuda.gridDim.x - 1:
            _finish(sums, magnitudes, counts, partials, tiles, slots, results)

    return kernel


def _scattering(form):
    """Return the kernel that adds rows at their indices, each destination's in the order of the indices.

    `table` has the indices in rising order, `rows` the numbers of their rows; the CUDA block at the first
    of equal indices adds all their rows, and each of its threads always the same elements.
    """

    def kernel(rows, table, destination, source, length, extra, tiles, alpha, seed, partials, slots, results):
        factor = primitives.spread(form, alpha)
        found = primitives.nothing_found(form)
        to, of = primitives.destination_size(form) * length, primitives.source_size(form) * length
        place = types.int64(cuda.blockIdx.x)
        while place < tiles:
            index = primitives.load_int64(table + 8 * place)
            following = place
            if place > 0 and primitives.load_int64(table + 8 * place - 8) == index:
                following = tiles
            while following < tiles and primitives.load_int64(table + 8 * following) == index:
                row = primitives.load_int64(rows + 8 * following)
                target, added = destination + to * index, source + of * row
                found = _do_run(form, target, added, extra, seed, factor, types.int64(0), length, found)
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
    partials : address of float64 (tiles rounded up to `TREE`,), zero beyond the tiles
    slots : address of int64 (1 + 2 * CUDA blocks,): a count of the blocks that are done, which must
        begin at 0, and the largest magnitude and the nonfinite elements of each
    results : address of a float64 and two int64: sum of squares, largest magnitude (as bits), nonfinites
    """
    if form.kernel == "scatter":
        return _scattering(form)
    return _measuring(form) if form.variant.measure else _writing(form)


SIGNATURE = types.void(*[types.int64] * 7, types.float64, *[types.int64] * 4)
