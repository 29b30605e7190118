"""The gradients of one micro-batch, checked and ready to be added."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from numscope import kernels
from numscope.kernels.plan import merge
from numscope.memory import Gates

__all__ = ["Addition", "Call"]

Call = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Addition:
    """The gradients of a micro-batch, checked, and the kernel calls that add them.

    Attributes
    ----------
    names : collection of str
        Whose gradients they are.
    calls : list of callables
        One for each group of gradients; each takes the factor.
    pieces : list of Pieces
        Where the gradients lie.
    measuring : list of list of callables
        For each of these what measures it, in a list that is empty until that is first wanted.
    gaps : list of array
        Gradients that are not contiguous: contiguous copies of them are in `pieces`.
    keeps : object
        What keeps the memory alive.
    """

    names: Collection[str]
    calls: list[Call]
    pieces: list[kernels.Pieces]
    measuring: list[list[Call]]
    gaps: list[Any]
    keeps: object

    def is_finite(self, gates: Gates | None) -> Any:
        """Tell whether no element is NaN or infinite: True, False, or a condition of `gates`."""
        for pieces, kept in zip(self.pieces, self.measuring, strict=True):
            if not kept:
                kept.append(kernels.prepare("stats", pieces, stats="norm"))
        measuring = [call for kept in self.measuring for call in kept]
        if gates is not None:
            return gates.check(measuring)
        return merge([call() for call in measuring]).nonfinite == 0

    def zero(self, added: Any) -> None:
        """Fill gradients with zeros that were not zeroed in the pass that added them.

        Those are all where nothing was added; and those with gaps, of which a copy was zeroed.
        """
        if added is not True:
            for pieces in self.pieces:
                kernels.prepare("zero", pieces)(1.0, 0, *_if_closed(added))
        kernels.zero(self.gaps)


def _if_closed(condition: Any) -> tuple[Any, ...]:
    """Return what a kernel call takes for it to take place if a condition does not hold."""
    return () if condition is False else (condition.if_closed,)
