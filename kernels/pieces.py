"""Flat pieces of memory: their addresses, lengths and common dtype, and what may overlap what."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "KNOWN",
    "OverlapError",
    "Pieces",
    "address_of",
    "as_array",
    "as_dtype",
    "check_overlap",
    "device_kind",
    "device_of",
    "is_on_device",
    "read_tensor",
]

KNOWN = (
    "bool",
    *(f"{sign}int{bits}" for sign in ("u", "") for bits in (8, 16, 32, 64)),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    *("float8_e4m3fn", "float8_e5m2"),
)
"""Names of the dtypes the kernels know."""

# NumPy interns these names each time it is asked for an interface. While nobody else holds them, Python's
# table of interned strings fills with their traces until it is doubled: 940 KiB after 2,000 calls, once.
_INTERFACE_KEYS = tuple(np.empty(0).__array_interface__)


_CUDA = 2  # DLPack's number of the device type


@cache
def as_dtype(dtype: Any) -> np.dtype[Any]:
    """Return the NumPy dtype of a name, class or dtype that the kernels know.

    Raises
    ------
    TypeError
        For any other, and for a foreign byte order.
    """
    if isinstance(dtype, str) and dtype in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        import ml_dtypes

        dtype = getattr(ml_dtypes, dtype)
    known: np.dtype[Any] = np.dtype(dtype)
    if known.name not in KNOWN:
        raise TypeError(f"dtype {known.name} is not known to the kernels: expected one of {', '.join(KNOWN)}")
    if not known.isnative:
        raise TypeError(
            f"dtype {known.str} has a foreign byte order: convert it by .astype({known.name!r}) first"
        )
    return known


def as_array(x: Any) -> NDArray[Any]:
    """Return an array over the memory of any array, of NumPy on the host and of CuPy on a CUDA device.

    Parameters
    ----------
    x : array_like
        An ndarray, or anything with ``__array_interface__``, ``__cuda_array_interface__`` or
        ``__dlpack__``; of PyTorch and JAX also the types that NumPy's DLPack does not know.

    Raises
    ------
    TypeError
        For anything else, a known dtype included that is not `KNOWN`.
    """
    if not isinstance(x, np.ndarray):
        torch = sys.modules.get("torch")
        if is_on_device(x):
            from .cuda_arrays import as_device_array

            x = as_device_array(x)
        elif torch is not None and isinstance(x, torch.Tensor):
            x = _from_torch(x, torch)
        elif hasattr(x, "__array_interface__"):
            number, x = x, np.asarray(x)
            if isinstance(number, np.generic):  # one of NumPy's numbers, of which this is a copy
                x.flags.writeable = False
        elif hasattr(x, "__dlpack__") and device_kind(x) == 1:
            x = _from_dlpack(x)
        else:
            raise TypeError(
                f"expected an array on the host or on a CUDA device, got "
                f"{type(x).__module__}.{type(x).__qualname__}"
            )
    if isinstance(x, np.ndarray) and type(x) is not np.ndarray:
        x = x.view(np.ndarray)  # a subclass may copy and assign as it likes: a hard mask lets nothing through
    array: NDArray[Any] = x
    as_dtype(array.dtype)
    return array


def is_on_device(x: Any) -> bool:
    """Tell whether something is an array on a CUDA device, without importing what made it."""
    if isinstance(x, np.ndarray):
        return False
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(x, cupy.ndarray):
        return True
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        return bool(x.is_cuda)
    return device_kind(x) == _CUDA if hasattr(x, "__dlpack__") else hasattr(x, "__cuda_array_interface__")


def device_kind(x: Any) -> int:
    """Return DLPack's number of the kind of device that an array with `__dlpack__` lies on.

    Raises
    ------
    TypeError
        It has no elements on one device.
    """
    try:
        return int(x.__dlpack_device__()[0])
    except (AttributeError, BufferError, RuntimeError, TypeError) as error:  # JAX's, each its own way
        raise TypeError(
            f"expected an array with its elements on one device, got a {type(x).__name__} that is traced, "
            f"deleted or on several ({error}); call this outside of jit, with an array on one device"
        ) from None


def _from_dlpack(x: Any) -> NDArray[Any]:
    try:
        return np.from_dlpack(x)
    except (BufferError, RuntimeError):  # NumPy knows no bfloat16 and float8 there, JAX gives them otherwise
        array = np.asarray(x).view()
    array.flags.writeable = False  # what was asked for may be a copy
    return array


def _from_torch(tensor: Any, torch: Any) -> NDArray[Any]:
    if tensor.device.type != "cpu":
        raise TypeError(f"expected a tensor on the host, got one on {tensor.device}; use .cpu()")
    array: NDArray[Any] = read_tensor(tensor, torch, lambda words: words.numpy())
    return array


def read_tensor(tensor: Any, torch: Any, export: Callable[[Any], Any]) -> Any:
    """Return an array over the memory of a PyTorch tensor, if it is what it stands for.

    Parameters
    ----------
    tensor : torch.Tensor
    torch : module
    export : callable
        Makes an array of a tensor of a dtype that NumPy and CuPy know. The sign of a negated one would be
        lost on the way.

    Raises
    ------
    TypeError
        For any other tensor.
    """
    if tensor.is_nested:
        raise TypeError(
            "expected a tensor of one shape, got a nested one; use .values() or .to_padded_tensor(0)"
        )
    if tensor.layout is not torch.strided:
        raise TypeError(f"expected a dense tensor, got one of layout {tensor.layout}; use .to_dense()")
    name = str(tensor.dtype).removeprefix("torch.")
    if name not in KNOWN:
        raise TypeError(
            f"dtype {tensor.dtype} is not known to the kernels: expected one of {', '.join(KNOWN)}"
        )
    if tensor.is_conj() or tensor.is_neg():
        raise TypeError(
            "expected a tensor whose elements are in memory as they are, got one that is conjugated or "
            "negated when it is read; pass tensor.resolve_conj().resolve_neg()"
        )
    try:
        tensor = tensor.detach()
        is_missing = tensor.numel() > 0 and tensor.data_ptr() == 0
        words = torch.int16 if name == "bfloat16" else torch.uint8 if name.startswith("float8") else None
        array = export(tensor if words is None else tensor.view(words))
    except (RuntimeError, TypeError) as error:  # of what wraps others: DTensor, vmap, FakeTensorMode
        raise TypeError(
            f"expected a tensor with memory of its own, got a {type(tensor).__name__} that gives none "
            f"({error}); pass a plain tensor, such as a DTensor's .to_local()"
        ) from None
    if is_missing:
        raise TypeError(
            f"expected a tensor with memory, got one of shape {tuple(tensor.shape)} whose memory was freed, "
            "as by untyped_storage().resize_(0), or never made; pass it while it has its elements"
        )
    return array if words is None else array.view(as_dtype(name))


_MANY = 2  # arrays from which on reading their headers by compiled code is a gain


class Pieces:
    """Contiguous pieces of memory of one dtype; no reference to their owner is kept.

    Parameters
    ----------
    addresses : sequence of int
        Where each piece begins; the caller keeps the memory alive while kernels run.
    lengths : sequence of int
        Elements of each piece; 0 is fine.
    dtype : dtype, str or type
        One of `KNOWN`.
    device : str
        ``"cpu"`` or a CUDA device.
    """

    __slots__ = ("addresses", "device", "dtype", "lengths")

    def __init__(
        self,
        addresses: Sequence[int] | NDArray[np.int64],
        lengths: Sequence[int] | NDArray[np.int64],
        dtype: Any,
        device: str = "cpu",
    ):
        self.addresses = np.asarray(addresses, np.int64)
        self.lengths = np.asarray(lengths, np.int64)
        self.dtype = as_dtype(dtype)
        self.device = device
        if self.addresses.ndim != 1 or self.addresses.shape != self.lengths.shape:
            raise ValueError(
                f"as many addresses as lengths are expected: got shapes {self.addresses.shape} "
                f"and {self.lengths.shape}"
            )
        if len(self.lengths) and self.lengths.min() < 0:
            raise ValueError(f"lengths must not be negative, got {self.lengths.min()}")

    @classmethod
    def of(cls, arrays: Sequence[Any]) -> Pieces:
        """Take the pieces of arrays of one dtype, each contiguous in memory.

        Raises
        ------
        TypeError
            For what is no array, and for more than one dtype or device.
        ValueError
            For an array with gaps, and for an empty sequence, which has no dtype.
        """
        read = cls.read(arrays)
        if read is not None:
            return read
        views = [as_array(array) for array in arrays]
        if not views:
            raise ValueError("pieces of no array have no dtype: use Pieces([], [], dtype)")
        dtype = views[0].dtype
        for number, view in enumerate(views):
            if view.dtype != dtype:
                raise TypeError(f"array {number} has dtype {view.dtype}, expected {dtype} as the first")
            if not view.flags.forc:
                raise ValueError(f"array {number} is not contiguous: pass np.ascontiguousarray(...) of it")
        devices = {device_of(view) for view in views}
        if len(devices) > 1:
            raise TypeError(
                f"the arrays are on {', '.join(sorted(devices))}: expected one device; copy them to it"
            )
        return cls([address_of(view) for view in views], [view.size for view in views], dtype, devices.pop())

    @classmethod
    def read(
        cls,
        arrays: Sequence[Any],
        *,
        writable: bool = False,
        shaped_as: Sequence[Any] | None = None,
        least: int = _MANY,
    ) -> Pieces | None:
        """Take the pieces of many simple arrays fast, by one compiled call.

        Parameters
        ----------
        arrays : sequence of array
        writable : bool
            Whether all must be writable.
        shaped_as : sequence of array, optional
            Arrays, as many and simple ones, whose shapes must be the same.
        least : int
            Leave fewer arrays than this to the long way.

        Returns
        -------
        Pieces or None
            None for few arrays, and unless all are C-contiguous ndarrays of one dtype object that do
            as they must: the long way then finds what there is to say.
        """
        if len(arrays) < max(least, 1):
            return None
        from . import headers

        items = tuple(arrays)
        columns = headers.read(items, headers.C_CONTIGUOUS | (headers.WRITEABLE if writable else 0))
        if columns is None or (shaped_as is not None and not headers.same_shapes(items, tuple(shaped_as))):
            return None
        return cls(columns[0], columns[1], items[0].dtype)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def ends(self) -> NDArray[np.int64]:
        """The address after each piece."""
        return self.addresses + self.lengths * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all pieces together."""
        return int(self.lengths.sum()) * self.dtype.itemsize

    def viewed_as(self, dtype: Any) -> Pieces:
        """Return the same memory as elements of another, not longer dtype."""
        other = as_dtype(dtype)
        factor = self.dtype.itemsize // other.itemsize
        return Pieces(self.addresses, self.lengths * factor, other, self.device)


