"""Known types: what a blob may hold, each with a name and a number.

Caffe2 gives every C++ type that a blob or tensor may hold a run-time id (``CAFFE_KNOWN_TYPE``).
The scalar types keep the numbers of c10's ``ScalarType``; the rest count on from there.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike

from numscope.errors import UnknownTypeError

__all__ = ["KnownType", "is_known_type", "is_registered", "known_dtype", "known_type", "register_known_type"]

MAX_KNOWN_TYPES = 255  # Caffe2's limit: a type index is one byte


@dataclass(frozen=True, slots=True)
class KnownType:
    """What numscope knows of a type.

    Attributes
    ----------
    name : str
        The dtype's name, or the class's qualified name, with its module if that is needed to tell it from
        another.
    id : int
        A number of this process; the tensor types have the same one everywhere.
    itemsize : int
        Bytes an element; 0 for values that are not tensors.
    dtype : numpy.dtype or None
        The dtype of a tensor's elements; None for values that are not tensors.
    cls : type or None
        The class of values that are not tensors; None for tensors.
    """

    name: str
    id: int
    itemsize: int
    dtype: np.dtype[Any] | None
    cls: type | None = None


_TENSOR_TYPES: tuple[tuple[int, Any], ...] = (
    # c10::ScalarType's numbers; 8 (complex<half>) and 12 to 14 (quantized) have no NumPy dtype.
    (0, np.uint8),
    (1, np.int8),
    (2, np.int16),
    (3, np.int32),
    (4, np.int64),
    (5, np.float16),
    (6, np.float32),
    (7, np.float64),
    (9, np.complex64),
    (10, np.complex128),
    (11, np.bool_),
    (15, ml_dtypes.bfloat16),
    (23, ml_dtypes.float8_e5m2),
    (24, ml_dtypes.float8_e4m3fn),
    (27, np.uint16),
    (28, np.uint32),
    (29, np.uint64),
)
_FIRST_VALUE_ID = 64

_lock = threading.Lock()
_by_dtype: dict[np.dtype[Any], KnownType] = {}
_by_name: dict[str, KnownType] = {}
_by_class: dict[type, KnownType] = {}


def _add_tensor_types() -> None:
    for number, scalar in _TENSOR_TYPES:
        dtype = np.dtype(scalar)
        record = KnownType(dtype.name, number, dtype.itemsize, dtype)
        _by_dtype[dtype] = _by_name[dtype.name] = record


def _name_of(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def register_known_type(cls: type) -> KnownType:
    """Make instances of a class known, so that blobs can hold them.

    Parameters
    ----------
    cls : type
        The class itself; subclasses are types of their own. Registering it again gives the same record.

    Returns
    -------
    KnownType

    Raises
    ------
    UnknownTypeError
        `cls` is not a class, is a dtype or array class, has the name of another known type, or 255
        types are known already.
    """
    if not isinstance(cls, type):
        raise UnknownTypeError(f"only a class can be registered as a known type, got {cls!r}")
    with _lock:
        if cls in _by_class:
            return _by_class[cls]
        if issubclass(cls, np.generic | np.ndarray):
            raise UnknownTypeError(
                f"{_name_of(cls)} is an array type; arrays are known by their dtype without it"
            )
        name = cls.__qualname__ if cls.__qualname__ not in _by_name else _name_of(cls)
        if name in _by_name:
            raise UnknownTypeError(
                f"another known type has the name {name!r} already; give the class another __qualname__"
            )
        if len(_by_name) >= MAX_KNOWN_TYPES:
            raise UnknownTypeError(
                f"{MAX_KNOWN_TYPES} types are known, the limit; hold {name} inside a registered class"
            )
        record = KnownType(name, _FIRST_VALUE_ID + len(_by_class), 0, None, cls)
        _by_class[cls] = _by_name[name] = record
        return record


def known_type(x: object) -> KnownType:
    """Return the record of a type.

    Parameters
    ----------
    x : array, dtype, name or class
        Anything with a ``dtype`` (NumPy, CuPy, PyTorch, JAX), a dtype, a dtype's or registered class's
        name, a registered class, or an instance of one other than a str, which is taken as a name.

    Returns
    -------
    KnownType

    Raises
    ------
    UnknownTypeError
        No such type is known; the text lists those that are.
    """
    record = _find(x)
    if record is None:
        raise UnknownTypeError(_unknown(x))
    return record


def is_known_type(x: object) -> bool:
    """Tell whether `known_type` knows `x`."""
    return _find(x) is not None


def is_registered(cls: type) -> bool:
    """Tell whether instances of a class are values that blobs hold as they are."""
    return cls in _by_class


def known_dtype(dtype: DTypeLike | object) -> np.dtype[Any]:
    """Return the NumPy dtype of a known tensor type.

    Raises
    ------
    UnknownTypeError
        `dtype` is none, or is a type whose values are not tensors.
    """
    record = _by_name.get(dtype) if type(dtype) is str else None  # the usual case, without a long walk
    record = record or known_type(dtype)
    if record.dtype is None:
        raise UnknownTypeError(f"{record.name} is no tensor type; expected one of: {_names(tensors=True)}")
    return record.dtype


def _find(x: object) -> KnownType | None:
    if type(x) is np.dtype:
        return _by_dtype.get(x)
    if isinstance(x, type) and x in _by_class:
        return _by_class[x]
    if isinstance(x, str):
        # Guests name a dtype "torch.float32"; NumPy names some in other words ("f4", "float").
        found = _by_name.get(x) or _by_name.get(x.removeprefix("torch."))
        return found or _find_dtype(x)
    if type(x) in _by_class:
        return _by_class[type(x)]
    if x is None:  # np.dtype(None) is float64
        return None
    inner = getattr(x, "dtype", None)
    if inner is not None and not isinstance(x, type):
        x = inner
    if isinstance(x, np.dtype):
        return _by_dtype.get(x)
    return _by_name.get(str(x).removeprefix("torch.")) or _find_dtype(x)


def _find_dtype(x: object) -> KnownType | None:
    try:
        return _by_dtype.get(np.dtype(x))  # type: ignore[call-overload]
    except (TypeError, ValueError, SyntaxError):  # SyntaxError: NumPy parses text such as "f4,("
        return None


def _names(*, tensors: bool = False) -> str:
    return ", ".join(sorted(n for n, r in _by_name.items() if r.dtype is not None or not tensors))


def _unknown(x: object) -> str:
    dtype = x if isinstance(x, np.dtype) else getattr(x, "dtype", None)
    if dtype is not None and not isinstance(x, type):
        what, cure = f"dtype {dtype}", "convert with .astype(...)"
        if isinstance(dtype, np.dtype) and dtype.newbyteorder("=") in _by_dtype:
            what = f"dtype {dtype.str!r} (bytes swapped)"
            cure = f"convert with .astype({dtype.newbyteorder('=').name!r})"
    elif type(x).__name__ == "dtype":  # PyTorch's
        what, cure = f"dtype {x}", "convert to one of these"
    elif isinstance(x, str):
        what, cure = f"the name {x!r}", "register a class with register_known_type"
    else:
        what = _name_of(x if isinstance(x, type) else type(x))
        cure = "register its class with register_known_type"
    return f"{what} is no known type; known are: {_names()}. {cure[0].upper()}{cure[1:]}."


_add_tensor_types()
register_known_type(str)
register_known_type(bytes)
