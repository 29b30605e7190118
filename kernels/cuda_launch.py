# mypy: disable-error-code="no-untyped-call, no-any-return"
# Neither CuPy nor cuda.core ships types.
"""Launch prepared kernels on CuPy's current stream, with about a microsecond of Python.

Numba's own launch takes 25 us and waits for streams of CuPy arrays; `cuda.core.launch` of the same
machine code with raw addresses takes one. Memory comes from CuPy's current allocator.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import cupy
import numpy as np
from cuda.core import (
    LEGACY_DEFAULT_STREAM,
    PER_THREAD_DEFAULT_STREAM,
    LaunchConfig,
    ObjectCode,
    Stream,
    launch,
)
from numpy.typing import NDArray

from .cuda_compile import cubin, entry_name
from .cuda_forms import THREADS, Form
from .cuda_layout import EXTRA, LENGTH, TREE, Layout, read_stats, with_native_half
from .plan import Plan, Stats, count_launch
from .variants import Variant

__all__ = ["Prepared", "ordinal", "scatter_add"]

_WAVES = 4
"""CUDA blocks for each place on the card: more than one, for places differ in their way to memory."""

_MAX_STREAMS = 16

_runtime = cupy.cuda.runtime


class _Kernel(NamedTuple):
    """A kernel loaded on one device.

    Attributes
    ----------
    code : cuda.core.Kernel
    most : int
        CUDA blocks that a launch should have at most.
    """

    code: Any
    most: int

    def blocks(self, teams: int) -> int:
        """Return of how many CUDA blocks a launch with so many teams' work consists."""
        return max(1, min(teams, self.most))


def ordinal(device: str) -> int:
    """Return the number of a device, 1 for ``"cuda:1"``."""
    return int(device.partition(":")[2] or 0)


@contextmanager
def _current(device: int) -> Iterator[None]:
    """Make a device the current one of this thread, as CuPy's and CUDA's calls want it."""
    before = _runtime.getDevice()
    _runtime.setDevice(device)
    try:
        yield
    finally:
        if before != device:
            _runtime.setDevice(before)


@cache
def _kernel(form: Form, device: int) -> _Kernel:
    """Load a kernel, which is compiled where it was not yet; the device is the current one."""
    card = _runtime.getDeviceProperties(device)
    name = entry_name(form)
    machine_code = cubin(form, (card["major"], card["minor"]))
    code = ObjectCode.from_cubin(machine_code, name=name).get_kernel(name)
    resident = code.occupancy.max_active_blocks_per_multiprocessor(THREADS, 0)
    return _Kernel(code, card["multiProcessorCount"] * resident * _WAVES)


@cache
def _stream(pointer: int) -> Any:
    """Return a stream as cuda.core wants it; 0 to 2 are CUDA's names for streams that are always there."""
    if pointer <= 2:
        return PER_THREAD_DEFAULT_STREAM if pointer == 2 else LEGACY_DEFAULT_STREAM
    return Stream.from_handle(pointer)