def device_of(array: Any) -> str:
    """Return the name of the device on which an array of NumPy or CuPy lies."""
    return "cpu" if isinstance(array, np.ndarray) else f"cuda:{array.device.id}"


def address_of(array: Any) -> int:
    """Return where an array of NumPy or CuPy lies."""
    if isinstance(array, np.ndarray):
        return int(array.__array_interface__["data"][0])
    return int(array.data.ptr)


class OverlapError(ValueError):
    """Written memory that is also read or written as something else."""


def check_overlap(pairs: Sequence[tuple[Pieces, Pieces | None]], *, writes_source: bool = False) -> None:
    """Refuse destinations that overlap any other piece.

    A source may be exactly its own destination, unless it is written as well. Sources may overlap
    each other.

    Raises
    ------
    OverlapError
    """
    from .tables import are_apart

    spans = []
    for destination, source in pairs:
        start, end = destination.addresses, destination.ends
        spans.append(np.stack([start, end, np.ones_like(start)]))
        if source is not None:
            last = source.ends
            if not writes_source:
                last = np.where((source.addresses == start) & (last == end), start, last)
            spans.append(np.stack([source.addresses, last, np.full_like(start, writes_source)]))
    if not are_apart(np.concatenate(spans, axis=1)):
        raise OverlapError(
            "a piece that is written overlaps another piece: only a destination that is exactly its own "
            "source may share memory; copy one of the two first"
        )
