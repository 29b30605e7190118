"""Turn a plan into what a CUDA launch takes: the form, the runs, and the tiles of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .cuda_forms import Form
from .pieces import Pieces
from .plan import Plan, Stats
from .variants import Variant

__all__ = [
    "COLUMNS",
    "DESTINATION",
    "EXTRA",
    "FIRST",
    "LENGTH",
    "MAGNITUDE",
    "NONFINITE",
    "RESULTS",
    "SOURCE",
    "SUM_OF_SQUARES",
    "Layout",
    "addition_runs",
    "read_stats",
    "with_native_half",
]

DESTINATION, SOURCE, LENGTH, FIRST, EXTRA = range(5)
"""Columns of a table of runs: addresses, elements, number of the first tile, the variant's extra."""

COLUMNS = 5

SUM_OF_SQUARES, MAGNITUDE, NONFINITE = range(3)
"""Columns of results: bits of a float64, bits of the largest magnitude, a count."""

RESULTS = 3


@dataclass(frozen=True)
class Layout:
    """What a launch works on.

    Attributes
    ----------
    form : Form
    runs : int64 array, shape (runs, COLUMNS)
        Contiguous runs of elements, none of them empty.
    tiles : int
        Of all runs together.
    """

    form: Form
    runs: NDArray[np.int64]
    tiles: int

    @classmethod
    def of(cls, plan: Plan) -> Layout:
        """Lay a plan out for a CUDA device."""
        # Past the caches is a matter of the host's; the largest magnitude costs next to nothing here.
        variant = replace(plan.variant, streaming=False, largest=False)
        destination, source = plan.destination, plan.source
        if plan.kernel != "blend":
            size = _widest_word(destination, source)
            variant = Variant(f"uint{8 * size}", f"uint{8 * size}")
            destination, source = (
                Pieces(side.addresses, side.lengths // size, f"uint{8 * size}", side.device)
                for side in (destination, source)
            )
        form = Form(plan.kernel, with_native_half(variant))
        runs = np.zeros((len(destination), COLUMNS), np.int64)
        runs[:, DESTINATION] = destination.addresses
        runs[:, SOURCE] = source.addresses
        runs[:, LENGTH] = destination.lengths
        if plan.extra is not None:
            runs[:, EXTRA] = plan.extra
        runs = runs[runs[:, LENGTH] > 0]
        if not variant.keeps_blocks:
            runs = _split_heads(runs, form)
        tiles = -(-runs[:, LENGTH] // form.tile)
        ends = np.cumsum(tiles)
        runs[:, FIRST] = ends - tiles
        return cls(form, runs, int(ends[-1]) if len(ends) else 0)

    @property
    def row_of_tile(self) -> NDArray[np.int32]:
        """To which run each tile belongs, shape (tiles,)."""
        tiles = np.diff(self.runs[:, FIRST], append=self.tiles)
        return np.repeat(np.arange(len(self.runs), dtype=np.int32), tiles)


def addition_runs(form: Form, additions: Sequence[tuple[int, int, int, int, int]]) -> NDArray[np.int64]:
    """Return the table of several destinations to which rows are added.

    Parameters
    ----------
    form : Form
    additions : sequence of tuple of int
        A destination's address, that of the rows for it, elements of a row, how many rows it has, and how
        many are added.

    Returns
    -------
    int64 array, shape (destinations + 1, COLUMNS)
        In place of tiles, `FIRST` counts added rows; in the last row it says how many there are. They are
        numbered through all destinations, so each one's `SOURCE` is where row 0 of all would lie.
    """
    runs = np.zeros((len(additions) + 1, COLUMNS), np.int64)
    places = np.array(additions, np.int64)
    runs[:-1, [DESTINATION, SOURCE, LENGTH, EXTRA]] = places[:, :4]
    runs[1:, FIRST] = np.cumsum(places[:, 4])
    runs[:, SOURCE] -= form.source_size * runs[:, LENGTH] * runs[:, FIRST]
    return runs


def with_native_half(variant: Variant) -> Variant:
    """Convert float16 by instructions, which every CUDA device has, whatever the host has."""
    native = {"float16_bits": "float16"}
    return replace(
        variant,
        destination=native.get(variant.destination, variant.destination),
        source=native.get(variant.source, variant.source),
    )


def _widest_word(destination: Pieces, source: Pieces) -> int:
    """Return the bytes of the widest word that everything to be moved is made of."""
    held = destination.lengths > 0
    parts = [destination.lengths, destination.addresses[held], source.addresses[held]]
    bits = int(np.bitwise_or.reduce(np.concatenate(parts)))
    return next(size for size in (8, 4, 2, 1) if bits % size == 0)


def _split_heads(runs: NDArray[np.int64], form: Form) -> NDArray[np.int64]:
    """Make a run of its own of the elements before the first one at which vectors can begin.

    Runs whose two sides never reach such an element together stay as they are, and go element by element.
    """
    to, of, more = form.destination_size, form.source_size, form.variant.extra_size
    head = -(runs[:, DESTINATION] // to) % form.lanes
    reaches = (head > 0) & (head < runs[:, LENGTH])
    for column, size in ((DESTINATION, to), (SOURCE, of), *([(EXTRA, more)] if form.plane_size else [])):
        reaches &= (runs[:, column] + head * size) % (form.lanes * size) == 0
    if not reaches.any():
        return runs
    heads, bodies = runs.copy(), runs.copy()
    heads[:, LENGTH] = np.where(reaches, head, 0)
    skipped = np.where(reaches, head, 0)
    bodies[:, LENGTH] -= skipped
    for column, size in ((DESTINATION, to), (SOURCE, of), (EXTRA, more)):
        bodies[:, column] += skipped * size
    both = np.stack([heads, bodies], axis=1).reshape(-1, COLUMNS)
    return both[both[:, LENGTH] > 0]


def read_stats(results: NDArray[np.int64], variant: Variant) -> Stats:
    """Return what a kernel found out.

    Parameters
    ----------
    results : int64 array, shape (RESULTS,)
        The magnitude in the type of the arithmetic.
    variant : Variant
        Of the plan, which says whether the largest magnitude was asked for.
    """
    magnitude, nonfinite = int(results[MAGNITUDE]), int(results[NONFINITE])
    infinity, word = (
        (0x7F800000, np.uint32) if variant.compute == "float32" else (0x7FF0000000000000, np.uint64)
    )
    largest = math.nan if magnitude > infinity else float(word(magnitude).view(variant.compute))
    total = float(results.view(np.float64)[SUM_OF_SQUARES])
    return Stats(largest if nonfinite else total, nonfinite, largest if variant.largest else math.nan)
