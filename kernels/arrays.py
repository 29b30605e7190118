"""Bring arrays of any kind to the kernels: one or many, of mixed dtypes, with gaps or overlaps."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .gaps import check_apart
from .lists import simple_pieces
from .pieces import OverlapError, Pieces, as_array, check_overlap, device_of, is_on_device
from .plan import APART, Plan, Prepared, Stats, bind, make_plan, merge
from .versions import mark_written

__all__ = ["as_factor", "check_writable", "contiguous", "on_stream", "run"]

_Arrays = list[NDArray[Any]]

_singles: dict[tuple[Any, ...], Callable[..., Stats | bool | None]] = {}
"""The short way for one array or pair: operation, dtypes, beta and stats -> its `host.single`."""

_manys: dict[tuple[Any, ...], Callable[..., Stats | bool | None]] = {}
"""The short way for lists of them: the same -> its `host.many`."""


def run(
    operation: str,
    dst: Any,
    src: Any = None,
    alpha: float = 1.0,
    beta: float = 1.0,
    zero_source: bool = False,
    stats: bool | str = False,
    nontemporal: bool | None = None,
    stream: Any = None,
) -> Stats | None:
    """Run an operation on one array or many; small ndarrays of dtypes seen before go the short way."""
    if type(alpha) is not float:
        alpha = as_factor(alpha)
    if stream is not None:
        with on_stream(stream, dst):
            return run(operation, dst, src, alpha, beta, zero_source, stats, nontemporal)
    if type(dst) is np.ndarray and not nontemporal and not zero_source:
        origin = dst if src is None else src
        if type(origin) is np.ndarray:
            single = _singles.get((operation, dst.dtype, origin.dtype, beta, stats))
            if single is not None:
                found = single(dst, origin, alpha)
                if not isinstance(found, bool):
                    return found
    measured = _run(operation, dst, src, alpha, beta, bool(zero_source), stats, nontemporal)
    if operation != "stats":
        mark_written(_originals(dst) + (_originals(src) if zero_source else []))
    return measured


def as_factor(alpha: object) -> float:
    """Return a factor as a float; TypeError unless it is a real number, ValueError if it is too large."""
    try:
        if isinstance(alpha, str | bytes):  # float("2") is one
            raise TypeError
        return float(alpha)  # type: ignore[arg-type]
    except OverflowError as error:
        raise ValueError(f"alpha must fit a float64: {error}; pass math.inf if that is meant") from None
    except (TypeError, ValueError):
        raise TypeError(f"alpha must be a real number, got {type(alpha).__name__} {alpha!r}") from None


def _run(
    operation: str,
    dst: Any,
    src: Any,
    alpha: float,
    beta: float,
    zero_source: bool,
    stats: bool | str,
    nontemporal: bool | None,
) -> Stats | None:
    """Check arrays, give those with gaps a contiguous copy, and run one kernel for each pair of dtypes."""
    target, origin = _from_guest(dst), _from_guest(src)
    if target is not dst or origin is not src:
        return run(operation, target, origin, alpha, beta, zero_source, stats, nontemporal)
    options: dict[str, Any] = {
        "beta": beta,
        "zero_source": zero_source,
        "stats": stats,
        "nontemporal": nontemporal,
    }
    if _is_cupys(dst):
        from . import cuda_recent

        prepared = cuda_recent.find(operation, dst, src, options)
    else:
        prepared = _prepare_one(operation, dst, src, options)
    if prepared is not None:
        return prepared(alpha)
    done = _run_many(operation, dst, src, alpha, options)
    if done is not None:
        return done[0]
    targets = _arrays(dst)
    sources = _arrays(src) if operation in ("copy", "accumulate") else None
    if sources is not None:
        _check_shapes(targets, sources)
    if operation != "stats":
        check_writable(targets, "destination")
    if zero_source and sources is not None:
        check_writable(sources, "source to be zeroed")
    written = targets + (sources if zero_source and sources is not None else [])
    if operation in APART and not all(array.flags.c_contiguous for array in written):
        check_apart(written)
    write_back: list[tuple[NDArray[Any], NDArray[Any]]] = []
    targets = contiguous(targets, write_back if operation != "stats" else None)
    if sources is not None:
        sources = contiguous(sources, write_back if zero_source else None)

    def planned(origins: _Arrays | None) -> list[Plan]:
        pairs = _pairs(targets, origins)
        if len(pairs) > 1 and operation in APART:
            check_overlap(pairs, writes_source=zero_source)
        return [make_plan(operation, target, source, **options) for target, source in pairs]

    try:
        plans = planned(sources)
    except OverlapError:
        if sources is None or zero_source:
            raise
        sources = [source.copy() for source in sources]
        plans = planned(sources)
    calls = [bind(plan) for plan in plans]
    found = [call(alpha) for call in calls]
    for array, buffer in write_back:
        _words(array)[...] = _words(buffer)
    if targets and is_on_device(targets[0]):
        used = targets + (sources or [])
        _give_back(operation, dst, src, options, device_of(targets[0]), used, calls)
    if operation == "stats" or stats:
        return merge([part for part in found if part is not None])
    return None


def _from_guest(x: Any) -> Any:
    """Return an ndarray over one array of another library on the host: 4 us, and 80 less later.

    Of what gives arrays one by one, return a list, which can be taken at once. Anything else is returned
    as it is.
    """
    if x is None or isinstance(x, np.ndarray | list | tuple) or is_on_device(x):
        return x
    if hasattr(x, "__array_interface__") or hasattr(x, "__dlpack__"):
        return as_array(x)
    return list(x) if isinstance(x, Iterable) and not isinstance(x, str | bytes | dict) else x


def _is_cupys(x: Any) -> bool:
    """Tell whether something is an array of CuPy, or a list of them by its first."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and type(x[0] if isinstance(x, list | tuple) and x else x) is cupy.ndarray


