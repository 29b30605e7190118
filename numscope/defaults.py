"""The arenas that workspaces use when they are given none: one a process and device."""

from __future__ import annotations

import os
import threading

from numscope.arena import Arena
from numscope.device import Device, resolve_device
from numscope.errors import ArenaExhausted, BindingError, BlobTypeError, DeviceUnavailableError

__all__ = ["default_arena", "set_default_arena"]

_defaults: dict[str, Arena] = {}
_lock = threading.Lock()


def default_arena(device: str | Device = "cpu") -> Arena:
    """Return the arena that workspaces of a device use when they are given none.

    It is made on first use, one a process and device: 64 GiB of address space on the host, which costs
    memory only where it is touched, half of the free memory on a CUDA device. The environment variables
    ``NUMSCOPE_ARENA`` and ``NUMSCOPE_CUDA_ARENA`` give other sizes.

    Raises
    ------
    DeviceUnavailableError
        There is no such device.
    BindingError
        The environment variable is no size.
    """
    resolved = resolve_device(device)
    with _lock:
        arena = _defaults.get(resolved.name)
        if arena is None or arena.closed:
            arena = _defaults[resolved.name] = _make_default(resolved)
        return arena


def set_default_arena(arena: Arena) -> None:
    """Make an arena the default one of its device, for workspaces made from now on."""
    if not isinstance(arena, Arena):
        raise BlobTypeError(f"the default arena must be an Arena, got {type(arena).__name__}")
    if arena.closed:
        raise DeviceUnavailableError(f"the arena on {arena.device} is closed; make a new one")
    with _lock:
        _defaults[arena.device] = arena


def _make_default(device: Device) -> Arena:
    wish = os.environ.get(device.arena_variable)
    if wish:
        try:
            return Arena(wish, device=device)
        except BindingError as error:
            raise BindingError(
                f"the environment variable {device.arena_variable}: {error}; correct or unset it"
            ) from None
    capacity = device.default_capacity()
    while True:
        try:
            return Arena(capacity, device=device)
        except ArenaExhausted:
            # Address space may be limited (ulimit -v, strict overcommit), a card's memory be in pieces; half
            # of it is still a default.
            if capacity <= 1 << 26:
                raise
            capacity //= 2


def _renew_lock() -> None:
    """Give a forked child a lock of its own, which no thread of its parent's waits for."""
    global _lock
    _lock = threading.Lock()


def _hold_lock() -> None:
    _lock.acquire()


def _release_lock() -> None:
    _lock.release()


os.register_at_fork(before=_hold_lock, after_in_parent=_release_lock, after_in_child=_renew_lock)
