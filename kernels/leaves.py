# mypy: disable-error-code="no-untyped-def, no-untyped-call, no-any-return"
# Numba infers the types of what it compiles, and ships none of its own.
"""The host kernels' bodies: what is done with one contiguous run of elements.

There is one compiled leaf for each function and `Variant`, made when it is first wanted and kept on
disk. Leaves are called by their address, with one signature for all: see `intrinsics.LEAF`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from . import cache as disk
from .intrinsics import (
    LANES,
    LEAF,
    VariantType,
    copy_256,
    count_nonfinite,
    destination_size,
    end_block,
    extra_size,
    first_lanes,
    keeps_blocks,
    largest_magnitude,
    load_int64,
    look,
    measures,
    move,
    nothing_found,
    set_zero,
    source_size,
    spread,
    step,
    store_int64,
    streams,
    wants_largest,
    writes,
    zero_256,
)
from .variants import BLOCK, Variant

CHUNK = 256
"""Elements that are written before they are measured, from the first cache. A conversion to float64
is twice as fast from memory as from a register: accumulating bfloat16 with statistics, in the cache,
took 288 us in one loop, 214 us with 2,048 elements at a time, 164 with 256, 210 with 128 (Zen 4)."""

INFINITY = 0x7FF0000000000000
"""The bits of an infinite float64, which those of a NaN have as well."""


def blend(variant, destination, source, count, alpha, extra, seed, partials, results):
    """Compute ``destination = add * destination + alpha * source`` over one run, as the variant says.

    The sum of squares of each block goes to `partials`, the largest magnitude (as the bits of a
    float of the arithmetic's type) and the number of nonfinite elements to `results`.
    """
    to, of, more = destination_size(variant), source_size(variant), extra_size(variant)
    factor = spread(variant, alpha)
    found = nothing_found(variant)
    suspicious = False  # a sum of squares is infinite or NaN
    i = 0
    while i < count:
        stop = count
        if measures(variant):
            stop = min(i + (CHUNK if writes(variant) else BLOCK), count)
        elif streams(variant) and not keeps_blocks(variant) and i == 0:
            head = -destination % 64 // to  # the elements before the first whole cache line
            stop = head if 0 < head < count else count
        k = i
        if writes(variant):
            while k + LANES <= stop:
                step(variant, destination + to * k, source + of * k, extra + more * k, seed, factor, None)
                k += LANES
            if k < stop:
                mask = first_lanes(variant, stop - k)
                step(variant, destination + to * k, source + of * k, extra + more * k, seed, factor, mask)
        if measures(variant):
            while i + LANES <= stop:
                found = look(variant, destination + to * i, extra + more * i, None, found)
                i += LANES
            if i < stop:
                mask = first_lanes(variant, stop - i)
                found = look(variant, destination + to * i, extra + more * i, mask, found)
            if stop % BLOCK == 0 or stop == count:
                found = end_block(variant, found, partials)
                suspicious = suspicious or load_int64(partials) & INFINITY >= INFINITY
                partials += 8
        i = stop
    if measures(variant):
        if wants_largest(variant):
            magnitude = largest_magnitude(found)
            if magnitude > load_int64(results + 8):
                store_int64(results + 8, magnitude)
        if suspicious:
            nonfinite = load_int64(results)
            for i in range(0, count, LANES):
                mask = first_lanes(variant, count - i)
                nonfinite += count_nonfinite(variant, destination + to * i, extra + more * i, mask)
            store_int64(results, nonfinite)


def zero(variant, destination, source, count, alpha, extra, seed, partials, results):
    """Fill `count` bytes with zeros.

    The first and the last 256 bytes are written apart, at any address, and what lies between them
    from one multiple of 64 on. With the C library's function for every run, a thousand small blobs
    took 10 % longer.
    """
    if count < 256:
        set_zero(destination, count)
        return
    zero_256(variant, destination, None)
    i = 64 - destination % 64
    while i + 256 <= count:
        zero_256(variant, destination + i, True)
        i += 256
    zero_256(variant, destination + count - 256, None)


def copy(variant, destination, source, count, alpha, extra, seed, partials, results):
    """Copy `count` bytes that do not overlap, in the order of `zero`."""
    if count < 256:
        move(destination, source, count)
        return
    copy_256(variant, destination, source, None)
    i = 64 - destination % 64
    while i + 256 <= count:
        copy_256(variant, destination + i, source + i, True)
        i += 256
    copy_256(variant, destination + count - 256, source + count - 256, None)


@cache
def leaf(function: Any, variant: Variant) -> int:
    """Return the address of a leaf, a C function that stays for as long as the process does."""
    signature = (VariantType(variant), *LEAF.args)
    return disk.address(function, signature, f"{function.__name__}-{variant.key}")
