"""OpenMP's threads for the host kernels: the team that the process has, called without a compiler.

Kernels enter OpenMP by the function that compilers call. A launch on two threads costs 0.7 us more than
on one so; through Numba's own parallel loops it cost 5 to 7 us, a third of a kernel on 1,000 small blobs.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["has_openmp", "team"]

_ENTRIES = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")


@contextmanager
def _brief_spinning() -> Iterator[None]:
    """Let OpenMP's threads, while it is loaded, read that they wait for one another by sleeping soon.

    By default libgomp's spin for milliseconds, and on a core that another process wants the one waited
    for does not come to run: with two busy processes beside it on two cores, a kernel of 25 us took
    32 ms. With 1,000 turns it takes 0.15 ms then, and 1 us more on an idle machine; sleeping at once
    costs 30 us more there. What the user said for himself stays.
    """
    if "GOMP_SPINCOUNT" in os.environ or "OMP_WAIT_POLICY" in os.environ:
        yield
        return
    os.environ["GOMP_SPINCOUNT"] = "1000"
    try:
        yield
    finally:
        del os.environ["GOMP_SPINCOUNT"]


def _libraries(beside_torch: bool) -> Iterator[Path]:
    """List libraries that are linked to an OpenMP: PyTorch's, Numba's layer.

    The threads of PyTorch's wait for its next operation by spinning. Those of another OpenMP would wait
    for them.
    """
    torch = sys.modules.get("torch")
    if beside_torch and torch is not None and torch.__file__:
        yield from sorted((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"))
    # Not by importing it, which brings in the half of Numba.
    yield from sorted((Path(numba.__file__).parent / "np" / "ufunc").glob("omppool.*"))


@cache
def _entries(beside_torch: bool) -> tuple[int, ...] | None:
    """Return the addresses of OpenMP's functions; None where there is no OpenMP that has them."""
    for path in _libraries(beside_torch):
        try:
            with _brief_spinning():
                library = ctypes.CDLL(str(path))
            return tuple(ctypes.cast(library[name], ctypes.c_void_p).value or 0 for name in _ENTRIES)
        except (OSError, AttributeError):  # it is not linked to one, or that one is not installed
            continue
    return None


def has_openmp() -> bool:
    """Tell whether kernels can run on more than one thread."""
    return _entries("torch" in sys.modules) is not None


_NOBODY = np.zeros(4, np.int64)


def team(share: int | None) -> NDArray[np.int64]:
    """Return what a launch must know to let a team call a function.

    Parameters
    ----------
    share : int or None
        The function's address; None: there will be no team.
    """
    entries = None if share is None else _entries("torch" in sys.modules)
    return _NOBODY if entries is None else np.array([*entries, share])
