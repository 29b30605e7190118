"""The ledger of a step: which micro-batches were added, with what weight, and which were left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["Ledger"]


class Ledger:
    """Counts micro-batches, of which some may be decided on a device and not be known yet.

    Parameters
    ----------
    read : callable
        Takes what stands for such decisions, waits for them, and returns for each whether its
        micro-batch was added.
    """

    __slots__ = ("_micro_batches", "_open", "_read", "_skipped", "_weight")

    def __init__(self, read: Callable[[Sequence[Any]], list[bool]]) -> None:
        self._read = read
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self._weight = 0.0
        self._micro_batches = 0
        self._skipped = 0
        self._open: list[tuple[float, Any]] = []  # in their order, so that weights add up in it as well

    def enter(self, weight: float, verdict: Any) -> None:
        """Note a micro-batch: added (True), left out (False), or something that `read` can tell of."""
        if self._open or not isinstance(verdict, bool):
            self._open.append((weight, verdict))
        else:
            self._count(weight, verdict)

    @property
    def weight(self) -> float:
        """The total weight of what was added."""
        self._settle()
        return self._weight

    @property
    def micro_batches(self) -> int:
        """How many were added."""
        self._settle()
        return self._micro_batches

    @property
    def skipped(self) -> int:
        """How many were left out."""
        self._settle()
        return self._skipped

    def _settle(self) -> None:
        if not self._open:
            return
        verdicts = iter(self._read([verdict for _, verdict in self._open if not isinstance(verdict, bool)]))
        for weight, verdict in self._open:
            self._count(weight, verdict if isinstance(verdict, bool) else next(verdicts))
        self._open = []

    def _count(self, weight: float, added: bool) -> None:
        if added:
            self._weight += weight
            self._micro_batches += 1
        else:
            self._skipped += 1
