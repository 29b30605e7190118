"""PyTorch: tensors over the memory of arrays."""

from __future__ import annotations

from typing import Any

from numscope.arrays import check_is_array

__all__ = ["to_torch"]

# NumPy and CuPy have no words for these in DLPack; PyTorch takes integers of their size and renames them.
_WORDS = {"bfloat16": "int16", "float8_e4m3fn": "uint8", "float8_e5m2": "uint8"}


def to_torch(array: Any) -> Any:
    """Return a PyTorch tensor that shares an array's memory.

    Parameters
    ----------
    array : numpy.ndarray or cupy.ndarray
        Of any known dtype that PyTorch has, bfloat16 and float8 included.

    Returns
    -------
    torch.Tensor
        Of the same shape, dtype and device; it keeps the memory alive.

    Raises
    ------
    ImportError
        PyTorch is not installed.
    UnknownTypeError
        `array` is no array.

    Examples
    --------
    >>> import numscope as ns
    >>> ws = ns.Workspace()
    >>> tensor = ns.interop.to_torch(ws.zeros("x", (2, 3), "bfloat16"))  # doctest: +SKIP
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError("to_torch() needs PyTorch, which is not installed: pip install torch") from error
    check_is_array(array, "to_torch")
    name = array.dtype.name
    words = array.view(_WORDS[name]) if name in _WORDS else array
    # from_dlpack refuses NumPy's read-only arrays and zero-dimensional words of some versions; NumPy's own
    # way takes whatever lies on the host.
    tensor = torch.from_numpy(words) if hasattr(words, "__array_interface__") else torch.from_dlpack(words)
    return tensor.view(getattr(torch, name)) if name in _WORDS else tensor