class _Uploads:
    """Tables in device memory and room for results, for the launches of one stream.

    They are allocated while that stream is the current one and used on no other; so CuPy's pool, whose
    free memory belongs to streams, never gives them to somebody else while a kernel runs.
    """

    def __init__(self, stream: Any, tables: list[NDArray[Any]], zeros: int, results: int):
        sizes = [-(-table.nbytes // 16) * 16 for table in tables]
        self.memory = cupy.cuda.alloc(zeros + sum(sizes))
        if zeros:
            self.memory.memset_async(0, zeros, stream)
        self.addresses = []
        offset = zeros
        for table, size in zip(tables, sizes, strict=True):
            # From pageable memory, which CUDA takes a copy of before the call returns.
            _runtime.memcpyAsync(
                self.memory.ptr + offset,
                table.ctypes.data,
                table.nbytes,
                _runtime.memcpyHostToDevice,
                stream.ptr,
            )
            self.addresses.append(self.memory.ptr + offset)
            offset += size
        # The kernel writes here through the bus: nothing is left to copy when the stream is done.
        self.pinned: Any = None
        self.results: Any = None
        if results:
            self.pinned = cupy.cuda.alloc_pinned_memory(8 * results)
            self.results = np.frombuffer(self.pinned, np.int64, results)
        self.arguments: tuple[int, ...] = ()


class Prepared:
    """A `Plan` bound to a CUDA device; see `plan.Prepared`.

    A call goes to CuPy's current stream. It returns before the kernel ends, unless it measures.
    """

    __slots__ = ("_compute", "_config", "_device", "_kernel", "_layout", "_lock", "_uploads")

    def __init__(self, plan: Plan):
        self._layout = layout = Layout.of(plan)
        self._device = ordinal(plan.destination.device)
        self._compute = plan.variant.compute if plan.variant.measure else None
        self._uploads: dict[int, _Uploads] = {}
        self._lock = threading.Lock()
        if layout.tiles:
            with _current(self._device):
                self._kernel = _kernel(layout.form, self._device)
            teams = THREADS // layout.form.team
            blocks = self._kernel.blocks(-(-layout.tiles // teams))
            self._config = LaunchConfig(grid=blocks, block=THREADS)

    def __call__(self, alpha: float = 1.0, seed: int = 0) -> Stats | None:
        """Launch the kernel once."""
        count_launch()
        if not self._layout.tiles:
            return None if self._compute is None else Stats(0.0, 0, 0.0)
        before = _runtime.getDevice()
        _runtime.setDevice(self._device)
        try:
            stream = cupy.cuda.get_current_stream()
            if self._compute is None:
                self._launch(stream, alpha, seed)
                return None
            with self._lock:  # the results of two threads would go to one place
                uploads = self._launch(stream, alpha, seed)
                stream.synchronize()
                return read_stats(uploads.results, self._compute)
        finally:
            if before != self._device:
                _runtime.setDevice(before)

    def _launch(self, stream: Any, alpha: float, seed: int) -> _Uploads:
        uploads = self._uploads.get(stream.ptr)
        if uploads is None:
            if len(self._uploads) >= _MAX_STREAMS:  # a program may make streams without end
                self._uploads.clear()
            uploads = self._uploads[stream.ptr] = self._upload(stream)
        given = uploads.arguments
        launch(
            _stream(stream.ptr), self._config, self._kernel.code, *given[:7], float(alpha), seed, *given[7:]
        )
        return uploads

    def _upload(self, stream: Any) -> _Uploads:
        layout = self._layout
        run = layout.runs[0]
        one = (int(run[0]), int(run[1]), int(run[LENGTH]), int(run[EXTRA]))
        tables: list[NDArray[Any]] = []
        if len(layout.runs) > 1:
            tables = [layout.row_of_tile, np.ascontiguousarray(layout.runs)]
        partials = -(-layout.tiles // TREE) * TREE * 8 if self._compute is not None else 0
        slots = -(-(1 + 2 * self._config.grid[0]) // 2) * 16 if self._compute is not None else 0
        uploads = _Uploads(stream, tables, partials + slots, 3 if self._compute is not None else 0)
        pinned = uploads.pinned.ptr if uploads.pinned is not None else 0
        addresses = uploads.addresses or [0, 0]
        room = (uploads.memory.ptr, uploads.memory.ptr + partials, pinned)
        uploads.arguments = (*addresses, *one, layout.tiles, *room)
        return uploads


def scatter_add(
    destination: Any, indices: NDArray[np.int64], rows: Any, variant: Variant, alpha: float
) -> None:
    """Add rows of a device array to rows of another, in the order of the indices.

    Parameters
    ----------
    destination : cupy.ndarray, C-contiguous
    indices : int64 array in host memory, shape (k,)
        Within the destination.
    rows : cupy.ndarray, C-contiguous, shape (k, ...)
    """
    order = np.argsort(indices, kind="stable").astype(np.int64)
    form = Form("scatter", with_native_half(variant))
    device = destination.device.id
    with _current(device):
        kernel = _kernel(form, device)
        stream = cupy.cuda.get_current_stream()
        uploads = _Uploads(stream, [order, np.ascontiguousarray(indices[order])], 0, 0)
        config = LaunchConfig(grid=kernel.blocks(len(indices)), block=THREADS)
        width = rows.size // len(indices)
        arguments = (*uploads.addresses, destination.data.ptr, rows.data.ptr, width, 0, len(indices))
        count_launch()
        launch(_stream(stream.ptr), config, kernel.code, *arguments, float(alpha), 0, 0, 0, 0)
