# ruff: noqa: D102 - the methods are documented where they are declared, in `Device` and `Memory`
"""CUDA devices through CuPy, which is imported when one is asked for.

Everything is enqueued on CuPy's current stream (``with stream:``) and nothing waits for it but what
brings values to the host.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from numscope.arrays import host_array
from numscope.cuda_memory import CudaMemory, streams
from numscope.errors import ArenaExhausted, BindingError, DeviceUnavailableError
from numscope.kernels.pieces import as_array, is_on_device
from numscope.memory import Device, Gates, Memory
from numscope.sizes import format_size
from numscope.types import known_dtype

__all__ = [
    "CudaDevice",
    "CudaState",
    "cuda_available",
    "describe",
    "driver_release",
    "find",
    "pinned_block",
    "toolchain",
]

RELEASE = Path("/sys/module/nvidia/version")
INSTALL = "pip install 'numscope[cuda13]' (for drivers of CUDA 12: 'numscope[cuda12]')"
OLDEST_CAPABILITY = (7, 5)
_PAGEABLE = 0  # of pointerGetAttributes: memory that CUDA does not know
OLDEST_CORE = 1  # the first whose modules have their lasting names
PACKAGES = ("numba-cuda", "cuda-core")
CUPY = ("cupy-cuda13x", "cupy-cuda12x", "cupy")  # one package by several names
TOOLCHAIN = {
    "NVVM": ("nvidia-nvvm", "nvidia-cuda-nvcc-cu12"),
    "nvJitLink": ("nvidia-nvjitlink", "nvidia-nvjitlink-cu12"),
    "NVRTC": ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12"),
    "cuBLAS": ("nvidia-cublas", "nvidia-cublas-cu12"),
}
"""What Numba and CuPy compile and multiply with -> packages of CUDA 13 and 12 that bring it."""


@dataclass(frozen=True, slots=True)
class CudaState:
    """What there is of CUDA, found out without making a context.

    Attributes
    ----------
    versions : dict of str to (str or None)
        Of CuPy, numba-cuda and cuda-core; None for what is not installed.
    runtime, driver : str or None
        CUDA versions: CuPy's, and the newest that the driver knows.
    cards : tuple of str
        Name, compute capability and memory of each device.
    missing : tuple of str
        What keeps numscope from using a device, each with the cure. Empty: it can be used.
    """

    versions: dict[str, str | None]
    runtime: str | None
    driver: str | None
    cards: tuple[str, ...]
    missing: tuple[str, ...]


def describe() -> CudaState:
    """Find out what there is of CUDA; nothing is initialised by it, and it never fails."""
    versions = {"cupy": next(filter(None, map(_version, CUPY)), None)}
    versions.update((package, _version(package)) for package in PACKAGES)
    absent = [package for package, found in versions.items() if found is None]
    missing = [f"{', '.join(absent)} not installed: {INSTALL}"] if absent else []
    core = versions["cuda-core"]
    if core is not None and int(core.partition(".")[0]) < OLDEST_CORE:
        missing.append(f"cuda-core {core} is too old, expected {OLDEST_CORE}.0: pip install -U cuda-core")
    runtime = driver = None
    cards: list[str] = []
    if os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0"):
        missing.append("NUMBA_ENABLE_CUDASIM is set, so Numba compiles for its simulator: unset it")
    if versions["cupy"]:
        try:
            from cupy.cuda import runtime as api
        except Exception as error:  # a broken install may raise anything
            missing.append(f"CuPy cannot be imported ({error}): {INSTALL}")
        else:
            runtime = _dotted(api.runtimeGetVersion())
            known = api.driverGetVersion()
            driver = _dotted(known) if known else None
            try:
                cards = [_card(api, number) for number in range(api.getDeviceCount())]
            except api.CUDARuntimeError as error:
                missing.append(_refusal(str(error), driver, runtime))
            else:
                if not cards:
                    missing.append("the driver sees no card: check nvidia-smi and CUDA_VISIBLE_DEVICES")
    return CudaState(versions, runtime, driver, tuple(cards), tuple(missing))


def toolchain() -> dict[str, str | None]:
    """Return the versions of `TOOLCHAIN`, None for what pip did not install: it may be of the system."""
    return {name: next(filter(None, map(_version, names)), None) for name, names in TOOLCHAIN.items()}


def cuda_available() -> bool:
    """Tell whether a CUDA device can be used; asking makes no context and never fails."""
    return not describe().missing


def _version(package: str) -> str | None:
    from importlib import metadata  # not at import: it takes 18 ms

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _dotted(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _card(api: Any, number: int) -> str:
    properties = api.getDeviceProperties(number)
    capability = f"{properties['major']}.{properties['minor']}"
    return f"{properties['name'].decode()}, sm {capability}, {format_size(properties['totalGlobalMem'])}"


def driver_release() -> str | None:
    """Return the release of the kernel's driver for NVIDIA cards, such as 580.95.05; None without one."""
    try:
        return RELEASE.read_text().strip()
    except OSError:  # not Linux, or no driver is loaded
        return None


