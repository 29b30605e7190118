# mypy: disable-error-code="no-untyped-def, no-untyped-call, no-any-return, attr-defined, misc, arg-type"
# Numba infers the types of what it compiles, and ships none of its own.
"""Vectors of floats for Numba: loads, stores, conversions and the few operations the kernels need.

Numba has no vector type, and LLVM turns no scalar store into a non-temporal one. So a register block
of 256 bytes (64 float32 or 32 float64) is made a Numba type here, and each operation an intrinsic.
LLVM cuts such a value into as many machine registers as the processor wants, which also unrolls the
loops. All memory accesses but the non-temporal ones assume no alignment: on an aligned address an
unaligned instruction costs nothing.

Everything is at module level on purpose: a kernel that closes over an intrinsic never hits Numba's
disk cache in a new process.
"""

from __future__ import annotations

from typing import NamedTuple

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

from .variants import Variant

LANES = 32
"""Float64 sums kept side by side: element ``i`` of a block goes to sum ``i % LANES``."""

_I1, _I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
_F16, _F32, _F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()
_ELEMENTS = {
    "float32": _F32,
    "float64": _F64,
    "mask": _I1,
    "uint8": _I8,
    "uint16": _I16,
    "uint32": _I32,
    "uint64": _I64,
}
_WORDS = {
    "float8_e4m3fn": "uint8",
    "float8_e5m2": "uint8",
    "float16": "uint16",
    "float16_bits": "uint16",
    "bfloat16": "uint16",
    "float32": "float32",
    "float64": "float64",
}
_SIZES = {"uint8": 1, "uint16": 2, "float32": 4, "float64": 8}
_WIDTH = {"float32": 64, "float64": 32}


def _has_native_half() -> bool:
    """Tell whether the processor converts float16; LLVM would call a missing library function."""
    features = llvmlite.binding.get_host_cpu_features()
    return bool(features.get("f16c")) or "aarch64" in llvmlite.binding.get_process_triple()


NATIVE_HALF = _has_native_half()


class VariantType(types.Type):
    """The Numba type of a `Variant`: a value without bits, whose meaning is in its type."""

    def __init__(self, variant: Variant):
        self.variant = variant
        super().__init__(name=f"Variant({variant.key})")


@register_model(VariantType)
class _VariantModel(models.OpaqueModel):
    pass


class Vector(types.Type):
    """A fixed number of lanes of one element type."""

    def __init__(self, element: str, count: int):
        self.element = element
        self.count = count
        super().__init__(name=f"Vector({count} x {element})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, ir.VectorType(_ELEMENTS[fe_type.element], fe_type.count))


def _vector(variant: VariantType) -> Vector:
    compute = variant.variant.compute
    return Vector(compute, _WIDTH[compute])


def _bits(vector: Vector) -> Vector:
    return Vector({"float32": "uint32", "float64": "uint64"}[vector.element], vector.count)


_SUMS = Vector("float64", LANES)


# --- pieces of LLVM ------------------------------------------------------------------------------


def _constant(element, count, value):
    return ir.Constant(ir.VectorType(element, count), [value] * count)


def _splat(builder, value, count):
    undefined = ir.Constant(ir.VectorType(value.type, count), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, undefined, _constant(_I32, count, 0))


def _lanes(builder, vector, start, count):
    picks = ir.Constant(ir.VectorType(_I32, count), list(range(start, start + count)))
    return builder.shuffle_vector(vector, vector, picks)


def _pointer(builder, address, vector_type):
    return builder.inttoptr(address, vector_type.as_pointer())


def _llvm(builder, name, result, *arguments):
    function_type = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), arguments)


def _name(vector_type):
    element = vector_type.element
    return f"v{vector_type.count}" + {_F32: "f32", _F64: "f64"}.get(
        element, f"i{getattr(element, 'width', 0)}"
    )


def _fma(builder, x, y, z):
    return _llvm(builder, f"llvm.fma.{_name(x.type)}", x.type, x, y, z)


def _mask(signature, args, position):
    """Return the mask among the arguments, or None where the caller passed None: all lanes."""
    return None if isinstance(signature.args[position], types.NoneType) else args[position]


