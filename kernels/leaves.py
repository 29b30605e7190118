# mypy: disable-error-code="no-untyped-def, no-untyped-call, no-any-return"
# Numba infers the types of what it compiles, and ships none of its own.
"""The host kernels' bodies: what is done with one contiguous run of elements.

There is one compiled leaf for each function and `Variant`, made when it is first wanted and kept on
disk. Leaves are called by their address, with one signature for all: see `intrinsics.LEAF`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import njit

from . import cache as disk
from .intrinsics import (
    LEAF,
    VariantType,
    count_nonfinite,
    destination_size,
    end_block,
    extra_size,
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
from .variants import BLOCK, Variant

_AHEAD = 1024  # bytes a streaming copy asks for in advance; 1 to 2 KiB gave 12 to 18 % on Zen 4


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


@cache
def leaf(function: Any, variant: Variant) -> tuple[int, Any]:
    """Compile a leaf, or load it from the disk cache.

    Returns
    -------
    tuple of int, object
        The address of a C function, and what keeps its code alive.
    """
    signature = (VariantType(variant), *LEAF.args)
    with disk.directory(f"{function.__name__}-{variant.key}") as cached:
        dispatcher = njit(cache=cached)(function)
        dispatcher.compile(signature)
    compiled = dispatcher.overloads[signature]
    name = compiled.fndesc.llvm_cfunc_wrapper_name
    return int(compiled.library.get_pointer_to_function(name)), compiled
