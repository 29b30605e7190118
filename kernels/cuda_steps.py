# mypy: disable-error-code="no-untyped-def, no-untyped-call, no-any-return"
# llvmlite ships no types.
"""The instructions of one step of a CUDA thread, in LLVM.

The conversions are those of the host (`floats`): one source for both devices. Only the memory accesses
are other ones. LLVM does not merge scalar accesses to 128 bits by itself, because it knows nothing of
alignment; so a vector is loaded as 32-bit words with its alignment stated.
"""

from __future__ import annotations

from llvmlite import ir

from . import floats
from .cuda_forms import GROUPS
from .floats import F64, I1, I8, I16, I32, I64

_WORDS = {**floats.WORDS, "uint8": I8, "uint16": I16, "uint32": I32, "uint64": I64}
_GLOBAL = 1  # the address space of device memory: LDG and STG instead of generic accesses


# --- memory --------------------------------------------------------------------------------------


def pointer(builder, address, element):
    """Return a pointer into device memory."""
    return builder.inttoptr(address, ir.PointerType(element, _GLOBAL))


def size_of(element):
    """Return the bytes of an element."""
    return element.width // 8 if isinstance(element, ir.IntType) else floats.SIZES[element]


def _whole(element, count):
    """Return the type as which a whole vector is accessed."""
    size = size_of(element) * count
    return ir.VectorType(I32, size // 4) if size > 4 else ir.IntType(8 * size)


def _is_valid(builder, lane, valid):
    return builder.icmp_signed("<", ir.Constant(I64, lane), valid)


def _place(builder, address, element, lane):
    return pointer(builder, builder.add(address, ir.Constant(I64, lane * size_of(element))), element)


def load(builder, element, count, address, valid):
    """Load a vector: by one access where `valid` is None, else its first `valid` lanes one by one."""
    vector_type = ir.VectorType(element, count)
    if valid is None:
        words = _whole(element, count)
        loaded = builder.load(pointer(builder, address, words), align=size_of(element) * count)
        return builder.bitcast(loaded, vector_type)
    vector = ir.Constant(vector_type, None)
    for lane in range(count):
        before = builder.block
        with builder.if_then(_is_valid(builder, lane, valid)):
            loaded = builder.load(_place(builder, address, element, lane), align=size_of(element))
            inside = builder.block
        value = builder.phi(element)
        value.add_incoming(ir.Constant(element, 0), before)
        value.add_incoming(loaded, inside)
        vector = builder.insert_element(vector, value, ir.Constant(I32, lane))
    return vector


def store(builder, vector, address, valid):
    """Store a vector, likewise."""
    element, count = vector.type.element, vector.type.count
    if valid is None:
        words = _whole(element, count)
        target = pointer(builder, address, words)
        builder.store(builder.bitcast(vector, words), target, align=size_of(element) * count)
        return
    for lane in range(count):
        with builder.if_then(_is_valid(builder, lane, valid)):
            value = builder.extract_element(vector, ir.Constant(I32, lane))
            builder.store(value, _place(builder, address, element, lane), align=size_of(element))


# --- steps ---------------------------------------------------------------------------------------


class Step:
    """Writes what a form says into a builder.

    Parameters
    ----------
    form : Form
    compute : LLVM type
        Of the arithmetic.
    valid : LLVM int64 value, optional
        How many lanes count; None for all of them, by one access.
    """

    def __init__(self, builder, form, compute, valid):
        self.builder = builder
        self.form = form
        self.compute = compute
        self.valid = valid

    def places(self, destination, source, extra, stride):
        """Return the addresses of one vector, or of `GROUPS` that are `stride` elements apart."""
        places = []
        for group in range(1 if stride is None else GROUPS):
            skipped = ir.Constant(I64, 0) if group == 0 else self.builder.mul(stride, ir.Constant(I64, group))
            sizes = self.form.destination_size, self.form.source_size, self.form.variant.extra_size
            addresses = zip((destination, source, extra), sizes, strict=True)
            places.append(
                [
                    self.builder.add(address, self.builder.mul(skipped, ir.Constant(I64, size)))
                    for address, size in addresses
                ]
            )
        return places

    def write(self, places, seed, factor, state):
        """Write the step; return sums of squares, largest magnitude and count of nonfinites after it.

        All vectors are loaded before the first is stored: the compiler, who must expect that a store
        changes what is loaded next, would let each wait for the one before.
        """
        variant = self.form.variant
        if self.form.kernel == "zero":
            for target, _, _ in places:
                self._store_zeros(variant.destination, target)
            return state
        sources = [self._load(variant.source, origin, more) for _, origin, more in places]
        if self.form.kernel == "copy":
            for (target, _, _), (words, _) in zip(places, sources, strict=True):
                store(self.builder, words, target, self.valid)
            return state
        olds = [variant.add and self._load(variant.destination, to, more) for to, _, more in places]
        for (target, origin, more), loaded, old in zip(places, sources, olds, strict=True):
            value = self._value(variant.source, loaded)
            if old:
                value = floats.multiply_add(
                    self.builder, factor, value, self._value(variant.destination, old)
                )
            elif variant.write:
                value = self.builder.fmul(factor, value)
            if variant.zero_source:
                self._store_zeros(variant.source, origin)
            if variant.write:
                value = self._round_and_store(value, target, more, seed)
            if variant.measure:
                state = self._measure(value, *state)
        return state

    def _load(self, kind, address, extra):
        """Load the words of a vector, and of the rest where there is a second plane."""
        count = self.form.lanes
        rest = load(self.builder, I16, count, extra, self.valid) if kind == "bfloat16_split" else None
        return load(self.builder, _WORDS[kind], count, address, self.valid), rest

    def _value(self, kind, loaded):
        words, rest = loaded
        return floats.widen(self.builder, kind, words, self.compute, rest)

    def _round_and_store(self, vector, address, extra, seed):
        """Round and store values; return what the stored words stand for."""
        kind = self.form.variant.destination
        rounding = self.form.variant.rounding
        words, rest = floats.round_values(self.builder, kind, vector, extra, seed, rounding)
        if rest is not None:
            store(self.builder, rest, extra, self.valid)
        store(self.builder, words, address, self.valid)
        return floats.widen(self.builder, kind, words, self.compute, rest)

    def _store_zeros(self, kind, address):
        zeros = ir.Constant(ir.VectorType(_WORDS[kind], self.form.lanes), None)
        store(self.builder, zeros, address, self.valid)

    def _measure(self, value, sums, largest, nonfinite):
        """Add the square of each lane to its own sum, in float64 by fused multiply-add."""
        builder, count = self.builder, self.form.lanes
        if self.valid is not None:  # the lanes outside may hold alpha * 0, a NaN where alpha is infinite
            inside = ir.Constant(ir.VectorType(I1, count), None)
            for lane in range(count):
                is_inside = _is_valid(builder, lane, self.valid)
                inside = builder.insert_element(inside, is_inside, ir.Constant(I32, lane))
            value = builder.select(inside, value, ir.Constant(value.type, None))
        wide = value if self.compute == F64 else builder.fpext(value, sums.type)
        sums = floats.multiply_add(builder, wide, wide, sums)
        bits = floats.magnitude_bits(builder, value)
        limit = {32: 0x7F800000, 64: 0x7FF0000000000000}[bits.type.element.width]
        hits = builder.icmp_unsigned(">=", bits, floats.constant(bits.type.element, count, limit))
        found = floats.fold(builder, builder.zext(hits, ir.VectorType(I32, count)), builder.add)
        here = floats.fold(builder, bits, lambda x, y: floats.larger(builder, x, y))
        return [sums, floats.larger(builder, largest, here), builder.add(nonfinite, found)]
