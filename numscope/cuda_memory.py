# ruff: noqa: D102 - the methods are documented where they are declared, in `Memory`
"""One block of a card's memory, and the order in which streams may use it.

The order of streams: arrays of an arena may be used on every stream that numscope was given work on, or
that was CuPy's current one when an arena handed memory out. When memory is handed out again, the
current stream is made to wait, on the device, for all that the others were given so far; so bytes
that were dropped there are not overwritten early. With one stream, the usual case, that costs
nothing. A block that goes back to CuPy's allocator waits for them likewise. A stream of which
numscope has never heard is its user's to wait for, as with CuPy's own pool. So are the default streams
of threads (``cupy.cuda.Stream.ptds``) where several threads use one arena: CUDA has one name for all of
them, which means the calling thread's.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from numscope.memory import Memory

__all__ = ["CudaMemory", "streams"]


def streams() -> Any:
    """Return the module that knows the streams; it imports CuPy."""
    from numscope.kernels import cuda_streams

    return cuda_streams


class _Token:
    """Keeps a block, and what else is given, alive for the arrays that are built with it."""

    __slots__ = ("__weakref__", "block", "keeps")
    ordered = True  # the arena gives the bytes out again in the order of the streams

    def __init__(self, block: Any, keeps: object) -> None:
        self.block = block
        self.keeps = keeps


class _Block:
    """Memory of CuPy's current allocator, which goes back when no stream works on it any more.

    Allocators give memory out again in the order of the stream on which it was allocated.
    """

    __slots__ = ("_home", "_memory", "_number", "_streams", "pointer")

    def __init__(self, cupy: Any, number: int, nbytes: int) -> None:
        self._number = number
        self._streams = streams()
        self._home = self._streams.current(number)
        self._memory = cupy.cuda.alloc(nbytes)
        self.pointer = int(self._memory.ptr)

    def __del__(self) -> None:
        if hasattr(self, "pointer") and not sys.is_finalizing():
            known = self._streams
            with known.on_device(self._number):
                known.wait_for(self._home, known.others(self._number, self._home))


class CudaMemory(Memory):
    """One block of a card's memory from CuPy's current allocator, so that a pool or RMM can serve it."""

    def __init__(self, cupy: Any, number: int, nbytes: int) -> None:
        self._cupy = cupy
        self._number = number
        self._nbytes = nbytes
        # No allocator is known to give less than 256 bytes of alignment; a pool of one's own may.
        self._block = _Block(cupy, number, nbytes + 256)
        self.address = -(-self._block.pointer // 256) * 256

    def token(self, keeps: object = None) -> object:
        return _Token(self._block, keeps)

    def array(self, token: object, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        cuda = self._cupy.cuda
        memory = cuda.UnownedMemory(self.address, self._nbytes, token, self._number)
        return self._cupy.ndarray(shape, dtype, cuda.MemoryPointer(memory, offset))

    def hand_out(self) -> None:
        """Let the current stream wait for the others that were given work."""
        known = streams()
        with known.on_device(self._number):
            current = known.current(self._number)
            known.wait_for(current, known.others(self._number, current))
