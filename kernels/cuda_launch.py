# mypy: disable-error-code="no-untyped-call, no-any-return"
# Neither CuPy nor cuda.core ships types.
"""Launch prepared kernels on CuPy's current stream, with about a microsecond of Python.

Numba's own launch takes 25 us and waits for streams of CuPy arrays; `cuda.core.launch` of the same
machine code with raw addresses takes one. Memory comes from CuPy's current allocator.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import Any, NamedTuple

import cupy
import numpy as np
from numpy.typing import NDArray

from . import cuda_faults as faults
from . import cuda_streams as streams
from .cuda_compile import INSTALL, cubin, entry_name
from .cuda_forms import ADD_UP, Form
from .cuda_layout import EXTRA, LENGTH, RESULTS, Layout, read_stats
from .cuda_streams import on_device
from .plan import Plan, Stats, count_launch

try:
    from cuda.core import (
        LEGACY_DEFAULT_STREAM,
        PER_THREAD_DEFAULT_STREAM,
        LaunchConfig,
        ObjectCode,
        Stream,
        launch,
    )
except ImportError as error:
    raise RuntimeError(f"CUDA kernels need cuda-core 1 or newer: {error}; {INSTALL}") from error

__all__ = ["Prepared", "Tables", "config_for", "launch_on", "load"]

_WAVES = 4
"""CUDA blocks for each place on the card: more than one, for places differ in their way to memory."""

_MAX_STREAMS = 16

_ONE_BLOCK = LaunchConfig(grid=1, block=ADD_UP.threads)

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


@cache
def load(form: Form, device: int) -> _Kernel:
    """Load a kernel, which is compiled where it was not yet; the device is the current one."""
    card = _runtime.getDeviceProperties(device)
    name = entry_name(form)
    machine_code = cubin(form, (card["major"], card["minor"]))
    code = ObjectCode.from_cubin(machine_code, name=name).get_kernel(name)
    resident = code.occupancy.max_active_blocks_per_multiprocessor(form.threads, 0)
    return _Kernel(code, card["multiProcessorCount"] * resident * _WAVES)


def config_for(form: Form, kernel: _Kernel, shares: int) -> Any:
    """Return of how many CUDA blocks a launch with so many blocks' work consists, and of how many threads."""
    return LaunchConfig(grid=max(1, min(shares, kernel.most)), block=form.threads)


def launch_on(stream: Any, config: Any, kernel: _Kernel, *arguments: float) -> None:
    """Launch a kernel with the arguments of `cuda.body` on a stream of CuPy."""
    launch(_stream(stream.ptr), config, kernel.code, *arguments)


@cache
def _stream(pointer: int) -> Any:
    """Return a stream as cuda.core wants it; 0 to 2 are CUDA's names for streams that are always there."""
    if pointer <= 2:
        return PER_THREAD_DEFAULT_STREAM if pointer == 2 else LEGACY_DEFAULT_STREAM
    return Stream.from_handle(pointer)


