# mypy: disable-error-code="no-untyped-def, no-untyped-call, no-any-return, misc"
# Numba infers the types of what it compiles, and ships none of its own.
"""What the CUDA kernels are written with: one thread's part of a vector, and whole steps on it.

The conversions are those of the host (`floats`): one source of instructions for both devices. Only the
memory accesses are other ones. LLVM does not merge scalar accesses to 128 bits by itself, because
it knows nothing of alignment; so a vector is loaded as 32-bit words with its alignment stated.
`cuda_simulator` has the same names for Numba's simulator.
"""

from __future__ import annotations

from llvmlite import ir
from numba import cuda
from numba.cuda import cgutils, types
from numba.cuda.cudaimpl import registry
from numba.cuda.extending import core_models as models
from numba.cuda.extending import intrinsic, register_model, typeof_impl

from . import floats
from .cuda_forms import GROUPS, Form
from .floats import F32, F64, I8, I16, I32, I64

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
    "take_number",
    "team",
    "tile",
]

_WORDS = {**floats.WORDS, "uint8": I8, "uint16": I16, "uint32": I32, "uint64": I64}
_GLOBAL = 1  # the address space of device memory: LDG and STG instead of generic accesses


# Inlined in Numba's own form: called as functions of their own they would be compiled for "the current
# device", which makes a context and needs a card.
device_function = cuda.jit(device=True, inline="always")


class FormType(types.Type):
    """The Numba type of a `Form`: a value without bits, whose meaning is in its type."""

    def __init__(self, form: Form):
        self.form = form
        super().__init__(name=f"Form({form.key})")

    @property
    def compute(self) -> ir.Type:
        """LLVM's type of the arithmetic."""
        return {"float32": F32, "float64": F64}[self.form.variant.compute]


@typeof_impl.register(Form)
def _type_of_form(form, context):
    return FormType(form)


@register_model(FormType)
class _FormModel(models.OpaqueModel):
    pass


@registry.lower_constant(FormType)
def _form_constant(context, builder, form_type, form):
    return context.get_dummy_value()


