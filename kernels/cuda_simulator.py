# mypy: disable-error-code="no-untyped-def, no-untyped-call, no-any-return"
"""The names of `cuda_intrinsics` in Python, for Numba's simulator (NUMBA_ENABLE_CUDASIM=1).

The simulator knows no LLVM, so what works on vectors is done here by NumPy and ml_dtypes, on host memory at
the addresses given. The kernel's body, the way in which tiles, teams and tables are walked and
statistics are combined, is the very code that runs on a card.
"""

from __future__ import annotations

import ctypes
import ctypes.util

import numpy as np

from .cuda_forms import GROUPS
from .pieces import as_dtype

__all__ = [
    "begin_tile",
    "count_nonfinite",
    "destination_size",
    "device_function",
    "extra_size",
    "keep_sums",
    "lanes",
    "largest_magnitude",
    "load_float64",
    "load_int32",
    "load_int64",
    "nothing_found",
    "plane_size",
    "source_size",
    "spread",
    "step",
    "store_float64",
    "store_int64",
    "team",
    "tile",
]

_libm = ctypes.CDLL(ctypes.util.find_library("m"))
_libm.fma.argtypes = [ctypes.c_double] * 3
_libm.fma.restype = ctypes.c_double
_libm.fmaf.argtypes = [ctypes.c_float] * 3
_libm.fmaf.restype = ctypes.c_float


def device_function(function):
    """Leave a function as it is: the simulator runs Python."""
    return function


def _memory(address, dtype, count):
    """Return an array over memory."""
    dtype = np.dtype(dtype)
    memory = (ctypes.c_ubyte * int(count * dtype.itemsize)).from_address(int(address))
    return np.frombuffer(memoryview(memory), dtype)


def _dtype(kind):
    return as_dtype(kind.removesuffix("_bits").removesuffix("_split"))


def lanes(form):
    """Elements that a thread handles by one access."""
    return form.lanes


def team(form):
    """Threads that handle a tile together."""
    return form.team


def tile(form):
    """Elements of a tile."""
    return form.tile


def destination_size(form):
    """Bytes of one element of the destination."""
    return form.destination_size


def source_size(form):
    """Bytes of one element of the source."""
    return form.source_size


def extra_size(form):
    """Return what one element adds to the variant's extra."""
    return form.variant.extra_size


def plane_size(form):
    """Bytes of one element of the second plane, 0 where there is none."""
    return form.plane_size


def spread(form, value):
    """Round alpha to the type of the arithmetic."""
    with np.errstate(over="ignore"):
        return np.dtype(form.variant.compute).type(value)


def nothing_found(form):
    """Return the sums, magnitude and count of no element: zeros."""
    return np.zeros(form.lanes), 0, 0


def begin_tile(form, found):
    """Begin new sums; the largest magnitude and the count go on."""
    return np.zeros(form.lanes), *found[1:]


def step(form, destination, source, extra, seed, alpha, stride, valid, found):
    """Do what the form says on one thread's elements and return what was found out so far."""
    count = form.lanes if valid is None else min(form.lanes, int(valid))
    for group in range(1 if stride is None else GROUPS):
        skipped = group * stride if group else 0
        found = _step(
            form,
            destination + form.destination_size * skipped,
            source + form.source_size * skipped,
            extra + form.variant.extra_size * skipped,
            seed,
            alpha,
            count,
            valid is None,
            found,
        )
    return found


def _step(form, destination, source, extra, seed, alpha, count, whole, found):
    variant = form.variant
    for address, size in ((destination, form.destination_size), (source, form.source_size)):
        if whole and address % (size * form.lanes):
            raise ValueError(f"a vector access to address {address} is not aligned: a card would stop here")
    target = _memory(destination, _dtype(variant.destination), count)
    origin = _memory(source, _dtype(variant.source), count)
    if form.kernel in ("zero", "copy"):
        target[...] = origin if form.kernel == "copy" else 0
        return found
    with np.errstate(all="ignore"):
        values = _values(variant.source, origin, extra, variant.compute)
        if variant.add:
            old = _values(variant.destination, target, extra, variant.compute)
            fma = _libm.fma if variant.compute == "float64" else _libm.fmaf
            values = np.array(
                [fma(alpha, x, y) for x, y in zip(values, old, strict=True)], dtype=variant.compute
            )
        elif variant.write:
            values = alpha * values
        if variant.zero_source:
            origin.view(f"u{origin.itemsize}")[...] = 0
        if variant.write:
            _store(variant, target, values, extra, seed)
            values = _values(variant.destination, target, extra, variant.compute)
        return _measure(values, found) if variant.measure else found


