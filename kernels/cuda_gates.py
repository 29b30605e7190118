# mypy: disable-error-code="no-untyped-call"
# CuPy ships no types.
"""Conditions that are decided on a CUDA device: whether elements were finite, without waiting to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cupy
import numpy as np

from . import cuda_streams as streams
from .cuda_launch import Prepared
from .cuda_layout import NONFINITE, RESULTS

__all__ = ["Gate", "Gates"]

_ROWS = 256  # of results allocated at once: 6 KiB


@dataclass(frozen=True, slots=True)
class Gate:
    """A condition: that some measurements found finite elements only.

    Attributes
    ----------
    results : cupy.ndarray of int64, shape (_ROWS, RESULTS)
    stream : cupy.cuda.Stream
        The one that the measurements were given to.
    first, count : int
        Which rows of the results are meant.
    """

    results: Any
    stream: Any
    first: int
    count: int

    @property
    def if_open(self) -> tuple[int, int]:
        """What a kernel call takes that is to take place if all elements are finite."""
        return int(self.results.data.ptr) + 8 * RESULTS * self.first, self.count

    @property
    def if_closed(self) -> tuple[int, int]:
        """What one takes that is to take place if one is not."""
        address, checks = self.if_open
        return address, -checks


class Gates:
    """Makes conditions on one device.

    Results are written to rows that were never used before, so that old gates stay what they are; the
    memory of those that nobody holds any more goes back to CuPy's pool.
    """

    def __init__(self, device: int) -> None:
        self._device = device
        self._free: dict[int, tuple[Any, int]] = {}  # stream -> results, and how many rows of them are used

    def check(self, measuring: Sequence[Prepared]) -> Gate:
        """Launch kernels that measure, and return the condition that they find finite elements only."""
        with streams.on_device(self._device):
            stream = streams.current(self._device)
            results, used = self._free.get(streams.key(stream), (None, _ROWS))
            if used + len(measuring) > _ROWS:
                results, used = cupy.empty((max(_ROWS, len(measuring)), RESULTS), np.int64), 0
            self._free[streams.key(stream)] = results, used + len(measuring)
            gate = Gate(results, stream, used, len(measuring))
            for number, call in enumerate(measuring):
                call.measure_into(gate.if_open[0] + 8 * RESULTS * number)
            return gate

    def read(self, gates: Sequence[Gate]) -> list[bool]:
        """Return which conditions hold; waits for their streams."""
        with streams.on_device(self._device):
            hosts: dict[int, Any] = {}
            for gate in gates:
                if id(gate.results) not in hosts:
                    hosts[id(gate.results)] = cupy.asnumpy(gate.results, stream=gate.stream)
            return [
                not hosts[id(gate.results)][gate.first : gate.first + gate.count, NONFINITE].any()
                for gate in gates
            ]
