"""Devices: where an arena's memory comes from, and the arrays that are views of it.

A device is decided once, at the door (`resolve_device`); the rest of the package calls its methods and
never asks which one it is.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from numscope.arrays import host_array
from numscope.cuda_device import find, pinned_block
from numscope.errors import ArenaExhausted, DeviceUnavailableError
from numscope.memory import Device, Memory
from numscope.segments import ALIGNMENT
from numscope.sizes import format_size

__all__ = ["Device", "Memory", "host_memory", "resolve_device"]

HUGE_PAGE = 2 << 20  # bytes; the huge page of x86-64 and of aarch64 with 4 KiB pages


CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


def host_memory() -> int | None:
    """Return the bytes of memory that this machine has, or its container may use; None if nobody says."""
    try:
        limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # a system without these names
        return None
    with suppress(OSError, ValueError):  # not Linux; "max"
        limit = min(limit, int(CONTAINER_LIMIT.read_text()))
    return limit


class HostMemory(Memory):
    """A private mapping of the host: no memory until touched, huge pages where the system has them.

    ``mmap.mmap(-1, n)`` alone would be a shared mapping: it gets no huge pages, and a forked child would
    write into its parent's blobs.
    """

    def __init__(self, nbytes: int) -> None:
        # MAP_NORESERVE has a name in Python 3.13 only; 0x4000 is Linux's value on x86-64 and aarch64.
        linux = hasattr(mmap, "MADV_HUGEPAGE")
        no_reserve = getattr(mmap, "MAP_NORESERVE", 0x4000 if linux else 0)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
        try:
            mapping = mmap.mmap(-1, nbytes + HUGE_PAGE, flags=flags)
        except (OSError, OverflowError, ValueError) as error:
            raise ArenaExhausted(
                f"the system refuses {format_size(nbytes)} ({nbytes} bytes) of address space on the host: "
                f"{error}. Make a smaller arena, or raise the limit (ulimit -v).",
                requested=nbytes,
                available=0,
                capacity=nbytes,
            ) from None
        unaligned = ctypes.addressof(ctypes.c_ubyte.from_buffer(mapping))
        skip = -unaligned % HUGE_PAGE
        if linux and nbytes >= HUGE_PAGE:
            _advise_huge_pages(mapping)
        self.address = unaligned + skip
        self._mapping = mapping
        self._skip = skip
        # Not an ndarray, so that NumPy's .base does not collapse past the array that is built on it.
        self._token_type = ctypes.c_ubyte * nbytes

    def token(self, keeps: object = None) -> object:
        token = self._token_type.from_buffer(self._mapping, self._skip)
        if keeps is not None:
            token.keeps = keeps  # type: ignore[attr-defined]
        return token

    def hand_out(self) -> None:
        return  # what the host did before is done

    def array(self, token: Any, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        return np.ndarray(shape, dtype, token, offset)


class PinnedMemory(HostMemory):
    """Page-locked memory of the host: all of it is there from the beginning."""

    def __init__(self, nbytes: int) -> None:
        self._block = pinned_block(nbytes + ALIGNMENT)
        self._skip = -self._block.ptr % ALIGNMENT
        self.address = self._block.ptr + self._skip
        self._token_type = ctypes.c_ubyte * nbytes

    def token(self, keeps: object = None) -> object:
        token = self._token_type.from_address(self.address)
        token.keeps = (self._block, keeps)  # type: ignore[attr-defined]
        return token


def _advise_huge_pages(mapping: mmap.mmap) -> None:
    try:
        mapping.madvise(mmap.MADV_HUGEPAGE)
    except OSError:  # a kernel built without transparent huge pages: small pages are slower, not wrong
        return


class Host(Device):
    """The processor's memory, as NumPy arrays."""

    name = "cpu"

    def reserve(self, nbytes: int) -> Memory:
        return HostMemory(nbytes)

    def pinned(self) -> Device:
        return PinnedHost()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        return np.empty(shape, dtype)

    def source(self, value: object, what: str) -> Any:
        return host_array(value, what)

    def fill(self, array: Any, value: np.ndarray[Any, Any]) -> None:
        array.fill(value[()])

    def copy(self, target: Any, source: Any) -> None:
        np.copyto(target, source)

    def to_host(self, array: Any, out: np.ndarray[Any, Any] | None = None) -> np.ndarray[Any, Any]:
        if out is None:
            return np.array(array)
        np.copyto(out, array)
        return out


class PinnedHost(Host):
    """The processor's memory, page-locked."""

    def reserve(self, nbytes: int) -> Memory:
        return PinnedMemory(nbytes)


class NullToken:
    """Stands for the views of memory that is not there, none of which there can be."""

    __slots__ = ("__weakref__",)


class NullMemory(Memory):
    """Addresses without memory."""

    address = 0

    def token(self, keeps: object = None) -> object:
        return NullToken()

    def hand_out(self) -> None:
        return

    def array(self, token: object, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        return None


class Null(Device):
    """No memory at all: a program's allocations are planned, its arrays are never made."""

    name = "null"

    def reserve(self, nbytes: int) -> Memory:
        return NullMemory()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        raise DeviceUnavailableError('device "null" has no memory; use device="cpu"')

    def source(self, value: object, what: str) -> Any:
        return host_array(value, what)

    def fill(self, array: Any, value: np.ndarray[Any, Any]) -> None:
        return  # as for `copy`

    def copy(self, target: Any, source: Any) -> None:
        return  # the target is None: there is no memory to copy into

    def to_host(self, array: Any, out: np.ndarray[Any, Any] | None = None) -> np.ndarray[Any, Any]:
        raise DeviceUnavailableError('device "null" has no memory to read; use device="cpu"')


_DEVICES: dict[str, Device] = {"cpu": Host(), "null": Null()}


def resolve_device(device: str | Device) -> Device:
    """Return the device of a name.

    Parameters
    ----------
    device : str or Device
        ``"cpu"``, ``"null"``, ``"cuda"`` (the one that is current in CuPy) or ``"cuda:1"``; a `Device` is
        returned as it is.

    Raises
    ------
    DeviceUnavailableError
        There is no such device, or it cannot be used; the text says why, and the cure.
    """
    if isinstance(device, Device):
        return device
    if isinstance(device, str) and re.fullmatch(r"cuda(:\d+)?", device):
        return find(device)
    found = _DEVICES.get(device) if isinstance(device, str) else None
    if found is None:
        raise DeviceUnavailableError(
            f"device {device!r} is not available; expected one of {sorted([*_DEVICES, 'cuda', 'cuda:N'])}"
        )
    return found
