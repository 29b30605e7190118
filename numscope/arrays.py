"""What goes in: arrays of any library and nested lists, as host arrays without a copy where possible."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from numscope.errors import BindingError, UnknownTypeError
from numscope.types import known_dtype, known_type

__all__ = ["host_array"]


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
    array = value if type(value) is np.ndarray else _from_guest(value, what)
    try:
        known_dtype(array.dtype)
    except UnknownTypeError as error:
        raise UnknownTypeError(f"{what}: {error}") from None
    return array


def _from_guest(value: object, what: str) -> np.ndarray[Any, Any]:
    if isinstance(value, np.ndarray | np.generic):
        if isinstance(value, np.ma.MaskedArray):
            raise UnknownTypeError(
                f"{what} is a masked array, whose mask a blob cannot hold; use .filled(...) or .data"
            )
        return np.asarray(value)
    module = type(value).__module__.partition(".")[0]
    if hasattr(value, "data_ptr") and "torch" in sys.modules:
        return _from_torch(value, what)
    if hasattr(value, "__cuda_array_interface__"):
        raise BindingError(
            f"{what} is a {module} array in GPU memory, expected one in host memory; "
            "copy it first, or use a workspace on that device"
        )
    if isinstance(value, dict | set | frozenset | type) or value is None:
        known_type(value)  # raises, with the list of what is known
    try:
        # JAX and other guests give their memory through __array__ or __dlpack__ without a copy.
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise UnknownTypeError(f"{what}: NumPy makes no array of {type(value).__name__}: {error}") from None
    return array


def _from_torch(tensor: Any, what: str) -> np.ndarray[Any, Any]:
    """Share a tensor's memory. PyTorch is a guest: it is loaded already, or this is no tensor of its."""
    if tensor.device.type != "cpu":
        raise BindingError(
            f"{what} is a torch tensor on {tensor.device}, expected one in host memory; "
            "use .cpu(), or a workspace on that device"
        )
    tensor = tensor.detach().resolve_conj().resolve_neg()
    dtype = known_dtype(tensor.dtype)
    if dtype.kind == "V" or dtype.name.startswith(("bfloat", "float8")):
        # NumPy passes these through no protocol: take the words, and name them on this side.
        torch = sys.modules["torch"]
        words = tensor.view(torch.int16 if dtype.itemsize == 2 else torch.uint8)
        return words.numpy().view(dtype)  # type: ignore[no-any-return]
    return tensor.numpy()  # type: ignore[no-any-return]
