"""A door for one thread at a time that turns others away instead of letting them wait."""

from __future__ import annotations

import threading
from types import TracebackType

from numscope.errors import StackError

__all__ = ["Exclusive"]


class Exclusive:
    """Guards what is not thread-safe: a second thread gets a `StackError` instead of corruption.

    The thread inside may enter again.
    """

    __slots__ = ("_lock", "_what")

    def __init__(self, what: str) -> None:
        self._what = what
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise StackError(
                f"{self._what} is in use by another thread; expected one thread at a time. "
                "Give each thread its own, or put a lock around it."
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