def _load(builder, vector_type, address, mask):
    """Load a vector; lanes outside the mask read nothing and are 0."""
    pointer = _pointer(builder, address, vector_type)
    if mask is None:
        return builder.load(pointer, align=1)
    name = f"llvm.masked.load.{_name(vector_type)}.p0"
    zeros = ir.Constant(vector_type, None)
    return _llvm(builder, name, vector_type, pointer, ir.Constant(_I32, 1), mask, zeros)


def _store(builder, vector, address, mask, streaming=False):
    """Store a vector; lanes outside the mask write nothing. A streaming store is 64-byte aligned."""
    pointer = _pointer(builder, address, vector.type)
    if mask is not None:
        name = f"llvm.masked.store.{_name(vector.type)}.p0"
        _llvm(builder, name, ir.VoidType(), vector, pointer, ir.Constant(_I32, 1), mask)
    elif streaming:
        instruction = builder.store(vector, pointer, align=64)
        instruction.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(_I32, 1)]))
    else:
        builder.store(vector, pointer, align=1)


# --- conversions between stored words and the type of the arithmetic -----------------------------


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
    "float16_bits": _Format(_I16, 10, 15, 0x7C00, 0x7E00),
    "float8_e5m2": _Format(_I8, 2, 15, 0x7C, 0x7E),
    # No infinity: what is too large becomes the only NaN.
    "float8_e4m3fn": _Format(_I8, 3, 7, 0x7F, 0x7F),
}


def _format_to_float32(builder, form, words):
    """Widen short floats: shift, let a product mend the exponent, mend infinities and NaNs."""
    count = words.type.count
    shift = 23 - form.mantissa

    def constant(value):
        return _constant(_I32, count, value)

    word = builder.zext(words, ir.VectorType(_I32, count))
    sign = builder.shl(builder.and_(word, constant(form.ones + 1)), constant(32 - form.word.width))
    magnitude = builder.shl(builder.and_(word, constant(form.ones)), constant(shift))
    floats = ir.VectorType(_F32, count)
    # The product moves the bias to 127 and normalises subnormals, exactly.
    scale = _constant(_F32, count, 2.0 ** (127 - form.bias))
    value = builder.bitcast(builder.fmul(builder.bitcast(magnitude, floats), scale), word.type)
    special = builder.icmp_unsigned(">=", magnitude, constant(form.infinity << shift))
    exponent = constant(0x7FC00000 if form.infinity == form.nan else 0x7F800000)
    value = builder.select(special, builder.or_(value, exponent), value)
    return builder.bitcast(builder.or_(value, sign), floats)


def _float32_to_format(builder, form, vector):
    """Round float32 to a short float, to nearest even."""
    count = vector.type.count
    shift = 23 - form.mantissa

    def constant(value):
        return _constant(_I32, count, value & 0xFFFFFFFF)

    word = builder.bitcast(vector, ir.VectorType(_I32, count))
    magnitude = builder.and_(word, constant(0x7FFFFFFF))
    sign = builder.and_(builder.lshr(word, constant(32 - form.word.width)), constant(form.ones + 1))
    # Rebias, add just under half a unit of the last place, and one more where that place is odd.
    odd = builder.and_(builder.lshr(magnitude, constant(shift)), constant(1))
    rebias = (form.bias - 127 << 23) + (1 << shift - 1) - 1
    normal = builder.lshr(builder.add(builder.add(magnitude, constant(rebias)), odd), constant(shift))
    # Below the smallest normal number, let the adder round: the unit of the last place of `anchor`
    # is the short float's smallest subnormal.
    anchor = 150 - form.bias - form.mantissa + 1
    shifted = builder.fadd(
        builder.bitcast(magnitude, vector.type), _constant(_F32, count, 2.0 ** (anchor - 127))
    )
    subnormal = builder.sub(builder.bitcast(shifted, word.type), constant(anchor << 23))
    smallest = constant(128 - form.bias << 23)
    rounded = builder.select(builder.icmp_unsigned("<", magnitude, smallest), subnormal, normal)
    too_large = builder.icmp_unsigned(">", rounded, constant(form.infinity))
    # Beyond this magnitude the rebiased exponent would not fit the word at all.
    beyond = builder.icmp_unsigned(">=", magnitude, constant(0x47800000))
    rounded = builder.select(builder.or_(too_large, beyond), constant(form.infinity), rounded)
    nan = builder.icmp_unsigned(">", magnitude, constant(0x7F800000))
    rounded = builder.select(nan, constant(form.nan), rounded)
    return builder.trunc(builder.or_(rounded, sign), ir.VectorType(form.word, count))


