"""Name one compiled form of the elementwise kernel: plain data, known without Numba."""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["BLOCK", "Variant"]

BLOCK = 2048
"""Elements in one block of the statistics, and the unit in which work is cut between threads."""


@dataclass(frozen=True)
class Variant:
    """Describe ``destination = add * destination + alpha * source`` down to what the compiler must know.

    Parameters
    ----------
    destination, source : str
        How the elements are stored: ``"float16"``, ``"float16_bits"`` (the same words, converted
        by integer arithmetic where the processor has no instruction for it), ``"bfloat16"``,
        ``"bfloat16_split"`` (bfloat16, and what rounding cut off in a second plane of words),
        ``"float32"``, ``"float64"``, ``"float8_e4m3fn"`` or ``"float8_e5m2"``.
    write : bool
        Write the destination; otherwise the source is only read, and measured.
    add : bool
        Read the destination and add to it; otherwise it is overwritten unread.
    measure : bool
        Gather the statistics of what is written (of the destination as it is where nothing is).
    largest : bool
        The largest magnitude belongs to them.
    zero_source : bool
        Leave zeros behind in the source.
    streaming : bool
        Write the destination past the caches.
    rounding : str
        ``"nearest"`` or, into bfloat16, ``"stochastic"``.
    """

    destination: str
    source: str
    write: bool = True
    add: bool = False
    measure: bool = False
    largest: bool = False
    zero_source: bool = False
    streaming: bool = False
    rounding: str = "nearest"

    @property
    def compute(self) -> str:
        """The type in which the arithmetic is done: float64 as soon as one side is."""
        return "float64" if "float64" in (self.destination, self.source) else "float32"

    def with_streaming(self, streaming: bool) -> Variant:
        """Return the variant that writes past the caches, or does not."""
        return replace(self, streaming=streaming)

    @property
    def keeps_blocks(self) -> bool:
        """Whether the place of an element in its vector is part of the result."""
        return self.measure or self.rounding == "stochastic"

    @property
    def extra_size(self) -> int:
        """What one element adds to the extra: bytes of the second plane, or 1 to its number."""
        return 2 if "bfloat16_split" in (self.destination, self.source) else 1

    @property
    def key(self) -> str:
        """A file name that no other variant has."""
        names = ("write", "add", "measure", "largest", "zero_source", "streaming")
        flags = [name for name in names if getattr(self, name)]
        return "-".join([self.destination, self.source, *flags, self.rounding])