class Vector(types.Type):
    """A fixed number of lanes of one float type."""

    def __init__(self, element: str, count: int):
        self.element = element
        self.count = count
        super().__init__(name=f"Vector({count} x {element})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        element = {"float32": F32, "float64": F64}[fe_type.element]
        super().__init__(dmm, fe_type, ir.VectorType(element, fe_type.count))


def _found(form: FormType) -> types.BaseTuple:
    """Return the type of what a thread has found out: sums of squares, largest magnitude, nonfinites."""
    bits = {F32: types.uint32, F64: types.uint64}[form.compute]
    return types.Tuple([Vector("float64", form.form.lanes), bits, types.int32])


# --- memory --------------------------------------------------------------------------------------


def _pointer(builder, address, element):
    return builder.inttoptr(address, ir.PointerType(element, _GLOBAL))


def _words(element, count):
    """Return the type as which a whole vector is accessed, and its bytes."""
    size = element.width // 8 * count if isinstance(element, ir.IntType) else floats.SIZES[element] * count
    return (ir.VectorType(I32, size // 4) if size > 4 else ir.IntType(8 * size)), size


def _is_valid(builder, lane, valid):
    return builder.icmp_signed("<", ir.Constant(I64, lane), valid)


def _at(builder, address, element, lane):
    return builder.add(address, ir.Constant(I64, lane * _words(element, 1)[1]))


def _load(builder, element, count, address, valid):
    """Load a vector: by one access where `valid` is None, else its first `valid` lanes one by one."""
    vector_type = ir.VectorType(element, count)
    if valid is None:
        words, size = _words(element, count)
        return builder.bitcast(builder.load(_pointer(builder, address, words), align=size), vector_type)
    vector = ir.Constant(vector_type, None)
    for lane in range(count):
        before = builder.block
        with builder.if_then(_is_valid(builder, lane, valid)):
            place = _pointer(builder, _at(builder, address, element, lane), element)
            loaded = builder.load(place, align=_words(element, 1)[1])
            inside = builder.block
        value = builder.phi(element)
        value.add_incoming(ir.Constant(element, 0), before)
        value.add_incoming(loaded, inside)
        vector = builder.insert_element(vector, value, ir.Constant(I32, lane))
    return vector


def _store(builder, vector, address, valid):
    """Store a vector, likewise."""
    element, count = vector.type.element, vector.type.count
    if valid is None:
        words, size = _words(element, count)
        builder.store(builder.bitcast(vector, words), _pointer(builder, address, words), align=size)
        return
    for lane in range(count):
        with builder.if_then(_is_valid(builder, lane, valid)):
            value = builder.extract_element(vector, ir.Constant(I32, lane))
            place = _pointer(builder, _at(builder, address, element, lane), element)
            builder.store(value, place, align=_words(element, 1)[1])


# --- what a form is: constants to the compiler, which drops the branches not taken ----------------


def _number(form, value):
    return types.int64(form), lambda context, builder, signature, args: ir.Constant(I64, value)


@intrinsic
def lanes(typing_context, form):
    """Elements that a thread handles by one access."""
    return _number(form, form.form.lanes)


@intrinsic
def team(typing_context, form):
    """Threads that handle a tile together."""
    return _number(form, form.form.team)


@intrinsic
def tile(typing_context, form):
    """Elements of a tile."""
    return _number(form, form.form.tile)


@intrinsic
def destination_size(typing_context, form):
    """Bytes of one element of the destination."""
    return _number(form, form.form.destination_size)


@intrinsic
def source_size(typing_context, form):
    """Bytes of one element of the source."""
    return _number(form, form.form.source_size)


@intrinsic
def extra_size(typing_context, form):
    """Return what one element adds to the variant's extra."""
    return _number(form, form.form.variant.extra_size)


@intrinsic
def plane_size(typing_context, form):
    """Bytes of one element of the second plane, 0 where there is none."""
    return _number(form, form.form.plane_size)


# --- steps ---------------------------------------------------------------------------------------


@intrinsic
def spread(typing_context, form, value):
    """Spread a float64 over the lanes, rounded to the type of the arithmetic."""

    def generate(context, builder, signature, args):
        scalar = args[1] if form.compute == F64 else builder.fptrunc(args[1], F32)
        return floats.splat(builder, scalar, form.form.lanes)

    return Vector(form.form.variant.compute, form.form.lanes)(form, types.float64), generate


@intrinsic
def nothing_found(typing_context, form):
    """Return the sums, magnitude and count of no element: zeros."""
    found = _found(form)

    def generate(context, builder, signature, args):
        zeros = [ir.Constant(context.get_value_type(part), None) for part in found.types[:1]]
        zeros += [ir.Constant(context.get_value_type(part), 0) for part in found.types[1:]]
        return context.make_tuple(builder, found, zeros)

    return found(form), generate


@intrinsic
def begin_tile(typing_context, form, found):
    """Begin new sums; the largest magnitude and the count go on."""

    def generate(context, builder, signature, args):
        sums, *others = cgutils.unpack_tuple(builder, args[1])
        return context.make_tuple(builder, found, [ir.Constant(sums.type, None), *others])

    return found(form, found), generate


@intrinsic
def step(typing_context, form, destination, source, extra, seed, alpha, stride, valid, found):
    """Do what the form says on one thread's elements and return what was found out so far.

    With a `stride` (in elements) there are `GROUPS` vectors that far apart: all of them are loaded before
    the first is stored, because the compiler, who must expect that a store changes what is loaded
    next, would wait for one after the other. With a number of `valid` lanes the accesses are
    those of single elements.
    """
    several = not isinstance(stride, types.NoneType)
    whole = isinstance(valid, types.NoneType)
    found_type = _found(form)
    variant = form.form.variant

    def generate(context, builder, signature, args):
        _, destination, source, extra, seed, factor, distance, count, state = args
        accesses = _Accesses(builder, form.form, form.compute, None if whole else count)
        places = []
        for group in range(GROUPS if several else 1):
            skipped = builder.mul(distance, ir.Constant(I64, group)) if group else ir.Constant(I64, 0)
            places.append([
                builder.add(address, builder.mul(skipped, ir.Constant(I64, size)))
                for address, size in (
                    (destination, form.form.destination_size),
                    (source, form.form.source_size),
                    (extra, variant.extra_size),
                )
            ])  # fmt: skip
        if form.form.kernel == "zero":
            for target, _, _ in places:
                accesses.store_zeros(variant.destination, target)
            return state
        sources = [accesses.load(variant.source, origin, more) for _, origin, more in places]
        if form.form.kernel == "copy":
            for (target, _, _), (words, _) in zip(places, sources, strict=True):
                _store(builder, words, target, accesses.valid)
            return state
        olds = [variant.add and accesses.load(variant.destination, to, more) for to, _, more in places]
        for (target, origin, more), loaded, old in zip(places, sources, olds, strict=True):
            value = accesses.value(variant.source, loaded)
            if old:
                value = floats.multiply_add(builder, factor, value, accesses.value(variant.destination, old))
            elif variant.write:
                value = builder.fmul(factor, value)
            if variant.zero_source:
                accesses.store_zeros(variant.source, origin)
            if variant.write:
                value = accesses.store(value, target, more, seed)
            if variant.measure:
                state = _measure(context, builder, signature, value, accesses.valid, state)
        return state

    arguments = (form, *[types.int64] * 4, alpha, stride, valid, found_type)
    return found_type(*arguments), generate


class _Accesses:
    """Loads and stores of one step."""

    def __init__(self, builder, form, compute, valid):
        self.builder = builder
        self.form = form
        self.compute = compute
        self.valid = valid

    def load(self, kind, address, extra):
        """Load the words of a vector, and of the rest where there is a second plane."""
        count = self.form.lanes
        rest = _load(self.builder, I16, count, extra, self.valid) if kind == "bfloat16_split" else None
        return _load(self.builder, _WORDS[kind], count, address, self.valid), rest

    def value(self, kind, loaded):
        """Return the values of loaded words."""
        words, rest = loaded
        return floats.widen(self.builder, kind, words, self.compute, rest)

    def store(self, vector, address, extra, seed):
        """Round and store values; return what the stored words stand for."""
        variant = self.form.variant
        words, rest = floats.round_values(
            self.builder, variant.destination, vector, extra, seed, variant.rounding
        )
        if rest is not None:
            _store(self.builder, rest, extra, self.valid)
        _store(self.builder, words, address, self.valid)
        return floats.widen(self.builder, variant.destination, words, self.compute, rest)

    def store_zeros(self, kind, address):
        """Store zeros."""
        zeros = ir.Constant(ir.VectorType(_WORDS[kind], self.form.lanes), None)
        _store(self.builder, zeros, address, self.valid)


def _measure(context, builder, signature, value, valid, state):
    count = value.type.count
    if valid is not None:  # the lanes outside may hold alpha * 0, a NaN where alpha is infinite
        inside = ir.Constant(ir.VectorType(floats.I1, count), None)
        for lane in range(count):
            inside = builder.insert_element(inside, _is_valid(builder, lane, valid), ir.Constant(I32, lane))
        value = builder.select(inside, value, ir.Constant(value.type, None))
    sums, largest, nonfinite = cgutils.unpack_tuple(builder, state)
    wide = value if value.type.element == F64 else builder.fpext(value, sums.type)
    sums = floats.multiply_add(builder, wide, wide, sums)
    bits = floats.magnitude_bits(builder, value)
    limit = {32: 0x7F800000, 64: 0x7FF0000000000000}[bits.type.element.width]
    hits = builder.icmp_unsigned(">=", bits, floats.constant(bits.type.element, count, limit))
    hits = floats.fold(builder, builder.zext(hits, ir.VectorType(I32, count)), builder.add)
    here = floats.fold(builder, bits, lambda x, y: floats.larger(builder, x, y))
    largest = floats.larger(builder, largest, here)
    state = [sums, largest, builder.add(nonfinite, hits)]
    return context.make_tuple(builder, signature.return_type, state)


@intrinsic
def keep_sums(typing_context, form, found, array, first):
    """Write the sums of squares into a shared array, from element `first` on."""

    def generate(context, builder, signature, args):
        sums, *_ = cgutils.unpack_tuple(builder, args[1])
        data = context.make_array(array)(context, builder, args[2]).data
        for lane in range(sums.type.count):
            index = builder.add(args[3], ir.Constant(I64, lane))
            value = builder.extract_element(sums, ir.Constant(I32, lane))
            builder.store(value, builder.gep(data, [index]), align=8)
        return context.get_dummy_value()

    return types.void(form, found, array, types.int64), generate


@intrinsic
def largest_magnitude(typing_context, found):
    """Return the bits of the largest magnitude."""

    def generate(context, builder, signature, args):
        _, largest, _ = cgutils.unpack_tuple(builder, args[0])
        return builder.zext(largest, I64) if largest.type != I64 else largest

    return types.int64(found), generate


@intrinsic
def count_nonfinite(typing_context, found):
    """Return how many NaNs and infinities were found."""

    def generate(context, builder, signature, args):
        *_, nonfinite = cgutils.unpack_tuple(builder, args[0])
        return builder.zext(nonfinite, I64)

    return types.int64(found), generate


# --- scalars in memory ---------------------------------------------------------------------------


def _loading(element, result):
    def generate(context, builder, signature, args):
        value = builder.load(_pointer(builder, args[0], element), align=_words(element, 1)[1])
        return builder.zext(value, I64) if element == I32 else value

    return result(types.int64), generate


@intrinsic
def load_int32(typing_context, address):
    """Load the int32 at an address, as an int64; it is not negative."""
    return _loading(I32, types.int64)


@intrinsic
def load_int64(typing_context, address):
    """Load the int64 at an address."""
    return _loading(I64, types.int64)


@intrinsic
def load_float64(typing_context, address):
    """Load the float64 at an address."""
    return _loading(F64, types.float64)


def _storing(element, argument):
    def generate(context, builder, signature, args):
        builder.store(args[1], _pointer(builder, args[0], element), align=8)
        return context.get_dummy_value()

    return types.void(types.int64, argument), generate


@intrinsic
def store_int64(typing_context, address, value):
    """Store an int64 at an address."""
    return _storing(I64, types.int64)


@intrinsic
def store_float64(typing_context, address, value):
    """Store a float64 at an address."""
    return _storing(F64, types.float64)


@intrinsic
def take_number(typing_context, address):
    """Add 1 to the int64 at an address, in one piece; return what it was."""

    def generate(context, builder, signature, args):
        place = _pointer(builder, args[0], I64)
        return builder.atomic_rmw("add", place, ir.Constant(I64, 1), "monotonic")

    return types.int64(types.int64), generate
