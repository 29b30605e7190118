# mypy: disable-error-code="no-untyped-def, no-untyped-call, no-any-return, misc"
# Numba infers the types of what it compiles, and ships none of its own.
"""Single numbers at an address, and calls by address: what launches are written with."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .floats import F32, F64, I8, I32, I64


@intrinsic
def load_int64(typing_context, address):
    """Load the int64 at an address."""

    def generate(context, builder, signature, args):
        return builder.load(builder.inttoptr(args[0], I64.as_pointer()), align=8)

    return types.int64(types.int64), generate


@intrinsic
def load_float64(typing_context, address):
    """Load the float64 at an address."""

    def generate(context, builder, signature, args):
        return builder.load(builder.inttoptr(args[0], F64.as_pointer()), align=8)

    return types.float64(types.int64), generate


@intrinsic
def load_int32(typing_context, address):
    """Load the int32 at an address, as an int64."""

    def generate(context, builder, signature, args):
        return builder.sext(builder.load(builder.inttoptr(args[0], I32.as_pointer()), align=4), I64)

    return types.int64(types.int64), generate


@intrinsic
def store_int64(typing_context, address, value):
    """Store an int64 at an address."""

    def generate(context, builder, signature, args):
        builder.store(args[1], builder.inttoptr(args[0], I64.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def store_float64(typing_context, address, value):
    """Store a float64 at an address."""

    def generate(context, builder, signature, args):
        builder.store(args[1], builder.inttoptr(args[0], F64.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(types.int64, types.float64), generate


@intrinsic
def double_of_bits(typing_context, bits, is_double):
    """Return the float32 or float64 that has these bits, as a float64; of NaNs always the same one."""

    def generate(context, builder, signature, args):
        long = builder.bitcast(args[0], F64)
        short = builder.fpext(builder.bitcast(builder.trunc(args[0], I32), F32), F64)
        value = builder.select(args[1], long, short)
        nan = builder.bitcast(ir.Constant(I64, 0x7FF8000000000000), F64)
        return builder.select(builder.fcmp_unordered("uno", value, value), nan, value)

    return types.float64(types.int64, types.boolean), generate


@intrinsic
def fence(typing_context):
    """Wait until streaming stores are visible to all threads."""

    def generate(context, builder, signature, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


LEAF = types.void(types.int64, types.int64)
"""What a leaf takes after its variant: the address of an order, and the number of a worker."""


@intrinsic
def call(typing_context, leaf, order, worker):
    """Call a compiled leaf kernel by its address."""

    def generate(context, builder, signature, args):
        leaf, *arguments = args
        parameters = [ir.Constant(I8.as_pointer(), None), *arguments]  # a variant has no bits
        leaf_type = ir.FunctionType(ir.VoidType(), [value.type for value in parameters])
        builder.call(builder.inttoptr(leaf, leaf_type.as_pointer()), parameters)
        return context.get_dummy_value()

    return types.void(types.int64, *LEAF.args), generate


@intrinsic(prefer_literal=True)
def stack(typing_context, nbytes):
    """Return the address of memory, at a multiple of 8, that is there until the caller returns."""
    if not isinstance(nbytes, types.IntegerLiteral):
        return None

    def generate(context, builder, signature, args):
        memory = cgutils.alloca_once(builder, ir.ArrayType(I64, -(-nbytes.literal_value // 8)))
        return builder.ptrtoint(memory, I64)

    return types.int64(nbytes), generate


@intrinsic
def ask(typing_context, function):
    """Call a C function without arguments that returns an int, by its address."""

    def generate(context, builder, signature, args):
        kind = ir.FunctionType(I32, [])
        return builder.sext(builder.call(builder.inttoptr(args[0], kind.as_pointer()), []), I64)

    return types.int64(types.int64), generate


@intrinsic
def run_team(typing_context, parallel, work, order, threads):
    """Let a team of threads call ``work(order)``, by OpenMP's entry for compilers, and wait for them."""

    def generate(context, builder, signature, args):
        parallel, work, order, threads = args
        task = ir.FunctionType(ir.VoidType(), [I64])  # a pointer and an int64 are passed alike
        kind = ir.FunctionType(ir.VoidType(), [task.as_pointer(), I64, I32, I32])
        arguments = [
            builder.inttoptr(work, task.as_pointer()),
            order,
            builder.trunc(threads, I32),
            ir.Constant(I32, 0),
        ]
        builder.call(builder.inttoptr(parallel, kind.as_pointer()), arguments)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate
