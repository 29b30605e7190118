"""What people and programs get to see of a run: progress, a table, JSON."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from numscope.datasets import Dataset
from numscope.results import Report, Step
from numscope.sizes import format_size
from numscope.training import Settings

if TYPE_CHECKING:
    import os

__all__ = ["ProgressView", "Run", "as_json", "report_table", "report_values", "values_table"]

PLAIN_LINES = 10  # so many, where the output is no terminal,
LONGEST_SILENCE = 5.0  # and more of them where a line would come later than this; seconds


class ProgressView:
    """Progress of a run: a bar on a terminal, some plain lines elsewhere.

    Parameters
    ----------
    console : rich.console.Console
    steps : int
        How many there will be.
    """

    def __init__(self, console: Console, steps: int) -> None:
        self._console = console
        self._steps = steps
        self._every = max(1, steps // PLAIN_LINES)
        self._last_line = time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            self._bar = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[state]}"),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._bar.add_task("training", total=steps, state="first step, with compilation")

    def __enter__(self) -> ProgressView:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, step: Step) -> None:
        """Show that a step is done."""
        state = f"loss {step.loss:.4f}  {step.examples / step.seconds:,.0f} examples/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=step.number, state=state)
        elif (
            step.number % self._every == 0
            or step.number in (1, self._steps)
            or time.monotonic() - self._last_line > LONGEST_SILENCE
        ):
            self._last_line = time.monotonic()
            self._console.print(f"step {step.number}/{self._steps}  {state}", highlight=False)


class Run(Protocol):
    """A run of any task: `Training` and what is driven and reported like it."""

    dataset: Dataset
    settings: Settings
    device: str
    description: str

    def steps(self) -> Iterator[Step]:
        """Train, and yield after each step."""

    def report(self) -> Report:
        """Return what happened so far."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the parameters to a file."""


def report_table(run: Run, report: Report, stopped: bool) -> Table:
    """Return the table at the end of a run; `stopped`: it was interrupted."""
    dataset, settings, times = run.dataset, run.settings, report.times
    table = Table(title="numscope run (interrupted)" if stopped else "numscope run", show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    examples = f"{len(dataset.train_features):,} to train, {len(dataset.test_features):,} to test"
    rows = {
        "data": f"{dataset.name}: {examples}",
        "model": run.description,
        "optimizer": f"{settings.optimizer}, learning rate {settings.rate:g}",
        "device, gradients": f"{run.device}, {settings.dtype} into float32",
        "steps": f"{report.steps:,} of {settings.steps:,}, {report.epochs:.1f} epochs",
        "micro-batches": f"{report.micro_batches:,} of at most {settings.micro_batch:,} examples",
        "loss of the last step": "-" if report.loss is None else f"{report.loss:.4f}",
        "test accuracy": f"{report.accuracy:.4f}",
        "accumulated against one batch": _difference(report),
        "against PyTorch's gradients": _torch_difference(report),
        "arena peak, planned": _bytes(report.planned_peak),
        "arena peak, reached": _bytes(report.reached_peak),
        "segments taken after the first step": str(report.segments_taken),
        "examples per second": _rate(report),
        "time in kernels, with their checks": f"{times.kernels:.3f} s",
        "time in matrix products": "-" if times.products is None else f"{times.products:.3f} s",
        "time in Python and element-wise code": f"{times.python:.3f} s",
        "first step, with compilation": f"{times.first_step:.3f} s",
        "preparation; checks": f"{times.preparation:.3f} s; {times.checks:.3f} s",
    }
    for name, value in rows.items():
        if value is not None:
            table.add_row(name, escape(value))
    if dataset.source:
        table.caption = escape(dataset.source)
    return table


def report_values(run: Run, report: Report, stopped: bool) -> dict[str, Any]:
    """Return the same for programs: plain values with the names of `Report`."""
    dataset, settings = run.dataset, run.settings
    return {
        "data": {
            "name": dataset.name,
            "source": dataset.source,
            "train_examples": len(dataset.train_features),
            "test_examples": len(dataset.test_features),
            "features": dataset.train_features.shape[1],
            "classes": list(dataset.classes),
        },
        "model": run.description,
        "settings": {**asdict(settings), "device": run.device, "lr": settings.rate},
        "interrupted": stopped,
        **asdict(report),
        "largest_difference": max(report.differences.values(), default=None),
    }


def values_table(title: str, values: Mapping[str, Any]) -> Table:
    """Return a table of nested mappings: one row for each innermost value, named by its path."""
    table = Table(title=title, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")

    def add(path: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for name, inner in value.items():
                add(f"{path} {name.replace('_', ' ')}".strip(), inner)
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            table.add_row(path, escape(text))

    add("", values)
    return table


def as_json(values: Mapping[str, Any]) -> str:
    """Return values as JSON text; numbers that JSON lacks (NaN, infinity) are null."""
    return json.dumps(_finite(values), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _difference(report: Report) -> str:
    if not report.differences:
        return "-"
    name = max(report.differences, key=lambda n: report.differences[n])
    return f"{report.differences[name]:.1e} ({name}; {len(report.checked_steps)} steps checked)"


def _torch_difference(report: Report) -> str | None:
    if report.torch_differences is None or not report.checked_steps:
        return None
    worst = [f"{max(found.values()):.1e} ({dtype})" for dtype, found in report.torch_differences.items()]
    return ", ".join(worst) or "- (it is not installed)"


def _bytes(nbytes: int) -> str:
    return f"{nbytes:,} bytes ({format_size(nbytes)})"


def _rate(report: Report) -> str:
    return "-" if report.examples_per_second is None else f"{report.examples_per_second:,.0f}"
