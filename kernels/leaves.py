# mypy: disable-error-code="no-untyped-def, no-untyped-call, no-any-return"
# Numba infers the types of what it compiles, and ships none of its own.
"""The host kernels' bodies: what is done with the runs of a table.

There is one compiled leaf for each function and `Variant`, made when it is first wanted and kept on
disk. Leaves are called by their address, with an order (see `orders`) and the number of a worker. They go
over all runs of the worker's share themselves: registers are set up once, and norms take 10 ns less for
each blob (Zen 4: 139 us for 16,000 blobs of 128 elements, and 225 where a leaf was called for each).
"""

from __future__ import annotations

from functools import cache

from . import cache as disk
from .intrinsics import (
    LANES,
    VariantType,
    copy_256,
    count_nonfinite,
    destination_size,
    end_block,
    extra_size,
    first_lanes,
    keeps_blocks,
    largest_magnitude,
    look,
    move,
    nothing_found,
    set_zero,
    source_size,
    spread,
    step,
    streams,
    wants_largest,
    writes,
    zero_256,
)
from .orders import ALPHA, RESULTS, SEED, rows, run
from .scalars import LEAF, fence, load_float64, load_int64, store_int64
from .variants import BLOCK, Variant

LAG = 96
"""Elements that are written ahead of those that are measured, from the first cache. A conversion to
float64 is twice as fast from memory as from a register, and beside writes that wait for memory it costs
little. Accumulation with squares, in parts of a loop in C that sums in float32 (Zen 4): in cache 1.05, from
memory 1.02; with 256 elements written and then measured, in turns, 1.18 and 1.07; with a lag of 64, 1.06 and
1.03; of 128, 1.12 and 1.15; of 256, 1.08 and 1.11, and scaling in place from memory 1.2 instead of 1.05."""

INFINITY = 0x7FF0000000000000
"""The bits of an infinite float64, which those of a NaN have as well."""


def blend(variant, order, worker):
    """Compute ``destination = add * destination + alpha * source``, as the variant says."""
    to, of, more = destination_size(variant), source_size(variant), extra_size(variant)
    factor, seed = spread(variant, load_float64(order + ALPHA)), load_int64(order + SEED)
    first, behind = rows(order, worker)
    for row in range(first, behind):
        destination, source, count, extra, _ = run(order, worker, row)
        stop = count
        if streams(variant) and not keeps_blocks(variant):
            head = -destination % 64 // to  # the elements before the first whole cache line
            stop = head if 0 < head < count else count
        i = 0
        while i < count:
            while i + LANES <= stop:
                step(variant, destination + to * i, source + of * i, extra + more * i, seed, factor, None)
                i += LANES
            if i < stop:
                mask = first_lanes(variant, stop - i)
                step(variant, destination + to * i, source + of * i, extra + more * i, seed, factor, mask)
            i, stop = stop, count
    if streams(variant):
        fence()


def measure(variant, order, worker):
    """Do what `blend` does, or nothing where the variant does not write, and measure the destination.

    The sum of squares of each block goes to the partials, the number of nonfinite elements and the largest
    magnitude (as the bits of a float of the arithmetic's type) to the worker's results.
    """
    to, of, more = destination_size(variant), source_size(variant), extra_size(variant)
    factor, seed = spread(variant, load_float64(order + ALPHA)), load_int64(order + SEED)
    results = load_int64(order + RESULTS) + 64 * worker
    found = nothing_found(variant)
    first, behind = rows(order, worker)
    for row in range(first, behind):
        destination, source, count, extra, partials = run(order, worker, row)
        suspicious = False  # a sum of squares is infinite or NaN
        i = k = 0  # measured, written
        if writes(variant):
            while k < LAG and k + LANES <= count:
                step(variant, destination + to * k, source + of * k, extra + more * k, seed, factor, None)
                k += LANES
        while i < count:
            stop = min(i + BLOCK, count)
            if writes(variant):
                both = i + min(stop - i, count - k) // LANES * LANES
                while i < both:
                    step(variant, destination + to * k, source + of * k, extra + more * k, seed, factor, None)
                    found = look(variant, destination + to * i, extra + more * i, None, found)
                    k += LANES
                    i += LANES
                if k < count < k + LANES:
                    mask = first_lanes(variant, count - k)
                    step(variant, destination + to * k, source + of * k, extra + more * k, seed, factor, mask)
                    k = count
            while i + LANES <= stop:
                found = look(variant, destination + to * i, extra + more * i, None, found)
                i += LANES
            if i < stop:
                mask = first_lanes(variant, stop - i)
                found = look(variant, destination + to * i, extra + more * i, mask, found)
                i = stop
            found = end_block(variant, found, partials)
            suspicious = suspicious or load_int64(partials) & INFINITY >= INFINITY
            partials += 8
        if suspicious:
            nonfinite = load_int64(results)
            for i in range(0, count, LANES):
                mask = first_lanes(variant, count - i)
                nonfinite += count_nonfinite(variant, destination + to * i, extra + more * i, mask)
            store_int64(results, nonfinite)
    if wants_largest(variant):
        store_int64(results + 8, largest_magnitude(found))


def zero(variant, order, worker):
    """Fill bytes with zeros.

    The first and the last 256 bytes of a run are written apart, at any address, and what lies between them
    from one multiple of 64 on. With the C library's function for every run, a thousand small blobs
    took 10 % longer.
    """
    first, behind = rows(order, worker)
    for row in range(first, behind):
        destination, _, count, _, _ = run(order, worker, row)
        if count < 256:
            set_zero(destination, count)
            continue
        zero_256(variant, destination, None)
        i = 64 - destination % 64
        while i + 256 <= count:
            zero_256(variant, destination + i, True)
            i += 256
        zero_256(variant, destination + count - 256, None)
    if streams(variant):
        fence()


def copy(variant, order, worker):
    """Copy bytes that do not overlap, in the order of `zero`."""
    first, behind = rows(order, worker)
    for row in range(first, behind):
        destination, source, count, _, _ = run(order, worker, row)
        if count < 256:
            move(destination, source, count)
            continue
        copy_256(variant, destination, source, None)
        i = 64 - destination % 64
        while i + 256 <= count:
            copy_256(variant, destination + i, source + i, True)
            i += 256
        copy_256(variant, destination + count - 256, source + count - 256, None)
    if streams(variant):
        fence()


@cache
def leaf(kernel: str, variant: Variant) -> int:
    """Return the address of a leaf, a C function that stays for as long as the process does.

    Parameters
    ----------
    kernel : str
        ``"zero"``, ``"copy"`` or ``"blend"``.
    variant : Variant
    """
    functions = {"zero": zero, "copy": copy, "blend": measure if variant.measure else blend}
    function = functions[kernel]
    signature = (VariantType(variant), *LEAF.args)
    return disk.address(function, signature, f"{function.__name__}-{variant.key}")