def _float32_to_bfloat16(builder, vector):
    """Round float32 to bfloat16 words, to nearest even; a NaN stays one and becomes quiet."""
    count = vector.type.count
    word = builder.bitcast(vector, ir.VectorType(_I32, count))
    high = builder.lshr(word, _constant(_I32, count, 16))
    odd = builder.and_(high, _constant(_I32, count, 1))
    rounded = builder.add(builder.add(word, _constant(_I32, count, 0x7FFF)), odd)
    rounded = builder.lshr(rounded, _constant(_I32, count, 16))
    quiet = builder.or_(high, _constant(_I32, count, 0x40))
    nan = builder.fcmp_unordered("uno", vector, vector)
    return builder.trunc(builder.select(nan, quiet, rounded), ir.VectorType(_I16, count))


def _float64_to_odd_float32(builder, vector):
    """Round float64 to float32, an inexact result to the odd neighbour.

    A second rounding to a shorter type is then the rounding of the original: the odd last bit
    remembers that something was cut off (Boldo and Melquiond, "Emulation of a FMA and correctly
    rounded sums: proved algorithms using rounding to odd", 2008).
    """
    count = vector.type.count
    integers = ir.VectorType(_I32, count)
    nearest = builder.fptrunc(vector, ir.VectorType(_F32, count))
    back = builder.fpext(nearest, vector.type)
    name = f"llvm.fabs.{_name(vector.type)}"
    size = _llvm(builder, name, vector.type, vector)
    size_back = _llvm(builder, name, vector.type, back)
    away = builder.zext(builder.fcmp_ordered(">", size_back, size), integers)
    inexact = builder.zext(builder.fcmp_ordered("!=", back, vector), integers)
    word = builder.sub(builder.bitcast(nearest, integers), away)
    return builder.bitcast(builder.or_(word, inexact), nearest.type)


def _widen(builder, kind, words, compute):
    count = words.type.count
    if kind == "bfloat16":
        integers = builder.zext(words, ir.VectorType(_I32, count))
        shifted = builder.shl(integers, _constant(_I32, count, 16))
        words = builder.bitcast(shifted, ir.VectorType(_F32, count))
    elif kind == "float16":
        halves = builder.bitcast(words, ir.VectorType(_F16, count))
        words = builder.fpext(halves, ir.VectorType(_F32, count))
    elif kind in _FORMATS:
        words = _format_to_float32(builder, _FORMATS[kind], words)
    if compute == "float64" and words.type.element == _F32:
        words = builder.fpext(words, ir.VectorType(_F64, count))
    return words


def _narrow(builder, kind, vector):
    if kind == "float64":
        return vector
    count = vector.type.count
    if kind == "float32":
        return vector if vector.type.element == _F32 else builder.fptrunc(vector, ir.VectorType(_F32, count))
    if vector.type.element == _F64:
        vector = _float64_to_odd_float32(builder, vector)
    if kind == "bfloat16":
        return _float32_to_bfloat16(builder, vector)
    if kind in _FORMATS:
        return _float32_to_format(builder, _FORMATS[kind], vector)
    halves = builder.fptrunc(vector, ir.VectorType(_F16, count))
    return builder.bitcast(halves, ir.VectorType(_I16, count))


# --- what a variant is: constants to the compiler, which drops the branches not taken -------------


def _flag(variant, value):
    return types.boolean(variant), lambda context, builder, signature, args: ir.Constant(_I1, int(value))


@intrinsic
def adds(typing_context, variant):
    """Tell whether the variant adds to its destination."""
    return _flag(variant, variant.variant.add)


