"""Blobs: named places that hold a tensor in the arena, or another value of a known type."""

from __future__ import annotations

import contextlib
import math
import operator
import sys
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from numscope.errors import (
    BindingError,
    BlobNotFoundError,
    BlobTypeError,
    DeviceUnavailableError,
    UnknownTypeError,
)
from numscope.region import Region
from numscope.segments import Place
from numscope.types import KnownType, is_registered, known_type

__all__ = ["Blob", "Planned", "as_shape"]

MAX_DIMENSIONS = 64  # NumPy's


class Planned:
    """What stands for a tensor on a device without memory: its shape and dtype.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    nbytes : int
    """

    __slots__ = ("dtype", "nbytes", "shape")

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape = shape
        self.dtype = dtype
        self.nbytes = math.prod(shape) * dtype.itemsize


def as_shape(shape: int | Sequence[int], itemsize: int) -> tuple[int, ...]:
    """Return a shape as a tuple of ints.

    Raises
    ------
    BindingError
        A length is negative, there are more than 64 of them, or the elements exceed an address space.
    BlobTypeError
        It is no shape.
    """
    sizes: Any = shape
    if type(shape) is not tuple:  # the error that operator.index would raise for one costs 0.5 us
        if isinstance(shape, Set | Mapping):  # they have no order that their author meant
            raise BlobTypeError(f"a shape is an int or a sequence of ints, got {shape!r}")
        with contextlib.suppress(TypeError):
            sizes = (operator.index(shape),)  # type: ignore[arg-type]
    try:
        lengths = tuple(map(operator.index, sizes))
    except TypeError:
        raise BlobTypeError(f"a shape is an int or a sequence of ints, got {shape!r}") from None
    if lengths and min(lengths) < 0:
        raise BindingError(f"the lengths of a shape must not be negative, got {lengths}")
    if len(lengths) > MAX_DIMENSIONS:
        raise BindingError(f"an array has at most {MAX_DIMENSIONS} dimensions, got {len(lengths)}")
    if math.prod(filter(None, lengths)) * itemsize >= 2**63:
        raise BindingError(f"shape {lengths} of {itemsize}-byte elements exceeds the address space (2**63)")
    return lengths


