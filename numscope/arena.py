"""Arenas: one preallocated block a device, handed out in segments, and never under a living view.

Who keeps what alive, which is the whole of the safety argument:

- an array of a blob keeps its segment's *token* alive (it is built on it), and the token the block;
- a segment's bytes return to the arena when its token dies, which is after the last such array;
- the bytes of a single blob return when the blob's own array has died, on which every view of it stands.

Both deaths are weak-reference callbacks that only append to a queue, for they may run in any thread and
in the middle of anything; the arena looks into the queue whenever it is asked something.

Ctrl-C, too, may come in the middle of anything. The ranges that a segment's reference has decide what is
owned. They change in one step, and bytes leave the free list before they are added there and return to it
after they were removed: an exception in between leaves bytes that are nobody's, never any with two
owners. The arena is then marked as torn, and mended when it is next asked something.
"""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn, Protocol, SupportsIndex

from numscope.device import Device, Memory, resolve_device
from numscope.errors import ArenaExhausted, DeviceUnavailableError
from numscope.ranges import Ranges
from numscope.segments import ArrayReference, Place, Segment, SegmentReference, align
from numscope.sizes import format_size, parse_size

__all__ = ["Arena", "ArenaStats", "Holding"]


@dataclass(frozen=True, slots=True)
class ArenaStats:
    """What an arena did and holds; all sizes in bytes.

    Attributes
    ----------
    capacity, used, peak, free, largest_free : int
        As the properties of the arena.
    held_by_views : int
        The part of `used` that nobody owns any more and that waits for the last view of it to die.
    segments : int
        Segments handed out now.
    segments_taken, segments_returned : int
        How many were handed out and came back since the arena was made.
    """

    capacity: int
    used: int
    peak: int
    free: int
    largest_free: int
    held_by_views: int
    segments: int
    segments_taken: int
    segments_returned: int


@dataclass(frozen=True, slots=True)
class Holding:
    """A blob's name, its bytes, and whether somebody outside its workspace has a view of it."""

    name: str
    nbytes: int
    viewed: bool


class Owner(Protocol):
    """Who takes memory from an arena: a workspace, as far as an arena knows it."""

    def holdings(self) -> Iterable[Holding]:
        """Return the blobs that have memory."""

    def abandon(self) -> None:
        """Forget all blobs, because the arena closes."""