@intrinsic
def measures(typing_context, variant):
    """Tell whether the variant gathers statistics."""
    return _flag(variant, variant.variant.measure)


@intrinsic
def streams(typing_context, variant):
    """Tell whether the variant writes past the caches."""
    return _flag(variant, variant.variant.streaming)


@intrinsic
def writes(typing_context, variant):
    """Tell whether the variant writes a destination."""
    return _flag(variant, variant.variant.write)


@intrinsic
def zeroes_source(typing_context, variant):
    """Tell whether the variant leaves zeros in its source."""
    return _flag(variant, variant.variant.zero_source)


def _size(variant, value):
    return types.intp(variant), lambda context, builder, signature, args: ir.Constant(_I64, value)


@intrinsic
def width(typing_context, variant):
    """Lanes of one vector: 64 float32 or 32 float64."""
    return _size(variant, _WIDTH[variant.variant.compute])


@intrinsic
def destination_size(typing_context, variant):
    """Bytes of one element of the destination."""
    return _size(variant, _SIZES[_WORDS[variant.variant.destination]])


@intrinsic
def source_size(typing_context, variant):
    """Bytes of one element of the source."""
    return _size(variant, _SIZES[_WORDS[variant.variant.source]])


@intrinsic
def tune(typing_context, variant):
    """Ask for 256-bit registers where the destination is read back.

    On Zen 4 such a pass over memory is 5 to 10 % faster than with 512 bits (50.5 to 45 GB/s);
    within the caches there is no difference, and stores past the caches want 512.
    """
    narrow_registers = variant.variant.add

    def generate(context, builder, signature, args):
        if narrow_registers:
            # llvmlite knows no string attributes: past its check of names.
            set.add(builder.function.attributes, '"prefer-vector-width"="256"')
            set.add(builder.function.attributes, '"min-legal-vector-width"="256"')
        return context.get_dummy_value()

    return types.void(variant), generate


# --- vectors -------------------------------------------------------------------------------------


@intrinsic
def splat(typing_context, variant, value):
    """Spread a float64 over all lanes, rounded to the type of the arithmetic."""
    vector = _vector(variant)

    def generate(context, builder, signature, args):
        scalar = args[1] if vector.element == "float64" else builder.fptrunc(args[1], _F32)
        return _splat(builder, scalar, vector.count)

    return vector(variant, types.float64), generate


@intrinsic
def first_lanes(typing_context, variant, count):
    """Return a mask of the first `count` lanes."""
    vector = _vector(variant)

    def generate(context, builder, signature, args):
        numbers = ir.Constant(ir.VectorType(_I32, vector.count), list(range(vector.count)))
        limit = _splat(builder, builder.trunc(args[1], _I32), vector.count)
        return builder.icmp_signed("<", numbers, limit)

    return Vector("mask", vector.count)(variant, types.intp), generate


def _loading(variant, kind, mask):
    vector = _vector(variant)

    def generate(context, builder, signature, args):
        words = ir.VectorType(_ELEMENTS[_WORDS[kind]], vector.count)
        loaded = _load(builder, words, args[1], _mask(signature, args, 2))
        return _widen(builder, kind, loaded, vector.element)

    return vector(variant, types.intp, mask), generate


@intrinsic
def load_source(typing_context, variant, address, mask):
    """Load elements of the source; a mask of None stands for all lanes."""
    return _loading(variant, variant.variant.source, mask)


@intrinsic
def load_destination(typing_context, variant, address, mask):
    """Load elements of the destination."""
    return _loading(variant, variant.variant.destination, mask)


@intrinsic
def fused_multiply_add(typing_context, x, y, z):
    """Return ``x * y + z`` with one rounding."""

    def generate(context, builder, signature, args):
        return _fma(builder, *args)

    return x(x, y, z), generate


@intrinsic
def multiply(typing_context, x, y):
    """Return ``x * y``."""
    return x(x, y), lambda context, builder, signature, args: builder.fmul(*args)


@intrinsic
def narrow(typing_context, variant, vector):
    """Round to the words of the destination."""
    kind = variant.variant.destination
    words = Vector(_WORDS[kind], vector.count)

    def generate(context, builder, signature, args):
        return _narrow(builder, kind, args[1])

    return words(variant, vector), generate


