# mypy: disable-error-code="no-untyped-def, no-untyped-call, no-any-return"
# llvmlite ships no types.
"""Vectors of floats in LLVM: loads, stores, arithmetic and conversions between stored words and values.

Every function takes an llvmlite builder and appends instructions to it. A vector is longer than any
register: LLVM cuts it into as many as the processor wants, which also unrolls the loops around it.
Memory accesses assume no alignment but for the stores past the caches: on an aligned address an
unaligned instruction costs nothing. A mask of None stands for all lanes.
"""

from __future__ import annotations

from typing import NamedTuple

import llvmlite.binding
import numba
from llvmlite import ir
from numba.core import cgutils

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F16, F32, F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()

WORDS = {
    "float8_e4m3fn": I8,
    "float8_e5m2": I8,
    "float16": I16,
    "float16_bits": I16,
    "bfloat16": I16,
    "bfloat16_split": I16,
    "float32": F32,
    "float64": F64,
}
"""The LLVM type that each way of storing loads and stores."""

SIZES = {I8: 1, I16: 2, F32: 4, F64: 8}


def _has_native_half() -> bool:
    """Tell whether the processor compiled for converts float16; LLVM would call a missing function."""
    if numba.config.CPU_NAME:
        return "+f16c" in (numba.config.CPU_FEATURES or "")
    features = llvmlite.binding.get_host_cpu_features()
    return bool(features.get("f16c")) or "aarch64" in llvmlite.binding.get_process_triple()


NATIVE_HALF = _has_native_half()


# --- vectors -------------------------------------------------------------------------------------


def constant(element, count, value):
    """Return a vector of equal constants."""
    return ir.Constant(ir.VectorType(element, count), [value] * count)


def splat(builder, value, count):
    """Spread a scalar over all lanes."""
    undefined = ir.Constant(ir.VectorType(value.type, count), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, undefined, constant(I32, count, 0))


def lanes(builder, vector, start, count):
    """Return `count` lanes from `start` on."""
    picks = ir.Constant(ir.VectorType(I32, count), list(range(start, start + count)))
    return builder.shuffle_vector(vector, vector, picks)


def fold(builder, vector, combine):
    """Combine all lanes to a scalar: the lower with the upper half, until one is left."""
    count = vector.type.count
    while count > 1:
        count //= 2
        low, high = (lanes(builder, vector, start, count) for start in (0, count))
        vector = combine(low, high)
    return builder.extract_element(vector, ir.Constant(I32, 0))


def larger(builder, x, y):
    """Return the larger of unsigned integers, lane by lane."""
    return builder.select(builder.icmp_unsigned(">", x, y), x, y)


def llvm(builder, name, result, *arguments):
    """Call an LLVM intrinsic function."""
    function_type = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), arguments)


def _suffix(vector_type):
    names = {F32: "f32", F64: "f64"}
    element = vector_type.element
    return f"v{vector_type.count}" + (names.get(element) or f"i{element.width}")


def multiply_add(builder, x, y, z):
    """Return ``x * y + z``, rounded once."""
    return llvm(builder, f"llvm.fma.{_suffix(x.type)}", x.type, x, y, z)


def magnitude_bits(builder, vector):
    """Return the bits of ``abs(vector)``, integers that order as the magnitudes do."""
    width = 32 if vector.type.element == F32 else 64
    integers = ir.VectorType(ir.IntType(width), vector.type.count)
    bits = builder.bitcast(vector, integers)
    return builder.and_(bits, constant(integers.element, integers.count, (1 << width - 1) - 1))


# --- memory --------------------------------------------------------------------------------------


def load(builder, element, count, address, mask=None):
    """Load a vector; lanes outside the mask read nothing and are 0."""
    vector_type = ir.VectorType(element, count)
    pointer = builder.inttoptr(address, vector_type.as_pointer())
    if mask is None:
        return builder.load(pointer, align=1)
    name = f"llvm.masked.load.{_suffix(vector_type)}.p0"
    zeros = ir.Constant(vector_type, None)
    return llvm(builder, name, vector_type, pointer, ir.Constant(I32, 1), mask, zeros)


