"""One-pass kernels over flat memory: zero, copy, accumulate, scale, statistics.

Every function takes one array or a sequence of arrays (then as many on the other side) and makes one
kernel call for the whole sequence, or one for each pair of dtypes in it. Whatever has
``__array_interface__`` or ``__dlpack__`` will do; a destination must be writable. Arrays that are not
contiguous are right, at the cost of a copy. A source may be exactly its destination; where it
overlaps otherwise, it is copied first. Nothing is compiled, and Numba is not imported, before the first call.

`Pieces` and `prepare` are the same kernels for callers that keep the layout of their memory: all
checks are made once, and a call costs about a microsecond.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .machine import get_num_threads, set_num_threads
from .pieces import OverlapError, Pieces, as_array, check_overlap
from .plan import Prepared, Stats, launches, merge, prepare

__all__ = [
    "Pieces",
    "Prepared",
    "Stats",
    "accumulate",
    "copy",
    "get_num_threads",
    "launches",
    "merge",
    "prepare",
    "scale",
    "set_num_threads",
    "stats",
    "zero",
]

_Arrays = list[NDArray[Any]]


def zero(x: Any, *, nontemporal: bool | None = None) -> None:
    """Fill arrays with zeros.

    Parameters
    ----------
    x : array or sequence of arrays
        Of any known dtype.
    nontemporal : bool, optional
        Write past the caches: a gain for memory that is not read soon. By default as soon as the
        bytes written would not fit into the largest cache.

    Raises
    ------
    TypeError
        For what is no array, or of an unknown dtype.
    ValueError
        For a read-only array.
    """
    _run("zero", x, nontemporal=nontemporal)


def copy(dst: Any, src: Any, *, nontemporal: bool | None = None) -> None:
    """Copy arrays, with a cast where the dtypes differ.

    Parameters
    ----------
    dst, src : array or sequence of arrays
        Of equal shapes; of equal dtypes, or both of float dtypes. Casts round to nearest, ties to
        even; a NaN stays a NaN, what is too large becomes infinite (in float8_e4m3fn: NaN).
    nontemporal : bool, optional
        As for `zero`.

    Raises
    ------
    TypeError
        For dtypes without a cast.
    ValueError
        For shapes that differ, read-only destinations, destinations that overlap each other.
    """
    _run("copy", dst, src, nontemporal=nontemporal)


def accumulate(
    dst: Any,
    src: Any,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    zero_source: bool = False,
    stats: bool = False,
    nontemporal: bool | None = None,
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
    stats : bool
        Gather the statistics of `dst` after the write.
    nontemporal : bool, optional
        As for `zero`; of no effect with ``beta=1``.

    Returns
    -------
    Stats or None
        None unless `stats`.

    Raises
    ------
    TypeError
        For dtypes without arithmetic.
    ValueError
        As for `copy`, for a `beta` other than 0 and 1, and for a source to be zeroed that is
        read-only or overlaps another array.
    """
    return _run(
        "accumulate",
        dst,
        src,
        alpha=alpha,
        beta=beta,
        zero_source=zero_source,
        stats=stats,
        nontemporal=nontemporal,
    )


def scale(x: Any, alpha: float) -> None:
    """Multiply arrays by a number, in place.

    Parameters
    ----------
    x : array or sequence of arrays
        Of float or complex dtypes.
    alpha : float
        Rounded to float32 unless `x` is float64 or complex128.
    """
    _run("scale", x, alpha=alpha)


def stats(x: Any) -> Stats:
    """Return sum of squares, number of nonfinite values and largest magnitude.

    Parameters
    ----------
    x : array or sequence of arrays
        Of float16, bfloat16, float32 or float64.

    Returns
    -------
    Stats
        The same bits for the same values and lengths, whatever threads, addresses or strides.
    """
    return _run("stats", x) or Stats(0.0, 0, 0.0)


def _run(
    operation: str,
    dst: Any,
    src: Any = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    zero_source: bool = False,
    stats: bool = False,
    nontemporal: bool | None = None,
) -> Stats | None:
    """Check arrays, give those with gaps a contiguous copy, and run one kernel for each pair of dtypes."""
    alpha = float(alpha)
    targets = _arrays(dst)
    sources = _arrays(src) if operation in ("copy", "accumulate") else None
    if sources is not None:
        _check_shapes(targets, sources)
    if operation != "stats":
        _check_writable(targets, "destination")
    if zero_source and sources is not None:
        _check_writable(sources, "source to be zeroed")
    write_back: list[tuple[NDArray[Any], NDArray[Any]]] = []
    targets = _contiguous(targets, write_back if operation != "stats" else None)
    if sources is not None:
        sources = _contiguous(sources, write_back if zero_source else None)

    def prepared(origins: _Arrays | None) -> list[Prepared]:
        pairs = _pairs(targets, origins)
        if len(pairs) > 1 and operation != "stats":
            check_overlap(pairs, writes_source=zero_source)
        return [
            prepare(
                operation,
                target,
                source,
                beta=beta,
                zero_source=zero_source,
                stats=stats,
                nontemporal=nontemporal,
            )
            for target, source in pairs
        ]

    try:
        calls = prepared(sources)
    except OverlapError:
        if sources is None or zero_source:
            raise
        sources = [source.copy() for source in sources]
        calls = prepared(sources)
    found = [call(alpha) for call in calls]
    for array, buffer in write_back:
        array[...] = buffer
    if operation == "stats" or stats:
        return merge([part for part in found if part is not None])
    return None


def _arrays(x: Any) -> _Arrays:
    """Take one array or a sequence of them."""
    if isinstance(x, np.ndarray) or hasattr(x, "__array_interface__") or hasattr(x, "__dlpack__"):
        return [as_array(x)]
    if not isinstance(x, Iterable) or isinstance(x, str | bytes | dict):
        raise TypeError(f"expected an array or a sequence of arrays, got {type(x).__name__}")
    return [as_array(array) for array in x]


def _check_shapes(targets: _Arrays, sources: _Arrays) -> None:
    if len(targets) != len(sources):
        raise ValueError(f"{len(targets)} destinations and {len(sources)} sources: expected as many of each")
    for number, (target, source) in enumerate(zip(targets, sources, strict=True)):
        if target.shape != source.shape:
            raise ValueError(
                f"array {number}: source of shape {source.shape}, expected the destination's {target.shape}"
            )


def _check_writable(arrays: _Arrays, what: str) -> None:
    for number, array in enumerate(arrays):
        if not array.flags.writeable:
            raise ValueError(
                f"array {number}: the {what} is read-only; pass a writable array or a copy of it"
            )


def _contiguous(arrays: _Arrays, write_back: list[tuple[NDArray[Any], NDArray[Any]]] | None) -> _Arrays:
    """Replace arrays with gaps by contiguous copies, noting which are to be written back."""
    result = []
    for array in arrays:
        if array.flags.c_contiguous:
            result.append(array)
            continue
        result.append(np.ascontiguousarray(array))
        if write_back is not None:
            write_back.append((array, result[-1]))
    return result


def _pairs(targets: _Arrays, sources: _Arrays | None) -> list[tuple[Pieces, Pieces | None]]:
    """Group arrays by dtype and take their pieces."""
    groups: dict[Any, tuple[_Arrays, _Arrays]] = {}
    for target, source in zip(targets, targets if sources is None else sources, strict=True):
        group = groups.setdefault((target.dtype, source.dtype), ([], []))
        group[0].append(target)
        group[1].append(source)
    of: Callable[[_Arrays], Pieces] = Pieces.of
    return [(of(first), None if sources is None else of(second)) for first, second in groups.values()]