def _refusal(error: str, driver: str | None, runtime: str | None) -> str:
    if driver is None:
        return "no NVIDIA driver was found: install one, or start the container with its GPU (--gpus all)"
    if "InsufficientDriver" in error:
        package = next(filter(_version, CUPY), CUPY[-1])  # two of them would overwrite each other's files
        return (
            f"the driver knows CUDA {driver}, CuPy was built for {runtime}: update the driver, or "
            f"pip uninstall {package}; pip install 'numscope[cuda12]'"
        )
    return f"CUDA fails: {error}; check nvidia-smi and CUDA_VISIBLE_DEVICES"


_found: dict[int, CudaDevice] = {}


def find(name: str) -> CudaDevice:
    """Return the device called ``"cuda"``, which is the one that is current in CuPy, or ``"cuda:1"``.

    Raises
    ------
    DeviceUnavailableError
        It cannot be used.
    """
    number = name.partition(":")[2]
    if _found:  # asking for a card's properties takes a millisecond
        import cupy

        known = _found.get(int(number) if number else cupy.cuda.runtime.getDevice())
        if known is not None:
            return known
    device = CudaDevice(int(number) if number else None)
    return _found.setdefault(device.number, device)


def pinned_block(nbytes: int) -> Any:
    """Return page-locked memory of the host, which a card copies from and to by itself: ``.ptr`` is where.

    Raises
    ------
    ArenaExhausted, DeviceUnavailableError
        The system does not lock so much; there is no card to lock it for.
    """
    missing = describe().missing
    if missing:
        raise DeviceUnavailableError(f"pinned memory is for a CUDA device: {'; '.join(missing)}")
    import cupy

    try:
        # CuPy's pool would round up to a power of two: of 1 GiB and a byte it makes 2 GiB.
        return cupy.cuda.PinnedMemory(nbytes, cupy.cuda.runtime.hostAllocPortable)
    except (MemoryError, cupy.cuda.runtime.CUDARuntimeError) as error:
        raise ArenaExhausted(
            f"the system does not pin {format_size(nbytes)} ({nbytes} bytes) of host memory: {error}. "
            "Make a smaller arena, or one that is not pinned.",
            requested=nbytes,
            available=0,
            capacity=nbytes,
        ) from None


def _words(array: Any) -> Any:
    """Return an array of the same bits, of a type that CuPy has kernels for."""
    return array if array.dtype.isbuiltin == 1 else array.view(f"u{array.dtype.itemsize}")


