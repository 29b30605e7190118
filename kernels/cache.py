"""Where compiled kernels are kept between processes.

Numba's disk cache has three weak spots for a library: it looks at the kernel's own source file only,
so a change in a file that the kernel calls into would go unnoticed; two processes that write to one
index at the same time may give a kernel the other's code; and a read-only install without a home
folder is an error. Hence one folder for each state of this package's sources and for each kernel,
in the first place of `_roots` that can be written. And it is slow to begin, see `_Loader`.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache
from numba.core.runtime.nrt import rtsys

__all__ = ["address", "compiled", "directory", "folder"]

if numba.config.DISABLE_JIT:
    # Numba's decorators then return what they decorate, which fails later and elsewhere.
    raise ImportError(
        "Numba's compiler is switched off, and numscope's kernels are compiled code: unset "
        "NUMBA_DISABLE_JIT, or set numba.config.DISABLE_JIT to 0 before the first kernel"
    )

_COMPILED = (
    "dispatch",
    "floats",
    "headers",
    "intrinsics",
    "leaves",
    "orders",
    "scalars",
    "tables",
    "variants",
)
"""The modules that compiled code is made from."""


def _roots() -> Iterator[Path]:
    """List the places to try: the user's choice, the package, the user's cache, a temporary folder."""
    if numba.config.CACHE_DIR:
        yield Path(numba.config.CACHE_DIR)
    yield Path(__file__).parent / "__pycache__"
    for path in (os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache")):
        if os.path.isabs(path):  # for a user without a home, as in some containers, "~" stays as it is
            yield Path(path) / "numscope"
    with suppress(FileNotFoundError):  # no folder can be written
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

if hasattr(os, "register_at_fork"):
    # A child that is forked while another thread compiles would wait for ever: for a lock, of ours, Numba
    # or llvmlite, whose holder it does not have. So a fork waits for the compiler, a second at most.
    os.register_at_fork(
        before=_changing.acquire, after_in_parent=_changing.release, after_in_child=_changing.release
    )


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


class _Loader(FunctionCache):  # type: ignore[misc]
    """Numba's disk cache, loading code without what it takes to compile some, and outliving broken files.

    Numba's own first imports and registers its versions of Python's and NumPy's functions, some fifty
    modules: 85 of the 310 ms that the first kernel took in a new process. Code that is loaded needs the
    run-time library alone; where there is none to load, the compiler brings in the rest by itself.
    """

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        rtsys.initialize(target_context)
        try:
            return self._load_overload(sig, target_context)
        except Exception:  # whatever unpickling a file leads to that a full disk or a crash has cut off
            with suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(OSError):  # a disk that is full by now: the code was compiled all the same
            super().save_overload(sig, data)


def compiled(function: Any, signature: Any, name: str, **options: Any) -> Any:
    """Compile a function, or load it from the disk cache.

    Parameters
    ----------
    function : function
    signature : Numba signature, or tuple of the arguments' types
    name : str
        Of the function's own folder in the cache.
    **options
        Of `numba.njit`.

    Returns
    -------
    Numba dispatcher
        It takes no other types.
    """
    dispatcher = numba.njit(**options)(function)
    with _changing, directory(name) as kept:
        if kept:
            dispatcher._cache = _Loader(function)
        dispatcher.compile(signature)
    dispatcher.disable_compile()
    return dispatcher


_libraries: list[Any] = []
"""The code behind the addresses that were given out."""


def address(function: Any, signature: tuple[Any, ...], name: str) -> int:
    """Compile a function, or load it, as a C function; return where it is for as long as the process lives.

    Parameters
    ----------
    function : function
    signature : tuple of the arguments' types
    name : str
        Of the function's own folder in the cache.
    """
    with _changing:
        result = compiled(function, signature, name).overloads[signature]
        _libraries.append(result.library)
        return int(result.library.get_pointer_to_function(result.fndesc.llvm_cfunc_wrapper_name))
