"""Ctrl-C between two operators of a net: what an operator has begun, it ends.

A KeyboardInterrupt comes between any two instructions of Python. An arena's book-keeping stands that, but an
operator that has written half of its outputs, or moved a stack without its scope, does not.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["PRESSED", "between_operators", "stop"]

PRESSED: list[int] = []
"""Signals that wait for the operator to end. A truth value costs 15 ns, which each operator pays."""


@contextmanager
def between_operators() -> Iterator[None]:
    """Put Ctrl-C off, for a ``with`` statement, until `stop` is called, or the statement is left.

    Only the main thread gets signals. A handler that is not Python's own stays; and a second Ctrl-C comes
    at once, for operators of users that wait for something.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return
    signal.signal(signal.SIGINT, _note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if PRESSED:
            stop()


def stop() -> None:
    """Raise the KeyboardInterrupt that waits, in the thread that it is for."""
    if threading.current_thread() is threading.main_thread():
        PRESSED.clear()
        raise KeyboardInterrupt


def _note(number: int, frame: FrameType | None) -> None:
    if PRESSED:
        PRESSED.clear()
        signal.default_int_handler(number, frame)
    PRESSED.append(number)
