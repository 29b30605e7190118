"""The machine's limits, measured in the same run: a few loops in C, where there is a compiler."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from numscope.benchmark.slabs import Slabs

__all__ = ["LIMITS", "build", "limits"]

LIMITS = {
    "zero": ("zero", "zero_cached"),
    "copy": ("copy", "copy_cached"),
    "accumulate": ("accumulate",),
    "norm": ("norm",),
    "unscale + check + accumulate + norm": ("accumulate",),
}
"""Row of the table -> the loops that move the same bytes; the best of them counts."""


def build(folder: Path) -> ctypes.CDLL | None:
    """Compile the loops into a folder; return None where they cannot be: no compiler, no x86-64."""
    compiler = shutil.which("cc")
    if compiler is None or platform.machine() not in ("x86_64", "AMD64"):
        return None
    library = folder / "limits.so"
    flags = ["-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"]
    source = Path(__file__).with_name("limits.c")
    built = subprocess.run(
        [compiler, *flags, str(source), "-o", str(library)], capture_output=True, check=False
    )
    return ctypes.CDLL(str(library)) if built.returncode == 0 else None


def limits(library: ctypes.CDLL | None, slabs: Slabs, threads: int) -> dict[str, Callable[[], object]]:
    """Return the hand-written loops over a set's flat slabs, by name; none without the library."""
    if library is None:
        return {}
    addresses = [slabs.flat[name].__array_interface__["data"][0] for name in ("a", "g")]
    length = len(slabs.flat["a"]) // 1024 * 1024
    loops: dict[str, Callable[[], object]] = {}
    for name in {name for names in LIMITS.values() for name in names}:
        function = library[name]
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long, ctypes.c_int]
        function.restype = ctypes.c_float if name == "norm" else None
        loops[name] = lambda function=function: function(*addresses, length, threads)  # type: ignore[misc]
    return loops
