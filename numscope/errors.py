"""The exceptions of numscope.

::

    NumscopeError
    ├── ArenaExhausted           MemoryError    too little room in an arena; nothing was changed
    ├── AccumulationError        RuntimeError   a gradient accumulator used out of order
    ├── BindingError             ValueError     names, shapes or dtypes that do not fit together
    ├── BlobNotFoundError        KeyError       no blob of that name is visible (or local) here
    ├── BlobTypeError            TypeError      a blob or name of another type than the call needs
    ├── DeviceUnavailableError   RuntimeError   a device that is absent, closed or has no memory
    ├── OperatorError            RuntimeError   an operator or net that cannot be built or failed
    ├── StackError               RuntimeError   a workspace or stack used out of order or by two threads
    └── UnknownTypeError         TypeError      a value of no known type

Each also derives from the built-in exception that fits, so that ``except MemoryError`` works.
The text says what happened, what was given, what was expected, and the cure.
"""

from __future__ import annotations

__all__ = [
    "AccumulationError",
    "ArenaExhausted",
    "BindingError",
    "BlobNotFoundError",
    "BlobTypeError",
    "DeviceUnavailableError",
    "NumscopeError",
    "OperatorError",
    "StackError",
    "UnknownTypeError",
]


class NumscopeError(Exception):
    """Base of all errors that numscope raises on its own account."""


class AccumulationError(NumscopeError, RuntimeError):
    """A gradient accumulator was used out of order, or its weights make no mean."""


class ArenaExhausted(NumscopeError, MemoryError):  # noqa: N818 - a public name, after MemoryError's kind
    """An arena has no range of free bytes long enough; nothing was changed.

    Attributes
    ----------
    requested : int
        Bytes asked for, padding to the alignment included.
    available : int
        Free bytes in the arena, in one piece or in several.
    capacity : int
        All bytes of the arena.
    """

    def __init__(self, message: str, *, requested: int, available: int, capacity: int) -> None:
        super().__init__(message)
        self.requested = requested
        self.available = available
        self.capacity = capacity

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword-only arguments do not pickle by themselves (multiprocessing does that).
        return _arena_exhausted, (str(self), self.requested, self.available, self.capacity)


def _arena_exhausted(message: str, requested: int, available: int, capacity: int) -> ArenaExhausted:
    return ArenaExhausted(message, requested=requested, available=available, capacity=capacity)


class BindingError(NumscopeError, ValueError):
    """Names, shapes, dtypes or devices of two sides do not fit together."""


class BlobNotFoundError(NumscopeError, KeyError):
    """No blob of that name is visible, or none is local where it has to be."""

    def __str__(self) -> str:
        # KeyError shows the repr of its argument; a sentence in quotes helps nobody.
        return str(self.args[0]) if self.args else ""


class BlobTypeError(NumscopeError, TypeError):
    """A blob holds a value of another type than the call needs."""


class DeviceUnavailableError(NumscopeError, RuntimeError):
    """A device is not there, was closed, or has no memory that could be read."""


class OperatorError(NumscopeError, RuntimeError):
    """An operator or net could not be built, or failed while it ran."""


class StackError(NumscopeError, RuntimeError):
    """A workspace or workspace stack was used out of order, or by two threads at once."""


class UnknownTypeError(NumscopeError, TypeError):
    """A value, dtype, name or class is none of the known types."""
