"""Hold the kernels on a card to the host's bits: the table that a benchmark's figures rest on.

They are called one by one, and by gradient accumulators: those round in all ways, and leave a
micro-batch out on the card alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np

from numscope import kernels
from numscope.arena import Arena
from numscope.gradients import GradientAccumulator

__all__ = ["check"]

FLOATS = tuple(map(np.dtype, ("float16", ml_dtypes.bfloat16, "float32", "float64")))
STORED = tuple(map(np.dtype, (ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2)))
SIZES = (0, 1, 3, 4, 5, 31, 32, 33, 2047, 2049, 65535, 65536, 65537)
OFFSETS = (0, 1, 3)  # elements behind an aligned address
ACCUMULATORS: tuple[dict[str, Any], ...] = (
    {"dtype": "float32"},
    {"dtype": "float64"},
    {"dtype": "float16"},
    {"dtype": "bfloat16"},
    {"dtype": "bfloat16", "rounding": "stochastic", "seed": 3},
    {"dtype": "bfloat16", "rounding": "compensated"},
)


_Case = tuple[str, Any, Any, Any, Any]  # name, what was written there and here, statistics there and here


def check(cupy: Any, *, sizes: tuple[int, ...] = SIZES) -> list[str]:
    """Run every kernel, dtype pair, size and offset on the card and on the host.

    Returns
    -------
    list of str
        The cases where bits differ (NaN payloads apart), and at the end how many were compared.
    """
    faults: list[str] = []
    count = 0
    stored = [dtype for dtype in STORED if _holds(cupy, dtype)]
    parts = {
        "single arrays": _elementwise(cupy, sizes),
        "float8": _casts(cupy, stored, sizes),
        "lists": _lists(cupy, sizes),
        "scatter_add": _scattered(cupy),
        "accumulators": _accumulated(cupy),
    }
    for part, cases in parts.items():
        try:
            for case, on_card, on_host, found, expected in cases:
                count += 1
                if not _same(on_card.get(), on_host) or repr(found) != repr(expected):
                    faults.append(f"{case}: the card has {found}, the host {expected}")
        except Exception as error:  # of a card, anything; the other parts may tell more
            faults.append(f"{part} ended after {count} cases: {type(error).__name__}: {error}")
    short = "" if len(stored) == len(STORED) else " (without float8, which this CuPy does not know)"
    return [*faults, f"{count} cases, {len(faults)} differ{short}"]


def _elementwise(cupy: Any, sizes: tuple[int, ...]) -> Iterator[_Case]:
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


def _casts(cupy: Any, stored: list[np.dtype[Any]], sizes: tuple[int, ...]) -> Iterator[_Case]:
    """Copy into and from the types that are stored and not computed with."""
    rng = np.random.default_rng(1)
    pairs = [pair for pair in itertools.product((*FLOATS, *stored), repeat=2) if set(pair) & set(stored)]
    for (to, of), size in itertools.product(pairs, sizes):
        source = _values(rng, size, of)
        there, here = _on_card(cupy, np.zeros(size, to), 1), np.zeros(size, to)
        kernels.copy(there, _on_card(cupy, source, 0))
        kernels.copy(here, source)
        yield f"copy {of.name} into {to.name}, {size} elements", there, here, None, None


def _lists(cupy: Any, sizes: tuple[int, ...]) -> Iterator[_Case]:
    """Go over all sizes, empty ones among them, in one launch."""
    rng = np.random.default_rng(2)
    for to, of in itertools.product(FLOATS, repeat=2):
        here = [_values(rng, size, to) for size in sizes]
        sources = [_values(rng, size, of) for size in sizes]
        there = [_on_card(cupy, array, number % 3) for number, array in enumerate(here)]
        taken = [_on_card(cupy, array, 0) for array in sources]
        found = kernels.accumulate(there, taken, alpha=0.3, stats=True)
        expected = kernels.accumulate(here, sources, alpha=0.3, stats=True)
        for number, size in enumerate(sizes):
            name = f"list of {of.name} into {to.name}, {size} elements"
            yield name, there[number], here[number], found, expected


def _scattered(cupy: Any) -> Iterator[_Case]:
    """Add rows to one destination after the other, then to all in one launch."""
    rng = np.random.default_rng(3)
    widths = (1, 5, 64, 1000)
    for to, of in itertools.product(FLOATS, repeat=2):
        here = [_values(rng, 20 * width, to).reshape(20, width) for width in widths]
        rows = [_values(rng, 100 * width, of).reshape(100, width) for width in widths]
        there = [_on_card(cupy, array.ravel(), 0).reshape(array.shape) for array in here]
        taken = [_on_card(cupy, array.ravel(), 0).reshape(array.shape) for array in rows]
        indices = [rng.integers(0, 20, 100) for _ in widths]
        numbers = [cupy.asarray(array) if n % 2 else array for n, array in enumerate(indices)]
        for n, width in enumerate(widths):
            kernels.scatter_add(there[n], numbers[n], taken[n], alpha=0.3)
            kernels.scatter_add(here[n], indices[n], rows[n], alpha=0.3)
            name = f"scatter_add {of.name} into {to.name}, rows of {width}"
            yield name, there[n].ravel(), here[n].ravel(), None, None
        kernels.scatter_add(there, numbers, taken, alpha=0.3)
        kernels.scatter_add(here, indices, rows, alpha=0.3)
        for n, width in enumerate(widths):
            name = f"scatter_add of a list of {of.name} into {to.name}, rows of {width}"
            yield name, there[n].ravel(), here[n].ravel(), None, None


def _accumulated(cupy: Any) -> Iterator[_Case]:
    """Accumulate micro-batches of each float type, with one that is skipped, over two steps."""
    rng = np.random.default_rng(4)
    shapes = {"matrix": (40, 33), "bias": (7,), "empty": (0, 3)}
    card = f"cuda:{cupy.cuda.runtime.getDevice()}"
    for options, dtype in itertools.product(ACCUMULATORS, FLOATS):
        here, there = (
            GradientAccumulator(shapes, arena=Arena("64 KiB", device=device), **options)
            for device in ("cpu", card)
        )
        for step in range(2):
            for weight in (3, 1, 4):
                gradients = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
                if weight == 1:
                    gradients["bias"][3] = np.nan
                moved = {
                    name: _on_card(cupy, array.ravel(), 0).reshape(array.shape)
                    for name, array in gradients.items()
                }
                here.add(gradients, weight=weight, skip_nonfinite=True)
                there.add(moved, weight=weight, skip_nonfinite=True)
            expected, found = here.finish(max_norm=1.0), there.finish(max_norm=1.0)
            for name in shapes:
                case = f"{name} of {dtype.name} accumulated, {options}, step {step}"
                yield case, there[name].ravel(), np.array(here[name]).ravel(), found, expected
            here.reset()
            there.reset()


def _values(rng: np.random.Generator, size: int, dtype: np.dtype[Any]) -> Any:
    """Draw numbers of many magnitudes, with NaN, infinities, -0, subnormal and largest among them."""
    numbers = rng.standard_normal(size) * 10.0 ** rng.integers(-6, 5, size)
    info: Any = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    special = (np.nan, np.inf, -np.inf, -0.0, float(info.smallest_subnormal), float(info.max))
    if size and rng.integers(2):
        numbers[rng.integers(size)] = special[rng.integers(len(special))]
    with np.errstate(all="ignore"):
        return numbers.astype(dtype)


def _holds(cupy: Any, dtype: np.dtype[Any]) -> bool:
    try:
        cupy.empty(0, np.uint8).view(dtype)
    except (TypeError, ValueError):
        return False
    return True


def _on_card(cupy: Any, array: Any, offset: int) -> Any:
    """Copy an array to memory of the card that ends where it does, so that the sanitizer sees beyond."""
    start = offset * array.itemsize
    memory = cupy.empty(start + array.nbytes, np.uint8)
    if array.nbytes:
        memory[start:].set(array.view(np.uint8))  # a mere transfer: nothing that CuPy would compile
    return memory[start:].view(array.dtype)


def _same(left: Any, right: Any) -> bool:
    words = f"u{left.itemsize}"
    with np.errstate(invalid="ignore"):
        both_nan = np.isnan(left) & np.isnan(right)
    return bool(np.all(both_nan | (left.view(words) == right.view(words))))
