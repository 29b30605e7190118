"""How the CUDA kernels share work out to threads: plain data, known without Numba."""

from __future__ import annotations

from dataclasses import dataclass

from .variants import BLOCK, Variant

__all__ = ["ADD_UP", "GROUPS", "LANES", "THREADS", "TREE", "Form"]

THREADS = 128
"""Threads of a CUDA block that goes over elements."""

TREE = 1024
"""Sums side by side when the tiles' sums are added, and threads of the CUDA block that does it."""

GROUPS = 4
"""Vectors of each array that a thread has under way at once."""

LANES = 32
"""Sums of squares side by side: element ``i`` of a block goes to sum ``i % LANES``."""

_ACCESS = 16  # bytes: the widest load and store there is

_SIZES = {
    "uint8": 1,
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "float16": 2,
    "bfloat16": 2,
    "bfloat16_split": 2,
    "float32": 4,
    "float64": 8,
}


@dataclass(frozen=True)
class Form:
    """One compiled form of the kernel.

    A run of elements is cut into *tiles*, and a *team* of threads handles a tile. A thread takes `lanes`
    neighbouring elements by one access, so that a team reads and writes whole cache lines, and then
    those a team's width further on. Where statistics are gathered a tile is a block of the
    statistics, and a team is as wide as the sums are many: each sum then belongs to one thread,
    which adds to it in the order of the elements, without a word to the others.

    Parameters
    ----------
    kernel : str
        ``"zero"`` and ``"copy"`` move words, ``"blend"`` computes, ``"scatter"`` does so row by row, and
        ``"add_up"`` puts together what a form that measures has found.
    variant : Variant
        For words: both sides ``"uint8"`` to ``"uint64"``.
    """

    kernel: str
    variant: Variant

    @property
    def destination_size(self) -> int:
        """Bytes of one element of the destination."""
        return _SIZES[self.variant.destination]

    @property
    def source_size(self) -> int:
        """Bytes of one element of the source."""
        return _SIZES[self.variant.source]

    @property
    def plane_size(self) -> int:
        """Bytes of one element of the second plane, 0 where there is none."""
        return 2 if "bfloat16_split" in (self.variant.destination, self.variant.source) else 0

    @property
    def lanes(self) -> int:
        """Elements that a thread handles by one access."""
        return _ACCESS // max(self.destination_size, self.source_size)

    @property
    def team(self) -> int:
        """Threads that handle a tile together."""
        return LANES // self.lanes if self.variant.measure else THREADS

    @property
    def threads(self) -> int:
        """Threads of a CUDA block."""
        return TREE if self.kernel == "add_up" else THREADS

    @property
    def tile(self) -> int:
        """Elements of a tile."""
        return BLOCK if self.variant.measure else self.team * self.lanes * GROUPS

    @property
    def key(self) -> str:
        """A file name that no other form has."""
        return f"{self.kernel}-{self.variant.key}"


ADD_UP = Form("add_up", Variant("float64", "float64", write=False))
