"""One-pass kernels over flat memory: zero, copy, accumulate, scale, statistics.

Every function takes one array or a sequence of arrays (then as many on the other side) and makes one
kernel call for the whole sequence, or one for each pair of dtypes in it. Whatever has
``__array_interface__``, ``__cuda_array_interface__`` or ``__dlpack__`` will do; a destination must be
writable. Arrays that are not contiguous are right, at the cost of a copy. A source may be exactly its
destination; where it overlaps otherwise, it is copied first. Nothing is compiled, and neither Numba nor
CuPy is imported, before the first call.

Arrays on a CUDA device are handled there, on CuPy's current stream or the one given; a call returns before
its kernel ends, unless it returns statistics. `nontemporal` is a matter of the host's caches and has no
effect there.

`Pieces` and `prepare` are the same kernels for callers that keep the layout of their memory: all
checks are made once, and a call costs about a microsecond.
"""

from __future__ import annotations

from typing import Any

from . import scatter
from .arrays import as_factor, run
from .machine import get_num_threads, set_num_threads
from .pieces import Pieces
from .plan import Prepared, Stats, launches, prepare

__all__ = [
    "Pieces",
    "Prepared",
    "Stats",
    "accumulate",
    "copy",
    "get_num_threads",
    "launches",
    "prepare",
    "scale",
    "scatter_add",
    "set_num_threads",
    "stats",
    "warmup",
    "zero",
]


def zero(x: Any, *, nontemporal: bool | None = None, stream: Any = None) -> None:
    """Fill arrays with zeros.

    Parameters
    ----------
    x : array or sequence of arrays
        Of any known dtype.
    nontemporal : bool, optional
        Write past the caches: a gain for memory that is not read soon. By default as soon as the
        bytes written would not fit into the largest cache.
    stream : stream, optional
        Of CUDA, on the arrays' device, instead of CuPy's current one.

    Raises
    ------
    TypeError
        For what is no array, or of an unknown dtype.
    ValueError
        For a read-only array, and for a stream of another device.
    """
    run("zero", x, nontemporal=nontemporal, stream=stream)


def copy(dst: Any, src: Any, *, nontemporal: bool | None = None, stream: Any = None) -> None:
    """Copy arrays, with a cast where the dtypes differ.

    Parameters
    ----------
    dst, src : array or sequence of arrays
        Of equal shapes; of equal dtypes, or both of float dtypes. Casts round to nearest, ties to
        even; a NaN stays a NaN, what is too large becomes infinite (in float8_e4m3fn: NaN).
    nontemporal, stream : optional
        As for `zero`.

    Raises
    ------
    TypeError
        For dtypes without a cast.
    ValueError
        For shapes that differ, read-only destinations, destinations that overlap each other or, by their
        strides, themselves, and for a stream of another device.
    """
    run("copy", dst, src, nontemporal=nontemporal, stream=stream)


def accumulate(
    dst: Any,
    src: Any,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    zero_source: bool = False,
    stats: bool | str = False,
    nontemporal: bool | None = None,
    stream: Any = None,
) -> Stats | None:
    """Compute ``dst = beta * dst + alpha * src`` in one pass.

    The product and the sum are rounded once, by a fused multiply-add in float32, or in float64 where
    one side is float64, and once more where `dst` is shorter than that.

    Parameters
    ----------
    dst, src : array or sequence of arrays
        Of equal shapes; each float16, bfloat16, float32 or float64 (or both the same complex dtype).
    alpha : float
        Rounded to float32 where the arithmetic is float32.
    beta : float
        1 adds; 0 overwrites, and no old value, NaN neither, has any influence.
    zero_source : bool
        Leave zeros in `src`, in the same pass.
    stats : bool or str
        Gather the statistics of `dst` after the write; with ``"norm"`` all but the largest magnitude,
        a fifth less time for data in the cache (asv: `kernels`, "stats" and "norm").
    nontemporal : bool, optional
        As for `zero`; of no effect with ``beta=1`` or with `stats`.

    Returns
    -------
    Stats or None
        None unless `stats`.

    Raises
    ------
    TypeError
        For dtypes without arithmetic.
    ValueError
        As for `scale`, for a `beta` other than 0 and 1, and for a source to be zeroed that is
        read-only or overlaps another array.
    """
    return run("accumulate", dst, src, alpha, beta, zero_source, stats, nontemporal, stream)


def scale(x: Any, alpha: float, *, stream: Any = None) -> None:
    """Multiply arrays by a number, in place.

    Parameters
    ----------
    x : array or sequence of arrays
        Of float or complex dtypes.
    alpha : float
        Rounded to float32 unless `x` is float64 or complex128.
    stream : stream, optional
        As for `zero`.

    Raises
    ------
    TypeError
        For dtypes without arithmetic.
    ValueError
        As for `copy`, and for a factor beyond float64.
    """
    run("scale", x, alpha=alpha, stream=stream)


def stats(x: Any, *, stream: Any = None) -> Stats:
    """Return sum of squares, number of nonfinite values and largest magnitude.

    Parameters
    ----------
    x : array or sequence of arrays
        Of float16, bfloat16, float32 or float64.
    stream : stream, optional
        As for `zero`.

    Returns
    -------
    Stats
        The same bits for the same values and lengths, whatever threads, addresses or strides.
    """
    return run("stats", x, stream=stream) or Stats(0.0, 0, 0.0)


def scatter_add(dst: Any, indices: Any, rows: Any, *, alpha: float = 1.0, stream: Any = None) -> None:
    """Add rows to the rows of `dst` that `indices` name: ``dst[indices[k]] += alpha * rows[k]``.

    Rows of one index are added in the order of ``k``, so the bits do not depend on threads. For lists, all
    is checked first, and one kernel call serves all of one pair of dtypes on one device.

    Parameters
    ----------
    dst : array, shape (n, ...), or list of arrays
        Of float16, bfloat16, float32 or float64.
    indices : array of int, shape (k,), or list of as many
        Each from 0 to ``n - 1``; duplicates are fine. Those on a CUDA device are checked there, where
        nothing waits for them: the row of a wrong one is left out, and a later call that waits, or the
        next `scatter_add`, raises the error.
    rows : array, shape (k, ...), or list of as many
        Of float16, bfloat16, float32 or float64.
    alpha : float
        As for `accumulate`.
    stream : stream, optional
        As for `zero`.

    Raises
    ------
    TypeError
        For indices that are no integers, and for dtypes without arithmetic.
    ValueError
        For an index out of range, shapes that do not fit, a read-only destination, and destinations that
        overlap each other.
    """
    scatter.scatter_add(dst, indices, rows, as_factor(alpha), stream)


def warmup() -> None:
    """Compile the usual kernels, or load them from the disk cache, before they are needed.

    To be called in a program that forks while several of its threads run: a child that is forked in the
    middle of another thread's first kernel, when Numba is imported, may wait for ever.
    """
    from . import host

    host.warmup()
