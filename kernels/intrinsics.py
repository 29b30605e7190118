# mypy: disable-error-code="no-untyped-def, no-untyped-call, no-any-return, misc"
# Numba infers the types of what it compiles, and ships none of its own.
"""What the kernels are written with: vectors as values in Numba, and whole steps on them.

Numba has no vector type, and LLVM turns no scalar store into a non-temporal one; so `floats` writes
the instructions and this module makes them callable. The arithmetic of one vector is one intrinsic,
`step`, and not a dozen: a variant compiles three times as fast (0.1 against 0.35 s), as Numba's time
goes with the statements it sees.

Everything is at module level on purpose: a kernel that closes over an intrinsic never hits Numba's
disk cache in a new process.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

from . import floats
from .floats import F32, F64, I8, I32, I64
from .variants import Variant

LANES = 32
"""Elements of one vector, and float64 sums kept side by side: element ``i`` of a block goes to sum
``i % LANES``. With 64 elements a pass that reads its destination was 4 % slower (Zen 4, from memory)."""

SUMS = 4
"""Of these, how many are one value to LLVM. On Zen 4 squares of float32 in cache take 0.32 ns for 8 in
256-bit registers, and 0.53 in 512-bit ones, whose conversions to float64 are slow."""
SHORT = {F32: 8, F64: 4}
"""Lanes of the 256-bit registers in which a destination that is read back is written: on Zen 4 such a
pass over memory is 5 to 10 % faster than with 512 bits (50.5 to 45 GB/s)."""

AHEAD = 1024
"""Bytes that a pass which streams asks for in advance: 1 to 2 KiB gave 12 to 18 % on Zen 4."""


class VariantType(types.Type):
    """The Numba type of a `Variant`: a value without bits, whose meaning is in its type."""

    def __init__(self, variant: Variant):
        self.variant = variant
        super().__init__(name=f"Variant({variant.key})")

    @property
    def compute(self) -> ir.Type:
        """LLVM's type of the arithmetic."""
        return {"float32": F32, "float64": F64}[self.variant.compute]


@register_model(VariantType)
class _VariantModel(models.OpaqueModel):
    pass


_ELEMENTS = {"float32": F32, "float64": F64, "mask": floats.I1, "uint32": I32, "uint64": I64}


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
    return Vector(variant.variant.compute, LANES)