def store(builder, vector, address, mask=None, streaming=False):
    """Store a vector; lanes outside the mask write nothing, whole ones may go past the caches.

    A streaming store needs an address that is a multiple of 64.
    """
    pointer = builder.inttoptr(address, vector.type.as_pointer())
    if mask is not None:
        name = f"llvm.masked.store.{_suffix(vector.type)}.p0"
        llvm(builder, name, ir.VoidType(), vector, pointer, ir.Constant(I32, 1), mask)
    elif streaming:
        instruction = builder.store(vector, pointer, align=64)
        instruction.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(I32, 1)]))
    else:
        builder.store(vector, pointer, align=1)


def prefetch(builder, address, size):
    """Ask for `size` bytes; the address may lie outside any mapping."""
    read, keep_in_all_levels, data = (ir.Constant(I32, value) for value in (0, 3, 1))
    for offset in range(0, size, 64):
        line = builder.inttoptr(builder.add(address, ir.Constant(I64, offset)), I8.as_pointer())
        llvm(builder, "llvm.prefetch.p0", ir.VoidType(), line, read, keep_in_all_levels, data)


# --- conversions between stored words and values -------------------------------------------------


class _Format(NamedTuple):
    """A short binary float that is converted by integer arithmetic."""

    word: ir.IntType
    mantissa: int
    bias: int
    infinity: int
    nan: int

    @property
    def ones(self):
        return (1 << self.word.width - 1) - 1


_FORMATS = {
    "float16_bits": _Format(I16, 10, 15, 0x7C00, 0x7E00),
    "float8_e5m2": _Format(I8, 2, 15, 0x7C, 0x7E),
    # No infinity: what is too large becomes the only NaN.
    "float8_e4m3fn": _Format(I8, 3, 7, 0x7F, 0x7F),
}


def _format_to_float32(builder, form, words):
    """Widen short floats: shift, let a product mend the exponent, mend infinities and NaNs."""
    count = words.type.count
    shift = 23 - form.mantissa

    def integer(value):
        return constant(I32, count, value)

    word = builder.zext(words, ir.VectorType(I32, count))
    sign = builder.shl(builder.and_(word, integer(form.ones + 1)), integer(32 - form.word.width))
    magnitude = builder.shl(builder.and_(word, integer(form.ones)), integer(shift))
    floats = ir.VectorType(F32, count)
    # The product moves the bias to 127 and normalises subnormals, exactly.
    scale = constant(F32, count, 2.0 ** (127 - form.bias))
    value = builder.bitcast(builder.fmul(builder.bitcast(magnitude, floats), scale), word.type)
    special = builder.icmp_unsigned(">=", magnitude, integer(form.infinity << shift))
    exponent = integer(0x7FC00000 if form.infinity == form.nan else 0x7F800000)
    value = builder.select(special, builder.or_(value, exponent), value)
    return builder.bitcast(builder.or_(value, sign), floats)


def _float32_to_format(builder, form, vector):
    """Round float32 to a short float, to nearest even."""
    count = vector.type.count
    shift = 23 - form.mantissa

    def integer(value):
        return constant(I32, count, value & 0xFFFFFFFF)

    word = builder.bitcast(vector, ir.VectorType(I32, count))
    magnitude = builder.and_(word, integer(0x7FFFFFFF))
    sign = builder.and_(builder.lshr(word, integer(32 - form.word.width)), integer(form.ones + 1))
    # Rebias, add just under half a unit of the last place, and one more where that place is odd.
    odd = builder.and_(builder.lshr(magnitude, integer(shift)), integer(1))
    rebias = (form.bias - 127 << 23) + (1 << shift - 1) - 1
    normal = builder.lshr(builder.add(builder.add(magnitude, integer(rebias)), odd), integer(shift))
    # Below the smallest normal number, let the adder round: the unit of the last place of `anchor`
    # is the short float's smallest subnormal.
    anchor = 150 - form.bias - form.mantissa + 1
    shifted = builder.fadd(
        builder.bitcast(magnitude, vector.type), constant(F32, count, 2.0 ** (anchor - 127))
    )
    subnormal = builder.sub(builder.bitcast(shifted, word.type), integer(anchor << 23))
    smallest = integer(128 - form.bias << 23)
    rounded = builder.select(builder.icmp_unsigned("<", magnitude, smallest), subnormal, normal)
    too_large = builder.icmp_unsigned(">", rounded, integer(form.infinity))
    # Beyond this magnitude the rebiased exponent would not fit the word at all.
    beyond = builder.icmp_unsigned(">=", magnitude, integer(0x47800000))
    rounded = builder.select(builder.or_(too_large, beyond), integer(form.infinity), rounded)
    nan = builder.icmp_unsigned(">", magnitude, integer(0x7F800000))
    rounded = builder.select(nan, integer(form.nan), rounded)
    return builder.trunc(builder.or_(rounded, sign), ir.VectorType(form.word, count))


