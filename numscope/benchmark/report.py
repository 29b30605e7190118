"""What a benchmark found, for people and programs: a table, JSON, a plot."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from numscope.benchmark.timing import Sample

__all__ = ["Row", "as_json", "plot", "tables"]

_BARS = (
    (0.27, "against_lists", "best peer on lists of tensors"),
    (0.0, "against_flats", "best peer on one flat buffer"),
    (-0.27, "against_compiled", "torch.compile"),
)


@dataclass(frozen=True)
class Row:
    """One operation on one set with so many threads.

    Parameters
    ----------
    ours, limit : Sample
    lists, flats, compiled : dict of str to Sample
        The peers, by name: those that get a list, those that get one flat buffer, those that PyTorch
        compiled.
    """

    set_name: str
    threads: int
    operation: str
    ours: Sample
    lists: dict[str, Sample]
    flats: dict[str, Sample]
    limit: Sample | None = None
    compiled: dict[str, Sample] = field(default_factory=dict)

    @staticmethod
    def _best(peers: dict[str, Sample]) -> tuple[str, float] | None:
        name = min(peers, key=lambda peer: peers[peer].median, default=None)
        return None if name is None else (name, peers[name].median)

    @property
    def against_lists(self) -> float | None:
        """How many times as long the best peer on a list takes."""
        best = self._best(self.lists)
        return best and best[1] / self.ours.median

    @property
    def against_flats(self) -> float | None:
        """How many times as long the best peer on a flat buffer takes."""
        best = self._best(self.flats)
        return best and best[1] / self.ours.median

    @property
    def against_compiled(self) -> float | None:
        """How many times as long PyTorch's compiled program takes."""
        best = self._best(self.compiled)
        return best and best[1] / self.ours.median

    @property
    def of_limit(self) -> float | None:
        """The share of the hand-written limit that is reached."""
        return None if self.limit is None else self.limit.median / self.ours.median


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _peer(peers: dict[str, Sample]) -> str:
    best = Row._best(peers)
    return "-" if best is None else f"{best[0]} {best[1] * 1e6:,.0f}"


def tables(rows: list[Row]) -> list[Table]:
    """Return one table for each set and number of threads."""
    result = []
    for set_name, threads in dict.fromkeys((row.set_name, row.threads) for row in rows):
        table = Table(
            title=f"{set_name}, {threads} thread{'s' if threads > 1 else ''} (microseconds, medians)"
        )
        table.add_column("operation")
        with_compiled = any(row.compiled for row in rows)
        compiled_columns = ("compiled", "ratio") if with_compiled else ()
        for name in (
            "numscope",
            "best on lists",
            "ratio",
            "best on flat",
            "ratio",
            *compiled_columns,
            "of limit",
        ):
            table.add_column(name, justify="right")
        for row in rows:
            if (row.set_name, row.threads) == (set_name, threads):
                table.add_row(
                    row.operation,
                    f"{row.ours.median * 1e6:,.1f}",
                    _peer(row.lists),
                    _ratio(row.against_lists),
                    _peer(row.flats),
                    _ratio(row.against_flats),
                    *((_peer(row.compiled), _ratio(row.against_compiled)) if with_compiled else ()),
                    _ratio(row.of_limit),
                )
        result.append(table)
    return result


def as_json(machine: dict[str, Any], rows: list[Row], costs: dict[str, Any], left_out: list[str]) -> str:
    """Return everything that was measured, in seconds, and what was left out and why."""
    names = ("against_lists", "against_flats", "against_compiled", "of_limit")
    values = [{**asdict(row), **{name: getattr(row, name) for name in names}} for row in rows]
    return json.dumps({"machine": machine, "left_out": left_out, "rows": values, "costs": costs}, indent=1)


def plot(machine: dict[str, Any], rows: list[Row], path: Path) -> None:
    """Draw the ratios to the best peers as bars, one panel for each set and number of threads.

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    from matplotlib.figure import Figure  # type: ignore[import-not-found, unused-ignore]

    panels = list(dict.fromkeys((row.set_name, row.threads) for row in rows))
    columns = len({threads for _, threads in panels})
    height = -(-len(panels) // columns)
    figure = Figure(figsize=(6.5 * columns, 4.2 * height), layout="constrained")
    axes = figure.subplots(height, columns, squeeze=False)
    for axis, panel in zip(axes.flat, panels, strict=False):
        shown = [row for row in rows if (row.set_name, row.threads) == panel][::-1]
        for shift, name, label in _BARS:
            places = [number + shift for number in range(len(shown))]
            axis.barh(places, [getattr(row, name) or 0 for row in shown], 0.27, label=label)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_xscale("log")
        axis.set_yticks(range(len(shown)), [row.operation for row in shown], fontsize=7)
        axis.set_title(f"{panel[0]}, threads: {panel[1]}", fontsize=9)
    axes.flat[0].legend(fontsize=7)
    figure.supxlabel(f"times as long as numscope ({machine['processor']})", fontsize=9)
    figure.savefig(path, dpi=120)
