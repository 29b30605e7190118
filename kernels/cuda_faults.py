# mypy: disable-error-code="no-untyped-call"
# CuPy ships no types.
"""What kernels on a CUDA device find wrong: told at a later call, because nothing waits for a kernel."""

from __future__ import annotations

import threading
from typing import Any

import cupy
import numpy as np
from numpy.typing import NDArray

__all__ = ["address", "raise_found"]

_words: dict[int, tuple[Any, NDArray[np.int64]]] = {}
"""Device -> a word of page-locked memory, where its kernels leave an index out of range."""

_lock = threading.Lock()


def address(device: int) -> int:
    """Return where the kernels of a device leave an index that is out of range. It is the current one."""
    with _lock:
        if device not in _words:
            memory = cupy.cuda.alloc_pinned_memory(8)
            word = np.frombuffer(memory, np.int64, 1)
            word[0] = 0  # which no index out of range is: destinations are not empty
            _words[device] = memory, word
        return int(_words[device][0].ptr)


def raise_found(device: int) -> None:
    """Raise what kernels on a device have found wrong since the last call, if they have come to it.

    Raises
    ------
    ValueError
    """
    if device not in _words:
        return
    with _lock:
        word = _words[device][1]
        index, word[0] = int(word[0]), 0
    if index:
        raise ValueError(
            f"index {index} of an earlier scatter_add on cuda:{device} is out of range; its row was left "
            "out. Indices on a device are checked there and nothing waits for it: pass them from the host "
            "to be told at once, or check them before"
        )
