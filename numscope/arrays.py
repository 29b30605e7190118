"""What goes in: arrays of any library and nested lists, as host arrays without a copy where possible."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Set
from typing import Any

import numpy as np

from numscope.errors import BindingError, NumscopeError, UnknownTypeError
from numscope.kernels.pieces import as_array, device_kind
from numscope.types import is_known_type, known_dtype, known_type

__all__ = ["check_is_array", "host_array"]

_DLPACK_HOST = (1, 3, 11, 13)  # kDLCPU, and host memory that CUDA or ROCm pinned or manages


def host_array(value: object, what: str = "the value") -> np.ndarray[Any, Any]:
    """Return a host array of a known dtype that shares memory with `value` where that is possible.

    Parameters
    ----------
    value : array_like
        Anything with ``__dlpack__`` or ``__array_interface__`` in host memory, or a nested list or number
        where NumPy would take one.
    what : str
        Names the value in errors.

    Raises
    ------
    BindingError
        `value` lies on another device.
    UnknownTypeError
        Its dtype, or its elements, are no known type.
    """
    try:
        array = value if type(value) is np.ndarray else _from_guest(value, what)
        if array.dtype == object and not hasattr(value, "dtype"):
            known_type(type(value))  # raises: NumPy only wrapped what it does not understand
        known_dtype(array.dtype)
    except UnknownTypeError as error:
        raise UnknownTypeError(f"{what}: {error}") from None
    return array


def check_is_array(value: object, taker: str) -> None:
    """Raise an UnknownTypeError unless a value has a dtype, as arrays do; `taker` names the function."""
    if not hasattr(value, "dtype"):
        raise UnknownTypeError(
            f"{taker}() takes an array of NumPy or CuPy, such as ws[name], got {type(value).__name__}; "
            "make one with numpy.asarray(...)"
        )


def _from_guest(value: object, what: str) -> np.ndarray[Any, Any]:
    if isinstance(value, np.ndarray | np.generic):
        if isinstance(value, np.ma.MaskedArray):
            raise UnknownTypeError(
                "a masked array has a mask that a blob cannot hold; use .filled(...) or .data"
            )
        array = np.asarray(value)
        if isinstance(value, np.generic):  # this is a copy, into which nobody should write
            array.flags.writeable = False
        return array
    module = type(value).__module__.partition(".")[0]
    torch = sys.modules.get("torch")  # a guest: it is loaded already, or this is no tensor of its
    if torch is not None and isinstance(value, getattr(torch, "Tensor", ())):
        return _from_torch(value, what)
    if hasattr(value, "__cuda_array_interface__"):
        raise BindingError(
            f"{what} is a {module} array in GPU memory, expected one in host memory; "
            "copy it first, or use a workspace on that device"
        )
    if isinstance(value, Mapping | Set | type) or value is None:
        known_type(type(value))  # raises, with the list of what is known
    try:
        if hasattr(value, "__dlpack__") and not hasattr(value, "__array_interface__"):
            return _from_dlpack(value, what)
        return np.asarray(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, NumscopeError):
            raise
        raise UnknownTypeError(f"NumPy makes no array of this {type(value).__name__}: {error}") from None


def _from_dlpack(value: Any, what: str) -> np.ndarray[Any, Any]:
    kind = device_kind(value)
    if kind not in _DLPACK_HOST:
        raise BindingError(
            f"{what} lies on a device of DLPack's kind {kind}, expected host memory (kind 1); "
            "copy it first, or use a workspace on that device"
        )
    if hasattr(value, "__array__"):
        # JAX's bfloat16 passes through __array__ only, and its other types without a copy as well.
        return np.asarray(value)
    return np.from_dlpack(value)


def _from_torch(tensor: Any, what: str) -> np.ndarray[Any, Any]:
    if tensor.device.type != "cpu":
        raise BindingError(
            f"{what} is a torch tensor on {tensor.device}, expected one in host memory; "
            "use .cpu(), or a workspace on that device"
        )
    if not is_known_type(tensor.dtype):
        known_type(tensor)  # raises, with the dtype's name
    try:
        is_lazy = tensor.is_conj() or tensor.is_neg()
        array = as_array(tensor.detach().resolve_conj().resolve_neg() if is_lazy else tensor)
    except (RuntimeError, TypeError, ValueError) as error:
        raise UnknownTypeError(str(error)) from None
    if is_lazy:  # this is a copy, into which nobody should write
        array.flags.writeable = False
    return array
