# mypy: disable-error-code="no-untyped-def, no-untyped-call, no-any-return, misc"
# Numba infers the types of what it compiles, and ships none of its own.
"""What the CUDA kernels are written with: one thread's part of a vector, and whole steps on it.

`cuda_steps` writes the instructions, this module makes them callable, and `cuda_simulator` has the same
names for Numba's simulator.
"""

from __future__ import annotations

from llvmlite import ir
from numba import cuda
from numba.cuda import cgutils, types
from numba.cuda.cudaimpl import registry
from numba.cuda.extending import core_models as models
from numba.cuda.extending import intrinsic, register_model, typeof_impl

from . import cuda_steps, floats
from .cuda_forms import Form
from .cuda_steps import pointer, size_of
from .floats import F32, F64, I32, I64

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

    def generate(context, builder, signature, args):
        _, destination, source, extra, seed, factor, distance, count, state = args
        writer = cuda_steps.Step(builder, form.form, form.compute, None if whole else count)
        places = writer.places(destination, source, extra, distance if several else None)
        state = writer.write(places, seed, factor, cgutils.unpack_tuple(builder, state))
        return context.make_tuple(builder, found_type, state)

    arguments = (form, *[types.int64] * 4, alpha, stride, valid, found_type)
    return found_type(*arguments), generate


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
        value = builder.load(pointer(builder, args[0], element), align=size_of(element))
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
        builder.store(args[1], pointer(builder, args[0], element), align=8)
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
