"""What names mean: values, and memory for tensors in an arena."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from numscope.arena import Arena, Holding
from numscope.blob import Blob, Planned, as_shape
from numscope.errors import BindingError, BlobNotFoundError, BlobTypeError, UnknownTypeError
from numscope.namespace import Namespace, check_name
from numscope.segments import Place
from numscope.types import known_dtype

__all__ = ["Contents"]


class Contents(Namespace, MutableMapping[str, Any]):
    """The values of a workspace: the mapping protocol, and tensors made in its arena."""

    # A Mapping compares its items, and arrays have no truth value: a workspace is equal to itself only.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    # Where things are

    @property
    def arena(self) -> Arena:
        """The arena that its tensors lie in."""
        return self._region.arena

    @property
    def device(self) -> str:
        """Name of the arena's device."""
        return self._region.arena.device

    @property
    def nbytes(self) -> int:
        """Bytes of the local tensors, without padding."""
        return sum(b._value.nbytes for b in self._blobs.values() if b.is_tensor)

    def is_empty(self) -> bool:
        """Tell whether there are no local blobs."""
        return not self._blobs

    # The mapping protocol

    def __getitem__(self, name: str) -> Any:
        blob = self._blobs.get(name) or self.get_blob(name)
        if blob is None:
            raise BlobNotFoundError(self._missing(name))
        value = blob._value
        return value if type(value) is not Planned else blob.value

    def __setitem__(self, name: str, value: object) -> None:
        self.feed(name, value)

    def __delitem__(self, name: str) -> None:
        if not self.remove_blob(name):
            raise BlobNotFoundError(self._missing(name, "local"))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.has_blob(name)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(self.blobs()))

    def __len__(self) -> int:
        return len(set(self.blobs()))

    def __bool__(self) -> bool:
        return True  # an empty workspace is a workspace: `parent or default` must not skip it

    def feed(self, name: str, value: object) -> None:
        """Give a blob a value, as ``ws[name] = value`` does.

        An array of the same shape and dtype as the visible blob's is written in place; any other value
        gets new memory in the arena of the workspace that owns the blob, and old views keep their bytes.

        Parameters
        ----------
        name : str
            A local, forwarded or shared blob; a new local one is made if the name is not visible.
        value : array_like, str, bytes, or an instance of a registered class
            Any array with ``__dlpack__`` or ``__array_interface__``. The dtype follows the value.

        Raises
        ------
        ArenaExhausted, BindingError, UnknownTypeError
            No room, an array on another device, no known type; the workspace is as before.
        """
        blob = self.get_blob(name)
        if blob is not None and blob._value is value is not None:
            return
        with self._guard:
            if blob is None:
                blob = self._unborn(name)
                blob.set(value)
                self._bear(name, blob)
            else:
                blob.set(value)

    def fetch(self, name: str) -> Any:
        """Return a copy of a tensor in host memory, or another value itself; None for an empty blob.

        Raises
        ------
        BlobNotFoundError
            No such blob is visible.
        """
        value = self[name]
        blob = self.get_blob(name)
        return blob.to_host() if blob is not None and blob.is_tensor else value

    # Tensors

    def empty(
        self, name: str, shape: int | Sequence[int], dtype: DTypeLike = "float32", *, local: bool = False
    ) -> Any:
        """Return the array of a blob, made one of this shape and dtype; its elements are not initialised.

        The same name, shape and dtype again is the same memory, with what was written into it.

        Parameters
        ----------
        name : str
        shape : int or sequence of int
        dtype : dtype, default "float32"
            A known tensor type.
        local : bool, default False
            Make a local blob, even if the name is visible; otherwise the visible blob is used, in the
            arena of its owner.

        Returns
        -------
        numpy.ndarray, cupy.ndarray or None
            None on a device without memory.

        Raises
        ------
        ArenaExhausted
            Too little room; the workspaces are as before.
        BindingError
            A negative length, more than 64 dimensions, or a name that is forwarded to a missing blob.
        UnknownTypeError
            No known tensor type.
        """
        kind = known_dtype(dtype)
        lengths = as_shape(shape, kind.itemsize)
        blob = self._blobs.get(name) if local else self.get_blob(name)
        if blob is not None and blob.is_tensor:
            value = blob._value
            if value.shape == lengths and value.dtype == kind:
                return value if type(value) is not Planned else None
        with self._guard:
            if blob is not None:
                return blob.tensor(lengths, kind)
            blob = self._unborn(name, local=local)
            array = blob.tensor(lengths, kind)
            self._bear(name, blob)
            return array

    def zeros(
        self, name: str, shape: int | Sequence[int], dtype: DTypeLike = "float32", *, local: bool = False
    ) -> Any:
        """Return an array as `empty` does, filled with zeros at each call."""
        array = self.empty(name, shape, dtype, local=local)
        if array is not None:
            array.fill(0)
        return array

    def full(
        self,
        name: str,
        shape: int | Sequence[int],
        fill_value: complex,
        dtype: DTypeLike = "float32",
        *,
        local: bool = False,
    ) -> Any:
        """Return an array as `empty` does, filled with a value at each call.

        Raises
        ------
        ArenaExhausted, BindingError, UnknownTypeError
            As `empty`, or the dtype cannot hold the value; the workspace is as before.
        """
        kind = known_dtype(dtype)
        try:
            fill = np.array(fill_value, kind)
        except (OverflowError, TypeError, ValueError) as error:
            raise BindingError(
                f"tensor {name!r} of {kind.name} cannot be filled with {fill_value!r}: {error}; "
                "pass a number that the dtype can hold"
            ) from None
        if fill.ndim:
            raise BindingError(
                f"tensor {name!r}: the fill value is one number, got shape {fill.shape}; feed() an array"
            )
        array = self.empty(name, shape, kind, local=local)
        if array is not None:
            self._region.device.fill(array, fill)
        return array

    def allocate(self, tensors: Mapping[str, tuple[int | Sequence[int], DTypeLike]]) -> dict[str, Any]:
        """Make many local blobs at once, contiguous per dtype: all of them or none.

        The same call again returns the same arrays. Elements are not initialised.

        Parameters
        ----------
        tensors : mapping of str to (shape, dtype)

        Returns
        -------
        dict of str to array
            In the order of `tensors`; None instead of arrays on a device without memory.

        Raises
        ------
        ArenaExhausted, BindingError, UnknownTypeError
            As `empty`; the workspace is as before.
        BlobTypeError
            `tensors` is no such mapping.
        """
        wanted = _specifications(tensors)
        groups: dict[np.dtype[Any], list[str]] = {}
        for name, (_, kind) in wanted.items():
            groups.setdefault(kind, []).append(name)
        order = [name for names in groups.values() for name in names]
        with self._guard:
            if not self._is_allocated(order, wanted):
                sizes = [math.prod(wanted[name][0]) * wanted[name][1].itemsize for name in order]
                label = ", ".join(order[:3]) + (f" and {len(order) - 3} more" if len(order) > 3 else "")
                places = self._region.place(sizes, label)
                for name, place in zip(order, places, strict=True):
                    (self._blobs.get(name) or self._bear(name, Blob(self._region, name))).occupy(
                        place, *wanted[name]
                    )
            arrays = {name: self._blobs[name]._value for name in wanted}
            return {name: None if type(a) is Planned else a for name, a in arrays.items()}

    def flat(self, names: Sequence[str]) -> Any:
        """Return the 1-D array over local tensors of one dtype that lie one behind the other.

        Parameters
        ----------
        names : sequence of str
            As they lie, as after `allocate`.

        Returns
        -------
        array, shape (elements,)
            From the first element of the first to the end of the last one's padding.

        Raises
        ------
        BindingError
            They do not lie so, or there are none.
        BlobNotFoundError, BlobTypeError
            A name is not local, or holds no tensor.
        """
        blobs = [self._local_tensor(name) for name in names]
        if not blobs:
            raise BindingError("the 1-D array over no tensors has no dtype; name at least one")
        dtype = blobs[0]._value.dtype
        wanted = {name: (b._value.shape, dtype) for name, b in zip(names, blobs, strict=True)}
        if not self._is_allocated(list(names), wanted):
            raise BindingError(
                f"the tensors {', '.join(names[:5])} do not lie one behind the other; allocate() them"
            )
        places = [b._place for b in blobs if b._place is not None and b._place.segment is not None]
        nbytes = sum(place.nbytes for place in places)
        whole = Place(places[0].segment, places[0].offset, nbytes) if places else Place(None, 0, 0)
        # A view of the whole is a view of each: the bytes of a removed one must wait for it.
        return self._region.span(whole, dtype, [b._value for b in blobs])

    def source(self, value: object, what: str) -> Any:
        """Return an array on this workspace's device that shares memory with `value` where possible.

        Raises
        ------
        BindingError, UnknownTypeError
            It is on another device, or of no known type; `what` names it.
        """
        return self._region.device.source(value, what)

    def _local_tensor(self, name: str) -> Blob:
        blob = self._blobs.get(name)
        if blob is None:
            raise BlobNotFoundError(self._missing(name, "local"))
        if not blob.is_tensor:
            kind = blob.type
            raise BlobTypeError(
                f"blob {name!r} holds {kind.name if kind else 'nothing'}, expected a tensor; leave it out"
            )
        return blob

    def _is_allocated(self, order: list[str], wanted: Mapping[str, tuple[tuple[int, ...], Any]]) -> bool:
        """Whether local blobs of these shapes and dtypes lie one behind the other already."""
        end: int | None = None
        for name in order:
            blob = self._blobs.get(name)
            if blob is None or blob._place is None:
                return False
            if (blob._value.shape, blob._value.dtype) != wanted[name]:
                return False
            place = blob._place
            if place.segment is not None:
                if end is not None and place.offset != end:
                    return False
                end = place.offset + place.nbytes
        return True

    # What an arena asks of the owners of its memory

    def holdings(self) -> Iterator[Holding]:
        """Yield the blobs that have memory."""
        for name, blob in list(self._blobs.items()):
            place = blob._place  # its workspace may be another thread's, which takes the value away meanwhile
            if place is not None:
                yield Holding(name, place.nbytes, blob.is_viewed)

    def abandon(self) -> None:
        """Forget all blobs, because the arena closes."""
        self.clear()

    def _unborn(self, name: str, *, local: bool = False) -> Blob:
        """Return a blob that is no part of the workspace yet: it becomes one when it has its value."""
        check_name(name)
        if not local and name in self._forwarded:
            raise BindingError(
                f"{name!r} is forwarded to {self._forwarded[name][1]!r}, which does not exist there "
                "(any more); make it, or use another name"
            )
        return Blob(self._region, name)

    def _bear(self, name: str, blob: Blob) -> Blob:
        self._blobs[name] = blob
        self._region.version += 1
        return blob


def _specifications(tensors: object) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Return the checked shapes and dtypes of tensors to allocate."""
    if not isinstance(tensors, Mapping):
        raise BlobTypeError(
            f"tensors to allocate are a mapping of name to (shape, dtype), got {type(tensors).__name__}"
        )
    wanted: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
    for name, specification in tensors.items():
        check_name(name)
        try:
            shape, dtype = specification
        except (TypeError, ValueError):
            raise BlobTypeError(
                f"tensor {name!r}: expected (shape, dtype), got {specification!r}; write ((4, 10), 'float32')"
            ) from None
        try:
            kind = known_dtype(dtype)
            wanted[name] = as_shape(shape, kind.itemsize), kind
        except (BindingError, BlobTypeError, UnknownTypeError) as error:
            raise type(error)(f"tensor {name!r}: expected (shape, dtype): {error}") from None
    return wanted
