"""A door for one thread at a time that turns others away instead of letting them wait."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable

from numscope.errors import StackError

__all__ = ["Exclusive"]

_forks = 0  # how many forks lie between this process and the first one


class Exclusive:
    """Guards what is not thread-safe: a second thread gets a `StackError` instead of corruption.

    The thread inside may enter again.
    """

    __slots__ = ("__exit__", "_forks", "_lock", "_what")
    # The lock's own: Ctrl-C comes at the beginning of a function of Python, before it has released anything.
    __exit__: Callable[..., None]

    def __init__(self, what: str) -> None:
        self._what = what
        self._lock = threading.RLock()
        self._forks = _forks
        self.__exit__ = self._lock.__exit__

    def __enter__(self) -> None:
        lock = self._lock
        try:
            if lock.acquire(blocking=False):
                return
        except BaseException:
            # Ctrl-C came just behind the call, and the with statement will not leave what it has not entered.
            with contextlib.suppress(RuntimeError):  # it is another thread's
                lock.release()
            raise
        if self._forks == _forks:
            raise StackError(
                f"{self._what} is in use by another thread; expected one thread at a time. "
                "Give each thread its own, or put a lock around it."
            )
        # The thread inside was the parent process's, and is not in this one. The with statement will leave
        # this very lock: it has looked __exit__ up already.
        lock._at_fork_reinit()  # type: ignore[attr-defined]
        self._forks = _forks
        lock.acquire()


def _note_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_note_fork)