@intrinsic
def widen(typing_context, variant, words):
    """Return the values of words of the destination, in the type of the arithmetic."""
    vector = _vector(variant)

    def generate(context, builder, signature, args):
        return _widen(builder, variant.variant.destination, args[1], vector.element)

    return vector(variant, words), generate


@intrinsic
def store(typing_context, variant, address, words, mask):
    """Store words at the destination; whole vectors past the caches where the variant streams."""
    streaming = variant.variant.streaming

    def generate(context, builder, signature, args):
        _store(builder, args[2], args[1], _mask(signature, args, 3), streaming)
        return context.get_dummy_value()

    return types.void(variant, types.intp, words, mask), generate


@intrinsic
def store_zeros(typing_context, variant, address, mask):
    """Store zeros at the source."""
    kind = variant.variant.source
    count = _vector(variant).count

    def generate(context, builder, signature, args):
        zeros = ir.Constant(ir.VectorType(_ELEMENTS[_WORDS[kind]], count), None)
        _store(builder, zeros, args[1], _mask(signature, args, 2))
        return context.get_dummy_value()

    return types.void(variant, types.intp, mask), generate


@intrinsic
def keep(typing_context, vector, mask):
    """Return the vector with zeros outside the mask."""

    def generate(context, builder, signature, args):
        chosen = _mask(signature, args, 1)
        if chosen is None:
            return args[0]
        return builder.select(chosen, args[0], ir.Constant(args[0].type, None))

    return vector(vector, mask), generate


# --- statistics ----------------------------------------------------------------------------------


@intrinsic
def no_squares(typing_context):
    """Return `LANES` sums of nothing."""
    return _SUMS(), lambda context, builder, signature, args: _constant(_F64, LANES, 0.0)


@intrinsic
def add_squares(typing_context, sums, vector):
    """Add the square of lane ``i`` to sum ``i % LANES``, in float64, by fused multiply-add."""

    def generate(context, builder, signature, args):
        total, values = args
        for start in range(0, vector.count, LANES):
            part = _lanes(builder, values, start, LANES)
            if vector.element == "float32":
                part = builder.fpext(part, total.type)
            total = _fma(builder, part, part, total)
        return total

    return _SUMS(sums, vector), generate


@intrinsic
def sum_squares(typing_context, sums):
    """Add the sums by halves: 32, 16, ... 1."""

    def generate(context, builder, signature, args):
        vector, count = args[0], LANES
        while count > 1:
            count //= 2
            vector = builder.fadd(_lanes(builder, vector, 0, count), _lanes(builder, vector, count, count))
        return builder.extract_element(vector, ir.Constant(_I32, 0))

    return types.float64(sums), generate


@intrinsic
def no_magnitude(typing_context, variant):
    """Return the largest magnitudes of nothing: integers that order as the floats they are the bits of."""
    bits = _bits(_vector(variant))

    def generate(context, builder, signature, args):
        return ir.Constant(ir.VectorType(_ELEMENTS[bits.element], bits.count), None)

    return bits(variant), generate


@intrinsic
def update_magnitude(typing_context, largest, vector):
    """Return the larger of each lane's magnitude so far and the bits of ``abs(vector)``."""

    def generate(context, builder, signature, args):
        integers = args[0].type
        ones = (1 << integers.element.width - 1) - 1
        bits = builder.bitcast(args[1], integers)
        bits = builder.and_(bits, _constant(integers.element, integers.count, ones))
        return builder.select(builder.icmp_unsigned(">", bits, args[0]), bits, args[0])

    return largest(largest, vector), generate


@intrinsic
def largest_magnitude(typing_context, largest):
    """Return the bits of the largest magnitude over all lanes."""

    def generate(context, builder, signature, args):
        vector, count = args[0], largest.count
        while count > 1:
            count //= 2
            low, high = (_lanes(builder, vector, start, count) for start in (0, count))
            vector = builder.select(builder.icmp_unsigned(">", low, high), low, high)
        return builder.zext(builder.extract_element(vector, ir.Constant(_I32, 0)), _I64)

    return types.int64(largest), generate


