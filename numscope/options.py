"""Types of command-line options that several commands take; what is wrong is found before any work."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["at_least", "writable"]


def at_least(least: int) -> Callable[[str], int]:
    """Return the type of an option that is a whole number of at least so many."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text!r}")
        return int(text)

    return parse


def writable(text: str) -> Path:
    """Read an option that names a file to write."""
    path = Path(text)
    folder = path.resolve().parent
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder, expected the name of a file to write")
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(
            f"{text!r} cannot be written: there is no folder {str(folder)!r}; make it"
        )
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: it is read-only for you")
    return path