def _float32_to_bfloat16(builder, vector):
    """Round float32 to bfloat16 words, to nearest even; a NaN stays one and becomes quiet."""
    count = vector.type.count
    word = builder.bitcast(vector, ir.VectorType(I32, count))
    high = builder.lshr(word, constant(I32, count, 16))
    odd = builder.and_(high, constant(I32, count, 1))
    rounded = builder.add(builder.add(word, constant(I32, count, 0x7FFF)), odd)
    rounded = builder.lshr(rounded, constant(I32, count, 16))
    quiet = builder.or_(high, constant(I32, count, 0x40))
    nan = builder.fcmp_unordered("uno", vector, vector)
    return builder.trunc(builder.select(nan, quiet, rounded), ir.VectorType(I16, count))


def _float64_to_odd_float32(builder, vector):
    """Round float64 to float32, an inexact result to the odd neighbour.

    A second rounding to a shorter type is then the rounding of the original: the odd last bit
    remembers that something was cut off (Boldo and Melquiond, "Emulation of a FMA and correctly
    rounded sums: proved algorithms using rounding to odd", 2008).
    """
    count = vector.type.count
    integers = ir.VectorType(I32, count)
    nearest = builder.fptrunc(vector, ir.VectorType(F32, count))
    back = builder.fpext(nearest, vector.type)
    grown = builder.icmp_unsigned(">", magnitude_bits(builder, back), magnitude_bits(builder, vector))
    away = builder.zext(grown, integers)
    inexact = builder.zext(builder.fcmp_ordered("!=", back, vector), integers)
    word = builder.sub(builder.bitcast(nearest, integers), away)
    return builder.bitcast(builder.or_(word, inexact), nearest.type)


def _random_bits(builder, position, seed, count):
    """Return 32 random bits a lane, a function of the seed and of the element's number only.

    The number's low half goes through Wellons' integer hash "lowbias32" (nullprogram.com,
    "Prospecting for Hash Functions", 2018), keyed twice by the mixed seed. `position` is a multiple
    of the lanes, so its high half is the same for all of them.
    """
    # SplitMix64's finalizer, of the seed and the number's high half.
    key = builder.add(seed, builder.lshr(position, ir.Constant(I64, 32)))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        key = builder.xor(key, builder.lshr(key, ir.Constant(I64, shift)))
        key = builder.mul(key, ir.Constant(I64, factor))
    key = builder.xor(key, builder.lshr(key, ir.Constant(I64, 31)))
    low = splat(builder, builder.trunc(key, I32), count)
    high = splat(builder, builder.trunc(builder.lshr(key, ir.Constant(I64, 32)), I32), count)
    numbers = ir.Constant(ir.VectorType(I32, count), list(range(count)))
    word = builder.add(splat(builder, builder.trunc(position, I32), count), numbers)
    word = builder.xor(word, low)
    word = builder.xor(word, builder.lshr(word, constant(I32, count, 16)))
    word = builder.mul(word, constant(I32, count, 0x7FEB352D))
    word = builder.xor(builder.xor(word, builder.lshr(word, constant(I32, count, 15))), high)
    word = builder.mul(word, constant(I32, count, 0x846CA68B))
    return builder.xor(word, builder.lshr(word, constant(I32, count, 16)))


def _stochastic_bfloat16(builder, vector, position, seed):
    """Round float32 to one of the two bfloat16 words around it, the nearer one more often."""
    count = vector.type.count
    word = builder.bitcast(vector, ir.VectorType(I32, count))
    bits = _random_bits(builder, position, seed, count)
    noise = builder.and_(bits, constant(I32, count, 0xFFFF))
    rounded = builder.lshr(builder.add(word, noise), constant(I32, count, 16))
    quiet = builder.or_(builder.lshr(word, constant(I32, count, 16)), constant(I32, count, 0x40))
    nan = builder.fcmp_unordered("uno", vector, vector)
    return builder.trunc(builder.select(nan, quiet, rounded), ir.VectorType(I16, count))