class CudaDevice(Device):
    """A card, as CuPy arrays.

    Parameters
    ----------
    number : int, optional
        By default the one that is current in CuPy.

    Attributes
    ----------
    number : int

    Raises
    ------
    DeviceUnavailableError
        It cannot be used; the text says why, and the cure.
    """

    arena_variable = "NUMSCOPE_CUDA_ARENA"

    def __init__(self, number: int | None = None) -> None:
        state = describe()
        if state.missing:
            raise DeviceUnavailableError(f'device "cuda" cannot be used: {"; ".join(state.missing)}')
        import cupy

        self._cupy = cupy
        self.number = cupy.cuda.runtime.getDevice() if number is None else number
        self.name = f"cuda:{self.number}"
        if self.number >= len(state.cards):
            raise DeviceUnavailableError(
                f'there is no device "{self.name}": the driver sees {len(state.cards)}, numbered from 0 '
                f"({'; '.join(state.cards)})"
            )
        properties = cupy.cuda.runtime.getDeviceProperties(self.number)
        if (properties["major"], properties["minor"]) < OLDEST_CAPABILITY:
            raise DeviceUnavailableError(
                f'device "{self.name}" is {state.cards[self.number]}; expected sm 7.5 (Turing) or newer: '
                'use another card, or device="cpu"'
            )

    def reserve(self, nbytes: int) -> Memory:
        with self._cupy.cuda.Device(self.number):
            free, total = self._cupy.cuda.runtime.memGetInfo()
            try:
                return CudaMemory(self._cupy, self.number, nbytes)
            except (MemoryError, OverflowError, self._cupy.cuda.runtime.CUDARuntimeError) as error:
                raise ArenaExhausted(
                    f"an arena of {format_size(nbytes)} ({nbytes} bytes) does not fit on {self.name}: "
                    f"{free} of {total} bytes are free there ({error}). Make a smaller Arena, or free memory "
                    "of other libraries and processes (nvidia-smi lists them).",
                    requested=nbytes,
                    available=free,
                    capacity=total,
                ) from None

    def default_capacity(self) -> int:
        with self._cupy.cuda.Device(self.number):
            return int(self._cupy.cuda.runtime.memGetInfo()[0]) // 2

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        with self._cupy.cuda.Device(self.number):
            return self._cupy.empty(shape, dtype)

    def source(self, value: object, what: str) -> Any:
        if not is_on_device(value):
            return host_array(value, what)
        with self._cupy.cuda.Device(self.number):
            array: Any = as_array(value)
        if array.device.id != self.number:
            raise BindingError(
                f"{what} is on cuda:{array.device.id}, expected it on {self.name}; copy it there first"
            )
        known_dtype(array.dtype)
        return array

    def gates(self) -> Gates:
        from numscope.kernels.cuda_gates import Gates

        return Gates(self.number)

    def give_back(self, arrays: Iterable[Any]) -> None:
        from numscope.kernels import cuda_arrays

        cuda_arrays.give_back(arrays, self.name)

    @contextmanager
    def on(self, stream: Any) -> Iterator[None]:
        known = streams()
        try:
            ours = known.resolve(stream, self.name)
        except (TypeError, ValueError) as error:
            raise BindingError(str(error)) from None
        with known.on_stream(ours, self.number):
            yield

    def fill(self, array: Any, value: np.ndarray[Any, Any]) -> None:
        with self._cupy.cuda.Device(self.number):
            _words(array).fill(_words(value)[()])

    def copy(self, target: Any, source: Any) -> None:
        from numscope.kernels import cuda_arrays

        cupy = self._cupy
        with cupy.cuda.Device(self.number):
            if isinstance(source, np.ndarray):
                self._copy_from_host(target, source)
                return
            if source.device.id != self.number:
                self._copy_from_other(target, source)
                return
            target, source = _words(target), _words(source)
            if cupy.may_share_memory(target, source):
                source = source.copy()
            target[...] = source
            if cuda_arrays.is_guest(source):  # it may die while it is read
                streams().keep(self.number, source)

    def _copy_from_host(self, target: Any, source: np.ndarray[Any, Any]) -> None:
        """Copy a host array, which may be overwritten as soon as this returns."""
        cupy = self._cupy
        source = np.asarray(source, order="C")
        if target.flags.c_contiguous:
            target.set(source)
            # CUDA takes a copy of pageable memory before the call returns, but reads page-locked memory
            # when the stream comes to it.
            if cupy.cuda.runtime.pointerGetAttributes(source.ctypes.data).type != _PAGEABLE:
                cupy.cuda.get_current_stream().synchronize()
            return
        words = cupy.empty(source.shape, _words(source).dtype)
        self._copy_from_host(words, _words(source))
        _words(target)[...] = words

    def _copy_from_other(self, target: Any, source: Any) -> None:
        """Copy bytes from another card, after what its current stream was given; the host does not wait."""
        known, cupy = streams(), self._cupy
        here = cupy.cuda.get_current_stream()
        with known.on_device(source.device.id):
            there = cupy.cuda.get_current_stream()
            written = there.record(cupy.cuda.Event(disable_timing=True))
        here.wait_event(written)
        target.data.copy_from_device_async(source.data, target.nbytes)
        read = here.record(cupy.cuda.Event(disable_timing=True))
        there.wait_event(read)

    def to_host(self, array: Any, out: np.ndarray[Any, Any] | None = None) -> np.ndarray[Any, Any]:
        from numscope.kernels import cuda_faults

        with self._cupy.cuda.Device(self.number):
            host: np.ndarray[Any, Any] = self._cupy.asnumpy(array, out=out)
        cuda_faults.raise_found(self.number)
        return host