class Blob:
    """A named place in a workspace. It is empty until it gets a value, and knows the value's type.

    A tensor lies in the arena of the workspace that owns the blob; `value` is the array itself. Blobs are
    made by workspaces.
    """

    __slots__ = ("__weakref__", "_is_gone", "_name", "_place", "_region", "_value")

    def __init__(self, region: Region, name: str) -> None:
        self._region = region
        self._name = name
        self._value: Any = None
        self._is_gone = False
        self._place: Place | None = None  # not None exactly when the value is a tensor

    @property
    def type(self) -> KnownType | None:
        """The known type of the value, None when the blob is empty."""
        if self._value is None:
            return None
        return known_type(self._value.dtype if self._place is not None else type(self._value))

    @property
    def value(self) -> Any:
        """The array, or the other value; None when the blob is empty.

        Raises
        ------
        DeviceUnavailableError
            It is a tensor on a device without memory.
        """
        value = self._value
        if type(value) is Planned:
            raise DeviceUnavailableError(
                f"blob {self._name!r} is planned on device {self._region.device.name!r}, which has no "
                'memory: its size is known, its values are not. Use device="cpu" to compute.'
            )
        return value

    @property
    def device(self) -> str:
        """Name of the device on which its tensors are."""
        return self._region.arena.device

    @property
    def is_tensor(self) -> bool:
        """Whether the value is a tensor."""
        return self._place is not None

    @property
    def is_viewed(self) -> bool:
        """Whether somebody else refers to the value, or to a view of it."""
        return sys.getrefcount(self._value) > 2  # the blob's own reference and the argument's

    def is_type(self, kind: object) -> bool:
        """Tell whether the value is of a type: a dtype, a class, a name, or numpy.ndarray for any tensor."""
        if self._value is None:
            return False
        if kind is np.ndarray:
            return self._place is not None
        return known_type(kind) == self.type

    def get(self, kind: object) -> Any:
        """Return the value, which must be of a type (as in `is_type`).

        Raises
        ------
        BlobTypeError
            It is of another type, or the blob is empty.
        UnknownTypeError
            `kind` is no known type.
        """
        if not self.is_type(kind):
            got = self.type.name if self.type is not None else "nothing (it is empty)"
            raise BlobTypeError(
                f"wrong type for blob {self._name!r}: it contains {got} while the caller expects "
                f"{_kind_name(kind)}; set() it first, or use get_mutable()"
            )
        return self.value

    def get_mutable(self, kind: object) -> Any:
        """Return the value; one of another type is destroyed and replaced by a default-made one.

        That is an empty tensor for a dtype (float32 for numpy.ndarray), and ``cls()`` for a class.

        Raises
        ------
        BlobTypeError
            The class cannot be made without arguments; the blob is as before.
        UnknownTypeError
            `kind` is no known type.
        """
        if self.is_type(kind):
            return self.value
        record = known_type(np.float32 if kind is np.ndarray else kind)
        if record.dtype is not None:
            self.reset()
            return self.tensor((0,), record.dtype)
        cls = record.cls
        if cls is None:
            raise UnknownTypeError(f"{record.name} has no class to make a value of")
        try:
            value = cls()
        except TypeError as error:
            raise BlobTypeError(
                f"{record.name} cannot be made without arguments ({error}); give the blob a value with set()"
            ) from None
        self.set(value)
        return value

    def set(self, value: object) -> None:
        """Give the blob a value.

        An array of the same shape and dtype is written in place, so that existing views see it (overlap is
        right, and the same array is a no-op); any other gets new memory, and old views keep their bytes.

        Parameters
        ----------
        value : array_like, str, bytes, or an instance of a registered class
            Arrays are copied into the arena, with their dtype; other values are held as they are.

        Raises
        ------
        ArenaExhausted, BindingError, UnknownTypeError
            No room, an array on another device, no known type; the blob is as before.
        BlobNotFoundError
            The blob was removed from its workspace.
        """
        if value is self._value and value is not None:
            return
        if is_registered(type(value)):
            self._check_here()
            self.reset()
            self._value = value
            return
        device = self._region.device
        source = device.source(value, f"the value of blob {self._name!r}")
        # An old value that the source is a view of lives on in the source until the copy is done.
        target = self.tensor(tuple(source.shape), source.dtype)
        device.copy(target, source)

    def reset(self) -> None:
        """Empty the blob; its memory returns when the last view of it has died."""
        self.let_go(keep=False)

    def tensor(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Return the array after making it one of this shape and dtype; new elements are not initialised."""
        if self.fits(shape, dtype):
            return None if type(self._value) is Planned else self._value
        self._check_here()
        nbytes = math.prod(shape) * dtype.itemsize
        (place,) = self._region.place([nbytes], self._name)
        return self.occupy(place, shape, dtype)

    def occupy(self, place: Place, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Make the blob a tensor at a place that was found for it; return the array."""
        array = self._region.array(place, shape, dtype)
        self.let_go(keep=False)
        self._value = Planned(shape, dtype) if array is None else array
        self._place = place
        return array

    def to_host(self) -> Any:
        """Return a copy of a tensor in host memory, or another value itself."""
        return self._region.device.to_host(self.value) if self._place is not None else self._value

    def fits(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
        """Tell whether the value is a tensor of this shape and dtype."""
        value = self._value
        return self._place is not None and value.shape == shape and bool(value.dtype == dtype)

    def copy_from(self, other: Blob) -> None:
        """Take a copy of another blob's tensor, with its shape and dtype."""
        value = other._value
        target = self.tensor(value.shape, value.dtype)
        if target is not None:
            self._region.device.copy(target, other.value)

    def let_go(self, *, keep: bool) -> None:
        """Empty the blob; `keep` leaves its bytes with the region, for the blob that comes next."""
        place, value, region = self._place, self._value, self._region
        if place is None:
            self._value = None
            return
        region.version += 1  # first: after Ctrl-C no plan of a kernel call may find the old bytes
        self._place = self._value = None
        region.drop(place, None if type(value) is Planned else value, self._name, keep=keep)

    def leave(self, *, keep: bool) -> None:
        """Empty the blob, which is no part of its workspace any more and can get no value again."""
        self._is_gone = True
        self.let_go(keep=keep)

    def leave_with_all(self) -> None:
        """Empty the blob as `leave` does, when all room of the region is being given up."""
        self._is_gone = True
        if self._place is not None and self.is_viewed:
            self._region.watch(self._value, self._name)
        self._place = self._value = None

    def _check_here(self) -> None:
        # Its memory would belong to nobody: no workspace knows the blob any more.
        if self._is_gone:
            raise BlobNotFoundError(
                f"blob {self._name!r} was removed from its workspace and can get no value; "
                "make it there again with create_blob()"
            )


def _kind_name(kind: object) -> str:
    return "a tensor" if kind is np.ndarray else known_type(kind).name
