"""A door for one thread at a time that turns others away instead of letting them wait."""

from __future__ import annotations

import os
import threading
from types import TracebackType

from numscope.errors import StackError

__all__ = ["Exclusive"]

_forks = 0  # how many forks lie between this process and the first one


class Exclusive:
    """Guards what is not thread-safe: a second thread gets a `StackError` instead of corruption.

    The thread inside may enter again.
    """

    __slots__ = ("_forks", "_lock", "_what")

    def __init__(self, what: str) -> None:
        self._what = what
        self._lock = threading.RLock()
        self._forks = _forks

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            if self._forks != _forks:
                # The thread inside was the parent process's, and is not in this one.
                self._lock, self._forks = threading.RLock(), _forks
                self._lock.acquire()
                return
            raise StackError(
                f"{self._what} is in use by another thread; expected one thread at a time. "
                "Give each thread its own, or put a lock around it."
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


def _note_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_note_fork)
