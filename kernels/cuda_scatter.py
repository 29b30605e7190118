# mypy: disable-error-code="no-untyped-call, no-any-return"
# Neither CuPy nor cuda.core ships types.
"""Add rows at their indices on a CUDA device, with indices of the host or of the device itself."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import cupy
import numpy as np

from . import cuda_faults as faults
from . import cuda_streams as streams
from .cuda_forms import Form
from .cuda_launch import Tables, config_for, launch_on, load
from .cuda_layout import FIRST, addition_runs, with_native_half
from .plan import count_launch
from .variants import Variant

__all__ = ["scatter_add"]

_Addition = tuple[Any, Any, Any]  # destination, indices, rows


class _Work(NamedTuple):
    """What the kernel takes; see `cuda._scattering`.

    Attributes
    ----------
    kept : object
        Holds the memory at the addresses.
    order, ordered : int
        Addresses of the rows' numbers, in the order in which to add them, and of their indices.
    added : int
        How many rows there are.
    run : tuple of int
        One destination: its address, the rows' address, elements of a row, and how many it has.
    numbers, runs : int
        Where there are several, addresses of the number of each row's destination, and of their table.
    """

    kept: object
    order: int
    ordered: int
    added: int
    run: tuple[int, int, int, int]
    numbers: int = 0
    runs: int = 0


def scatter_add(additions: Sequence[_Addition], variant: Variant, alpha: float) -> None:
    """Add rows to the rows of arrays by one launch, to each array in the order of its indices.

    Parameters
    ----------
    additions : sequence of tuple
        Destinations, with k indices and rows each; all on one device and of one variant:

        - cupy.ndarray, C-contiguous, not empty
        - int64 array of NumPy, shape (k,), and checked; or integers of CuPy: these are checked by the
          kernel, for which nothing waits
        - cupy.ndarray, C-contiguous, not empty, shape (k, ...)
    """
    form = Form("scatter", with_native_half(variant))
    device = additions[0][0].device.id
    with streams.on_device(device):
        kernel = load(form, device)
        stream = streams.current(device)
        if len(additions) == 1:
            work = _of_one(stream, device, *additions[0])
        else:
            work = _of_many(stream, device, sorted(additions, key=_origin), form)
        config = config_for(form, kernel, work.added)
        rows = (work.order, work.ordered, *work.run, work.added)
        found = (faults.address(device), work.numbers, work.runs, 0)
        count_launch()
        launch_on(stream, config, kernel, *rows, float(alpha), 0, *found)


def _of_one(stream: Any, device: int, destination: Any, indices: Any, rows: Any) -> _Work:
    count = len(indices)
    run = (int(destination.data.ptr), int(rows.data.ptr), rows.size // count, len(destination))
    if isinstance(indices, np.ndarray):
        order = np.argsort(indices, kind="stable")
        tables = Tables(stream, device, [order, indices[order]])
        first, second = tables.addresses
        return _Work(tables, first, second, count, run)
    order = cupy.argsort(indices)  # stable, as CuPy has it
    ordered = indices[order].astype(np.int64, copy=False)
    return _Work((order, ordered), order.data.ptr, ordered.data.ptr, count, run)


def _origin(addition: _Addition) -> str:
    """Name what indices are, so that those of one kind follow one another, the host's first."""
    indices = addition[1]
    return "" if isinstance(indices, np.ndarray) else str(indices.dtype)


def _of_many(stream: Any, device: int, additions: Sequence[_Addition], form: Form) -> _Work:
    """Prepare one launch for several destinations: their rows are numbered and sorted together."""
    held = [indices for _, indices, _ in additions if isinstance(indices, np.ndarray)]
    given = [indices for _, indices, _ in additions[len(held) :]]
    runs = addition_runs(
        form,
        [
            (place.data.ptr, rows.data.ptr, rows.size // len(indices), len(place), len(indices))
            for place, indices, rows in additions
        ],
    )
    count = int(runs[-1, FIRST])
    numbers = np.repeat(np.arange(len(additions), dtype=np.int32), np.diff(runs[:, FIRST]))
    known = np.concatenate([*held, np.empty(0, np.int64)])
    if not given:
        order = np.lexsort((known, numbers))
        tables = Tables(stream, device, [order, known[order], numbers, runs])
        first, second, *others = tables.addresses
        return _Work(tables, first, second, count, (0, 0, 0, 0), *others)
    keys = np.zeros((2, count), np.int64)
    keys[0, : len(known)], keys[1] = known, numbers
    tables = Tables(stream, device, [keys, numbers, runs])
    there = tables.array(0, keys)
    begin = len(known)
    for _, alike in groupby(given, key=lambda indices: indices.dtype):
        part = cupy.concatenate(list(alike))  # one launch for many of one dtype
        there[0, begin : begin + len(part)] = part
        begin += len(part)
    order = cupy.lexsort(there)
    ordered = there[0][order]
    kept, others = (tables, order, ordered), tables.addresses[1:]
    return _Work(kept, order.data.ptr, ordered.data.ptr, count, (0, 0, 0, 0), *others)
