# mypy: disable-error-code="no-untyped-call, no-any-return"
# Neither Numba nor cuda.core ships types.
"""Compile the kernels to machine code for one kind of CUDA device, once: no driver is needed.

Numba makes PTX, and nvJitLink links it to a cubin. PTX is never handed to the driver: NVVM 13.5 writes
PTX 9.5, which a driver for CUDA 13.0 refuses, while a cubin runs with any driver that knows the device.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import tempfile
import threading
import warnings
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from . import cache as disk
from .cuda_forms import Form

__all__ = ["INSTALL", "OLDEST", "architecture", "cubin", "entry_name"]

OLDEST = (7, 5)
"""Compute capability of the oldest devices that CUDA 13 compiles for."""

INSTALL = "pip install 'numscope[cuda13]' (for a CUDA 12 driver: 'numscope[cuda12]')"

_SOURCES = (
    "cuda",
    "cuda_compile",
    "cuda_forms",
    "cuda_intrinsics",
    "cuda_layout",
    "cuda_steps",
    "floats",
    "variants",
)
_PACKAGES = (
    "numba",
    "numba-cuda",
    "llvmlite",
    "cuda-core",
    *("nvidia-cuda-nvcc", "nvidia-nvvm", "nvidia-nvjitlink"),
    *("nvidia-cuda-nvcc-cu12", "nvidia-nvjitlink-cu12"),  # for CUDA 12 by these names
)
_compiling = threading.Lock()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def architecture(capability: tuple[int, int]) -> str:
    """Name the machine code of a compute capability, ``"sm_90"`` for (9, 0).

    Raises
    ------
    RuntimeError
        For devices older than `OLDEST`.
    """
    if capability < OLDEST:
        raise RuntimeError(
            f"the CUDA device has compute capability {capability[0]}.{capability[1]}, expected "
            f"{OLDEST[0]}.{OLDEST[1]} (Turing) or newer; use a newer card, or device='cpu'"
        )
    return f"sm_{capability[0]}{capability[1]}"


def entry_name(form: Form) -> str:
    """Return the kernel's name in a cubin, which profilers show."""
    return "numscope_" + form.key.replace("-", "_")


def _prepare_numba() -> Any:
    """Import numba-cuda, on NumPy 2.5 as well, and return its module.

    numba-cuda up to 0.30 registers an implementation of ``numpy.row_stack``, which NumPy 2.5 has no
    more: the name is lent for the moment of that import. It also makes a timedelta without a unit, of
    which NumPy 2.5 warns.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The 'generic' unit", DeprecationWarning)
        try:
            from numba import cuda
        except (AttributeError, ImportError) as error:  # numba-cuda 0.30.3 seeks names that numba 0.66 moved
            raise RuntimeError(
                f"CUDA kernels need a numba-cuda that fits Numba: {error}; {INSTALL}"
            ) from error
        if getattr(cuda, "implementation", "") != "NVIDIA":
            raise RuntimeError(f"CUDA kernels need the package numba-cuda, which is not installed; {INSTALL}")
        lent = "row_stack"
        if hasattr(np, lent):
            importlib.import_module("numba.cuda.np.arrayobj")
        else:
            setattr(np, lent, np.vstack)
            try:
                importlib.import_module("numba.cuda.np.arrayobj")
            finally:
                delattr(np, lent)
    return cuda


def _compile(form: Form, capability: tuple[int, int]) -> bytes:
    from cuda.pathfinder import DynamicLibNotFoundError

    try:
        return _link(_ptx(form, capability), capability)
    except DynamicLibNotFoundError as error:  # numba-cuda without its extra brings no compiler
        missing = str(error).partition(":")[0]
        raise RuntimeError(
            f"a library that CUDA kernels are compiled by is missing: {missing}; {INSTALL}"
        ) from error


def _ptx(form: Form, capability: tuple[int, int]) -> bytes:
    cuda = _prepare_numba()
    from .cuda import SIGNATURE, body

    ptx, _ = cuda.compile(
        body(form),
        SIGNATURE,
        cc=capability,
        device=False,
        abi="numba",
        output="ptx",
        launch_bounds=form.threads,
    )
    mangled = re.search(r"\.entry\s+(\S+?)\(", ptx)
    if mangled is None:
        raise RuntimeError(f"numba-cuda {_version('numba-cuda')} made no kernel of {form.key}")
    named: str = ptx.replace(mangled.group(1), entry_name(form))
    return named.encode()


def _link(ptx: bytes, capability: tuple[int, int]) -> bytes:
    from cuda.core import Linker, LinkerOptions, ObjectCode
    from cuda.pathfinder import DynamicLibNotFoundError

    options = LinkerOptions(arch=architecture(capability))
    try:
        linked = Linker(ObjectCode.from_ptx(ptx), options=options).link("cubin")
    except DynamicLibNotFoundError:
        raise
    except Exception as error:  # cuda.core has several kinds, of which some are private
        raise RuntimeError(
            f"nvJitLink cannot link what NVVM compiled for {architecture(capability)}: {error}. It must know "
            "the card and not be older than NVVM: pip install -U nvidia-nvjitlink (for CUDA 12: "
            "nvidia-nvjitlink-cu12)"
        ) from error
    return bytes(linked.code)


@cache
def _folder() -> Path | None:
    """Return where cubins of these sources and package versions are kept, if anything can be written."""
    versions = " ".join(f"{package} {_version(package)}" for package in _PACKAGES)
    return disk.folder(f"cuda-{hashlib.sha256(versions.encode()).hexdigest()[:16]}", _SOURCES)


@cache
def _cubin(form: Form, capability: tuple[int, int]) -> bytes:
    folder = _folder()
    file = folder and folder / f"{form.key}-{architecture(capability)}.cubin"
    if file is not None and file.exists():
        return file.read_bytes()
    code = _compile(form, capability)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as written:
            written.write(code)
        os.replace(written.name, file)  # a reader sees the whole file or none
    return code


def cubin(form: Form, capability: tuple[int, int]) -> bytes:
    """Return machine code with one kernel, called `entry_name`.

    Compiling takes about a second for the first form of a process and a fifth of one for each
    other; what was compiled before is read from the disk.

    Raises
    ------
    RuntimeError
        For devices that are too old, and where parts of the toolchain are missing or do not fit.
    """
    architecture(capability)
    with _compiling:  # Numba's compiler is not for several threads
        return _cubin(form, capability)