def _split_bfloat16(builder, vector):
    """Split float32 into the nearest bfloat16 word and the rest, exactly.

    The float's bits are ``(high << 16) + low`` with a signed `low`: two planes of 16 bits that hold
    every float32. Kahan's sum needs the same memory and was slower and less exact (271 against 152
    ps an element within the caches; error after 256 additions 8e-6 against 1e-8).
    """
    count = vector.type.count
    word = builder.bitcast(vector, ir.VectorType(I32, count))
    nan = builder.fcmp_unordered("uno", vector, vector)
    word = builder.select(nan, constant(I32, count, 0x7FC00000), word)
    high = builder.lshr(builder.add(word, constant(I32, count, 0x8000)), constant(I32, count, 16))
    words = ir.VectorType(I16, count)
    return builder.trunc(high, words), builder.trunc(word, words)


def widen(builder, kind, words, compute, rest=None):
    """Return the values of stored words, as float32 or float64."""
    count = words.type.count
    if kind in ("bfloat16", "bfloat16_split"):
        integers = builder.zext(words, ir.VectorType(I32, count))
        bits = builder.shl(integers, constant(I32, count, 16))
        if rest is not None:
            bits = builder.add(bits, builder.sext(rest, bits.type))
        words = builder.bitcast(bits, ir.VectorType(F32, count))
    elif kind == "float16":
        halves = builder.bitcast(words, ir.VectorType(F16, count))
        words = builder.fpext(halves, ir.VectorType(F32, count))
    elif kind in _FORMATS:
        words = _format_to_float32(builder, _FORMATS[kind], words)
    if compute == F64 and words.type.element == F32:
        words = builder.fpext(words, ir.VectorType(F64, count))
    return words


def narrow(builder, kind, vector):
    """Round values to stored words, to nearest even."""
    if kind == "float64":
        return vector
    count = vector.type.count
    if kind == "float32":
        return vector if vector.type.element == F32 else builder.fptrunc(vector, ir.VectorType(F32, count))
    if vector.type.element == F64:
        vector = _float64_to_odd_float32(builder, vector)
    if kind == "bfloat16":
        return _float32_to_bfloat16(builder, vector)
    if kind in _FORMATS:
        return _float32_to_format(builder, _FORMATS[kind], vector)
    halves = builder.fptrunc(vector, ir.VectorType(F16, count))
    return builder.bitcast(halves, ir.VectorType(I16, count))


def load_values(builder, kind, compute, count, address, rest_address, mask):
    """Load stored words and return their values."""
    rest = load(builder, I16, count, rest_address, mask) if kind == "bfloat16_split" else None
    return widen(builder, kind, load(builder, WORDS[kind], count, address, mask), compute, rest)


def round_values(builder, kind, vector, extra, seed, rounding="nearest"):
    """Round values to stored words; return them and, for ``"bfloat16_split"``, the rest, otherwise None.

    `extra` is the number of the first lane's element, which stochastic rounding needs.
    """
    exact = kind == "bfloat16_split"
    if not exact and rounding == "nearest":
        return narrow(builder, kind, vector), None
    if vector.type.element == F64:
        vector = builder.fptrunc(vector, ir.VectorType(F32, vector.type.count))
    if exact:
        return _split_bfloat16(builder, vector)
    return _stochastic_bfloat16(builder, vector, extra, seed), None


def store_values(builder, kind, vector, address, extra, seed, mask, rounding="nearest", streaming=False):
    """Round values, store the words, and return the values that they stand for.

    `extra` is the address of the rest for ``"bfloat16_split"``, and the number of the first lane's
    element for stochastic rounding.
    """
    words, rest = round_values(builder, kind, vector, extra, seed, rounding)
    if rest is not None:
        store(builder, rest, extra, mask, streaming)
    store(builder, words, address, mask, streaming)
    return widen(builder, kind, words, vector.type.element, rest)
