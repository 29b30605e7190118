"""What the kernels know of the machine: how many threads to use and how much the caches hold."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from pathlib import Path

__all__ = ["get_num_threads", "last_level_cache", "processors", "set_num_threads"]


@cache
def processors() -> int:
    """Return how many processors this process may run on, as it is when it is first asked."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def _initial() -> int:
    """Read the wanted threads from the environment; OpenMP's own variable counts where ours is not set."""
    own = os.environ.get("NUMSCOPE_NUM_THREADS")
    if own is not None:
        if not own.strip().isdecimal() or int(own) < 1:
            raise ValueError(
                f"NUMSCOPE_NUM_THREADS is {own!r}: expected a positive whole number; correct or unset it"
            )
        return int(own)
    shared = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(shared) if shared.isdecimal() and int(shared) > 0 else processors()


class _Threads:
    wanted: int | None = None
    forked = False


def set_num_threads(count: int) -> None:
    """Set how many threads a host kernel may use.

    Parameters
    ----------
    count : int
        At least 1. More than the processors this process may run on are not used. Without a call,
        the environment variable ``NUMSCOPE_NUM_THREADS`` counts, then ``OMP_NUM_THREADS``.

    Raises
    ------
    TypeError, ValueError
        For what is no positive whole number.
    """
    if isinstance(count, bool) or not hasattr(count, "__index__"):
        raise TypeError(f"the number of threads must be an int, got {type(count).__name__}")
    number = count.__index__()
    if number < 1:
        raise ValueError(f"the number of threads must be at least 1, got {number}")
    _Threads.wanted = number


def get_num_threads() -> int:
    """Return how many threads a host kernel may use: 1 in a forked child, where OpenMP cannot run."""
    if _Threads.forked:
        return 1
    if _Threads.wanted is None:
        _Threads.wanted = _initial()
    return _Threads.wanted


def _in_forked_child() -> None:
    _Threads.forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)


@cache
def last_level_cache() -> int:
    """Return the bytes of the largest cache; 32 MiB where the system does not say."""
    sizes = []
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        with suppress(OSError, ValueError):  # sandboxes show files that cannot be read, or are empty
            text = file.read_text().strip()
            unit = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 1)
            sizes.append(int(text.rstrip("KM")) * unit)
    return max(sizes, default=0) or 32 << 20