class Arena:
    """One preallocated block of a device's memory.

    Thread-safe. It never grows. Blobs start at multiples of 256 bytes; free ranges are found first fit in
    the order of their addresses. No byte is handed out again while an array over it is alive.

    Parameters
    ----------
    capacity : int or str
        Bytes, or text such as ``"64 MiB"``; rounded up to a multiple of 256.
    device : str, default "cpu"
        ``"cpu"``: private memory of the host that costs nothing until touched, with huge pages where the
        system has them. ``"cuda"``, ``"cuda:1"``: a card's memory, from CuPy's current allocator.
        ``"null"``: no memory; sizes and offsets are true, arrays are not made.
    pinned : bool, default False
        Page-locked memory of the host, which a card copies from and to by itself.

    Raises
    ------
    ArenaExhausted
        The device has no room for the block.
    BindingError, BlobTypeError
        `capacity` is no size.
    DeviceUnavailableError
        There is no such device.

    Examples
    --------
    >>> with Arena("1 MiB") as arena:
    ...     arena.capacity, arena.used
    (1048576, 0)
    """

    def __init__(self, capacity: int | str, *, device: str | Device = "cpu", pinned: bool = False) -> None:
        found = resolve_device(device)
        self._device = found.pinned() if pinned else found
        nbytes = align(parse_size(capacity))
        self._memory: Memory | None = self._device.reserve(nbytes)
        self._capacity = nbytes
        self._free = Ranges(0, nbytes)
        self._is_torn = False  # whether an exception came in the middle of the book-keeping
        self._lock = threading.RLock()  # re-entrant: collecting garbage under it may run anything
        self._returned: deque[SegmentReference | ArrayReference] = deque()
        self._segments: dict[int, SegmentReference] = {}  # by id: arrays have no hash
        self._removed: dict[int, ArrayReference] = {}
        self._owners: weakref.WeakSet[Any] = weakref.WeakSet()
        self._peak = 0
        self._taken = 0
        self._given = 0
        with _arenas_lock:
            _arenas.add(self)

    @property
    def device(self) -> str:
        """Name of the device."""
        return self._device.name

    @property
    def capacity(self) -> int:
        """All bytes of the arena."""
        return self._capacity

    @property
    def used(self) -> int:
        """Bytes handed out, those held back by views included."""
        return self._capacity - self.free

    @property
    def free(self) -> int:
        """Bytes not handed out."""
        with self._lock:
            self._settle()
            return self._free.total

    @property
    def largest_free(self) -> int:
        """Bytes of the largest free piece: the largest blob that fits now."""
        with self._lock:
            self._settle()
            return self._free.largest

    @property
    def peak(self) -> int:
        """The largest `used` since the arena was made, or since `reset_peak`."""
        return self._peak

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._memory is None

    def reset_peak(self) -> None:
        """Begin to measure `peak` anew, from what is in use now."""
        with self._lock:
            self._settle()
            self._peak = self._capacity - self._free.total

    def stats(self) -> ArenaStats:
        """Return a snapshot of sizes and counts."""
        with self._lock:
            self._settle()
            return ArenaStats(
                capacity=self._capacity,
                used=self._capacity - self._free.total,
                peak=self._peak,
                free=self._free.total,
                largest_free=self._free.largest,
                held_by_views=self._held_by_views(),
                segments=len(self._segments),
                segments_taken=self._taken,
                segments_returned=self._given,
            )

    def close(self) -> None:
        """Give the block back to the system. Closing it again does nothing.

        Blobs that only their workspaces hold are dropped with it.

        Raises
        ------
        BufferError
            Somebody has views of blobs; their names are in the text, and nothing was changed.
        """
        with self._lock:
            if self._memory is None:
                return
            self._settle()
            names = self._in_use()
            if names:
                gc.collect()  # views in garbage cycles are no views
                self._settle()
                names = self._in_use()
            if names:
                raise BufferError(
                    f"the arena on {self.device} cannot close while views of its blobs are alive: "
                    f"{', '.join(names[:10])}{', ...' if len(names) > 10 else ''}. Drop these arrays first."
                )
            for owner in list(self._owners):
                owner.abandon()
            self._settle()
            self._memory = None

    def register(self, owner: Owner) -> None:
        """Note who may take memory, for errors that name blobs; owners are not kept alive by it."""
        with self._lock:
            if self._memory is None:
                raise DeviceUnavailableError(f"the arena on {self.device} is closed; make a new one")
            self._owners.add(owner)

    def __enter__(self) -> Arena:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
            return
        try:
            self.close()
        except BufferError:
            # The traceback of the error under way holds the frames whose arrays are still alive. That
            # error is the one to see; the memory goes back when the arrays die.
            return

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(
            "an arena can be neither copied nor pickled: its memory is here, and arrays refer to it; "
            "make another Arena, or save a workspace"
        )

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{format_size(self.used)} of {format_size(self._capacity)} used"
        return f"<numscope.Arena {self.device}: {state}>"

    def _settle(self) -> None:
        """Take back what died since the last look. Called under the lock."""
        if self._is_torn:
            self._mend()
        queue = self._returned
        try:
            while queue:
                reference = queue.popleft()
                if isinstance(reference, SegmentReference):
                    self._take_back(reference)
                elif self._removed.pop(id(reference), None) is not None:
                    self._reclaim(reference.place, reference.keep)
        except BaseException:
            self._is_torn = True
            raise

    def _take_back(self, reference: SegmentReference) -> None:
        """Make free what a dead segment owns. Doing it again, after an exception in it, does the rest."""
        if id(reference) not in self._segments:
            return
        ranges, reference.ranges = reference.ranges, Ranges()
        for start, length in ranges:
            self._free.add(start, length)
        del self._segments[id(reference)]
        self._given += 1

    def _mend(self) -> None:
        """Make the book-keeping whole again after an exception in the middle of it. Called under the lock.

        Bytes of a blob that was being made or removed then may stay with its segment until that returns.
        """
        free = Ranges(0, self._capacity)
        for reference in self._segments.values():
            reference.ranges.recount()
            for start, length in reference.ranges:
                free.remove(start, length)
            segment = reference.segment()
            if segment is not None:
                segment.free.recount()
        self._free = free
        self._given = self._taken - len(self._segments)
        # The exception may have come when one was out of the queue already.
        watched: list[SegmentReference | ArrayReference] = [*self._segments.values(), *self._removed.values()]
        self._returned.extend(reference for reference in watched if reference() is None)
        self._is_torn = False

    def _reclaim(self, place: Place, keep: bool) -> None:
        """Make a dead blob's bytes free: for its region alone, or for everybody."""
        if place.segment is None:
            return
        segment = place.segment.segment()
        if keep and segment is not None:
            segment.free.add(place.offset, place.nbytes)
            return
        if not place.segment.ranges.remove(place.offset, place.nbytes):
            return  # NumPy 2.5 lets go of the token first: this came back with its segment
        if segment is not None and segment.end == place.offset + place.nbytes:
            segment.end = place.offset
        self._free.add(place.offset, place.nbytes)

    def _take(self, length: int) -> Segment | None:
        """Hand out a new segment, or None when no free piece is long enough."""
        if self._memory is None:
            raise DeviceUnavailableError(
                f"the arena on {self.device} is closed; make a new one, with a workspace in it"
            )
        start = self._free.take(length)
        if start is None:
            return None
        token = self._memory.token()
        reference = SegmentReference(token, self._returned.append)
        reference.ranges = Ranges(start, length)
        segment = Segment(token, reference, start, length)
        reference.segment = weakref.ref(segment)
        self._taken += 1
        self._segments[id(reference)] = reference
        self._note_peak()
        return segment

    def _grow(self, segment: Segment, length: int) -> bool:
        """Give a segment the bytes behind it, if they are free."""
        if not self._free.remove(segment.end, length):
            return False
        segment.reference.ranges.add(segment.end, length)
        segment.free.add(segment.end, length)
        segment.end += length
        self._note_peak()
        return True

    def _take_reserves(self) -> list[tuple[Segment, int, list[tuple[int, int]]]]:
        """Take back what live segments hold for later; return it with their former ends, for `_restore`.

        Workspaces ask at once for what they needed last time, and may need less this time.
        """
        taken = []
        for reference in self._segments.values():
            segment = reference.segment()
            if segment is None or not segment.free.total:
                continue
            reserve, end = list(segment.free), segment.end
            for start, length in reserve:
                segment.free.remove(start, length)
                reference.ranges.remove(start, length)
                self._free.add(start, length)
            if sum(reserve[-1]) == end:
                segment.end = reserve[-1][0]
            taken.append((segment, end, reserve))
        return taken

    def _restore(self, reserves: list[tuple[Segment, int, list[tuple[int, int]]]]) -> None:
        """Give segments back what `_take_reserves` took, in vain."""
        for segment, end, reserve in reserves:
            for start, length in reserve:
                if self._free.remove(
                    start, length
                ):  # False: a finalizer took it, while garbage was collected
                    segment.reference.ranges.add(start, length)
                    segment.free.add(start, length)
                    segment.end = end if start + length == end else segment.end

    def _note_peak(self) -> None:
        self._peak = max(self._peak, self._capacity - self._free.total)

    def _held_by_views(self) -> int:
        released = sum(r.ranges.total for r in self._segments.values() if r.segment() is None)
        places = (r.place for r in self._removed.values())
        # One in a released segment is counted there.
        removed = (p.nbytes for p in places if p.segment is not None and p.segment.segment() is not None)
        return released + sum(removed)

    def _in_use(self) -> list[str]:
        """Names of blobs that somebody outside their workspaces can see."""
        names = [repr(h.name) for owner in list(self._owners) for h in owner.holdings() if h.viewed]
        names += [f"{r.name!r} (removed)" for r in self._removed.values()]
        held = self._held_by_views()
        return [f"{held} bytes of workspaces that are gone"] if held and not names else names

    def _exhausted(self, length: int, name: str) -> ArenaExhausted:
        blobs = sorted((h for owner in list(self._owners) for h in owner.holdings()), key=lambda h: -h.nbytes)
        largest = ", ".join(f"{h.name!r} {format_size(h.nbytes)}" for h in blobs[:3]) or "none"
        free, held = self._free.total, self._held_by_views()
        waiting = f" {format_size(held)} of removed blobs are held back by views." if held else ""
        return ArenaExhausted(
            f"blob {name!r} needs {format_size(length)} ({length} bytes) in the arena on {self.device}, "
            f"where {free} of {self._capacity} bytes are free, {self._free.largest} of them in one piece. "
            f"The largest blobs: {largest}.{waiting} "
            "Make a larger Arena, clear workspaces that are done, or drop views of removed blobs.",
            requested=length,
            available=free,
            capacity=self._capacity,
        )


_arenas: weakref.WeakSet[Arena] = weakref.WeakSet()
_arenas_lock = threading.RLock()  # re-entrant: a finalizer may make an arena
_forking: list[Arena] = []


def _hold_locks() -> None:
    """Let no thread be in the middle of an arena's book-keeping while the process is copied."""
    _arenas_lock.acquire()
    _forking.extend(_arenas)
    for arena in _forking:
        arena._lock.acquire()


def _release_locks() -> None:
    for arena in reversed(_forking):
        arena._lock.release()
    _forking.clear()
    _arenas_lock.release()


def _renew_locks() -> None:
    """Give a forked child locks of its own: other threads, which are not there, may wait for the old ones."""
    global _arenas_lock
    for arena in _forking:
        arena._lock = threading.RLock()
    _forking.clear()
    _arenas_lock = threading.RLock()


os.register_at_fork(before=_hold_locks, after_in_parent=_release_locks, after_in_child=_renew_locks)
