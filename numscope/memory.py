"""What an arena wants of a device and of a block of its memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from numscope.errors import BindingError

__all__ = ["Device", "Gates", "Memory"]

DEFAULT_CAPACITY = 64 << 30  # bytes: address space, which costs nothing until touched


class Memory(ABC):
    """One block of a device's memory, and the arrays built on it.

    Attributes
    ----------
    address : int
        Address of its first byte; 0 where there is none.
    """

    address: int

    @abstractmethod
    def token(self, keeps: object = None) -> object:
        """Return a new object that every array built with it keeps alive: `keeps` and the block with it."""

    @abstractmethod
    def hand_out(self) -> None:
        """Make a part of the memory safe for its next owner; called whenever some is handed out."""

    @abstractmethod
    def array(self, token: object, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Return an array over the bytes from `offset`; None where there is no memory."""


class Gates(Protocol):
    """Conditions that are decided where the data are, so that nothing has to wait to know them."""

    def check(self, measuring: Sequence[Any]) -> Any:
        """Run prepared kernels that measure; return the condition that they find finite elements only.

        It has ``if_open`` and ``if_closed``, which prepared kernels take as their third argument.
        """

    def read(self, gates: Sequence[Any]) -> list[bool]:
        """Return which conditions hold; this waits."""


class Device(ABC):
    """A kind of memory and the array library that works on it.

    Attributes
    ----------
    name : str
        ``"cpu"``, ``"cuda:0"``, ``"null"``.
    arena_variable : str
        The environment variable that gives another default size of arenas.
    """

    name: str
    arena_variable = "NUMSCOPE_ARENA"

    @abstractmethod
    def reserve(self, nbytes: int) -> Memory:
        """Return a new block; `ArenaExhausted` when the system has no room for it."""

    def default_capacity(self) -> int:
        """Return the bytes of the arena that is made where none is given."""
        return DEFAULT_CAPACITY

    def pinned(self) -> Device:
        """Return the same device with memory that is page-locked, for fast copies to a CUDA device."""
        raise BindingError(f'only memory of device "cpu" can be pinned, not of {self.name!r}')

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Return an array outside of any arena, for results that are soon used up."""

    @abstractmethod
    def source(self, value: object, what: str) -> Any:
        """Return what can be copied to this device: an array of a known dtype, without a copy if possible.

        `what` names the value in errors.
        """

    def gates(self) -> Gates | None:
        """Return a maker of conditions; None where kernels tell at once what they find."""
        return None

    def give_back(self, arrays: Iterable[Any]) -> None:
        """Let arrays be used, and die, as if the kernels that got them had run; on the host they have."""
        return

    def on(self, stream: Any) -> AbstractContextManager[None]:
        """Return a context in which work on this device goes to a CUDA stream.

        Raises
        ------
        BindingError
            It is no such stream, or one of another device.
        """
        raise BindingError(f"stream= is for memory of a CUDA device, this is on {self.name!r}; leave it out")

    @abstractmethod
    def fill(self, array: Any, value: np.ndarray[Any, Any]) -> None:
        """Fill an array with a value of its dtype, shape ()."""

    @abstractmethod
    def copy(self, target: Any, source: Any) -> None:
        """Copy an array into another of the same shape and dtype; overlap is right."""

    @abstractmethod
    def to_host(self, array: Any, out: np.ndarray[Any, Any] | None = None) -> np.ndarray[Any, Any]:
        """Return a copy of an array in host memory: `out` where it is given, of the same shape and dtype."""

    def __repr__(self) -> str:
        return f"<numscope device {self.name}>"