@intrinsic
def infinity(typing_context, variant):
    """Return the bits of an infinity of the arithmetic's type: all larger magnitudes are NaNs."""
    bits = {"float32": 0x7F800000, "float64": 0x7FF0000000000000}[variant.variant.compute]
    return types.int64(variant), lambda context, builder, signature, args: ir.Constant(_I64, bits)


@intrinsic
def count_nonfinite(typing_context, variant, vector):
    """Count the lanes that hold a NaN or an infinity."""
    exponent = {"float32": 0x7F800000, "float64": 0x7FF0000000000000}[vector.element]

    def generate(context, builder, signature, args):
        element = _ELEMENTS[_bits(vector).element]
        mask = _constant(element, vector.count, exponent)
        bits = builder.bitcast(args[1], mask.type)
        hits = builder.icmp_unsigned("==", builder.and_(bits, mask), mask)
        packed = builder.bitcast(hits, ir.IntType(vector.count))
        count = _llvm(builder, f"llvm.ctpop.i{vector.count}", packed.type, packed)
        return builder.zext(count, _I64) if vector.count < 64 else count

    return types.int64(variant, vector), generate


# --- memory and calls ----------------------------------------------------------------------------


@intrinsic
def prefetch(typing_context, variant, address):
    """Ask for one vector's worth of the source's cache lines; the address may lie outside any mapping."""
    size = _SIZES[_WORDS[variant.variant.source]] * _vector(variant).count

    def generate(context, builder, signature, args):
        read, keep_in_all_levels, data = (ir.Constant(_I32, value) for value in (0, 3, 1))
        for offset in range(0, size, 64):
            line = builder.inttoptr(builder.add(args[1], ir.Constant(_I64, offset)), _I8.as_pointer())
            _llvm(builder, "llvm.prefetch.p0", ir.VoidType(), line, read, keep_in_all_levels, data)
        return context.get_dummy_value()

    return types.void(variant, types.intp), generate


@intrinsic
def set_zero(typing_context, address, count):
    """Fill bytes with zeros, as the C library does it."""

    def generate(context, builder, signature, args):
        cgutils.memset(builder, builder.inttoptr(args[0], _I8.as_pointer()), args[1], 0)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), generate


@intrinsic
def move(typing_context, destination, source, count):
    """Copy bytes that do not overlap, as the C library does it."""

    def generate(context, builder, signature, args):
        target, origin = (builder.inttoptr(address, _I8.as_pointer()) for address in args[:2])
        cgutils.raw_memcpy(builder, target, origin, args[2], 1, align=1)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), generate


@intrinsic
def fence(typing_context):
    """Wait until streaming stores are visible to all threads."""

    def generate(context, builder, signature, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def load_int64(typing_context, address):
    """Load the int64 at an address."""

    def generate(context, builder, signature, args):
        return builder.load(builder.inttoptr(args[0], _I64.as_pointer()), align=8)

    return types.int64(types.intp), generate


@intrinsic
def store_int64(typing_context, address, value):
    """Store an int64 at an address."""

    def generate(context, builder, signature, args):
        builder.store(args[1], builder.inttoptr(args[0], _I64.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(types.intp, types.int64), generate


@intrinsic
def store_float64(typing_context, address, value):
    """Store a float64 at an address."""

    def generate(context, builder, signature, args):
        builder.store(args[1], builder.inttoptr(args[0], _F64.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(types.intp, types.float64), generate


@intrinsic
def call(typing_context, leaf, destination, source, count, alpha, extra, partials, results):
    """Call a compiled leaf kernel by its address."""
    signature = types.void(*[types.intp] * 4, types.float64, *[types.intp] * 3)

    def generate(context, builder, signature, args):
        leaf, *arguments = args
        no_variant = ir.Constant(_I8.as_pointer(), None)
        parameters = [no_variant, *arguments]
        leaf_type = ir.FunctionType(ir.VoidType(), [value.type for value in parameters])
        builder.call(builder.inttoptr(leaf, leaf_type.as_pointer()), parameters)
        return context.get_dummy_value()

    return signature, generate
