"""Hold the kernels on a card to the host's bits: the table that a benchmark's figures rest on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np

from numscope import kernels

__all__ = ["check"]

FLOATS = tuple(map(np.dtype, ("float16", ml_dtypes.bfloat16, "float32", "float64")))
SIZES = (0, 1, 3, 4, 5, 31, 32, 33, 2047, 2049, 65535, 65536, 65537)
OFFSETS = (0, 1, 3)  # elements behind an aligned address


def check(cupy: Any, *, sizes: tuple[int, ...] = SIZES) -> list[str]:
    """Run every kernel, dtype pair, size and offset on the card and on the host.

    Returns
    -------
    list of str
        The cases where bits differ (NaN payloads apart), and at the end how many were compared.
    """
    faults, count = [], 0
    for case, on_card, on_host, found, expected in _cases(cupy, sizes):
        count += 1
        if not _same(on_card.get(), on_host) or repr(found) != repr(expected):
            faults.append(f"{case}: the card has {found}, the host {expected}")
    return [*faults, f"{count} cases, {len(faults)} differ"]


def _cases(cupy: Any, sizes: tuple[int, ...]) -> Iterator[tuple[str, Any, Any, Any, Any]]:
    """Yield a name, the arrays that were written, and the statistics, of card and host."""
    rng = np.random.default_rng(0)
    for (to, of), size, offset in itertools.product(itertools.product(FLOATS, repeat=2), sizes, OFFSETS):
        start, source = _values(rng, size, to), _values(rng, size, of)
        there, here = _on_card(cupy, start, offset), start.copy()
        taken = _on_card(cupy, source, OFFSETS[-1] - offset)
        name = f"{of.name} into {to.name}, {size} elements, offset {offset}"
        kernels.copy(there, taken)
        kernels.copy(here, source)
        yield f"copy {name}", there, here, None, None
        options: dict[str, Any] = {"alpha": 0.3, "zero_source": True, "stats": True}
        found = kernels.accumulate(there, taken, **options)
        expected = kernels.accumulate(here, source.copy(), **options)
        yield f"accumulate {name}", there, here, found, expected
        yield f"zeroed source of {name}", taken, np.zeros_like(source), None, None
        for array in (there, here):
            kernels.scale(array, -0.7)
        yield f"scale {name}", there, here, kernels.stats(there), kernels.stats(here)
        kernels.zero(there)
        yield f"zero {name}", there, np.zeros_like(here), None, None


def _values(rng: np.random.Generator, size: int, dtype: np.dtype[Any]) -> Any:
    """Draw numbers of many magnitudes, with NaN, infinities, -0, subnormal and largest among them."""
    numbers = rng.standard_normal(size) * 10.0 ** rng.integers(-6, 5, size)
    info: Any = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    special = (np.nan, np.inf, -np.inf, -0.0, float(info.smallest_subnormal), float(info.max))
    if size and rng.integers(2):
        numbers[rng.integers(size)] = special[rng.integers(len(special))]
    with np.errstate(all="ignore"):
        return numbers.astype(dtype)


def _on_card(cupy: Any, array: Any, offset: int) -> Any:
    memory = cupy.zeros(array.nbytes + 64, np.uint8)
    start = offset * array.itemsize
    view = memory[start : start + array.nbytes]
    view[...] = cupy.asarray(array.view(np.uint8))
    return view.view(array.dtype)


def _same(left: Any, right: Any) -> bool:
    words = f"u{left.itemsize}"
    with np.errstate(invalid="ignore"):
        both_nan = np.isnan(left) & np.isnan(right)
    return bool(np.all(both_nan | (left.view(words) == right.view(words))))
