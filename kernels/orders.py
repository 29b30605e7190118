# mypy: disable-error-code="no-untyped-def, no-untyped-call, no-any-return, misc"
# Numba infers the types of what it compiles, and ships none of its own.
"""What a leaf is told, by places in memory: an order, and the table of runs to work on."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .floats import I64
from .variants import BLOCK

TABLE, CUTS, TO, OF, MORE, ALPHA, SEED, PARTIALS, RESULTS = range(0, 72, 8)
"""Where the words of an order are: addresses of the table and of where each worker's share of it begins (row
and element, 16 bytes); bytes of an element of destination and source, and what an element adds to the
extra; factor and seed; addresses of the blocks' sums, and of 64 bytes for each worker's results."""

ORDER = 128
"""Bytes of an order: two cache lines. What stands behind `RESULTS` is the callers' own."""

DESTINATION, SOURCE, LENGTH, PARTIAL, EXTRA = range(5)
"""Columns of a table of runs: addresses, elements, number of the first block, the variant's extra."""

RUN = 40
"""Bytes of a row of it."""


class _Words:
    """Loads words from memory while LLVM code is written."""

    def __init__(self, builder, address):
        self.builder = builder
        self.first = builder.inttoptr(address, I64.as_pointer())

    def __getitem__(self, number):
        place = self.builder.gep(self.first, [ir.Constant(I64, number)])
        return self.builder.load(place, align=8)


def _share(builder, order, worker):
    """Return row and element where a worker's share begins, and where the next one's does."""
    words = _Words(builder, order)
    cut = _Words(builder, builder.add(words[CUTS // 8], builder.mul(worker, ir.Constant(I64, 16))))
    return words, [cut[number] for number in range(4)]


@intrinsic
def rows(typing_context, order, worker):
    """Return the first row in which a worker has a share, and the one behind the last."""
    pair = types.UniTuple(types.int64, 2)

    def generate(context, builder, signature, args):
        _, (first, _, last, stop) = _share(builder, *args)
        has_part = builder.icmp_signed(">", stop, ir.Constant(I64, 0))
        return context.make_tuple(builder, pair, [first, builder.add(last, builder.zext(has_part, I64))])

    return pair(types.int64, types.int64), generate


@intrinsic
def run(typing_context, order, worker, row):
    """Return a worker's part of a row: addresses of destination and source, elements, extra, partials.

    The partials' is the address for the sum of the first block. There may be no element.
    """
    parts = types.UniTuple(types.int64, 5)

    def generate(context, builder, signature, args):
        order, worker, row = args
        words, (first, start, last, stop) = _share(builder, order, worker)
        table = builder.add(words[TABLE // 8], builder.mul(row, ir.Constant(I64, RUN)))
        columns = _Words(builder, table)
        begin = builder.select(builder.icmp_signed("==", row, first), start, ir.Constant(I64, 0))
        end = builder.select(builder.icmp_signed("==", row, last), stop, columns[LENGTH])
        block = builder.add(columns[PARTIAL], builder.udiv(begin, ir.Constant(I64, BLOCK)))

        def moved(column, word):
            return builder.add(columns[column], builder.mul(begin, words[word // 8]))

        values = [
            moved(DESTINATION, TO),
            moved(SOURCE, OF),
            builder.sub(end, begin),
            moved(EXTRA, MORE),
            builder.add(words[PARTIALS // 8], builder.mul(block, ir.Constant(I64, 8))),
        ]
        return context.make_tuple(builder, parts, values)

    return parts(types.int64, types.int64, types.int64), generate
