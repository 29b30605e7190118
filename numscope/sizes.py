"""Sizes in bytes: from text such as "64 MiB", and back."""

from __future__ import annotations

import operator
import re
from decimal import Decimal

from numscope.errors import BindingError, BlobTypeError

__all__ = ["format_size", "parse_size"]

_UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgtp", start=1):
    _UNITS[_letter + "b"] = 1000**_power
    _UNITS[_letter + "ib"] = 1024**_power
_TEXT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def parse_size(size: int | str) -> int:
    """Return a size in bytes.

    Parameters
    ----------
    size : int or str
        Bytes, or text of a number and a unit: B, kB, MB, GB, TB, PB (powers of 1000), KiB, MiB, GiB, TiB,
        PiB (powers of 1024), in either case, with or without a blank.

    Raises
    ------
    BindingError
        The size is not positive, not a whole number of bytes, or the text is no size.
    BlobTypeError
        `size` is neither an integer nor text.

    Examples
    --------
    >>> parse_size("64 MiB")
    67108864
    """
    if isinstance(size, str):
        match = _TEXT.fullmatch(size)
        unit = _UNITS.get(match[2].lower()) if match else None
        if match is None or unit is None:
            raise BindingError(f'{size!r} is no size; expected bytes or text such as "64 MiB" or "1.5 GB"')
        exact = Decimal(match[1]) * unit
        if exact != int(exact):
            raise BindingError(f"{size!r} is {exact} bytes; expected a whole number of bytes")
        nbytes = int(exact)
    else:
        try:
            nbytes = operator.index(size)
        except TypeError:
            raise BlobTypeError(
                f'a size is an int of bytes or text such as "64 MiB", got {type(size).__name__} {size!r}'
            ) from None
    if nbytes <= 0:
        raise BindingError(f"a size must be positive, got {size!r}")
    return nbytes


def format_size(nbytes: int) -> str:
    """Return a size for people: ``"1.50 MiB"``, ``"640 B"``."""
    value = float(nbytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{nbytes} B" if unit == "B" else f"{value:.2f} {unit}"
