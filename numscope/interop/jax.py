"""JAX: arrays from the memory of ours."""

from __future__ import annotations

from typing import Any

import numpy as np

from numscope.arrays import check_is_array

__all__ = ["to_jax"]

_WORDS = {"bfloat16": "uint16", "float8_e4m3fn": "uint8", "float8_e5m2": "uint8"}


def to_jax(array: Any) -> Any:
    """Return a JAX array with the elements of an array.

    JAX arrays are immutable, and JAX may share the memory of `array` or copy it: do not write into `array`
    while the result is in use.

    Parameters
    ----------
    array : numpy.ndarray or cupy.ndarray
        Of any known dtype; without ``jax_enable_x64`` JAX makes 32-bit types of 64-bit ones.

    Returns
    -------
    jax.Array

    Raises
    ------
    ImportError
        JAX is not installed.
    UnknownTypeError
        `array` is no array.
    """
    try:
        import jax
    except ImportError as error:
        raise ImportError("to_jax() needs JAX, which is not installed: pip install jax") from error
    check_is_array(array, "to_jax")
    name = array.dtype.name
    words = array.view(_WORDS[name]) if name in _WORDS else array
    # A card's arrays by DLPack, which takes care of the streams; NumPy's read-only ones it refuses.
    taken = jax.numpy.asarray(words) if isinstance(array, np.ndarray) else jax.dlpack.from_dlpack(words)
    return jax.lax.bitcast_convert_type(taken, getattr(jax.numpy, name)) if name in _WORDS else taken
