"""What a call costs, and what a blob does: one small array, and scopes of few and many blobs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from numscope import kernels
from numscope.arena import Arena
from numscope.benchmark.timing import interleave
from numscope.workspace import Workspace

__all__ = ["BLOBS", "TOTALS", "of_blobs", "of_calls"]

BLOBS = (1, 100, 10_000)
"""Into how many blobs the same total is cut."""

TOTALS = (8_000_000, 65_000_000)
"""Elements: as float32, about as much as a large last cache holds, and far more."""


def of_calls() -> dict[str, float]:
    """Return seconds of a call on one array of 100 elements, ours and NumPy's."""
    x, y = np.ones(100, np.float32), np.ones(100, np.float32)
    calls: dict[str, Callable[[], object]] = {
        "numpy add": lambda: np.add(x, y, out=x),
        "accumulate": lambda: kernels.accumulate(x, y),
        "numpy copyto": lambda: np.copyto(x, y),
        "copy": lambda: kernels.copy(x, y),
    }
    return {name: sample.median for name, sample in interleave(calls, rounds=15, shortest=2e-3).items()}


def of_blobs(total: int) -> dict[str, list[float]]:
    """Return seconds of bulk work on workspaces of `BLOBS` blobs, with as many elements in all.

    The blobs lie as workspaces place them, with padding between them.

    Parameters
    ----------
    total : int
        Elements of a workspace; there are two of float32 and one of bfloat16.

    Returns
    -------
    dict of str to list of float
        For each kind of work the medians, in the order of `BLOBS`.
    """
    calls: dict[tuple[str, int], Callable[[], object]] = {}
    arena = Arena(len(BLOBS) * 10 * (total + (4 << 20)))
    for blobs in BLOBS:
        into, single, half = (
            _workspace(arena, total, blobs, dtype) for dtype in ("float32", "float32", "bfloat16")
        )
        (pieces,) = single.pieces().values()
        calls["zero", blobs] = into.zero
        calls["norm", blobs] = kernels.prepare("stats", pieces, stats="norm")
        calls["merge float32 into float32", blobs] = lambda a=single, b=into: a.merge_into(b)  # type: ignore[misc]
        calls["merge bfloat16 into float32", blobs] = lambda a=half, b=into: a.merge_into(b)  # type: ignore[misc]
    samples = interleave({f"{name} {blobs}": call for (name, blobs), call in calls.items()}, rounds=15)
    names = dict.fromkeys(name for name, _ in calls)
    return {name: [samples[f"{name} {blobs}"].median for blobs in BLOBS] for name in names}


def _workspace(arena: Arena, total: int, blobs: int, dtype: str) -> Workspace:
    workspace = Workspace(arena=arena)
    shapes = {f"x{number}": (total // blobs, dtype) for number in range(blobs)}
    for array in workspace.allocate(shapes).values():
        array[...] = 1e-3
    return workspace
