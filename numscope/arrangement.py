"""How the gradients of a micro-batch fall into groups, each of which one kernel call adds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from numscope import kernels
from numscope.addition import Call

__all__ = ["Group", "partition"]


class Recent(NamedTuple):
    """Where gradients lay the last time, and the calls that add them and, if made, that measure them."""

    addresses: NDArray[np.int64]
    call: Call
    measuring: list[Call]


@dataclass(slots=True)
class Group:
    """Gradients of one dtype, and the sums of one dtype that they belong to.

    Attributes
    ----------
    names : list of str
    indices : list of int
        Where they are among the gradients of the micro-batch.
    like : list of array
        Arrays of the shapes that are expected.
    fresh : bool
        Whether nothing was added to these sums yet.
    gapless : bool
        Whether all are contiguous; otherwise none is.
    target : Pieces
        Where the sums lie.
    rounded : dict
        The arguments of `kernels.prepare` that say how they are rounded.
    recent : dict
        Whether sources are zeroed, and their dtype -> the last time.
    """

    names: list[str]
    indices: list[int]
    like: list[Any]
    fresh: bool
    gapless: bool
    target: kernels.Pieces
    rounded: dict[str, Any]
    recent: dict[tuple[bool, np.dtype[Any]], Recent] = field(default_factory=dict)

    def chosen(self, arrays: list[Any]) -> list[Any]:
        """Return this group's part of all gradients."""
        return arrays if len(arrays) == len(self.indices) else [arrays[index] for index in self.indices]

    def has_changed(self, arrays: list[Any]) -> bool:
        """Tell whether a group of arrays with gaps is none any more."""
        parts = partition(self.names, arrays, dict.fromkeys(self.names, ((), None)), ())
        return len(parts) != 1 or next(iter(parts))[1]

    def recently(self, source: kernels.Pieces, zero_source: bool) -> Recent:
        """Return the call that adds gradients, which is the last one where they lie in the same places.

        Raises
        ------
        ValueError
            They overlap the sums, or one another while they are to be zeroed.
        """
        recent = self.recent.get((zero_source, source.dtype))
        if recent is None or not np.array_equal(recent.addresses, source.addresses):
            call = kernels.prepare(
                "accumulate",
                self.target,
                source,
                beta=0.0 if self.fresh else 1.0,
                zero_source=zero_source,
                **self.rounded,
            )
            recent = self.recent[zero_source, source.dtype] = Recent(source.addresses, call, [])
        return recent


def _is_gapless(array: Any) -> bool:
    """Tell whether an array of NumPy, CuPy or PyTorch is contiguous; others raise an AttributeError."""
    of_torch = getattr(array, "is_contiguous", None)
    return bool(array.flags.c_contiguous if of_torch is None else of_torch())


def partition(
    names: Sequence[str], arrays: Sequence[Any], sums: Mapping[str, Any], fresh: Collection[str]
) -> dict[tuple[bool, ...], list[int]]:
    """Group gradients by dtype, their sums' dtype, whether these are fresh, and whether there are gaps.

    Parameters
    ----------
    names : sequence of str
    arrays : sequence of array
        A gradient for each.
    sums : mapping of str to (shape, dtype)
    fresh : collection of str

    Returns
    -------
    dict
        What they have in common, whether the sums are fresh and whether the arrays are contiguous
        first -> indices. Nothing, where something is no array of NumPy, CuPy or PyTorch.
    """
    groups: dict[tuple[Any, ...], list[int]] = {}
    try:
        for index, (name, array) in enumerate(zip(names, arrays, strict=True)):
            key = (name in fresh, _is_gapless(array), array.dtype, sums[name][1])
            groups.setdefault(key, []).append(index)
    except (AttributeError, RuntimeError, TypeError):  # something else, or a tensor of another layout
        return {}
    return groups
