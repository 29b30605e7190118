"""Turn an operation on pieces into a plan: every check and every decision, made once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from . import machine
from .pieces import Pieces, check_overlap
from .variants import Variant

__all__ = [
    "APART",
    "Plan",
    "Prepared",
    "Stats",
    "bind",
    "count_launch",
    "launches",
    "make_plan",
    "may_stream",
    "merge",
    "prepare",
    "scatter_variant",
]

FLOATS = ("float16", "bfloat16", "float32", "float64")
STORED = ("float8_e4m3fn", "float8_e5m2")
"""Floats that can be copied and cast but not computed with."""

APART = ("copy", "accumulate", "scale")
"""Operations whose destinations may overlap nothing else."""

ROUNDINGS = ("nearest", "stochastic", "compensated")


class Stats(NamedTuple):
    """What a pass found out about the values it wrote.

    Attributes
    ----------
    sum_of_squares : float
        In float64. With nonfinite values it is infinite, or NaN (always the same one) where there is a
        NaN.
    nonfinite : int
        How many values are NaN or infinite.
    max_abs : float
        The largest magnitude; nothing is ignored, so any NaN makes it NaN (always the same one). NaN
        also where it was not asked for.

    Notes
    -----
    The bits do not depend on threads, addresses or devices, because the order of the additions is
    fixed. Each piece is cut into blocks of 2048 elements, the last one shorter. In a block, element
    ``i`` adds its square to sum ``i % 32`` by one float64 fused multiply-add, in the order of ``i``;
    the 32 sums, from +0, are then added by halves (sum ``k`` and sum ``k + 16``, then 8, 4, 2, 1).
    The blocks' sums, numbered through all pieces in order (an empty piece has no block), are added
    likewise: block ``b`` to sum ``b % 1024`` in the order of ``b``, from +0, and the 1024 sums by
    halves; one block alone is the result. The square of a float32 is exact in float64 and neither
    overflows nor underflows there, so the relative error stays below 1e-12; of float64 values only
    those beyond 1e154 overflow.
    """

    sum_of_squares: float
    nonfinite: int
    max_abs: float


class Prepared(Protocol):
    """A plan bound to a device: call it as often as its memory lives."""

    def __call__(self, alpha: float = 1.0, seed: int = 0) -> Stats | None:
        """Run the kernel once; return the statistics where the plan measures."""


@dataclass(frozen=True)
class Plan:
    """One kernel call, described for either device.

    Parameters
    ----------
    kernel : str
        ``"zero"`` and ``"copy"`` move bytes; ``"blend"`` computes.
    variant : Variant
    destination, source : Pieces
        As many pieces of equal lengths; of bytes for the kernels that move bytes. Neighbours that were
        given apart may be one piece here.
    extra : int64 array, shape (pieces,), optional
        What else the variant needs of each piece: where its second plane begins, or the number of
        its first element.
    """

    kernel: str
    variant: Variant
    destination: Pieces
    source: Pieces
    extra: NDArray[np.int64] | None = None


_launches = itertools.count()


def count_launch() -> None:
    """Record one kernel call; of any thread, as `next` is one step of the interpreter."""
    next(_launches)


def launches() -> int:
    """Return how many kernel calls this process has made so far."""
    return int(repr(_launches)[6:-1])  # "count(5)": pickling, the other way to look, is deprecated in 3.12


def prepare(
    operation: str,
    dst: Pieces,
    src: Pieces | None = None,
    *,
    beta: float = 1.0,
    zero_source: bool = False,
    stats: bool | str = False,
    nontemporal: bool | None = None,
    rounding: str = "nearest",
    remainder: Pieces | None = None,
) -> Prepared:
    """Check an operation on pieces and make everything ready for calls.

    Parameters
    ----------
    operation : str
        ``"zero"``, ``"copy"`` (casts between float types), ``"accumulate"`` (``dst = beta * dst +
        alpha * src``), ``"scale"`` (``dst = alpha * dst``) or ``"stats"``.
    dst, src : Pieces
        As many pieces of the same lengths. A piece of `src` may be exactly its piece of `dst`; other
        overlaps are refused.
    beta : float
        1 adds, 0 overwrites: old values, NaN too, have no influence.
    zero_source : bool
        Leave zeros in `src`, in the same pass.
    stats : bool or str
        Return the `Stats` of `dst` after the write; with ``"norm"``, without the largest magnitude.
    nontemporal : bool, optional
        Write past the caches; by default as soon as the bytes written would not fit into them. Not
        where `stats` reads what was written.
    rounding : str
        How a bfloat16 `dst` is written: ``"nearest"``; ``"stochastic"``, to one of the two
        neighbours, the nearer one more often, so that the mean is right; ``"compensated"``, to the
        nearest with the exact rest in `remainder`, so that a sum is as exact as one in float32.
    remainder : Pieces, optional
        The uint16 words that complete the compensated bfloat16 pieces of `dst`, or of `src` where
        the operation is ``"copy"``.

    Returns
    -------
    Prepared
        To be called with ``alpha`` (1 by default), which is rounded to the type of the arithmetic
        (float64 where one side is float64, otherwise float32), and ``seed``, for stochastic rounding:
        the random bits are a function of the seed and of the element's number alone.

    Raises
    ------
    TypeError
        For types without the operation, or with no cast between them.
    ValueError
        For lengths that differ, overlaps, and a `beta` other than 0 and 1.
    """
    plan = make_plan(
        operation,
        dst,
        src,
        beta=beta,
        zero_source=zero_source,
        stats=stats,
        nontemporal=nontemporal,
        rounding=rounding,
        remainder=remainder,
    )
    return bind(plan)


def bind(plan: Plan) -> Prepared:
    """Make a plan ready for calls, on the device of its pieces."""
    prepared: Prepared
    if plan.destination.device == "cpu":
        from . import host

        prepared = host.Prepared(plan)
    else:
        from . import cuda_launch

        prepared = cuda_launch.Prepared(plan)
    return prepared


def make_plan(
    operation: str,
    dst: Pieces,
    src: Pieces | None = None,
    *,
    beta: float = 1.0,
    zero_source: bool = False,
    stats: bool | str = False,
    nontemporal: bool | None = None,
    rounding: str = "nearest",
    remainder: Pieces | None = None,
) -> Plan:
    """Make all checks and decisions of `prepare`."""
    if operation not in ("zero", "copy", "accumulate", "scale", "stats"):
        raise ValueError(f"unknown operation {operation!r}: expected zero, copy, accumulate, scale or stats")
    if beta not in (0, 1):
        raise ValueError(f"beta must be 0 or 1, got {beta!r}: scale the destination first")
    needs_source = operation in ("copy", "accumulate")
    if (src is not None) != needs_source:
        raise ValueError(f"{operation} takes {'a' if needs_source else 'no'} source")
    if stats not in (False, True, "norm"):
        raise ValueError(f"stats must be True, False or 'norm', got {stats!r}")
    if zero_source and operation != "accumulate":
        raise ValueError(f"zero_source is a matter of accumulate, not of {operation}")
    zero_source = bool(zero_source)  # another true value would be a number to NumPy's masks of overlaps
    source = dst if src is None else src
    _check_matching(dst, source)
    pairs: list[tuple[Pieces, Pieces | None]] = [(dst, src)]
    if remainder is not None:
        _check_matching(dst, remainder)
        pairs.append((remainder, None))
    if operation in APART:
        check_overlap(pairs, writes_source=zero_source)
    plan = _plan(operation, dst, source, add=bool(beta), zero_source=zero_source, stats=stats)
    plan = _rounded(plan, operation, rounding, remainder)
    if may_stream(operation, plan.variant):
        if nontemporal is None:
            nontemporal = dst.nbytes >= machine.last_level_cache()
        plan = replace(plan, variant=plan.variant.with_streaming(nontemporal))
    return _joined(plan)


def may_stream(operation: str, variant: Variant) -> bool:
    """Tell whether an operation may write past the caches: what it does not read. On Zen 4, else -10 %."""
    return operation in ("zero", "copy", "accumulate") and not (variant.add or variant.measure)


def _check_matching(dst: Pieces, src: Pieces) -> None:
    if dst.device != src.device:
        raise ValueError(
            f"destination on {dst.device} and source on {src.device}: copy one to the other first"
        )
    if len(dst) != len(src):
        raise ValueError(f"{len(dst)} destinations and {len(src)} sources: expected as many of each")
    differ = np.flatnonzero(dst.lengths != src.lengths)
    if len(differ):
        first = int(differ[0])
        raise ValueError(
            f"piece {first} has {dst.lengths[first]} elements in the destination and {src.lengths[first]} "
            f"in the source: expected equal lengths"
        )


def _bytes_plan(kernel: str, dst: Pieces, src: Pieces) -> Plan:
    variant = Variant("float32", "float32")
    return Plan(kernel, variant, dst.viewed_as("uint8"), src.viewed_as("uint8"))


def _plan(
    operation: str, dst: Pieces, src: Pieces, *, add: bool, zero_source: bool, stats: bool | str
) -> Plan:
    to, of = dst.dtype.name, src.dtype.name
    if operation == "zero":
        if stats:
            raise ValueError("zero has no statistics: they are all 0")
        return _bytes_plan("zero", dst, src)
    if operation == "copy" and to == of and not stats:
        return _bytes_plan("copy", dst, src)
    if operation in ("accumulate", "scale") and to == of and dst.dtype.kind == "c" and not stats:
        part = "float32" if to == "complex64" else "float64"
        dst, src = dst.viewed_as(part), src.viewed_as(part)
        to = of = part
    known = FLOATS + STORED if operation == "copy" and not stats else FLOATS
    if to not in known or of not in known:
        what = to if to == of else f"{of} into {to}"
        raise TypeError(f"{operation} is not known for {what}: expected {', '.join(known)}")
    measure = bool(stats) or operation == "stats"
    variant = Variant(
        _stored_as(to),
        _stored_as(of),
        write=operation != "stats",
        add=add and operation == "accumulate",
        measure=measure,
        largest=measure and stats != "norm",
        zero_source=zero_source,
    )
    return Plan("blend", variant, dst, src)


def _joined(plan: Plan) -> Plan:
    """Make one piece of pieces that follow one another on both sides, where it counts for nobody."""
    dst, src = plan.destination, plan.source
    if plan.variant.measure or plan.extra is not None:  # blocks and random numbers begin with a piece
        return plan
    from . import tables
    from .orders import DESTINATION, LENGTH, SOURCE

    sizes = np.array([dst.dtype.itemsize, src.dtype.itemsize, 1])
    table, _, _ = tables.table_of(dst.addresses, src.addresses, dst.lengths, sizes, joins=True)
    if len(table) == len(dst):
        return plan
    dst, src = (
        Pieces(table[:, column], table[:, LENGTH], side.dtype, side.device)
        for column, side in ((DESTINATION, dst), (SOURCE, src))
    )
    return replace(plan, destination=dst, source=src)


def _rounded(plan: Plan, operation: str, rounding: str, remainder: Pieces | None) -> Plan:
    """Choose how bfloat16 is rounded, and where what that needs is to be found."""
    if rounding not in ROUNDINGS:
        raise ValueError(f"unknown rounding {rounding!r}: expected {', '.join(ROUNDINGS)}")
    if (rounding == "compensated") != (remainder is not None):
        raise ValueError("compensated rounding and a remainder belong together: pass both or none")
    if rounding == "nearest" or plan.kernel != "blend":
        return plan
    rounded = plan.source if operation == "copy" and remainder is not None else plan.destination
    if rounded.dtype.name != "bfloat16":
        raise TypeError(f"{rounding} rounding is for bfloat16, not for {rounded.dtype.name}")
    variant = plan.variant
    if remainder is None:
        # Each piece's numbers begin at a multiple of the vectors' lanes.
        numbers = np.cumsum(-(-rounded.lengths // 64) * 64)
        first = np.concatenate([np.zeros(1, np.int64), numbers])[:-1]
        return replace(plan, variant=replace(variant, rounding=rounding), extra=first)
    if remainder.dtype.name != "uint16":
        raise TypeError(f"a remainder is of dtype uint16, got {remainder.dtype.name}")
    split = "bfloat16_split"
    if operation == "copy":
        variant = replace(variant, source=split)
    elif operation == "accumulate":
        variant = replace(variant, destination=split)
    else:
        variant = replace(variant, destination=split, source=split)
    return replace(plan, variant=variant, extra=remainder.addresses)


def scatter_variant(dst: np.dtype[Any], rows: np.dtype[Any]) -> Variant:
    """Return the variant that adds rows of one dtype to rows of another."""
    for name in (dst.name, rows.name):
        if name not in FLOATS:
            raise TypeError(f"scatter_add is not known for {name}: expected {', '.join(FLOATS)}")
    return Variant(_stored_as(dst.name), _stored_as(rows.name), add=True)


def _stored_as(name: str) -> str:
    """Name the way of conversion: float16 by integer arithmetic where the processor has no other."""
    if name == "float16":
        from .floats import NATIVE_HALF

        return "float16" if NATIVE_HALF else "float16_bits"
    return name


def merge(parts: Sequence[Stats]) -> Stats:
    """Return the statistics of several passes together."""
    nonfinite = sum(part.nonfinite for part in parts)
    largest = float(np.max([part.max_abs for part in parts], initial=0.0))
    return Stats(sum((part.sum_of_squares for part in parts), 0.0), nonfinite, largest)
