"""Segments of an arena, places in them, and the references that tell when their bytes are free again."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

from numscope.ranges import Ranges

__all__ = ["ALIGNMENT", "ArrayReference", "Place", "Segment", "SegmentReference", "align"]

ALIGNMENT = 256  # bytes: a multiple of a GPU's memory transactions, of cache lines and of AVX-512 registers


def align(nbytes: int) -> int:
    """Round a size up to the alignment."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


class SegmentReference(weakref.ref[Any]):
    """Watches a segment's token, and knows which bytes come back when it dies."""

    __slots__ = ("ranges", "segment")
    ranges: Ranges
    segment: weakref.ref[Segment]  # dead once its region has given it up


class ArrayReference(weakref.ref[Any]):
    """Watches the array of a blob that is gone, whose bytes are wanted back."""

    __slots__ = ("keep", "name", "place")
    place: Place
    keep: bool
    name: str  # for the error of an arena that closes under a view


class Segment:
    """A part of an arena that one region owns, and what of it is not in use."""

    __slots__ = ("__weakref__", "end", "free", "reference", "token")

    def __init__(self, token: object, reference: SegmentReference, start: int, length: int) -> None:
        self.token = token
        self.reference = reference
        self.end = start + length  # it grows there
        self.free = Ranges(start, length)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a blob lies: a base, an offset and a size.

    Attributes
    ----------
    segment : SegmentReference or None
        None for a blob without elements, which takes no room.
    offset : int
        Bytes from the beginning of the arena.
    nbytes : int
        Bytes taken: the blob's, rounded up to the alignment.
    """

    segment: SegmentReference | None
    offset: int
    nbytes: int