def _found(variant: VariantType) -> types.BaseTuple:
    """Return the type of what a block has found out: sums of squares and largest magnitudes."""
    bits = {F32: "uint32", F64: "uint64"}[variant.compute]
    return types.Tuple([*[Vector("float64", SUMS)] * (LANES // SUMS), Vector(bits, LANES)])


def _mask(signature, args, position):
    """Return the mask among the arguments, or None where the caller passed None: all lanes."""
    return None if isinstance(signature.args[position], types.NoneType) else args[position]


# --- what a variant is: constants to the compiler, which drops the branches not taken -------------


def _flag(variant, value):
    return types.boolean(variant), lambda context, builder, signature, args: ir.Constant(
        floats.I1, int(value)
    )


def _number(variant, value):
    return types.int64(variant), lambda context, builder, signature, args: ir.Constant(I64, value)


@intrinsic
def wants_largest(typing_context, variant):
    """Tell whether the variant's statistics have the largest magnitude."""
    return _flag(variant, variant.variant.largest)


@intrinsic
def streams(typing_context, variant):
    """Tell whether the variant writes past the caches."""
    return _flag(variant, variant.variant.streaming)


@intrinsic
def keeps_blocks(typing_context, variant):
    """Tell whether vectors must begin at multiples of their length, so that no head can be split off."""
    return _flag(variant, variant.variant.keeps_blocks)


@intrinsic
def writes(typing_context, variant):
    """Tell whether the variant writes a destination."""
    return _flag(variant, variant.variant.write)


@intrinsic
def destination_size(typing_context, variant):
    """Bytes of one element of the destination."""
    return _number(variant, floats.SIZES[floats.WORDS[variant.variant.destination]])


@intrinsic
def source_size(typing_context, variant):
    """Bytes of one element of the source."""
    return _number(variant, floats.SIZES[floats.WORDS[variant.variant.source]])


@intrinsic
def extra_size(typing_context, variant):
    """Return what one element adds to the variant's extra."""
    return _number(variant, variant.variant.extra_size)


# --- one vector ----------------------------------------------------------------------------------


@intrinsic
def spread(typing_context, variant, value):
    """Spread a float64 over all lanes, rounded to the type of the arithmetic."""

    def generate(context, builder, signature, args):
        scalar = args[1] if variant.compute == F64 else builder.fptrunc(args[1], F32)
        return floats.splat(builder, scalar, LANES)

    return _vector(variant)(variant, types.float64), generate


@intrinsic
def first_lanes(typing_context, variant, count):
    """Return a mask of the first `count` lanes."""

    def generate(context, builder, signature, args):
        numbers = ir.Constant(ir.VectorType(I32, LANES), list(range(LANES)))
        limit = floats.splat(builder, builder.trunc(args[1], I32), LANES)
        return builder.icmp_signed("<", numbers, limit)

    return Vector("mask", LANES)(variant, types.int64), generate


@intrinsic
def nothing_found(typing_context, variant):
    """Return the sums and magnitudes of no element: zeros."""
    found = _found(variant)

    def generate(context, builder, signature, args):
        zeros = [ir.Constant(context.get_value_type(part), None) for part in found.types]
        return context.make_tuple(builder, found, zeros)

    return found(variant), generate


@intrinsic
def step(typing_context, variant, destination, source, extra, seed, alpha, mask):
    """Do what the variant says on one vector.

    ``destination = add * destination + alpha * source``; the source is left zero where the variant
    wants it.
    """
    form, compute = variant.variant, variant.compute
    width = SHORT[compute] if form.add else LANES
    to, of = (floats.SIZES[floats.WORDS[kind]] for kind in (form.destination, form.source))

    def generate(context, builder, signature, args):
        _, *addresses, key, factor, _ = args
        mask = _mask(signature, args, 6)
        for first in range(0, LANES, width):
            offsets = (ir.Constant(I64, first * size) for size in (to, of, form.extra_size))
            target, origin, more = map(builder.add, addresses, offsets)
            lanes = None if mask is None else floats.lanes(builder, mask, first, width)
            if form.streaming:
                floats.prefetch(builder, builder.add(origin, ir.Constant(I64, AHEAD)), of * width)
            value = floats.load_values(builder, form.source, compute, width, origin, more, lanes)
            if form.add:
                old = floats.load_values(builder, form.destination, compute, width, target, more, lanes)
                value = floats.multiply_add(builder, floats.lanes(builder, factor, first, width), value, old)
            else:
                value = builder.fmul(factor, value)
            if form.zero_source:
                zeros = ir.Constant(ir.VectorType(floats.WORDS[form.source], width), None)
                floats.store(builder, zeros, origin, lanes)
            floats.store_values(
                builder, form.destination, value, target, more, key, lanes, form.rounding, form.streaming
            )
        return context.get_dummy_value()

    return types.void(variant, *[types.int64] * 4, _vector(variant), mask), generate


@intrinsic
def look(typing_context, variant, address, extra, mask, found):
    """Measure one vector of the destination's type, and return what was found out so far.

    Each lane's square is added to the lane's sum, in float64 by a fused multiply-add.
    """
    kind, compute, found_type = variant.variant.destination, variant.compute, _found(variant)

    def generate(context, builder, signature, args):
        value = floats.load_values(builder, kind, compute, LANES, args[1], args[2], _mask(signature, args, 3))
        *sums, largest = cgutils.unpack_tuple(builder, args[4])
        for i, total in enumerate(sums):
            part = floats.lanes(builder, value, SUMS * i, SUMS)
            wide = part if part.type == total.type else builder.fpext(part, total.type)
            sums[i] = floats.multiply_add(builder, wide, wide, total)
        if variant.variant.largest:
            largest = floats.larger(builder, floats.magnitude_bits(builder, value), largest)
        return context.make_tuple(builder, signature.return_type, [*sums, largest])

    return found_type(variant, types.int64, types.int64, mask, found_type), generate


@intrinsic
def end_block(typing_context, variant, found, address):
    """Store the block's sum of squares, the lanes' sums added by halves, and begin new sums."""

    def generate(context, builder, signature, args):
        *sums, largest = cgutils.unpack_tuple(builder, args[1])
        zeros = [ir.Constant(part.type, None) for part in sums]
        while len(sums) > 1:
            half = len(sums) // 2
            sums = [builder.fadd(low, high) for low, high in zip(sums[:half], sums[half:], strict=True)]
        total = floats.fold(builder, sums[0], builder.fadd)
        builder.store(total, builder.inttoptr(args[2], F64.as_pointer()), align=8)
        return context.make_tuple(builder, signature.return_type, [*zeros, largest])

    return found(variant, found, types.int64), generate


@intrinsic
def largest_magnitude(typing_context, found):
    """Return the bits of the largest magnitude over all lanes."""

    def generate(context, builder, signature, args):
        *_, largest = cgutils.unpack_tuple(builder, args[0])
        bits = floats.fold(builder, largest, lambda x, y: floats.larger(builder, x, y))
        return builder.zext(bits, I64) if bits.type != I64 else bits

    return types.int64(found), generate


@intrinsic
def count_nonfinite(typing_context, variant, address, extra, mask):
    """Count NaNs and infinities in one vector of the destination's type."""
    compute, count = variant.compute, LANES
    limit = {F32: 0x7F800000, F64: 0x7FF0000000000000}[compute]

    def generate(context, builder, signature, args):
        kind = variant.variant.destination
        value = floats.load_values(builder, kind, compute, count, args[1], args[2], _mask(signature, args, 3))
        bits = floats.magnitude_bits(builder, value)
        hits = builder.icmp_unsigned(">=", bits, floats.constant(bits.type.element, count, limit))
        packed = builder.bitcast(hits, ir.IntType(count))
        return builder.zext(floats.llvm(builder, f"llvm.ctpop.i{count}", packed.type, packed), I64)

    return types.int64(variant, types.int64, types.int64, mask), generate


# --- bytes ---------------------------------------------------------------------------------------


@intrinsic
def copy_256(typing_context, variant, destination, source, aligned):
    """Copy 256 bytes; past the caches where the variant streams and `aligned` is no None.

    Within the caches by 256 bits at a time: 203 us for 8 MB, against 212 with 512 (Zen 4).
    """
    streaming = variant.variant.streaming and not isinstance(aligned, types.NoneType)
    width = 32 if streaming else SHORT[F64]

    def generate(context, builder, signature, args):
        _, target, origin, _ = args
        if streaming:
            floats.prefetch(builder, builder.add(origin, ir.Constant(I64, AHEAD)), 256)
        for first in range(0, 32, width):
            at, of = (builder.add(address, ir.Constant(I64, 8 * first)) for address in (target, origin))
            floats.store(builder, floats.load(builder, I64, width, of), at, streaming=streaming)
        return context.get_dummy_value()

    return types.void(variant, types.int64, types.int64, aligned), generate


@intrinsic
def zero_256(typing_context, variant, destination, aligned):
    """Fill 256 bytes with zeros; past the caches where the variant streams and `aligned` is no None."""
    streaming = variant.variant.streaming and not isinstance(aligned, types.NoneType)

    def generate(context, builder, signature, args):
        floats.store(builder, floats.constant(I64, 32, 0), args[1], streaming=streaming)
        return context.get_dummy_value()

    return types.void(variant, types.int64, aligned), generate


@intrinsic
def set_zero(typing_context, address, count):
    """Fill bytes with zeros, as the C library does it."""

    def generate(context, builder, signature, args):
        cgutils.memset(builder, builder.inttoptr(args[0], I8.as_pointer()), args[1], 0)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def move(typing_context, destination, source, count):
    """Copy bytes that do not overlap, as the C library does it."""

    def generate(context, builder, signature, args):
        target, origin = (builder.inttoptr(address, I8.as_pointer()) for address in args[:2])
        cgutils.raw_memcpy(builder, target, origin, args[2], 1, align=1)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), generate