class Tables:
    """Tables in device memory, and room there, for the launches of one stream.

    They are allocated while that stream is the current one and used on no other; so CuPy's pool, whose
    free memory belongs to streams, never gives them to somebody else while a kernel runs.

    Attributes
    ----------
    addresses : list of int
        Of the tables.
    room : int
        Address of as many bytes as were asked for.
    """

    def __init__(self, stream: Any, device: int, tables: list[NDArray[Any]], room: int = 0):
        sizes = [-(-table.nbytes // 16) * 16 for table in tables]
        starts = [sum(sizes[:number]) for number in range(len(tables))]
        nbytes = room + sum(sizes)
        self._memory: Any = None
        self.room = 0
        if nbytes:
            self._memory = cupy.cuda.alloc(nbytes)
            self.room = int(self._memory.ptr)
        self.addresses = [self.room + room + start for start in starts]
        if not tables:
            return
        # Through page-locked memory: CUDA takes more than 64 KiB from pageable memory when the stream has
        # come to it, and the call would wait for that.
        pinned = cupy.cuda.alloc_pinned_memory(sum(sizes))
        staged = np.frombuffer(pinned, np.uint8, sum(sizes))
        for table, start in zip(tables, starts, strict=True):
            staged[start : start + table.nbytes] = table.view(np.uint8).ravel()
        _runtime.memcpyAsync(
            self.room + room, pinned.ptr, sum(sizes), _runtime.memcpyHostToDevice, stream.ptr
        )
        streams.keep(device, pinned)

    def array(self, number: int, like: NDArray[Any]) -> Any:
        """Return a table as an array of CuPy, of the shape and dtype that it has on the host."""
        start = self.addresses[number] - self.room
        return cupy.ndarray(like.shape, like.dtype, self._memory + start)


class _OnStream:
    """What the launches of a `Prepared` on one stream need: their arguments, and where results go."""

    __slots__ = ("adding_up", "arguments", "pinned", "results", "tables")

    def __init__(self, stream: Any, device: int, layout: Layout, blocks: int):
        run = layout.runs[0]
        one = (int(run[0]), int(run[1]), int(run[LENGTH]), int(run[EXTRA]))
        tables: list[NDArray[Any]] = []
        if len(layout.runs) > 1:
            tables = [layout.row_of_tile, np.ascontiguousarray(layout.runs)]
        measures = layout.form.variant.measure
        partials = -(-layout.tiles // 2) * 16
        self.tables = Tables(stream, device, tables, partials + 16 * blocks if measures else 0)
        addresses = self.tables.addresses or [0, 0]
        room = (self.tables.room, self.tables.room + partials) if measures else (0, 0)
        self.arguments = (*addresses, *one, layout.tiles), room
        if measures:
            # The kernel writes here through the bus: nothing is left to copy when the stream is done.
            self.pinned = cupy.cuda.alloc_pinned_memory(8 * RESULTS)
            self.results = np.frombuffer(self.pinned, np.int64, RESULTS)
            self.adding_up = (blocks, 0, layout.tiles, 1.0, 0, *room, 0, 0)


class Prepared:
    """A `Plan` bound to a CUDA device; see `plan.Prepared`.

    A call goes to CuPy's current stream. It returns before the kernel ends, unless it measures.
    """

    __slots__ = ("_config", "_device", "_kernel", "_layout", "_lock", "_on_streams", "_second", "_variant")

    def __init__(self, plan: Plan):
        self._layout = layout = Layout.of(plan)
        self._device = streams.ordinal(plan.destination.device)
        self._variant = plan.variant
        self._on_streams: dict[int, _OnStream] = {}
        self._lock = threading.Lock()
        if layout.tiles:
            form = layout.form
            with on_device(self._device):
                self._kernel = load(form, self._device)
                if self._variant.measure:
                    self._second = load(ADD_UP, self._device)
            shares = -(-layout.tiles * form.team // form.threads)
            self._config = config_for(form, self._kernel, shares)

    def __call__(self, alpha: float = 1.0, seed: int = 0, gate: tuple[int, int] = (0, 0)) -> Stats | None:
        """Launch the kernel once; under the condition of a gate, see `cuda.body`, if it only writes."""
        count_launch()
        if not self._layout.tiles:
            return self._nothing()
        before = _runtime.getDevice()
        _runtime.setDevice(self._device)
        try:
            stream = streams.current(self._device)
            here = self._on_stream(stream)
            if not self._variant.measure:
                first, room = here.arguments
                launch(
                    _stream(stream.ptr),
                    self._config,
                    self._kernel.code,
                    *first,
                    float(alpha),
                    seed,
                    *room,
                    *gate,
                )
                return None
            with self._lock:  # the results of two threads would go to one place
                self._measure(stream, here, alpha, seed, here.pinned.ptr)
                stream.synchronize()
                faults.raise_found(self._device)
                return read_stats(here.results, self._variant)
        finally:
            if before != self._device:
                _runtime.setDevice(before)

    def _nothing(self) -> Stats | None:
        """Return the statistics of no element, if statistics are wanted."""
        found = np.zeros(RESULTS, np.int64)
        return read_stats(found, self._variant) if self._variant.measure else None

    def measure_into(self, results: int) -> None:
        """Launch a kernel that measures, without waiting for it.

        Parameters
        ----------
        results : int
            Address of int64 (RESULTS,) in the device's memory, where what it finds is to go.
        """
        count_launch()
        with on_device(self._device):
            stream = streams.current(self._device)
            if self._layout.tiles:
                self._measure(stream, self._on_stream(stream), 1.0, 0, results)
            else:
                _runtime.memsetAsync(results, 0, 8 * RESULTS, stream.ptr)

    def _measure(self, stream: Any, here: _OnStream, alpha: float, seed: int, results: int) -> None:
        first, room = here.arguments
        launch_on(stream, self._config, self._kernel, *first, float(alpha), seed, *room, 0, 0)
        launch_on(stream, _ONE_BLOCK, self._second, 0, 0, results, 0, *here.adding_up)

    def _on_stream(self, stream: Any) -> _OnStream:
        key = streams.key(stream)
        here = self._on_streams.get(key)
        if here is None:
            if len(self._on_streams) >= _MAX_STREAMS:  # a program may make streams without end
                self._on_streams.clear()
            here = _OnStream(stream, self._device, self._layout, self._config.grid[0])
            self._on_streams[key] = here
        return here
