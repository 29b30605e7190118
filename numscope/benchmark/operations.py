"""What is timed: every operation by numscope, and by its peers on lists of tensors and on flat buffers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numscope import kernels
from numscope.benchmark.compiled import compiled_peers
from numscope.benchmark.slabs import HAS_TORCH, Slabs

__all__ = ["OPERATIONS", "Operation", "operations"]

OPERATIONS = (
    "zero",
    "copy",
    "accumulate",
    "overwrite instead of zero + add",
    "accumulate + zero source",
    "unscale + nonfinite + norm",
    "the same, peers without norm",
    "norm",
    "unscale + check + accumulate + norm",
    "bfloat16 into float32",
    "float16 into float32",
    "the same chain from bfloat16",
    "float32 down to bfloat16",
    "accumulate, lists of arrays, nothing cached",
)
"""The rows of the table."""

Call = Callable[[], Any]
_Peers = dict[str, dict[str, Call]]
_ALPHA = 0.5


@dataclass(frozen=True)
class Operation:
    """One row of the table.

    Parameters
    ----------
    name : str
    ours : callable
    lists, flats : dict of str to callable
        Peers that get a list of tensors, and peers that get one flat buffer.
    changes : str
        The slab that is written, if any.
    expected : callable
        From the windows of the slabs' first values to those of the slab that is written.
    norm_of : str
        The slab whose norm the callables return (``""``: none).
    tolerance : float
        Largest error of a value, absolute; values are about 1e-3.
    compiled : dict of str to callable
        Peers that PyTorch compiles at their first call.
    """

    name: str
    ours: Call
    lists: dict[str, Call]
    flats: dict[str, Call]
    changes: str = ""
    expected: Callable[[Callable[[str], NDArray[np.float64]]], NDArray[np.float64]] | None = None
    norm_of: str = ""
    tolerance: float = 1e-9
    compiled: dict[str, Call] = field(default_factory=dict)


def operations(slabs: Slabs, compiled: str = "none") -> list[Operation]:
    """Return the rows of the table for one set, with what PyTorch is to compile (of `compiled.FORMS`)."""
    rows = [*_moves(slabs), *_float32(slabs), *_mixed(slabs), _fresh_lists(slabs)]
    peers = compiled_peers(slabs, _ALPHA, compiled)
    return [replace(row, compiled=peers.get(row.name, {})) for row in rows]


def _prepared(slabs: Slabs, operation: str, dst: str, src: str | None = None, **options: Any) -> Any:
    """Prepare our kernel as bulk work on workspaces does: of one dtype, blobs go with their padding."""
    is_alike = slabs.flat[dst].dtype == slabs.flat[src or dst].dtype
    is_measured = operation == "stats" or "stats" in options
    places = slabs.padded if is_alike and not is_measured else slabs.pieces
    return kernels.prepare(operation, places[dst], None if src is None else places[src], **options)


def _norm(found: Any) -> float:
    return math.sqrt(found.sum_of_squares)


def _each(call: Callable[..., Any], *lists: list[Any]) -> Call:
    def run() -> None:
        for arguments in zip(*lists, strict=True):
            call(*arguments)

    return run


def _moves(slabs: Slabs) -> list[Operation]:
    a, g = slabs.arrays["a"], slabs.arrays["g"]
    flat_a, flat_g = slabs.flat["a"], slabs.flat["g"]
    zero_lists: dict[str, Call] = {"numpy loop": _each(lambda x: x.fill(0), g)}
    zero_flats: dict[str, Call] = {"numpy": lambda: flat_g.fill(0)}
    copy_lists: dict[str, Call] = {"numpy loop": _each(np.copyto, a, g)}
    copy_flats: dict[str, Call] = {"numpy": lambda: np.copyto(flat_a, flat_g)}
    if HAS_TORCH:
        import torch

        ta, tg, fa, fg = _tensors(slabs, "a", "g")
        zero_lists |= {
            "torch loop": _each(torch.Tensor.zero_, tg),
            "torch foreach": lambda: torch._foreach_zero_(tg),
        }
        zero_flats["torch"] = fg.zero_
        copy_lists |= {
            "torch loop": _each(torch.Tensor.copy_, ta, tg),
            "torch foreach": lambda: torch._foreach_copy_(ta, tg),
        }
        copy_flats["torch"] = lambda: fa.copy_(fg)
    return [
        Operation(
            "zero",
            _prepared(slabs, "zero", "g"),
            zero_lists,
            zero_flats,
            changes="g",
            expected=lambda first: np.zeros_like(first("g")),
            tolerance=0,
        ),
        Operation(
            "copy",
            _prepared(slabs, "copy", "a", "g"),
            copy_lists,
            copy_flats,
            changes="a",
            expected=lambda first: first("g"),
            tolerance=0,
        ),
    ]


def _tensors(slabs: Slabs, first: str, second: str) -> tuple[Any, Any, Any, Any]:
    return (
        slabs.tensors[first],
        slabs.tensors[second],
        slabs.flat_tensors[first],
        slabs.flat_tensors[second],
    )


def _float32(slabs: Slabs) -> list[Operation]:
    a, g = slabs.arrays["a"], slabs.arrays["g"]
    flat_a, flat_g = slabs.flat["a"], slabs.flat["g"]
    add = _prepared(slabs, "accumulate", "a", "g")
    overwrite = _prepared(slabs, "accumulate", "a", "g", beta=0)
    add_and_zero = _prepared(slabs, "accumulate", "a", "g", zero_source=True)
    unscale = _prepared(slabs, "scale", "g", stats="norm")
    norm = _prepared(slabs, "stats", "g", stats="norm")
    chain = _prepared(slabs, "accumulate", "a", "g", stats="norm")

    def numpy_norm() -> float:
        return math.sqrt(sum(float(np.dot(x.ravel(), x.ravel())) for x in g))

    lists: _Peers = {
        "add": {"numpy loop": _each(lambda x, y: np.add(x, y, out=x), a, g)},
        "norm": {"numpy loop": numpy_norm},
    }
    flats: _Peers = {
        "add": {"numpy": lambda: np.add(flat_a, flat_g, out=flat_a)},
        "norm": {"numpy": lambda: math.sqrt(float(np.dot(flat_g, flat_g)))},
    }
    for row in ("overwrite", "zero source", "unscale", "chain"):
        lists[row], flats[row] = {}, {}
    flats["zero source"]["numpy"] = lambda: (
        np.add(flat_a, flat_g, out=flat_a),
        flat_g.fill(0),  # type: ignore[func-returns-value]
    )
    lists["unscale only"], flats["unscale only"] = {}, {}
    if HAS_TORCH:
        _add_torch_float32(slabs, lists, flats)
    half = np.float64(_ALPHA)
    return [
        Operation(
            "accumulate",
            add,
            lists["add"],
            flats["add"],
            changes="a",
            expected=lambda first: first("a") + first("g"),
        ),
        Operation(
            "overwrite instead of zero + add",
            lambda: overwrite(_ALPHA),
            lists["overwrite"],
            flats["overwrite"],
            changes="a",
            expected=lambda first: half * first("g"),
        ),
        Operation(
            "accumulate + zero source",
            add_and_zero,
            lists["zero source"],
            flats["zero source"],
            changes="a",
            expected=lambda first: first("a") + first("g"),
        ),
        Operation(
            "unscale + nonfinite + norm",
            lambda: _norm(unscale(1.0)),
            lists["unscale"],
            flats["unscale"],
            norm_of="g",
        ),
        Operation(
            "the same, peers without norm",
            lambda: _norm(unscale(1.0)),
            lists["unscale only"],
            flats["unscale only"],
        ),
        Operation("norm", lambda: _norm(norm()), lists["norm"], flats["norm"], norm_of="g"),
        Operation(
            "unscale + check + accumulate + norm",
            lambda: _norm(chain(1.0)),
            lists["chain"],
            flats["chain"],
            changes="a",
            expected=lambda first: first("a") + first("g"),
            norm_of="a",
        ),
    ]


def _add_torch_float32(
    slabs: Slabs, lists: dict[str, dict[str, Call]], flats: dict[str, dict[str, Call]]
) -> None:
    import torch

    ta, tg, fa, fg = _tensors(slabs, "a", "g")
    found, inverse = torch.zeros(1), torch.ones(1)

    def unscale(tensors: list[Any]) -> Any:
        return torch._amp_foreach_non_finite_check_and_unscale_(tensors, found, inverse)

    def list_norm(tensors: list[Any]) -> float:
        return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors))))

    lists["add"] |= {
        "torch loop": _each(torch.Tensor.add_, ta, tg),
        "torch foreach": lambda: torch._foreach_add_(ta, tg),
    }
    flats["add"]["torch"] = lambda: fa.add_(fg)
    lists["overwrite"]["torch foreach"] = lambda: (
        torch._foreach_zero_(ta),
        torch._foreach_add_(ta, tg, alpha=_ALPHA),
    )
    flats["overwrite"]["torch"] = lambda: (fa.zero_(), fa.add_(fg, alpha=_ALPHA))
    lists["zero source"]["torch foreach"] = lambda: (torch._foreach_add_(ta, tg), torch._foreach_zero_(tg))
    flats["zero source"]["torch"] = lambda: (fa.add_(fg), fg.zero_())
    lists["unscale"]["torch amp foreach"] = lambda: (unscale(tg), list_norm(tg))[1]
    flats["unscale"]["torch amp"] = lambda: (unscale([fg]), float(torch.linalg.vector_norm(fg)))[1]
    lists["unscale only"]["torch amp foreach"] = lambda: unscale(tg)
    flats["unscale only"]["torch amp"] = lambda: unscale([fg])
    lists["norm"]["torch foreach"] = lambda: list_norm(tg)
    flats["norm"]["torch"] = lambda: float(torch.linalg.vector_norm(fg))
    lists["chain"]["torch foreach"] = lambda: (unscale(tg), torch._foreach_add_(ta, tg), list_norm(ta))[2]
    flats["chain"]["torch"] = lambda: (unscale([fg]), fa.add_(fg), float(torch.linalg.vector_norm(fa)))[2]


def _mixed(slabs: Slabs) -> list[Operation]:
    chain = _prepared(slabs, "accumulate", "a", "b", stats="norm")
    lists: _Peers = {name: {} for name in ("b", "h", "chain", "down")}
    flats: _Peers = {name: {} for name in ("b", "h", "chain", "down")}
    if HAS_TORCH:
        _add_torch_mixed(slabs, lists, flats)
    rows = [
        Operation(
            f"{name} into float32",
            _prepared(slabs, "accumulate", "a", slab),
            lists[slab],
            flats[slab],
            changes="a",
            expected=lambda first, slab=slab: first("a") + first(slab),  # type: ignore[misc]
        )
        for slab, name in (("b", "bfloat16"), ("h", "float16"))
    ]
    return [
        *rows,
        Operation(
            "the same chain from bfloat16",
            lambda: _norm(chain(1.0)),
            lists["chain"],
            flats["chain"],
            changes="a",
            expected=lambda first: first("a") + first("b"),
            norm_of="a",
        ),
        Operation(
            "float32 down to bfloat16",
            _prepared(slabs, "copy", "b", "a"),
            lists["down"],
            flats["down"],
            changes="b",
            expected=lambda first: first("a"),
            tolerance=1e-4,
        ),
    ]


def _add_torch_mixed(
    slabs: Slabs, lists: dict[str, dict[str, Call]], flats: dict[str, dict[str, Call]]
) -> None:
    import torch

    ta, tb, fa, fb = _tensors(slabs, "a", "b")
    _, th, _, fh = _tensors(slabs, "a", "h")
    tt, _, ft, _ = _tensors(slabs, "t", "t")
    found, inverse = torch.zeros(1), torch.ones(1)

    def unscale(tensors: list[Any]) -> Any:
        return torch._amp_foreach_non_finite_check_and_unscale_(tensors, found, inverse)

    def list_norm(tensors: list[Any]) -> float:
        return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors))))

    for name, short, flat in (("b", tb, fb), ("h", th, fh)):
        lists[name] = {
            "torch loop": _each(torch.Tensor.add_, ta, short),
            "torch foreach": lambda short=short: torch._foreach_add_(ta, short),  # type: ignore[misc]
        }
        flats[name] = {
            "torch": lambda flat=flat: fa.add_(flat),  # type: ignore[misc]
            "torch, own temporary": lambda flat=flat: (ft.copy_(flat), fa.add_(ft)),  # type: ignore[misc]
        }
    lists["chain"]["torch foreach, own temporary"] = lambda: (
        torch._foreach_copy_(tt, tb),
        unscale(tt),
        torch._foreach_add_(ta, tt),
        list_norm(ta),
    )[3]
    flats["chain"]["torch, own temporary"] = lambda: (
        ft.copy_(fb),
        unscale([ft]),
        fa.add_(ft),
        float(torch.linalg.vector_norm(fa)),
    )[3]
    lists["down"] = {
        "torch loop": _each(torch.Tensor.copy_, tb, ta),
        "torch foreach": lambda: torch._foreach_copy_(tb, ta),
    }
    flats["down"]["torch"] = lambda: fb.copy_(fa)


def _fresh_lists(slabs: Slabs) -> Operation:
    a, g = slabs.arrays["a"], slabs.arrays["g"]
    lists: dict[str, Call] = {"numpy loop": _each(lambda x, y: np.add(x, y, out=x), a, g)}
    if HAS_TORCH:
        import torch

        ta, tg, _, _ = _tensors(slabs, "a", "g")
        lists["torch foreach"] = lambda: torch._foreach_add_(ta, tg)
    return Operation(
        "accumulate, lists of arrays, nothing cached",
        lambda: kernels.accumulate(a, g),
        lists,
        {},
        changes="a",
        expected=lambda first: first("a") + first("g"),
    )
