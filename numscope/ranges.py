"""Address-ordered sets of byte ranges: first fit, neighbours coalesce."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

__all__ = ["Ranges"]


class Ranges:
    """Disjoint ranges of bytes in the order of their addresses.

    First fit by address makes scopes that are used last-in-first-out behave like a bump allocator, so
    the same program gets the same addresses on every iteration. The two parallel lists stay short (one
    entry a hole), so a linear search beats a tree.

    Attributes
    ----------
    total : int
        Bytes in all ranges.
    """

    __slots__ = ("_lengths", "_starts", "total")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._lengths: list[int] = []
        self.total = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._lengths, strict=True)

    @property
    def largest(self) -> int:
        """Length of the longest range, 0 when there is none."""
        return max(self._lengths, default=0)

    def find(self, length: int) -> int | None:
        """Return where the first range starts that is long enough, or None."""
        for i, available in enumerate(self._lengths):
            if available >= length:
                return self._starts[i]
        return None

    def take(self, length: int) -> int | None:
        """Take `length` from the first range that is long enough; return where it starts, or None."""
        for i, available in enumerate(self._lengths):
            if available >= length:
                start = self._starts[i]
                self._cut(i, start, length)
                return start
        return None

    def remove(self, start: int, length: int) -> bool:
        """Remove the bytes from `start`; False, and nothing is changed, unless one range has them all."""
        i = bisect_right(self._starts, start) - 1
        if i < 0 or self._starts[i] + self._lengths[i] < start + length:
            return False
        self._cut(i, start, length)
        return True

    def length_before(self, end: int) -> int:
        """Return the length of the range that ends just at `end`, 0 when there is none."""
        i = bisect_left(self._starts, end) - 1
        return self._lengths[i] if i >= 0 and self._starts[i] + self._lengths[i] == end else 0

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
        starts, lengths = self._starts, self._lengths
        i = bisect_left(starts, start)
        ends_before = starts[i - 1] + lengths[i - 1] if i else -1
        if ends_before > start or (i < len(starts) and start + length > starts[i]):
            raise RuntimeError(f"bytes {start} to {start + length} were given back twice")
        joins_next = i < len(starts) and start + length == starts[i]
        if ends_before == start:
            lengths[i - 1] += length
            if joins_next:
                lengths[i - 1] += lengths[i]
                del starts[i], lengths[i]
        elif joins_next:
            starts[i] = start
            lengths[i] += length
        else:
            starts.insert(i, start)
            lengths.insert(i, length)
        self.total += length

    def _cut(self, i: int, start: int, length: int) -> None:
        """Take `length` bytes from `start` out of range `i`, which has them."""
        before = start - self._starts[i]
        behind = self._lengths[i] - before - length
        if before:
            self._lengths[i] = before
            if behind:
                self._starts.insert(i + 1, start + length)
                self._lengths.insert(i + 1, behind)
        elif behind:
            self._starts[i] = start + length
            self._lengths[i] = behind
        else:
            del self._starts[i], self._lengths[i]
        self.total -= length
