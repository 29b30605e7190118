"""JAX: arrays from the memory of ours."""

from __future__ import annotations

from typing import Any

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
    """
    try:
        import jax
    except ImportError as error:
        raise ImportError("to_jax() needs JAX, which is not installed: pip install jax") from error
    name = array.dtype.name
    if name not in _WORDS:
        return jax.numpy.asarray(array)
    return jax.lax.bitcast_convert_type(jax.numpy.asarray(array.view(_WORDS[name])), getattr(jax.numpy, name))
