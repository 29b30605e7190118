"""The kernels on the host: plans and arrays bound to compiled code."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import dispatch, leaves, machine, orders, tables
from .headers import C_CONTIGUOUS, WRITEABLE
from .machine import get_num_threads, processors
from .pieces import Pieces
from .plan import APART, Plan, Stats, count_launch, may_stream
from .threads import has_openmp, team
from .variants import BLOCK, Variant

_SHARE = 512 << 10
"""Bytes that a thread must have to touch; with less, starting it costs more than it gains."""


def _workers(touched: int) -> int:
    """Return on how many threads to run a kernel that touches so many bytes."""
    workers = min(get_num_threads(), processors(), touched // _SHARE)
    return workers if workers > 1 and has_openmp() else 1


def _team(share: Callable[[int], None], workers: int) -> NDArray[np.int64]:
    return team(dispatch.share(share) if workers > 1 else None)


class Prepared:
    """A `Plan` bound to the host; see `plan.Prepared`."""

    __slots__ = (
        "_arguments",
        "_blocks",
        "_doubles",
        "_launch",
        "_leaf",
        "_plan",
        "_table",
        "_threads",
    )

    def __init__(self, plan: Plan):
        variant, destination, source = plan.variant, plan.destination, plan.source
        if variant.streaming and not _can_stream(plan):
            variant = variant.with_streaming(False)
        self._plan = plan
        self._leaf = leaves.leaf(plan.kernel, variant)
        itemsizes = np.array([destination.dtype.itemsize, source.dtype.itemsize, 1])
        self._table, blocks, _ = tables.table_of(
            destination.addresses, source.addresses, destination.lengths, itemsizes, joins=False
        )
        if plan.extra is not None:
            self._table[:, orders.EXTRA] = plan.extra[destination.lengths > 0]
        self._blocks = blocks if variant.measure else 0
        self._doubles = variant.compute == "float64"
        self._cut()

    def _cut(self) -> None:
        """Share the table out to the threads there are."""
        plan = self._plan
        variant = plan.variant
        self._threads = get_num_threads()
        workers = _workers(_touched(plan.kernel, variant, plan.destination.nbytes, plan.source.nbytes))
        sizes = (plan.destination.dtype.itemsize, plan.source.dtype.itemsize, variant.extra_size)
        self._arguments = (
            _team(dispatch.walk_share, workers),
            self._leaf,
            self._table,
            _cuts(self._table, workers, plan.kernel),
            np.array(sizes),
        )
        self._launch = dispatch.compiled(dispatch.launch)

    def __call__(self, alpha: float = 1.0, seed: int = 0) -> Stats | None:
        """Run the kernel once."""
        if self._threads != get_num_threads():
            self._cut()
        count_launch()
        found = self._launch(*self._arguments, float(alpha), seed, self._blocks, self._doubles)
        return _found(self._plan.variant, *found)


def _touched(kernel: str, variant: Variant, written: int, read: int) -> int:
    """Return how many bytes go through the processor: those of destinations, of sources."""
    return written * (variant.write + variant.add) + read * ((kernel != "zero") + variant.zero_source)


def _cuts(table: NDArray[np.int64], workers: int, kernel: str) -> NDArray[np.int64]:
    """Share a table out to workers, at borders of blocks."""
    cuts = np.zeros((workers + 1, 2), np.int64)
    cuts[workers, 0] = len(table)
    if workers > 1:
        lengths = table[:, orders.LENGTH]
        ends = np.cumsum(lengths)
        unit = BLOCK if kernel == "blend" else 4 * BLOCK
        for worker in range(1, workers):
            target = int(ends[-1]) * worker // workers
            row = int(np.searchsorted(ends, target, side="right"))
            inside = target - int(ends[row] - lengths[row])
            cuts[worker] = row, inside // unit * unit
    return cuts


def _found(variant: Variant, total: float, nonfinite: int, largest: float) -> Stats | None:
    if not variant.measure:
        return None
    return Stats(total, nonfinite, largest if variant.largest else math.nan)


def _can_stream(plan: Plan) -> bool:
    """Tell whether every run can be brought to a multiple of 64 bytes, which streaming stores need.

    Where the place of an element in its vector counts, a run cannot give up its head.
    """
    unit = 64 if plan.variant.keeps_blocks else plan.destination.dtype.itemsize
    addresses = [plan.destination.addresses]
    if plan.variant.destination == "bfloat16_split" and plan.extra is not None:
        unit, addresses = 64, [*addresses, plan.extra]
    return not any(np.any(start % unit) for start in addresses)


def single(plan: Plan, itemsizes: tuple[int, int]) -> Callable[..., Stats | bool | None]:
    """Return a kernel for one small contiguous ndarray, or a pair: all checks in the compiled call.

    Parameters
    ----------
    plan : Plan
        Of any arrays of the dtypes.
    itemsizes : tuple of int
        Bytes of an element of destination and source.

    Returns
    -------
    callable
        Takes destination, source and alpha. Returns what the plan does, statistics or None, or False
        where the arrays are not of the simple kind and nothing was done. A function and not an
        object: its variables are found faster, and a call on 100 elements takes 0.6 us in all.
    """
    variant = plan.variant.with_streaming(False)
    address = leaves.leaf(plan.kernel, variant)
    units = itemsizes[0] // plan.destination.dtype.itemsize  # bytes, or the two floats of a complex number
    flags = C_CONTIGUOUS | WRITEABLE if variant.write else C_CONTIGUOUS
    doubles = variant.compute == "float64"
    numbers = np.array([address, *itemsizes, units, _SHARE // max(itemsizes), flags, doubles])
    memory = numbers.ctypes.data
    _kept.append(numbers)
    launch = dispatch.compiled(dispatch.measure_arrays if variant.measure else dispatch.launch_arrays)

    def run(target: NDArray[Any], source: NDArray[Any], alpha: float) -> bool | None:
        if not launch(memory, id(target), id(source), alpha):
            return False
        count_launch()
        return None

    def measure(target: NDArray[Any], source: NDArray[Any], alpha: float) -> Stats | bool | None:
        done, *found = launch(memory, id(target), id(source), alpha)
        if not done:
            return False
        count_launch()
        return _found(variant, *found)

    return measure if variant.measure else run


def many(plan: Plan, operation: str, itemsizes: tuple[int, int]) -> Callable[..., Stats | bool | None]:
    """Return a kernel for pieces that were not seen before, whose checks are compiled code.

    Parameters
    ----------
    plan : Plan
        Of any pieces of the dtypes.
    operation : str
        What it is a plan of.
    itemsizes : tuple of int
        Bytes of an element of destination and source.

    Returns
    -------
    callable
        Takes the pieces of destinations and sources, of equal lengths, and alpha. Returns what the plan
        does, statistics or None, or False where that takes the long way and nothing was done.
    """
    variant, kernel = plan.variant.with_streaming(False), plan.kernel
    leaf = leaves.leaf(kernel, variant)
    elements = (plan.destination.dtype.itemsize, plan.source.dtype.itemsize)  # as the leaf counts them
    sizes, steps = np.array([*itemsizes, itemsizes[0] // elements[0]]), np.array([*elements, 0])
    alone = _team(dispatch.walk_share, 1)
    doubles, streams = variant.compute == "float64", may_stream(operation, variant)
    launch = dispatch.compiled(dispatch.launch)

    def run(targets: Pieces, sources: Pieces, alpha: float) -> Stats | bool | None:
        written, read = (int(targets.lengths.sum()) * size for size in itemsizes)
        if streams and written >= machine.last_level_cache():
            return False
        table, blocks, spans = tables.table_of(
            targets.addresses, sources.addresses, targets.lengths, sizes, joins=not variant.measure
        )
        if operation in APART and not tables.are_apart(spans):
            return False
        workers = _workers(_touched(kernel, variant, written, read))
        team = alone if workers == 1 else _team(dispatch.walk_share, workers)
        count_launch()
        cuts = _cuts(table, workers, kernel)
        return _found(
            variant,
            *launch(team, leaf, table, cuts, steps, alpha, 0, blocks if variant.measure else 0, doubles),
        )

    return run


_kept: list[NDArray[np.int64]] = []
"""What the functions of `single` know the address of: a few numbers for each pair of dtypes."""


def scatter_add(
    additions: Sequence[tuple[NDArray[Any], NDArray[np.int64], NDArray[Any]]], variant: Variant, alpha: float
) -> None:
    """Add rows to rows of matrices: checked, contiguous (destination, indices, rows) of one variant."""
    leaf = leaves.leaf("blend", variant)
    table = np.array(
        [
            [
                *(side.__array_interface__["data"][0] for side in (target, rows, indices)),
                len(rows),
                rows[0].size,
            ]
            for target, indices, rows in additions
        ]
    )
    first, _, added = additions[0]
    elements = sum(rows.size for _, _, rows in additions)
    workers = _workers(elements * (2 * first.itemsize + added.itemsize))
    everybody = _team(dispatch.scatter_share, workers)
    count_launch()
    scatter = dispatch.compiled(dispatch.scatter)
    scatter(everybody, leaf, table, (first.itemsize, added.itemsize), alpha, workers)


@cache
def warmup() -> None:
    """Compile the launches and the variants that a gradient accumulator uses."""
    for launch in (dispatch.launch, dispatch.launch_arrays, dispatch.measure_arrays):
        dispatch.compiled(launch)
    if _workers(1 << 40) > 1:
        dispatch.share(dispatch.walk_share)
    plain = Variant("float32", "float32")
    for kernel, streaming in (("zero", False), ("zero", True), ("copy", False), ("copy", True)):
        leaves.leaf(kernel, plain.with_streaming(streaming))
    for source in ("float32", "bfloat16"):
        for add, measure in ((False, False), (True, False), (False, True), (True, True)):
            variant = Variant("float32", source, add=add, measure=measure, largest=measure)
            leaves.leaf("blend", variant)
    for largest in (False, True):
        leaves.leaf("blend", Variant("float32", "float32", write=False, measure=True, largest=largest))
