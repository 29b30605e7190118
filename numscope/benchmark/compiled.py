"""PyTorch's compiler as a peer: every operation as one fused program, on flat buffers or on lists.

A program for a flat buffer compiles in about a second. For a list it is unrolled: 4 to 50 s for 161 tensors
(accumulation: 5 s), half a minute for the accumulation of 1,000, after which each call looks at every tensor
and takes three times as long as ``_foreach_add_``. So lists are compiled on request only.
"""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from numscope.benchmark.slabs import Slabs

__all__ = ["FORMS", "compiled_peers", "compiler", "forget"]

FORMS = ("none", "flat", "lists")
"""What can be asked for: nothing, flat buffers, or lists as well."""

_Program = Callable[..., tuple[Any, Any]]
"""Takes tensors; returns whether all is finite, and the norm, each a tensor or None."""


def _programs(alpha: float) -> dict[str, tuple[str, _Program]]:
    """Return each row's slabs and program."""
    import torch

    inverse = torch.ones(1)  # of the closure, and so an input of the program: no constant to fold

    def zero(g: Any) -> tuple[Any, Any]:
        g.zero_()
        return None, None

    def copy(to: Any, of: Any) -> tuple[Any, Any]:
        to.copy_(of)
        return None, None

    def add(a: Any, g: Any) -> tuple[Any, Any]:
        a.add_(g)
        return None, None

    def zero_and_add(a: Any, g: Any) -> tuple[Any, Any]:
        a.zero_()
        a.add_(g, alpha=alpha)
        return None, None

    def add_and_zero(a: Any, g: Any) -> tuple[Any, Any]:
        a.add_(g)
        g.zero_()
        return None, None

    def norm(g: Any) -> tuple[Any, Any]:
        return None, torch.linalg.vector_norm(g)

    def unscale(g: Any) -> tuple[Any, Any]:
        g.mul_(inverse)
        return torch.isfinite(g).all(), None

    def unscale_and_norm(g: Any) -> tuple[Any, Any]:
        g.mul_(inverse)
        return torch.isfinite(g).all(), torch.linalg.vector_norm(g)

    def chain(a: Any, g: Any) -> tuple[Any, Any]:
        a.add_(g * inverse)
        return torch.isfinite(a).all(), torch.linalg.vector_norm(a)

    return {
        "zero": ("g", zero),
        "copy": ("ag", copy),
        "accumulate": ("ag", add),
        "overwrite instead of zero + add": ("ag", zero_and_add),
        "accumulate + zero source": ("ag", add_and_zero),
        "unscale + nonfinite + norm": ("g", unscale_and_norm),
        "the same, peers without norm": ("g", unscale),
        "norm": ("g", norm),
        "unscale + check + accumulate + norm": ("ag", chain),
        "bfloat16 into float32": ("ab", add),
        "float16 into float32": ("ah", add),
        "the same chain from bfloat16": ("ab", chain),
        "float32 down to bfloat16": ("ba", copy),
    }


def _for_lists(program: _Program) -> _Program:
    import torch

    def run(*lists: list[Any]) -> tuple[Any, Any]:
        finite, norms = zip(*[program(*tensors) for tensors in zip(*lists, strict=True)], strict=True)
        return (
            None if finite[0] is None else torch.stack(finite).all(),
            None if norms[0] is None else torch.linalg.vector_norm(torch.stack(norms)),
        )

    return run


def _compiled(program: _Program, tensors: list[Any]) -> Callable[[], float | None]:
    import torch

    compiled = torch.compile(program, fullgraph=True, dynamic=False)

    def run() -> float | None:
        _, norm = compiled(*tensors)
        return None if norm is None else float(norm)

    return run


def compiled_peers(slabs: Slabs, alpha: float, form: str) -> dict[str, dict[str, Callable[[], float | None]]]:
    """Return the compiled peers by row and name; each is compiled when it is first called.

    Parameters
    ----------
    slabs : Slabs
    alpha : float
        The factor of the overwriting row.
    form : str
        Of `FORMS`.
    """
    peers: dict[str, dict[str, Callable[[], float | None]]] = {}
    if form == "none":
        return peers
    for row, (names, program) in _programs(alpha).items():
        peers[row] = {"torch.compile": _compiled(program, [slabs.flat_tensors[name] for name in names])}
        if form == "lists":
            lists = [slabs.tensors[name] for name in names]
            peers[row]["torch.compile, list"] = _compiled(_for_lists(program), lists)
    return peers


def forget() -> None:
    """Drop all compiled programs, so that none is looked up among those of other rows and threads."""
    import torch

    torch._dynamo.reset()


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Make the folder for what is compiled; it goes with the process, in which PyTorch remembers it."""
    return tempfile.TemporaryDirectory(prefix="numscope-")


@contextmanager
def compiler() -> Iterator[str]:
    """Let PyTorch compile, in this process alone and in a folder that goes with it.

    Yields
    ------
    str
        Why it cannot, or nothing.
    """
    wanted = {"TORCHINDUCTOR_CACHE_DIR": _folder().name, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ |= added
    try:
        yield _trouble()
    finally:
        for name in added:
            del os.environ[name]


def _trouble() -> str:
    """Compile something small and return why that failed, or nothing."""
    import torch

    before = tempfile.tempdir
    # Precompiled headers, 0.15 GB, have no setting: they go where temporary files went at this import.
    tempfile.tempdir = _folder().name
    try:
        importlib.import_module("torch._inductor.codecache")
        torch.compile(torch.Tensor.neg, fullgraph=True)(torch.ones(1))
    except Exception as error:  # whatever a compiler that is missing, old or broken leads to
        return str(error).strip().partition("\n")[0] or type(error).__name__
    finally:
        tempfile.tempdir = before
    return ""
