"""Bring rows and their indices to the kernel that adds them to the rows of matrices."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .arrays import check_writable, contiguous, on_stream
from .pieces import Pieces, as_array, check_overlap, device_of, is_on_device
from .plan import scatter_variant
from .variants import Variant

__all__ = ["scatter_add"]


class _Addition(NamedTuple):
    """Rows that are checked, for one destination."""

    target: Any
    indices: Any
    rows: Any
    variant: Variant


def scatter_add(dst: Any, indices: Any, rows: Any, alpha: float, stream: Any) -> None:
    """Check what `kernels.scatter_add` got, all of it before anything is written, and run it."""
    if stream is not None:
        with on_stream(stream, dst):
            scatter_add(dst, indices, rows, alpha, None)
        return
    checked = [_check(*triple) for triple in _triples(dst, indices, rows)]
    additions = [addition for addition in checked if addition.rows.size]
    targets = [contiguous([addition.target], None)[0] for addition in additions]
    places = [Pieces.of([target]) for target in targets]
    if len(places) > 1:
        check_overlap([(place, None) for place in places])
    # None of the rows changes because of what is added before them.
    sources = [_apart(addition.rows, places) for addition in additions]
    groups: dict[Variant, list[tuple[Any, Any, Any]]] = {}
    for addition, target, source in zip(additions, targets, sources, strict=True):
        groups.setdefault(addition.variant, []).append((target, addition.indices, source))
    for variant, group in groups.items():
        _add(group, variant, alpha)
    for addition, target in zip(additions, targets, strict=True):
        if target is not addition.target:
            addition.target[...] = target


def _add(group: list[tuple[Any, Any, Any]], variant: Variant, alpha: float) -> None:
    """Add rows of one dtype to destinations of one dtype: on the host, by one call for all of them."""
    on_host = [triple for triple in group if not is_on_device(triple[0])]
    if on_host:
        from . import host

        host.scatter_add(on_host, variant, alpha)
    for triple in group:
        if is_on_device(triple[0]):
            from . import cuda_scatter

            cuda_scatter.scatter_add(*triple, variant, alpha)


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
    return _Addition(target, numbers, added, variant)


def _apart(rows: Any, targets: list[Pieces]) -> Any:
    """Return contiguous rows that lie in no destination."""
    (rows,) = contiguous([rows], None)
    place = Pieces.of([rows])
    overlaps = (
        place.addresses[0] < target.ends[0] and target.addresses[0] < place.ends[0]
        for target in targets
        if target.device == place.device
    )
    return rows.copy() if any(overlaps) else rows
