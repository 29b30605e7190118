"""Arrays that are given for the sums of a gradient accumulator, checked one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numscope.descriptions import Layout, listed
from numscope.errors import BindingError, UnknownTypeError
from numscope.kernels.pieces import device_of
from numscope.workspace import Workspace

__all__ = ["GRADIENTS", "match", "match_one"]

GRADIENTS = ("float16", "bfloat16", "float32", "float64")


def match(
    arrays: Mapping[str, Any], layout: Layout, workspace: Workspace, *, allow_missing: bool, writes: bool
) -> dict[str, Any]:
    """Return arrays that belong to sums, in the order of the layout, after checking each.

    Parameters
    ----------
    arrays : mapping of str to array
    layout : dict
        Name of a sum -> shape and dtype.
    workspace : Workspace
        Where the sums are.
    allow_missing : bool
        Names may be missing, or None.
    writes : bool
        Whether the arrays are to be written.

    Raises
    ------
    BindingError
        An array has an unknown name, is missing, or has another shape, device or a dtype that is no
        float; or it is to be written and cannot be.
    """
    if not isinstance(arrays, Mapping):
        raise BindingError(f"expected a mapping of names to arrays, got {type(arrays).__name__}")
    unknown = [name for name in arrays if name not in layout]
    if unknown:
        raise BindingError(f"unknown gradient {unknown[0]!r}; expected {listed(layout)}")
    found: dict[str, Any] = {}
    for name, (shape, _) in layout.items():
        value = arrays.get(name)
        if value is not None:
            found[name] = match_one(name, value, shape, workspace, writes=writes)
        elif not allow_missing:
            raise BindingError(
                f"gradient {name!r} is missing, expected one of shape {shape}; "
                "pass allow_missing=True to add nothing for it"
            )
    return found


def match_one(name: str, value: Any, shape: tuple[int, ...], workspace: Workspace, *, writes: bool) -> Any:
    """Return the array for one sum, of NumPy or CuPy; see `match`."""
    try:
        array = workspace.source(value, f"gradient {name!r}")
    except UnknownTypeError as error:
        raise BindingError(str(error)) from None
    if array.shape != shape:
        raise BindingError(f"gradient {name!r} has shape {tuple(array.shape)}, expected {shape}")
    if array.dtype.name not in GRADIENTS:
        raise BindingError(
            f"gradient {name!r} is of {array.dtype}, expected {', '.join(GRADIENTS)}; convert it"
        )
    here, there = workspace.device, device_of(array)
    if here.startswith("cuda") and there != here:  # a host's workspace takes no other arrays anyway
        raise BindingError(f"gradient {name!r} is on {there}, expected it on {here}; copy it there first")
    # A list has no dtype: what NumPy made of it would be written in vain.
    if writes and not (hasattr(value, "dtype") and _is_writable(array)):
        raise BindingError(f"{name!r} is read-only, expected an array to write into; pass a copy of it")
    return array


def _is_writable(array: Any) -> bool:
    return bool(getattr(array.flags, "writeable", True))  # CuPy's arrays always are, and have no such flag