def _prepare_one(operation: str, dst: Any, src: Any, options: dict[str, Any]) -> Prepared | None:
    """Prepare a kernel for a simple ndarray or a pair, or return None where the long way is needed."""
    origin = dst if src is None else src
    if type(dst) is not np.ndarray or type(origin) is not np.ndarray or dst.shape != origin.shape:
        return None
    flags, origin_flags = dst.flags, origin.flags
    if not (flags.c_contiguous and origin_flags.c_contiguous and (flags.writeable or operation == "stats")):
        return None
    if options["zero_source"] and not origin_flags.writeable:
        return None
    places = [(array.__array_interface__["data"][0], array.dtype) for array in (dst, origin)]
    try:
        return _prepared(operation, dst.size, *places, src is not None, **options)
    except OverlapError:
        return None


@lru_cache(maxsize=128)
def _prepared(
    operation: str,
    length: int,
    dst: tuple[int, np.dtype[Any]],
    src: tuple[int, np.dtype[Any]],
    has_source: bool,
    **options: Any,
) -> Prepared:
    """Prepare a kernel for one piece; kept, because all that its checks looked at is in the arguments.

    The same arrays again then cost 4 us in Python instead of 60.
    """
    from . import host

    target = Pieces([dst[0]], [length], dst[1])
    source = Pieces([src[0]], [length], src[1]) if has_source else None
    plan = make_plan(operation, target, source, **options)
    if not options["zero_source"]:
        key = (operation, dst[1], src[1], options["beta"], options["stats"])
        if key not in _singles:
            _singles[key] = host.single(plan, (dst[1].itemsize, src[1].itemsize))
    return bind(plan)


