"""The room of one workspace in its arena."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import numpy as np

from numscope.arena import Arena
from numscope.device import Device
from numscope.errors import DeviceUnavailableError
from numscope.segments import ArrayReference, Place, Segment, align

__all__ = ["Region"]


class Region:
    """The segments of one workspace, and the room in them.

    Blobs are placed one behind the other. A region that is filled again after `release` asks at once for
    what it needed last time.

    Attributes
    ----------
    arena : Arena
    version : int
        Grows with every change of what lies where, so that layouts made from it know when they are stale.
    wanted : int
        Bytes that the next first segment should have.
    """

    __slots__ = ("_segments", "arena", "used", "version", "wanted")

    def __init__(self, arena: Arena, wanted: int = 0) -> None:
        self.arena = arena
        self.version = 0
        self.wanted = wanted
        self.used = 0  # bytes of the blobs placed since the last release
        self._segments: list[Segment] = []

    @property
    def device(self) -> Device:
        """The arena's device."""
        return self.arena._device

    @property
    def address(self) -> int:
        """Address of the arena's first byte."""
        memory = self.arena._memory
        return memory.address if memory is not None else 0

    def place(self, sizes: Sequence[int], name: str) -> list[Place]:
        """Find room for blobs, one behind the other without a gap.

        Parameters
        ----------
        sizes : sequence of int
            Bytes of each.
        name : str
            Names them in the error.

        Raises
        ------
        ArenaExhausted
            There is no such room, also after the garbage was collected. Nothing was changed.
        """
        lengths = [align(size) for size in sizes]
        total = sum(lengths)
        self.version += 1
        if total == 0:
            return [Place(None, 0, 0) for _ in lengths]
        arena = self.arena
        with arena._lock:
            arena._settle()
            try:
                found = self._find(total)
                if found is None and total <= arena.capacity:
                    found = self._find_harder(total)
            except BaseException:
                arena._is_torn = True
                raise
            if found is None:
                raise arena._exhausted(total, name)
            segment, offset = found
            if arena._memory is not None:
                arena._memory.hand_out()
            self.used += total
        places = []
        for length in lengths:
            places.append(Place(segment.reference if length else None, offset if length else 0, length))
            offset += length
        return places

    def array(self, place: Place, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Return a new array over a place; None on a device without memory."""
        memory = self.arena._memory
        if memory is None:
            raise DeviceUnavailableError(f"the arena on {self.arena.device} is closed; make a new one")
        token = place.segment() if place.segment is not None else memory.token()
        return memory.array(token, place.offset, shape, dtype)

    def span(self, place: Place, dtype: np.dtype[Any], arrays: Sequence[Any]) -> Any:
        """Return a 1-D array over a place where several arrays lie, each of which it keeps alive."""
        memory = self.arena._memory
        if memory is None:
            raise DeviceUnavailableError(f"the arena on {self.arena.device} is closed; make a new one")
        shape = (place.nbytes // dtype.itemsize,)
        return memory.array(memory.token(keeps=tuple(arrays)), place.offset, shape, dtype)

    def drop(self, place: Place, array: Any, name: str = "", *, keep: bool = False) -> None:
        """Take a blob's bytes back as soon as its array dies, which the caller is about to let go.

        Parameters
        ----------
        place : Place
        array : array or None
            What stands there; None on a device without memory, or if nothing was made there.
        name : str
            The blob's, for the error of an arena that closes while `array` is alive.
        keep : bool
            Leave the bytes with this region, for the blob that will take their place.
        """
        if place.segment is None:
            return
        self.used -= place.nbytes
        arena = self.arena
        with arena._lock:
            if array is not None:
                self._watch(array, name, place, keep)
                return
            try:
                arena._reclaim(place, keep)
            except BaseException:
                arena._is_torn = True
                raise

    def watch(self, array: Any, name: str) -> None:
        """Remember the name of an array that will outlive the release of its segment."""
        with self.arena._lock:
            self._watch(array, name, Place(None, 0, 0), keep=False)

    def _watch(self, array: Any, name: str, place: Place, keep: bool) -> None:
        reference = ArrayReference(array, self.arena._returned.append)
        reference.place = place
        reference.keep = keep
        reference.name = name
        self.arena._removed[id(reference)] = reference

    def release(self) -> None:
        """Give all segments up; each returns when the last array in it has died."""
        self.version += 1
        if self._segments:
            self.wanted = self.used
            self._segments.clear()
        self.used = 0

    def _find(self, length: int) -> tuple[Segment, int] | None:
        """Take `length` bytes from the segments, from behind the last one, or from a new one."""
        for segment in self._segments:
            offset = segment.free.take(length)
            if offset is not None:
                return segment, offset
        arena = self.arena
        if self._segments:
            last = self._segments[-1]
            tail = last.free.length_before(last.end)
            # A free piece below wins, as first fit has it. Without this a blob that is replaced by one of
            # another size again and again wandered through the whole arena and touched all its pages.
            below = arena._free.find(length)
            grows = (below is None or below >= last.end - tail) and arena._grow(last, length - tail)
            found = last if grows else arena._take(length)
            # A segment whose blobs were all removed has nothing to offer any more.
            self._segments = [s for s in self._segments if s is found or s.reference.ranges.total]
        else:
            found = arena._take(max(length, self.wanted)) or arena._take(length)
        if found is None:
            return None
        if found not in self._segments:
            self._segments.append(found)
        offset = found.free.take(length)
        if offset is None:
            raise RuntimeError(f"a segment made for {length} bytes has no room for them")
        return found, offset

    def _find_harder(self, length: int) -> tuple[Segment, int] | None:
        """Find room in what segments hold for later, or in what the garbage collector brings back."""
        arena = self.arena
        reserves = arena._take_reserves()
        found = self._find(length) if reserves else None
        if found is None:
            gc.collect()  # views and workspaces in garbage cycles hold memory that nobody wants
            arena._settle()
            found = self._find(length)
        if found is None:
            arena._restore(reserves)
        return found
