"""Bring rows and their indices to the kernel that adds them to the rows of matrices."""

from __future__ import annotations

from bisect import bisect_left
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from .arrays import check_writable, contiguous, on_stream
from .gaps import check_apart
from .pieces import Pieces, address_of, as_array, check_overlap, device_of, is_on_device
from .plan import scatter_variant
from .variants import Variant
from .versions import mark_written

__all__ = ["scatter_add"]


class _Addition(NamedTuple):
    """Rows that are checked, for one destination; `given` is what came from the caller."""

    target: Any
    indices: Any
    rows: Any
    variant: Variant
    given: tuple[Any, Any, Any]


def scatter_add(dst: Any, indices: Any, rows: Any, alpha: float, stream: Any) -> None:
    """Check what `kernels.scatter_add` got, all of it before anything is written, and run it."""
    if stream is not None:
        with on_stream(stream, dst):
            scatter_add(dst, indices, rows, alpha, None)
        return
    checked = [_check(*triple) for triple in _triples(dst, indices, rows)]
    additions = [addition for addition in checked if addition.rows.size]
    targets = [contiguous([addition.target], None)[0] for addition in additions]
    if any(target is not addition.target for addition, target in zip(additions, targets, strict=True)):
        check_apart([addition.target for addition in additions])
    if len(targets) > 1:
        check_overlap([(Pieces.of([target]), None) for target in targets])
    # None of the rows changes because of what is added before them.
    sources = _apart([addition.rows for addition in additions], targets)
    groups: dict[tuple[Variant, str], list[tuple[Any, Any, Any]]] = {}
    for addition, target, source in zip(additions, targets, sources, strict=True):
        group = groups.setdefault((addition.variant, device_of(target)), [])
        group.append((target, addition.indices, source))
    cards = {device for _, device in groups if device != "cpu"}
    for device in cards:
        from . import cuda_faults, cuda_streams

        cuda_faults.raise_found(cuda_streams.ordinal(device))
    for (variant, device), group in groups.items():
        _add(group, variant, device, alpha)
    for addition, target in zip(additions, targets, strict=True):
        if target is not addition.target:
            addition.target[...] = target
    mark_written(addition.given[0] for addition in additions)
    for device in cards:
        from . import cuda_arrays

        taken = (addition.given for addition in additions if device_of(addition.target) == device)
        cuda_arrays.give_back(filter(is_on_device, chain.from_iterable(taken)), device)


def _add(group: list[tuple[Any, Any, Any]], variant: Variant, device: str, alpha: float) -> None:
    """Add rows of one dtype to destinations of one dtype on one device, by one call for all of them."""
    if device == "cpu":
        from . import host

        host.scatter_add(group, variant, alpha)
    else:
        from . import cuda_scatter

        cuda_scatter.scatter_add(group, variant, alpha)


def _triples(dst: Any, indices: Any, rows: Any) -> list[tuple[Any, Any, Any]]:
    """Return destinations with their indices and rows."""
    if not isinstance(dst, list | tuple):
        return [(dst, indices, rows)]
    for name, side in (("indices", indices), ("rows", rows)):
        if not isinstance(side, list | tuple):
            raise TypeError(
                f"{len(dst)} destinations and {name} as one {type(side).__name__}: expected a list of as many"
            )
        if len(side) != len(dst):
            raise ValueError(f"{len(dst)} destinations and {len(side)} {name}: expected as many of each")
    return list(zip(dst, indices, rows, strict=True))


def _check(dst: Any, indices: Any, rows: Any) -> _Addition:
    """Check one destination, its indices and rows."""
    target, added = as_array(dst), as_array(rows)
    numbers: Any = as_array(indices) if is_on_device(indices) else np.asarray(indices)
    if is_on_device(numbers) and not is_on_device(target):
        numbers = numbers.get()
    variant = scatter_variant(target.dtype, added.dtype)
    check_writable([target], "destination")
    if numbers.dtype.kind not in "iu" and numbers.size:
        raise TypeError(f"indices must be integers, got {numbers.dtype}")
    if numbers.ndim != 1 or target.ndim < 1 or added.shape != (len(numbers), *target.shape[1:]):
        raise ValueError(
            f"rows of shape {added.shape} at indices of shape {numbers.shape} do not fit a destination of "
            f"shape {target.shape}: expected indices (k,) and rows (k, *{target.shape[1:]})"
        )
    if len(numbers) and not len(target):
        raise ValueError(f"{len(numbers)} indices into a destination without rows: expected none")
    here, there = device_of(target), device_of(added)
    if here != there:
        raise ValueError(f"destination on {here} and rows on {there}: copy one to the other first")
    if not is_on_device(numbers):  # those on a device are checked there: to look at them here is to wait
        wrong = np.flatnonzero((numbers < 0) | (numbers >= len(target)))
        if len(wrong):
            raise ValueError(
                f"index {numbers[wrong[0]]} at place {wrong[0]} is out of range: "
                f"expected 0 to {len(target) - 1}"
            )
        numbers = np.ascontiguousarray(numbers, np.int64)
    elif device_of(numbers) != here:
        raise ValueError(f"indices on {device_of(numbers)} and destination on {here}: copy them there first")
    return _Addition(target, numbers, added, variant, (dst, indices, rows))


def _apart(rows: list[Any], targets: list[Any]) -> list[Any]:
    """Return contiguous rows that lie in none of the destinations, which are apart from each other."""
    taken = sorted(map(_span, targets))
    starts = [start for start, _ in taken]

    def overlaps(array: Any) -> bool:
        start, end = _span(array)
        before = bisect_left(starts, end)  # how many begin before its end; the last of them ends last
        return before > 0 and taken[before - 1][1] > start

    return [array.copy() if overlaps(array) else array for array in contiguous(rows, None)]


def _span(array: Any) -> tuple[int, int]:
    """Return where a contiguous array begins and ends; two devices have no address in common."""
    start = address_of(array)
    return start, start + int(array.nbytes)
