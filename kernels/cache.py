"""Where compiled kernels are kept between processes.

Numba's disk cache has three weak spots for a library: it looks at the kernel's own source file only,
so a change in a file that the kernel calls into would go unnoticed; two processes that write to one
index at the same time may give a kernel the other's code; and a read-only install without a home
folder is an error. Hence one folder for each state of this package's sources and for each kernel,
in the first place of `_roots` that can be written.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numba

__all__ = ["directory", "folder"]

_COMPILED = ("dispatch", "floats", "headers", "intrinsics", "leaves", "variants")
"""The modules that compiled code is made from."""


def _roots() -> Iterator[Path]:
    """List the places to try: the user's choice, the package, the user's cache, a temporary folder."""
    if numba.config.CACHE_DIR:
        yield Path(numba.config.CACHE_DIR)
    yield Path(__file__).parent / "__pycache__"
    yield Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "numscope"
    yield Path(tempfile.gettempdir()) / f"numscope-{os.getuid()}"


def _is_usable(folder: Path) -> bool:
    """Tell whether we can write the folder and strangers cannot: what is loaded from it is executed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            status = folder.stat()
    except OSError:
        return False
    return status.st_uid in (os.getuid(), 0) and not status.st_mode & stat.S_IWOTH


@cache
def _root(sources: tuple[str, ...] = _COMPILED) -> Path | None:
    digest = hashlib.sha256()
    for name in sources:
        digest.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    usable = next((root for root in _roots() if _is_usable(root)), None)
    return usable and usable / f"numscope-kernels-{digest.hexdigest()[:16]}"


def folder(name: str, sources: tuple[str, ...]) -> Path | None:
    """Return a folder for what is made from these modules; None where nothing can be written."""
    root = _root(sources)
    return root and root / name


_changing = threading.RLock()


@contextmanager
def directory(name: str) -> Iterator[bool]:
    """Let the kernels defined inside be cached in a folder of this name.

    Yields
    ------
    bool
        False where nothing can be written: compile without a cache then.
    """
    root = _root()
    if root is None:
        yield False
        return
    with _changing:
        before = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = str(root / name)
        try:
            yield True
        finally:
            numba.config.CACHE_DIR = before
