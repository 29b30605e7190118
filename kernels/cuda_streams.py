# mypy: disable-error-code="no-untyped-call, no-any-return"
# Neither CuPy nor cuda.core ships types.
"""The streams that were given work on each CUDA device: which one is meant, which to wait for, what to keep.

Nothing here waits on the host: a stream is made to wait for another one on the device, by an event.
"""

from __future__ import annotations

import threading
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import cupy

__all__ = [
    "current",
    "given",
    "keep",
    "key",
    "on_device",
    "on_stream",
    "ordinal",
    "others",
    "resolve",
    "wait_for",
]

_runtime = cupy.cuda.runtime
_PER_THREAD = 2  # CUDA's handles up to this one are streams that are always there, on every device
_MANY = 32

_known: dict[int, dict[int, Any]] = {}
"""Device -> handle -> stream: those that were given work and may not be done with it."""

_kept: deque[tuple[Any, object]] = deque()
"""Events, and what must live until they are done, in the order of their recording."""

_lock = threading.Lock()


def ordinal(device: str) -> int:
    """Return the number of a device, 1 for ``"cuda:1"``."""
    return int(device.partition(":")[2] or 0)


@contextmanager
def on_device(device: int) -> Iterator[None]:
    """Make a device the current one of this thread, as CuPy's and CUDA's calls want it."""
    before = _runtime.getDevice()
    _runtime.setDevice(device)
    try:
        yield
    finally:
        if before != device:
            _runtime.setDevice(before)


def key(stream: Any) -> int:
    """Return what tells streams apart: the handle, but the default stream of each thread has one for all."""
    return int(stream.ptr) if stream.ptr != _PER_THREAD else -threading.get_ident()


def current(device: int) -> Any:
    """Return the stream that is CuPy's current one on a device, which is the current device; note it."""
    stream = cupy.cuda.get_current_stream()
    known = _known.get(device)
    if known is None or stream.ptr not in known:
        _note(device, stream)
    return stream


def _note(device: int, stream: Any) -> None:
    with _lock:
        known = dict(_known.get(device, {}))
        if len(known) >= _MANY:  # a program may make streams without end; those that are done matter no more
            known = {handle: other for handle, other in known.items() if not other.done}
        known[stream.ptr] = stream
        _known[device] = known  # replaced, not changed: readers take no lock


def others(device: int, stream: Any) -> list[Any]:
    """Return the streams beside this one that were given work on a device."""
    return [other for handle, other in _known.get(device, {}).items() if handle != stream.ptr]


def wait_for(stream: Any, awaited: Sequence[Any]) -> None:
    """Let a stream wait, on the device, for all that others were given so far. Their device is current."""
    for other in awaited:
        event = cupy.cuda.Event(disable_timing=True)
        event.record(other)
        stream.wait_event(event)


def keep(device: int, objects: object) -> None:
    """Keep something alive until the current stream has done what it was given so far.

    Looked after at the next call: what is done then is let go.
    """
    with on_device(device):
        event = cupy.cuda.Event(disable_timing=True)
        event.record(cupy.cuda.get_current_stream())
    with _lock:
        _kept.append((event, objects))
        done = []
        while _kept and _kept[0][0].done:
            done.append(_kept.popleft())
    del done  # outside the lock: what dies here may run anything


@contextmanager
def on_stream(stream: Any, device: int) -> Iterator[None]:
    """Make a stream of CuPy its current one, on a device, and then the one before again."""
    with on_device(device):
        before = cupy.cuda.get_current_stream()
        try:
            with stream:
                yield
        finally:
            # CuPy 14 returns to the stream of the block around this one and forgets Stream.use (cupy#8377).
            if cupy.cuda.get_current_stream() is not before:
                before.use()


def given(stream: Any, device: str) -> AbstractContextManager[None]:
    """Return a context in which a stream is CuPy's current one: what ``stream=`` means; see `resolve`."""
    return on_stream(resolve(stream, device), ordinal(device))


def resolve(stream: Any, device: str) -> Any:
    """Return a stream as CuPy has it, after checking that it belongs to a device.

    Parameters
    ----------
    stream : stream
        Of CuPy, PyTorch or cuda.core, or anything else with ``__cuda_stream__``.
    device : str
        Where it is to work.

    Raises
    ------
    TypeError
        It is no CUDA stream.
    ValueError
        It belongs to another device, or `device` is none of CUDA.
    """
    if not device.startswith("cuda"):
        raise ValueError(f"stream= is for arrays on a CUDA device, these are on {device}; leave it out")
    number = ordinal(device)
    handle = _handle(stream)
    with on_device(number):
        home = _home(handle)
        if home is not None and home != number:
            raise ValueError(
                f"the stream belongs to cuda:{home}, expected one of {device}, where the arrays are; "
                f"make it there: with cupy.cuda.Device({number}): cupy.cuda.Stream()"
            )
        return stream if isinstance(stream, cupy.cuda.Stream) else _foreign(stream, handle)


_foreigners: dict[int, tuple[Any, Any]] = {}
"""Handle -> the stream of another library, which lives as long, and CuPy's name of it."""


def _foreign(stream: Any, handle: int) -> Any:
    """Return a stream of another library as CuPy takes it."""
    known = _foreigners.get(handle)
    if known is None or known[0] is not stream:
        with warnings.catch_warnings():
            # Its successor, Stream.from_external, destroys in CuPy 14.0 what it does not own.
            warnings.simplefilter("ignore", DeprecationWarning)
            known = _foreigners[handle] = (stream, cupy.cuda.ExternalStream(handle, _runtime.getDevice()))
    return known[1]


def _handle(stream: Any) -> int:
    """Return the address of a stream."""
    found = getattr(stream, "__cuda_stream__", None)
    if found is not None:
        return int((found() if callable(found) else found)[1])
    for name in ("ptr", "cuda_stream"):  # CuPy before 14, PyTorch before 2.8
        if hasattr(stream, name):
            return int(getattr(stream, name))
    raise TypeError(
        f"stream= takes a CUDA stream (of CuPy, PyTorch or cuda.core), got {type(stream).__name__}"
    )


def _home(handle: int) -> int | None:
    """Return the number of the device that a stream belongs to; None where it is of whichever is current."""
    if handle <= _PER_THREAD:
        return None
    from cuda.core import Stream

    return int(Stream.from_handle(handle).device.device_id)