def _values(kind, words, extra, compute):
    """Return the values of stored words."""
    if kind == "bfloat16_split":
        rest = _memory(extra, np.int16, len(words)).astype(np.int32)
        bits = (words.view(np.uint16).astype(np.uint32) << 16).view(np.int32) + rest
        return bits.view(np.float32).astype(compute)
    return words.astype(compute)


def _store(variant, target, values, extra, seed):
    """Round values and store the words."""
    split, stochastic = variant.destination == "bfloat16_split", variant.rounding == "stochastic"
    if not split and not stochastic:
        short = values.dtype == np.float64 and target.dtype.name not in ("float16", "float32", "float64")
        target[...] = (_to_odd_float32(values) if short else values).astype(target.dtype)
        return
    bits = values.astype(np.float32).view(np.uint32)
    nan = np.isnan(values)
    if split:
        bits = np.where(nan, np.uint32(0x7FC00000), bits)
        words = (bits + np.uint32(0x8000)) >> 16
        _memory(extra, np.uint16, len(target))[...] = bits & 0xFFFF
    else:
        noise = _random_bits(int(extra), int(seed), len(target)) & np.uint32(0xFFFF)
        words = np.where(nan, bits >> 16 | 0x40, (bits + noise) >> 16)
    target.view(np.uint16)[...] = words


def _to_odd_float32(values):
    """Round float64 to float32, an inexact result to the odd neighbour."""
    nearest = values.astype(np.float32)
    back = nearest.astype(np.float64)
    bits = nearest.view(np.uint32) - (np.abs(back) > np.abs(values)).astype(np.uint32)
    inexact = (back != values) & ~np.isnan(values)
    return (bits | inexact.astype(np.uint32)).view(np.float32)


def _random_bits(position, seed, count):
    """Return 32 random bits a lane, as `floats` does."""
    ones = (1 << 64) - 1
    key = (seed + (position >> 32)) & ones
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        key = (key ^ key >> shift) * factor & ones
    key ^= key >> 31
    low, high = np.uint32(key & 0xFFFFFFFF), np.uint32(key >> 32)
    word = (np.uint32(position & 0xFFFFFFFF) + np.arange(count, dtype=np.uint32)) ^ low
    for shift, more, factor in ((16, 0, 0x7FEB352D), (15, high, 0x846CA68B)):
        word = ((word ^ word >> np.uint32(shift)) ^ np.uint32(more)) * np.uint32(factor)
    return word ^ word >> np.uint32(16)


def _measure(values, found):
    sums, largest, nonfinite = found
    sums = sums.copy()
    for lane, value in enumerate(values.tolist()):
        sums[lane] = _libm.fma(value, value, sums[lane])
    bits = np.abs(values).view(f"u{values.itemsize}")
    return sums, max(largest, int(bits.max())), nonfinite + int(np.count_nonzero(~np.isfinite(values)))


def keep_sums(form, found, array, first):
    """Write the sums of squares into a shared array, from element `first` on."""
    array[first : first + form.lanes] = found[0]


def largest_magnitude(found):
    """Return the bits of the largest magnitude."""
    return found[1]


def count_nonfinite(found):
    """Return how many NaNs and infinities were found."""
    return found[2]


def load_int32(address):
    """Load the int32 at an address."""
    return int(_memory(address, np.int32, 1)[0])


def load_int64(address):
    """Load the int64 at an address."""
    return int(_memory(address, np.int64, 1)[0])


def load_float64(address):
    """Load the float64 at an address."""
    return float(_memory(address, np.float64, 1)[0])


def store_int64(address, value):
    """Store an int64 at an address."""
    _memory(address, np.int64, 1)[0] = value


def store_float64(address, value):
    """Store a float64 at an address."""
    _memory(address, np.float64, 1)[0] = value
