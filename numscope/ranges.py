"""Address-ordered sets of byte ranges: first fit, neighbours coalesce."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

__all__ = ["Ranges"]


class Ranges:
    """Disjoint ranges of bytes in the order of their addresses.

    First fit by address makes scopes that are used last-in-first-out behave like a bump allocator, so
    the same program gets the same addresses on every iteration. The list stays short (one entry a hole),
    so a linear search beats a tree.

    Every change is one operation on one list, so that Ctrl-C comes before it or after it. One that comes
    between the change and the sum leaves `total` wrong, until `recount`.

    Parameters
    ----------
    start, length : int
        The first range.

    Attributes
    ----------
    total : int
        Bytes in all ranges.
    """

    __slots__ = ("_pieces", "total")

    def __init__(self, start: int = 0, length: int = 0) -> None:
        self._pieces = [(start, length)] if length else []
        self.total = length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self._pieces)

    @property
    def largest(self) -> int:
        """Length of the longest range, 0 when there is none."""
        return max((length for _, length in self._pieces), default=0)

    def find(self, length: int) -> int | None:
        """Return where the first range starts that is long enough, or None."""
        for start, available in self._pieces:
            if available >= length:
                return start
        return None

    def take(self, length: int) -> int | None:
        """Take `length` from the first range that is long enough; return where it starts, or None."""
        pieces = self._pieces
        for i, (start, available) in enumerate(pieces):
            if available >= length:
                if available > length:
                    pieces[i] = (start + length, available - length)
                else:
                    del pieces[i]
                self.total -= length
                return start
        return None

    def remove(self, start: int, length: int) -> bool:
        """Remove the bytes from `start`; False, and nothing is changed, unless one range has them all."""
        pieces, end = self._pieces, start + length
        i = bisect_left(pieces, (start + 1,)) - 1
        if i < 0:
            return False
        first, available = pieces[i]
        behind = first + available - end
        if behind < 0:
            return False
        if first < start and behind:
            pieces[i : i + 1] = (first, start - first), (end, behind)
        elif first < start:
            pieces[i] = (first, start - first)
        elif behind:
            pieces[i] = (end, behind)
        else:
            del pieces[i]
        self.total -= length
        return True

    def length_before(self, end: int) -> int:
        """Return the length of the range that ends just at `end`, 0 when there is none."""
        i = bisect_left(self._pieces, (end,)) - 1
        if i < 0:
            return 0
        start, length = self._pieces[i]
        return length if start + length == end else 0

    def add(self, start: int, length: int) -> None:
        """Add a range and join it with its neighbours.

        Raises
        ------
        RuntimeError
            A part of the range is here already. That is a fault of the caller's book-keeping; going on
            would hand out one byte twice.
        """
        if length == 0:
            return
        pieces, end = self._pieces, start + length
        i = j = bisect_left(pieces, (start,))
        first, last = start, end  # of the range with its neighbours
        overlaps = False
        if i:
            before, n = pieces[i - 1]
            overlaps = before + n > start
            if before + n == start:
                i, first = i - 1, before
        if j < len(pieces):
            behind, n = pieces[j]
            overlaps = overlaps or behind < end
            if behind == end:
                j, last = j + 1, behind + n
        if overlaps:
            raise RuntimeError(f"bytes {start} to {end} were given back twice")
        if j - i == 1:  # 50 ns less than a slice
            pieces[i] = (first, last - first)
        else:
            pieces[i:j] = ((first, last - first),)
        self.total += length

    def recount(self) -> None:
        """Make `total` right again after an exception in the middle of a change."""
        self.total = sum(length for _, length in self._pieces)