def _run_many(
    operation: str, dst: Any, src: Any, alpha: float, options: dict[str, Any]
) -> tuple[Stats | None] | None:
    """Run a kernel over lists of simple arrays; None, and nothing is done, where that takes the long way."""
    targets, sources = _originals(dst), _originals(src)
    if src is not None and len(sources) != len(targets):
        return None
    target = source = simple_pieces(targets, writable=operation != "stats")
    if target is not None and src is not None:
        source = simple_pieces(sources, like=targets, writable=options["zero_source"])
    if target is None or source is None:
        return None
    plain = target.device == source.device == "cpu" and not options["zero_source"]
    key = (operation, target.dtype, source.dtype, options["beta"], options["stats"])
    if plain and key in _manys and options["nontemporal"] is None:
        found = _manys[key](target, source, alpha)
        if not isinstance(found, bool):
            return (found,)
    try:
        plan = make_plan(operation, target, None if src is None else source, **options)
    except OverlapError:
        return None
    prepared = bind(plan)
    measured = prepared(alpha)
    if target.device != "cpu":
        _give_back(operation, dst, src, options, target.device, targets + sources, [prepared])
    elif plain and key not in _manys:
        from . import host

        _manys[key] = host.many(plan, operation, (target.dtype.itemsize, source.dtype.itemsize))
    return (measured,)


def _give_back(
    operation: str,
    dst: Any,
    src: Any,
    options: dict[str, Any],
    device: str,
    used: _Arrays,
    calls: list[Prepared],
) -> None:
    """Let arrays on a CUDA device be used, and die; remember the kernel for a next call on the same."""
    from . import cuda_recent
    from .cuda_arrays import give_back

    give_back(_originals(dst) + _originals(src), device)
    if len(calls) == 1 and _is_cupys(dst):
        cuda_recent.remember(operation, dst, src, options, used, calls[0])


def _arrays(x: Any) -> _Arrays:
    """Take one array or a sequence of them."""
    if isinstance(x, np.ndarray) or hasattr(x, "__array_interface__") or hasattr(x, "__dlpack__"):
        return [as_array(x)]
    if hasattr(x, "__cuda_array_interface__"):
        return [as_array(x)]
    if not isinstance(x, Iterable) or isinstance(x, str | bytes | dict):
        raise TypeError(f"expected an array or a sequence of arrays, got {type(x).__name__}")
    return [as_array(array) for array in x]


def _originals(x: Any) -> list[Any]:
    return list(x) if isinstance(x, list | tuple) else [] if x is None else [x]


def _check_shapes(targets: _Arrays, sources: _Arrays) -> None:
    if len(targets) != len(sources):
        raise ValueError(f"{len(targets)} destinations and {len(sources)} sources: expected as many of each")
    for number, (target, source) in enumerate(zip(targets, sources, strict=True)):
        if target.shape != source.shape:
            raise ValueError(
                f"array {number}: source of shape {source.shape}, expected the destination's {target.shape}"
            )


def check_writable(arrays: _Arrays, what: str) -> None:
    """Raise a ValueError if an array is read-only; `what` says what it is for."""
    for number, array in enumerate(arrays):
        if not getattr(array.flags, "writeable", True):  # CuPy's arrays have no such flag
            raise ValueError(
                f"array {number}: the {what} is read-only; pass a writable array or a copy of it"
            )


def _words(array: Any) -> Any:
    """Return an array of the same bits, of a dtype that CuPy can copy: it knows no float8."""
    return array if array.dtype.isbuiltin == 1 else array.view(f"u{array.dtype.itemsize}")


def contiguous(arrays: _Arrays, write_back: list[tuple[NDArray[Any], NDArray[Any]]] | None) -> _Arrays:
    """Replace arrays with gaps by contiguous copies, noting which are to be written back."""
    result = []
    for array in arrays:
        if array.flags.c_contiguous:
            result.append(array)
            continue
        result.append(_words(array).copy(order="C").view(array.dtype))
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
    return [
        (Pieces.of(first), None if sources is None else Pieces.of(second))
        for first, second in groups.values()
    ]


def on_stream(stream: Any, x: Any) -> AbstractContextManager[None]:
    """Return a context in which work on arrays goes to a CUDA stream, after checking that it can."""
    first = x if is_on_device(x) or not isinstance(x, list | tuple) or not x else x[0]
    if not is_on_device(first):
        raise ValueError("stream= is for arrays on a CUDA device, these are not; leave it out")
    from .cuda_streams import given

    return given(stream, device_of(as_array(first)))
