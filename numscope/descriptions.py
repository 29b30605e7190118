"""What an accumulator is told: names, shapes and dtypes of gradients, and numbers, checked."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from numscope.blob import as_shape
from numscope.errors import BindingError, BlobTypeError, UnknownTypeError
from numscope.types import known_dtype

__all__ = ["Layout", "as_divisor", "as_layout", "as_limit", "as_number", "as_seed", "listed"]

ACCUMULATORS = ("float32", "float64", "bfloat16", "float16")

Layout = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]  # name -> shape, dtype


def as_layout(tensors: object, default: np.dtype[Any]) -> Layout:
    """Return the shape and dtype of each sum.

    Parameters
    ----------
    tensors : mapping
        Name -> shape, or an array whose shape is meant, or ``(shape, dtype)``.
    default : dtype
        Where nothing else is said.

    Raises
    ------
    BindingError, BlobTypeError, UnknownTypeError
        It is no mapping; a shape is none, or a dtype none to sum in, and the text names the gradient.
    """
    if not isinstance(tensors, Mapping):
        raise BlobTypeError(
            "gradients are described by a mapping of names to shapes, arrays or (shape, dtype), got "
            f"{type(tensors).__name__}; pass a dict"
        )
    return {name: _shape_and_dtype(name, value, default) for name, value in tensors.items()}


def as_number(value: Any, what: str) -> float:
    """Return a number; BindingError if it is none."""
    try:
        if isinstance(value, str | bytes):  # float("2") is one
            raise TypeError
        return float(value)
    except OverflowError as error:
        raise BindingError(f"{what} must fit a float64: {error}") from None
    except (TypeError, ValueError):
        raise BindingError(f"{what} must be a number, got {value!r}") from None


def as_divisor(unscale: Any) -> float:
    """Return a number to divide by; BindingError if it is none."""
    value = as_number(unscale, "unscale")
    if value == 0 or not math.isfinite(value):
        raise BindingError(f"unscale must be a finite number other than 0, got {value}")
    return value


def as_limit(max_norm: Any) -> float:
    """Return a norm to clip to; BindingError if it is none."""
    value = as_number(max_norm, "max_norm")
    if not value >= 0:
        raise BindingError(f"max_norm must be 0 or more, got {value}")
    return value


def as_seed(seed: object) -> int:
    """Return where random numbers begin; BlobTypeError if it is no int.

    Kernels count in an int64, and nobody makes 2**62 calls.
    """
    try:
        return operator.index(seed) % 2**62  # type: ignore[arg-type]
    except TypeError:
        raise BlobTypeError(f"a seed is an int, got {type(seed).__name__} {seed!r}") from None


def listed(names: Iterable[str]) -> str:
    """Return names for an error: the first five, and how many more there are."""
    known = list(names)
    more = f" and {len(known) - 5} more" if len(known) > 5 else ""
    return ", ".join(map(repr, known[:5])) + more


def _shape_and_dtype(name: str, value: Any, default: np.dtype[Any]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    shape, dtype = value, default
    try:
        if hasattr(value, "shape"):
            shape = tuple(value.shape)
        elif isinstance(value, tuple) and len(value) == 2 and not _is_length(value[1]):
            shape, dtype = value[0], known_dtype(value[1])
        lengths = as_shape(shape, dtype.itemsize)
    except (BindingError, BlobTypeError, UnknownTypeError) as error:
        raise type(error)(f"gradient {name!r}: {error}") from None
    if dtype.name not in ACCUMULATORS:
        raise BindingError(
            f"gradient {name!r}: sums of {dtype} are not known, expected {listed(ACCUMULATORS)}"
        )
    return lengths, dtype


def _is_length(value: object) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, type)  # the class np.int64 has it as well
